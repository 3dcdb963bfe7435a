//! Every row of the table of sync.md §2 and every ruling of §11 that a decision carries.

use proptest::prelude::*;

use super::*;

/// Is when the runs of these tests begin.
const START: i128 = 1_750_000_000 * Time::SECOND;
const OLD: i128 = START - 1_000_000 * Time::SECOND;
const MS: i128 = 1_000_000;
const S: i128 = Time::SECOND;

fn policy() -> Policy {
    Policy {
        start: Time(START),
        threshold: 2 * S,
        granularity: 1,
        last_start: None,
        checksum: false,
        delete: DeleteMissing::Off,
        two_directions: false,
        owners: true,
        modes: true,
    }
}

/// Is one side of a path in a test: what `statx` says, and what only a closer look tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    entry: Entry,
    /// Content of a file, target of a link.
    bytes: Vec<u8>,
    attributes: u8,
}

fn side(kind: Kind, mtime: i128, bytes: &[u8]) -> Side {
    let size = if matches!(kind, Kind::File | Kind::Link) { bytes.len() as u64 } else { 0 };
    let entry = Entry {
        kind,
        size,
        mtime: Time(mtime),
        ctime: Time(mtime),
        inode: 1,
        device: 1,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        links: 1,
        allocated: size,
        created: None,
        mount_point: false,
    };
    Side { entry, bytes: bytes.to_vec(), attributes: 0 }
}

fn file(mtime: i128, content: &str) -> Side {
    side(Kind::File, mtime, content.as_bytes())
}

fn link(mtime: i128, target: &str) -> Side {
    side(Kind::Link, mtime, target.as_bytes())
}

fn directory(mtime: i128) -> Side {
    side(Kind::Directory, mtime, b"")
}

fn special(mtime: i128) -> Side {
    side(Kind::Special, mtime, b"")
}

impl Side {
    fn mode(mut self, mode: u32) -> Self {
        self.entry.mode = mode;
        self
    }

    fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.uid, self.entry.gid) = (uid, gid);
        self
    }

    fn attributes(mut self, attributes: u8) -> Self {
        self.attributes = attributes;
        self
    }
}

/// Orders like an MD5 in these tests: the greater content has the greater sum.
fn sum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    let length = bytes.len().min(16);
    sum[..length].copy_from_slice(&bytes[..length]);
    sum
}

struct Looked<'a> {
    source: &'a Side,
    destination: Option<&'a Side>,
    reads: u32,
    below: bool,
}

impl Evidence for Looked<'_> {
    type Error = &'static str;

    fn content(&mut self) -> Result<Content, Self::Error> {
        self.reads += 1;
        let destination = self.destination.ok_or("nothing to compare with")?;
        if self.source.entry.size != destination.entry.size {
            return Err("sizes differ, so does the content");
        }
        Ok(Content {
            source: sum(&self.source.bytes),
            destination: sum(&destination.bytes),
            equal: self.source.bytes == destination.bytes,
        })
    }

    fn targets(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error> {
        let destination = self.destination.ok_or("nothing to compare with")?;
        Ok((self.source.bytes.clone(), destination.bytes.clone()))
    }

    fn same_attributes(&mut self) -> Result<bool, Self::Error> {
        Ok(self.destination.is_none_or(|destination| destination.attributes == self.source.attributes))
    }

    fn below_as_agreed(&mut self) -> Result<bool, Self::Error> {
        Ok(self.below)
    }
}

/// Decides and tells how often content was read.
fn look(source: &Side, destination: Option<&Side>, policy: &Policy, unfinished: Unfinished) -> (Decision, u32) {
    let mut evidence = Looked { source, destination, reads: 0, below: false };
    let entry = destination.map(|side| &side.entry);
    let decision = decide(&source.entry, entry, None, policy, unfinished, &mut evidence).unwrap();
    (decision, evidence.reads)
}

fn decided(source: &Side, destination: &Side, policy: &Policy) -> Decision {
    look(source, Some(destination), policy, Unfinished::No).0
}

const TIE_WON: Decision = Decision::Update(Some(Reason::Tie));
const TIE_LOST: Decision = Decision::Skip(Reason::Tie);
const WON: Decision = Decision::Update(None);
const LOST: Decision = Decision::Skip(Reason::DestinationNewer);

#[track_caller]
fn check(rows: &[(&str, Side, Side, Decision)], policy: &Policy) {
    for (what, source, destination, expected) in rows {
        assert_eq!(decided(source, destination, policy), *expected, "{what}");
    }
}

#[test]
fn what_only_the_source_has_is_created() {
    for source in [file(OLD, "x"), link(OLD, "x"), directory(OLD), file(START + 9 * S, "x")] {
        assert_eq!(look(&source, None, &policy(), Unfinished::No).0, Decision::Create);
    }
    assert_eq!(look(&special(OLD), None, &policy(), Unfinished::No).0, Decision::Skip(Reason::Special));
}

#[test]
fn files_of_equal_size_and_time_are_not_read() {
    assert_eq!(look(&file(OLD, "a"), Some(&file(OLD, "b")), &policy(), Unfinished::No), (Decision::Equal, 0));
}

#[test]
fn times_are_compared_at_the_coarser_granularity() {
    let coarse = Policy { granularity: 2 * S, ..policy() };
    let tick = OLD - OLD.rem_euclid(2 * S);
    let decision = look(&file(tick + 1_999 * MS, "a"), Some(&file(tick, "b")), &coarse, Unfinished::No);
    assert_eq!(decision, (Decision::Equal, 0));
    // The next tick is within the threshold, the one after it is not.
    let rows = [
        ("next tick, different", file(tick + 2 * S, "a"), file(tick + S, "b"), TIE_WON),
        ("next tick, different, back", file(tick + S, "a"), file(tick + 2 * S, "b"), TIE_LOST),
        ("two ticks", file(tick + 4 * S, "a"), file(tick + S, "b"), WON),
    ];
    check(&rows, &coarse);
    // Sizes differ within a tick: the times are equal then, and the size decides.
    assert_eq!(decided(&file(tick, "aa"), &file(tick + S, "b"), &coarse), TIE_WON);
    assert_eq!(decided(&link(tick, "b"), &link(tick + S, "a"), &coarse), TIE_WON);
}

#[test]
fn files_of_equal_size_within_the_threshold_are_compared_by_content() {
    let rows = [
        ("equal", file(OLD + 1, "a"), file(OLD, "a"), Decision::Skip(Reason::SameContent)),
        ("equal, older", file(OLD, "a"), file(OLD + 2 * S, "a"), Decision::Skip(Reason::SameContent)),
        ("different, newer", file(OLD + 1, "a"), file(OLD, "b"), TIE_WON),
        ("different, newer by T", file(OLD + 2 * S, "a"), file(OLD, "b"), TIE_WON),
        ("different, older", file(OLD, "b"), file(OLD + 500 * MS, "a"), TIE_LOST),
    ];
    check(&rows, &policy());
}

#[test]
fn files_of_equal_size_beyond_the_threshold_are_compared_by_content() {
    let beyond = 2 * S + 1;
    let rows = [
        ("equal, newer", file(OLD + beyond, "a"), file(OLD, "a"), Decision::Metadata(Some(Reason::SameContent))),
        ("equal, older", file(OLD, "a"), file(OLD + beyond, "a"), Decision::Skip(Reason::SameContent)),
        ("different, newer", file(OLD + beyond, "a"), file(OLD, "b"), WON),
        ("different, older", file(OLD, "b"), file(OLD + beyond, "a"), LOST),
        // Metadata is settled only where the times agree.
        (
            "equal, older, other mode",
            file(OLD, "a").mode(0o600),
            file(OLD + beyond, "a"),
            Decision::Skip(Reason::SameContent),
        ),
    ];
    check(&rows, &policy());
}

#[test]
fn files_of_different_sizes() {
    let beyond = 2 * S + 1;
    let rows = [
        ("newer", file(OLD + beyond, "a"), file(OLD, "bb"), WON),
        ("older", file(OLD, "aa"), file(OLD + beyond, "b"), LOST),
        ("tie by mtime, won", file(OLD + 1, "a"), file(OLD, "bb"), TIE_WON),
        ("tie by mtime, lost", file(OLD, "aa"), file(OLD + 2 * S, "b"), TIE_LOST),
        ("tie by size, won", file(OLD, "aa"), file(OLD, "b"), TIE_WON),
        ("tie by size, lost", file(OLD, "a"), file(OLD, "bb"), TIE_LOST),
    ];
    check(&rows, &policy());
    for (_, source, destination, _) in rows {
        assert_eq!(look(&source, Some(&destination), &policy(), Unfinished::No).1, 0, "nothing to read");
    }
}

#[test]
fn a_tie_of_equal_times_and_sizes_is_decided_by_md5() {
    let checksum = Policy { checksum: true, ..policy() };
    assert_eq!(decided(&file(OLD, "b"), &file(OLD, "a"), &checksum), TIE_WON);
    assert_eq!(decided(&file(OLD, "a"), &file(OLD, "b"), &checksum), TIE_LOST);
}

#[test]
fn checksum_reads_files_that_look_equal() {
    let checksum = Policy { checksum: true, ..policy() };
    assert_eq!(look(&file(OLD, "a"), Some(&file(OLD, "a")), &checksum, Unfinished::No), (Decision::Equal, 1));
    let other_mode = file(OLD, "a").mode(0o600);
    assert_eq!(decided(&other_mode, &file(OLD, "a"), &checksum), Decision::Metadata(None));
}

#[test]
fn where_times_are_coarse_the_tick_of_the_last_run_is_read() {
    let coarse = Policy { granularity: S, last_start: Some(Time(OLD + 700 * MS)), ..policy() };
    let tick = OLD - OLD.rem_euclid(S);
    assert_eq!(look(&file(tick, "b"), Some(&file(tick, "a")), &coarse, Unfinished::No), (TIE_WON, 1));
    assert_eq!(look(&file(tick, "a"), Some(&file(tick, "a")), &coarse, Unfinished::No), (Decision::Equal, 1));
    for far in [tick - S, tick + 2 * S] {
        assert_eq!(look(&file(far, "b"), Some(&file(far, "a")), &coarse, Unfinished::No), (Decision::Equal, 0));
    }
}

#[test]
fn metadata_alone_is_settled_where_times_and_content_agree() {
    let rows = [
        ("mode", file(OLD, "a").mode(0o600), file(OLD, "a"), Decision::Metadata(None)),
        ("set-id", file(OLD, "a").mode(0o4755), file(OLD, "a").mode(0o755), Decision::Metadata(None)),
        ("owner", file(OLD, "a").owner(0, 1000), file(OLD, "a"), Decision::Metadata(None)),
        ("group", file(OLD, "a").owner(1000, 0), file(OLD, "a"), Decision::Metadata(None)),
        ("attributes", file(OLD, "a").attributes(1), file(OLD, "a"), Decision::Metadata(None)),
        ("mode within T", file(OLD, "a").mode(0o600), file(OLD + S, "a"), Decision::Metadata(None)),
        ("owner of a link", link(OLD, "a").owner(0, 0), link(OLD, "a"), Decision::Metadata(None)),
        ("mode of a link", link(OLD, "a").mode(0o700), link(OLD, "a"), Decision::Equal),
        ("mode of a directory", directory(OLD).mode(0o700), directory(OLD), Decision::Metadata(None)),
        ("mode of a directory within T", directory(OLD).mode(0o700), directory(OLD + S), Decision::Metadata(None)),
    ];
    check(&rows, &policy());
    let unowned = Policy { owners: false, ..policy() };
    let rows = [
        ("owner", file(OLD, "a").owner(0, 0), file(OLD, "a"), Decision::Equal),
        ("owner of a link", link(OLD, "a").owner(0, 0), link(OLD, "a"), Decision::Equal),
        ("set-id", file(OLD, "a").mode(0o4755), file(OLD, "a").mode(0o755), Decision::Equal),
        ("sticky", directory(OLD).mode(0o1755), directory(OLD).mode(0o755), Decision::Metadata(None)),
    ];
    check(&rows, &unowned);
    let unmoded = Policy { modes: false, ..policy() };
    check(&[("mode", file(OLD, "a").mode(0o600), file(OLD, "a"), Decision::Equal)], &unmoded);
}

#[test]
fn links() {
    let beyond = 2 * S + 1;
    let rows = [
        ("same target and time", link(OLD, "a"), link(OLD, "a"), Decision::Equal),
        ("same target within T", link(OLD, "a"), link(OLD + 2 * S, "a"), Decision::Equal),
        ("same target, newer", link(OLD + beyond, "a"), link(OLD, "a"), Decision::Metadata(None)),
        ("same target, older", link(OLD, "a"), link(OLD + beyond, "a"), LOST),
        ("other target, newer", link(OLD + beyond, "a"), link(OLD, "b"), WON),
        ("other target, older", link(OLD, "b"), link(OLD + beyond, "a"), LOST),
        ("tie by mtime, won", link(OLD + 1, "a"), link(OLD, "b"), TIE_WON),
        ("tie by mtime, lost", link(OLD, "b"), link(OLD + 1, "a"), TIE_LOST),
        ("tie by target, won", link(OLD, "b"), link(OLD, "aa"), TIE_WON),
        ("tie by target, lost", link(OLD, "aa"), link(OLD, "b"), TIE_LOST),
    ];
    check(&rows, &policy());
}

#[test]
fn other_types() {
    let beyond = 2 * S + 1;
    let rows = [
        ("link over file", link(OLD + beyond, "a"), file(OLD, "b"), Decision::Replace(None)),
        ("file over link", file(OLD + beyond, "a"), link(OLD, "b"), Decision::Replace(None)),
        ("older link", link(OLD, "a"), file(OLD + beyond, "b"), LOST),
        ("tie by mtime, won", file(OLD + 1, "a"), link(OLD, "bb"), Decision::Replace(Some(Reason::Tie))),
        ("tie by mtime, lost", link(OLD, "aa"), file(OLD + 1, "b"), TIE_LOST),
        ("tie by size, won", file(OLD, "aa"), link(OLD, "b"), Decision::Replace(Some(Reason::Tie))),
        ("tie by size, lost", link(OLD, "a"), file(OLD, "bb"), TIE_LOST),
        ("special at the source", special(OLD), file(OLD, "a"), Decision::Skip(Reason::Special)),
        ("special over directory", special(OLD), directory(OLD), Decision::Skip(Reason::Special)),
        ("special at the destination", file(OLD, "a"), special(OLD), Decision::Skip(Reason::Special)),
        ("directory over special", directory(OLD), special(OLD), Decision::Skip(Reason::Special)),
    ];
    check(&rows, &policy());
    for delete in [DeleteMissing::On, DeleteMissing::Strict] {
        check(&rows, &Policy { delete, ..policy() });
    }
}

#[test]
fn a_directory_against_something_else_needs_delete_missing() {
    for other in [file(OLD, "a"), link(OLD, "a"), file(OLD + 100 * S, "a"), file(OLD - 100 * S, "a")] {
        for (source, destination) in [(&other, &directory(OLD)), (&directory(OLD), &other)] {
            let off = decided(source, destination, &policy());
            assert_eq!(off, Decision::Fail(Reason::TypeConflict));
            for delete in [DeleteMissing::On, DeleteMissing::Strict] {
                let decision = decided(source, destination, &Policy { delete, ..policy() });
                assert_eq!(decision, Decision::Replace(None), "whatever its age");
            }
        }
    }
}

#[test]
fn directories() {
    let beyond = 2 * S + 1;
    let rows = [
        ("equal", directory(OLD), directory(OLD), Decision::Equal),
        ("within T", directory(OLD + 2 * S), directory(OLD), Decision::Equal),
        ("newer", directory(OLD + beyond), directory(OLD), Decision::Metadata(None)),
        ("older", directory(OLD), directory(OLD + beyond), Decision::Equal),
        ("older, other mode", directory(OLD).mode(0o700), directory(OLD + beyond), Decision::Equal),
    ];
    check(&rows, &policy());
}

#[test]
fn directories_of_an_interrupted_run() {
    let beyond = 2 * S + 1;
    let unfinished = |source: &Side, destination: &Side, how| look(source, Some(destination), &policy(), how).0;
    let ours = Unfinished::SameDirection;
    assert_eq!(unfinished(&directory(OLD), &directory(OLD + beyond), ours), Decision::Metadata(None));
    assert_eq!(unfinished(&directory(OLD), &directory(OLD + 1), ours), Decision::Metadata(None));
    assert_eq!(unfinished(&directory(OLD), &directory(OLD), ours), Decision::Equal);
    assert_eq!(unfinished(&directory(OLD).mode(0o700), &directory(OLD), ours), Decision::Metadata(None));
    let theirs = Unfinished::OtherDirection;
    assert_eq!(unfinished(&directory(OLD + beyond), &directory(OLD), theirs), Decision::Equal);
}

#[test]
fn future_times() {
    let future = START + 2 * S + 1;
    assert!(is_future(Time(future), &policy()));
    assert!(!is_future(Time(START + 2 * S), &policy()));
    let reason = Some(Reason::FutureTime);
    let lost = Decision::Skip(Reason::FutureTime);
    let rows = [
        // One counts as the run's start.
        ("source only", file(future + 9 * S, "a"), file(OLD, "b"), Decision::Update(reason)),
        ("destination only", file(OLD, "a"), file(future + 9 * S, "b"), lost),
        ("source only, destination after the start", file(future + 9 * S, "a"), file(START + S, "b"), lost),
        (
            "destination only, source after the start",
            file(START + S, "a"),
            file(future + 9 * S, "b"),
            Decision::Update(reason),
        ),
        // Two are compared as they are.
        ("both, newer", file(future + 9 * S, "a"), file(future, "bb"), Decision::Update(reason)),
        ("both, older", file(future, "aa"), file(future + 9 * S, "b"), lost),
        ("both, equal", file(future, "a"), file(future, "b"), Decision::Equal),
        ("both, within T", file(future + S, "a"), file(future, "b"), TIE_WON),
        ("content equal", file(future + 9 * S, "a"), file(OLD, "a"), Decision::Metadata(reason)),
        ("links", link(future + 9 * S, "a"), link(OLD, "b"), Decision::Update(reason)),
        ("links, equal", link(future + 9 * S, "a"), link(OLD, "a"), Decision::Metadata(reason)),
        ("types", link(future + 9 * S, "a"), file(OLD, "b"), Decision::Replace(reason)),
        ("directories", directory(future + 9 * S), directory(OLD), Decision::Metadata(None)),
        ("directories, older", directory(OLD), directory(future + 9 * S), Decision::Equal),
    ];
    check(&rows, &policy());
}

#[test]
fn a_future_time_against_one_at_the_very_start_is_the_newer() {
    let (ahead, now) = (file(START + 99 * S, "a"), file(START, "b"));
    assert_eq!(decided(&ahead, &now, &policy()), Decision::Update(Some(Reason::FutureTime)));
    assert_eq!(decided(&now, &ahead, &policy()), Decision::Skip(Reason::FutureTime));
}

fn missing_without_baseline(destination: &Entry, policy: &Policy) -> Decision {
    decide_missing(destination, None, policy, || Err("nothing to compare with")).unwrap()
}

#[test]
fn missing_at_the_source() {
    let mounted = |mut side: Side| {
        side.entry.mount_point = true;
        side
    };
    let plain = [file(OLD, "a"), link(OLD, "a"), directory(OLD)];
    for two_directions in [false, true] {
        let with = |delete| Policy { delete, two_directions, ..policy() };
        for side in &plain {
            let missing = |delete| missing_without_baseline(&side.entry, &with(delete));
            assert_eq!(missing(DeleteMissing::Off), Decision::Equal);
            assert_eq!(missing(DeleteMissing::Strict), Decision::Delete);
            let on = if two_directions { Decision::Skip(Reason::NewAtDestination) } else { Decision::Delete };
            assert_eq!(missing(DeleteMissing::On), on);
        }
        for delete in [DeleteMissing::On, DeleteMissing::Strict] {
            let missing = |side: &Side| missing_without_baseline(&side.entry, &with(delete));
            assert_eq!(missing(&special(OLD)), Decision::Skip(Reason::Special));
            assert_eq!(missing(&mounted(directory(OLD))), Decision::Skip(Reason::MountPoint));
        }
        assert_eq!(missing_without_baseline(&special(OLD).entry, &with(DeleteMissing::Off)), Decision::Equal);
    }
}

/// What both sides agreed on when they were these.
fn agreed(source: &Side, destination: &Side) -> Agreed {
    let known = matches!(source.entry.kind, Kind::File | Kind::Link).then(|| sum(&source.bytes));
    Agreed::new(&source.entry, &destination.entry, known)
}

/// Decides with a baseline and tells how often content was read.
fn look_back(source: &Side, destination: &Side, agreed: &Agreed, below: bool, policy: &Policy) -> (Decision, u32) {
    let mut evidence = Looked { source, destination: Some(destination), reads: 0, below };
    let entry = Some(&destination.entry);
    let decision = decide(&source.entry, entry, Some(agreed), policy, Unfinished::No, &mut evidence).unwrap();
    (decision, evidence.reads)
}

impl Side {
    /// Somebody was there.
    fn touched(mut self) -> Self {
        self.entry.ctime.0 += 1;
        self
    }

    fn inode(mut self, inode: u64) -> Self {
        self.entry.inode = inode;
        self
    }
}

#[test]
fn files_that_were_compared_and_found_equal_are_not_read_again() {
    let beyond = 2 * S + 1;
    let skip = Decision::Skip(Reason::SameContent);
    for (source, destination) in [(OLD, OLD + beyond), (OLD, OLD + S), (OLD + S, OLD)] {
        let (source, destination) = (file(source, "a"), file(destination, "a"));
        let agreed = agreed(&source, &destination);
        let with =
            |source: &Side, destination: &Side, policy: &Policy| look_back(source, destination, &agreed, false, policy);
        assert_eq!(with(&source, &destination, &policy()), (skip, 0));
        assert_eq!(look(&source, Some(&destination), &policy(), Unfinished::No), (skip, 1), "without a baseline");
        // Touched on either side, they are.
        assert_eq!(with(&source.clone().touched(), &destination, &policy()), (skip, 1));
        assert_eq!(with(&source, &destination.clone().touched(), &policy()), (skip, 1));
        assert_eq!(with(&source, &destination.clone().inode(7), &policy()), (skip, 1));
        assert_eq!(with(&source, &destination, &Policy { checksum: true, ..policy() }), (skip, 1));
        let last_start = Some(source.entry.mtime);
        assert_eq!(with(&source, &destination, &Policy { last_start, ..policy() }), (skip, 1));
        // A link made beside it changes the ctime, and so may an edit through the other name.
        let mut linked = source.clone().touched();
        linked.entry.links = 2;
        assert_eq!(with(&linked, &destination, &policy()), (skip, 1));
    }
    // An edit that left size and times is read and found.
    let (source, destination) = (file(OLD, "a"), file(OLD + beyond, "a"));
    let found =
        look_back(&source, &file(OLD + beyond, "b").touched(), &agreed(&source, &destination), false, &policy());
    assert_eq!(found, (LOST, 1));
}

#[test]
fn metadata_are_settled_within_the_threshold_without_a_read() {
    let (source, destination) = (file(OLD, "a"), file(OLD + S, "a"));
    let mut chmodded = source.clone().mode(0o600);
    chmodded.entry.links = 2;
    let found = look_back(&chmodded, &destination, &agreed(&source, &destination), false, &policy());
    assert_eq!(found, (Decision::Metadata(None), 0));
}

#[test]
fn another_type_replaces_what_is_unchanged_since_it_was_agreed() {
    let (tree, replace, fail) = (directory(OLD), Decision::Replace(None), Decision::Fail(Reason::TypeConflict));
    let old = file(OLD, "a");
    let agreed_file = agreed(&old, &old);
    let over_file = |destination: &Side| look_back(&tree, destination, &agreed_file, false, &policy()).0;
    assert_eq!(over_file(&old), replace);
    for changed in
        [file(OLD + 9 * S, "a"), file(OLD, "aa"), old.clone().touched(), old.clone().inode(7), link(OLD, "a")]
    {
        assert_eq!(over_file(&changed), fail, "{changed:?}");
    }
    // Where times are coarse nobody knows.
    let coarse = Policy { granularity: S, last_start: Some(Time(OLD)), ..policy() };
    assert_eq!(look_back(&tree, &old, &agreed_file, false, &coarse).0, fail);
    let agreed_tree = agreed(&tree, &tree);
    for (below, expected) in [(true, replace), (false, fail)] {
        assert_eq!(look_back(&old, &tree, &agreed_tree, below, &policy()).0, expected);
        // Its own time follows from what is below it.
        assert_eq!(look_back(&old, &directory(OLD + 99 * S), &agreed_tree, below, &policy()).0, expected);
    }
    assert_eq!(look_back(&old, &tree, &agreed_file, true, &policy()).0, fail, "agreed as a file");
}

#[test]
fn missing_at_the_source_and_agreed_before() {
    let both = Policy { delete: DeleteMissing::On, two_directions: true, ..policy() };
    let missing = |destination: &Side, agreed: &Agreed, policy: &Policy| {
        let mut reads = 0;
        let content = || {
            reads += 1;
            Ok::<_, &'static str>(sum(&destination.bytes))
        };
        let decision = decide_missing(&destination.entry, Some(agreed), policy, content).unwrap();
        (decision, reads)
    };
    let keep = Decision::Skip(Reason::NewAtDestination);
    let old = file(OLD, "a");
    let known = agreed(&old, &old);
    let unknown = Agreed { content: None, ..known.clone() };
    let rows = [
        ("unchanged", old.clone(), (Decision::Delete, 0), (Decision::Delete, 0)),
        ("only its mode", old.clone().mode(0o600).touched(), (Decision::Delete, 1), (keep, 0)),
        ("only its time", file(OLD + 9 * S, "a").touched(), (Decision::Delete, 1), (keep, 0)),
        ("another inode, same content", old.clone().inode(7), (Decision::Delete, 1), (keep, 0)),
        ("edited", file(OLD + 9 * S, "b").touched(), (keep, 1), (keep, 0)),
        ("edited, same time", file(OLD, "b").touched(), (keep, 1), (keep, 0)),
        ("longer", file(OLD, "aa"), (keep, 0), (keep, 0)),
        ("another type", link(OLD, "a"), (keep, 0), (keep, 0)),
        ("a directory", directory(OLD), (keep, 0), (keep, 0)),
    ];
    for (what, destination, with_content, without) in rows {
        assert_eq!(missing(&destination, &known, &both), with_content, "{what}");
        assert_eq!(missing(&destination, &unknown, &both), without, "{what}, content not known");
        let one_direction = Policy { two_directions: false, ..both.clone() };
        assert_eq!(missing(&destination, &known, &one_direction), (Decision::Delete, 0), "{what}: a mirror");
        let strict = Policy { delete: DeleteMissing::Strict, ..both.clone() };
        assert_eq!(missing(&destination, &known, &strict), (Decision::Delete, 0), "{what}: strict");
        let off = Policy { delete: DeleteMissing::Off, ..both.clone() };
        assert_eq!(missing(&destination, &known, &off), (Decision::Equal, 0), "{what}: off");
    }
    let (link, tree) = (link(OLD, "a"), directory(OLD));
    assert_eq!(missing(&link, &agreed(&link, &link), &both), (Decision::Delete, 0));
    assert_eq!(missing(&directory(OLD + 9 * S), &agreed(&tree, &tree), &both), (Decision::Delete, 0));
    // What may have changed in the last tick, or is to be read anyway, is read.
    let coarse = Policy { granularity: S, last_start: Some(Time(OLD)), ..both.clone() };
    assert_eq!(missing(&old, &known, &coarse), (Decision::Delete, 1));
    assert_eq!(missing(&file(OLD, "b"), &known, &coarse), (keep, 1));
    let checksum = Policy { checksum: true, ..both.clone() };
    assert_eq!(missing(&old, &known, &checksum), (Decision::Delete, 1));
    assert_eq!(missing(&file(OLD, "b"), &known, &checksum), (keep, 1));
    assert_eq!(missing(&old, &unknown, &checksum), (Decision::Delete, 0));
    assert_eq!(missing(&old, &unknown, &coarse), (keep, 0));
    // The source's facts are not the destination's.
    let apart = agreed(&old, &old.clone().inode(7));
    assert_eq!(missing(&old, &apart, &both), (Decision::Delete, 1));
    let failed = decide_missing(&old.clone().touched().entry, Some(&known), &both, || Err("content"));
    assert_eq!(failed, Err("content"));
}

#[test]
fn evidence_that_fails_decides_nothing() {
    struct Unreadable;
    impl Evidence for Unreadable {
        type Error = &'static str;
        fn content(&mut self) -> Result<Content, Self::Error> {
            Err("content")
        }
        fn targets(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error> {
            Err("targets")
        }
        fn same_attributes(&mut self) -> Result<bool, Self::Error> {
            Err("attributes")
        }
        fn below_as_agreed(&mut self) -> Result<bool, Self::Error> {
            Err("below")
        }
    }
    let pairs = [
        (file(OLD + S, "a"), file(OLD, "b"), "content"),
        (link(OLD, "a"), link(OLD, "a"), "targets"),
        (file(OLD, "a"), file(OLD, "a"), "attributes"),
        (directory(OLD), directory(OLD), "attributes"),
    ];
    for (source, destination, expected) in pairs {
        let decision =
            decide(&source.entry, Some(&destination.entry), None, &policy(), Unfinished::No, &mut Unreadable);
        assert_eq!(decision, Err(expected));
    }
}

fn mtimes() -> impl Strategy<Value = i128> {
    let near = prop_oneof![
        Just(0),
        Just(1),
        Just(999 * MS),
        Just(S),
        Just(2 * S - 1),
        Just(2 * S),
        Just(2 * S + 1),
        Just(4 * S),
        Just(-S),
        -5 * S..5 * S,
    ];
    (prop_oneof![Just(OLD), Just(START), Just(START + 2 * S), Just(START + 100 * S)], near)
        .prop_map(|(base, offset)| base + offset)
}

fn sides() -> impl Strategy<Value = Side> {
    let kinds = prop_oneof![
        6 => Just(Kind::File),
        3 => Just(Kind::Link),
        2 => Just(Kind::Directory),
        1 => Just(Kind::Special),
    ];
    let contents = prop_oneof![Just(""), Just("a"), Just("b"), Just("aa"), Just("ab")];
    let modes = prop_oneof![4 => Just(0o644), 1 => Just(0o600), 1 => Just(0o4755)];
    let owners = prop_oneof![4 => Just(1000), 1 => Just(0)];
    (kinds, mtimes(), contents, modes, owners, 0..2_u8).prop_map(|(kind, mtime, content, mode, uid, attributes)| {
        let bytes = if matches!(kind, Kind::File | Kind::Link) { content.as_bytes() } else { b"" };
        side(kind, mtime, bytes).mode(mode).owner(uid, uid).attributes(attributes)
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let granularities = prop_oneof![Just(1), Just(1000), Just(S), Just(2 * S)];
    let thresholds = prop_oneof![Just(0), Just(2 * S), Just(60 * S)];
    let deletes = prop_oneof![Just(DeleteMissing::Off), Just(DeleteMissing::On), Just(DeleteMissing::Strict)];
    (granularities, thresholds, deletes, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(granularity, threshold, delete, checksum, owners, modes, last)| Policy {
            granularity,
            threshold,
            delete,
            checksum,
            owners,
            modes,
            last_start: last.then_some(Time(OLD)),
            ..policy()
        },
    )
}

/// Returns what the destination is when the decision was executed.
fn applied(source: &Side, destination: &Side, decision: Decision, policy: &Policy) -> Side {
    let mut after = match decision {
        Decision::Equal | Decision::Skip(_) | Decision::Fail(_) | Decision::Delete => return destination.clone(),
        Decision::Create | Decision::Update(_) | Decision::Replace(_) => source.clone(),
        // The content stays.
        Decision::Metadata(_) => Side { bytes: destination.bytes.clone(), ..source.clone() },
    };
    after.entry.mtime = after.entry.mtime.floor(policy.granularity);
    if !policy.owners {
        (after.entry.uid, after.entry.gid) = (destination.entry.uid, destination.entry.gid);
        after.entry.mode &= 0o1777;
    }
    if !policy.modes {
        after.entry.mode = destination.entry.mode;
    }
    after
}

fn source_wins(decision: Decision) -> bool {
    matches!(decision, Decision::Update(_) | Decision::Replace(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The content that wins in one direction wins in the other.
    #[test]
    fn the_opposite_job_decides_alike(a in sides(), b in sides(), policy in policies()) {
        let there = decided(&a, &b, &policy);
        let back = decided(&b, &a, &policy);
        let one_is_a_directory = (a.entry.kind == Kind::Directory) != (b.entry.kind == Kind::Directory);
        if one_is_a_directory {
            // Deleting mirrors: each job follows its source.
            prop_assert_eq!(there, back);
        } else {
            prop_assert!(!(source_wins(there) && source_wins(back)), "both win: {:?}, {:?}", there, back);
            prop_assert!(!source_wins(there) || matches!(back, Decision::Skip(_)), "{:?}, {:?}", there, back);
            // Nothing stays different for good: of a lost comparison the other direction wins.
            if there == LOST || there == TIE_LOST {
                prop_assert!(
                    source_wins(back) || matches!(back, Decision::Metadata(_)),
                    "lost there and back: {:?}, {:?}", there, back
                );
            }
        }
        // Of two directories only the newer one is a model for the other.
        if (a.entry.kind, b.entry.kind) != (Kind::Directory, Kind::Directory) {
            prop_assert_eq!(there == Decision::Equal, back == Decision::Equal, "{:?}, {:?}", there, back);
        }
    }

    /// What was decided is final: the next run in this direction, and then one back, find nothing to do.
    #[test]
    fn a_decision_that_was_executed_leaves_nothing_to_do(a in sides(), b in sides(), policy in policies()) {
        let decision = decided(&a, &b, &policy);
        let after = applied(&a, &b, decision, &policy);
        let again = decided(&a, &after, &policy);
        let settled = |decision| matches!(decision, Decision::Equal | Decision::Skip(_) | Decision::Fail(_));
        prop_assert!(settled(again), "{:?}, then {:?}", decision, again);
        if after != b {
            let back = decided(&after, &a, &policy);
            prop_assert!(settled(back), "{:?}, then back {:?}", decision, back);
        }
    }

    /// There, back and there again ends with both sides agreeing, without conflicts of types.
    #[test]
    fn three_runs_converge(a in sides(), b in sides(), policy in policies()) {
        let policy = Policy { delete: DeleteMissing::Off, checksum: true, ..policy };
        let special = a.entry.kind == Kind::Special || b.entry.kind == Kind::Special;
        if special || (a.entry.kind == Kind::Directory) != (b.entry.kind == Kind::Directory) {
            return Ok(());
        }
        let (mut left, mut right) = (a, b);
        right = applied(&left, &right, decided(&left, &right, &policy), &policy);
        left = applied(&right, &left, decided(&right, &left, &policy), &policy);
        right = applied(&left, &right, decided(&left, &right, &policy), &policy);
        prop_assert_eq!(left.entry.kind, right.entry.kind);
        prop_assert_eq!(&left.bytes, &right.bytes);
        let idle = |decision| matches!(decision, Decision::Equal | Decision::Skip(Reason::SameContent));
        let (there, back) = (decided(&left, &right, &policy), decided(&right, &left, &policy));
        prop_assert!(idle(there) && idle(back), "{:?}, {:?}", there, back);
    }
}
