//! Round trips, a model of updates, damage, and what a file costs.

use std::collections::BTreeMap;

use ha_sync_core::baseline::Facts;
use ha_sync_core::entry::Time;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const START: &str = "2026-04-13T15:23:57.25Z";

fn now() -> Timestamp {
    START.parse().unwrap()
}

fn run(number: u32) -> RunId {
    RunId::new(now(), number)
}

fn ends() -> Ends {
    Ends { pair: "photos".parse().unwrap(), a: b"/mnt/a".to_vec(), b: b"/mnt/b".to_vec() }
}

fn reversed() -> Ends {
    let Ends { pair, a, b } = ends();
    Ends { pair, a: b, b: a }
}

fn path(text: &str) -> RelPath {
    RelPath::from_bytes(text.as_bytes().to_vec()).unwrap()
}

fn facts(number: u64) -> Facts {
    let time = Time::new(1_700_000_000, 0);
    Facts { mtime: time, ctime: Time(time.0 + 5), inode: number, mode: 0o644, uid: 1, gid: 2, attributes: None }
}

fn agreed(kind: Kind, number: u64) -> Agreed {
    let content = (kind == Kind::File).then_some([number as u8; 16]);
    Agreed { kind, size: number, content, a: facts(number), b: facts(number + 1) }
}

fn named(name: &str, kind: Kind, number: u64) -> (Vec<u8>, Agreed) {
    (name.as_bytes().to_vec(), agreed(kind, number))
}

/// Is a folder for a baseline, gone with the test.
struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("baseline")
    }

    fn begin(&self, ends: &Ends) -> Update {
        Update::new(self.folder.path(), ends).unwrap()
    }

    fn finish(&self, update: Update, number: u32) -> bool {
        let old = self.open();
        update.finish(&self.file(), old.as_ref(), &run(number), now()).unwrap()
    }

    fn open(&self) -> Option<Baseline> {
        Baseline::open(&self.file(), &ends()).unwrap()
    }

    /// Writes a small baseline.
    fn filled() -> Self {
        let folder = Self::new();
        let update = folder.begin(&ends());
        let root = [named("d", Kind::Directory, 1), named("f", Kind::File, 2), named("l", Kind::Link, 3)];
        update.put(&RelPath::root(), &root).unwrap();
        update.put(&path("d"), &[named("f", Kind::File, 4), named("s", Kind::Directory, 5)]).unwrap();
        update.put(&path("d/s"), &[named("x", Kind::File, 6)]).unwrap();
        assert!(folder.finish(update, 1));
        folder
    }

    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let baseline = self.open().unwrap();
        baseline.verify().unwrap();
        baseline
            .walk(&RelPath::root(), &mut |path, _| {
                paths.push(path.to_string());
                true
            })
            .unwrap();
        paths
    }

    fn names(&self) -> Vec<String> {
        local::list(self.folder.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }
}

#[test]
fn a_missing_baseline_is_none_and_an_empty_update_writes_none() {
    let folder = Folder::new();
    assert!(folder.open().is_none());
    let update = folder.begin(&ends());
    assert!(!folder.finish(update, 1));
    assert!(folder.names().is_empty());
}

#[test]
fn what_was_agreed_is_found() {
    let folder = Folder::filled();
    let baseline = folder.open().unwrap();
    assert_eq!(folder.paths(), ["d", "d/f", "d/s", "d/s/x", "f", "l"]);
    assert_eq!((baseline.directories(), baseline.entries()), (3, 6));
    assert_eq!(baseline.entry(&path("d/s/x")).unwrap(), Some(agreed(Kind::File, 6)));
    for absent in ["", "x", "d/x", "x/y", "f/x"] {
        assert_eq!(baseline.entry(&path(absent)).unwrap(), None, "{absent}");
    }
    assert_eq!(baseline.directory(&path("f")).unwrap(), None);
    let header = baseline.header();
    assert_eq!((header.pair.as_str(), header.run_id.as_str()), ("photos", run(1).as_str()));
    assert_eq!(header.written, now());
    assert_eq!(header.roots, (b"/mnt/a".to_vec(), b"/mnt/b".to_vec()));
}

#[test]
fn a_walk_begins_anywhere_and_stops_when_told() {
    let folder = Folder::filled();
    let baseline = folder.open().unwrap();
    let walked = |from: &str, most: usize| {
        let mut paths = Vec::new();
        baseline
            .walk(&path(from), &mut |path, _| {
                paths.push(path.to_string());
                paths.len() < most
            })
            .unwrap();
        paths
    };
    assert_eq!(walked("d", 9), ["d", "d/f", "d/s", "d/s/x"]);
    assert_eq!(walked("f", 9), ["f"]);
    assert_eq!(walked("absent", 9), [""; 0]);
    assert_eq!(walked("", 2), ["d", "d/f"]);
}

#[test]
fn the_reverse_job_has_the_sides_exchanged() {
    let folder = Folder::filled();
    let there = Baseline::open(&folder.file(), &reversed()).unwrap().unwrap();
    let found = there.entry(&path("d/f")).unwrap().unwrap();
    assert_eq!(found, agreed(Kind::File, 4).swapped());
    // What it writes, the other finds.
    let update = folder.begin(&reversed());
    update.amend(&path("d"), b"f", Some(&agreed(Kind::File, 9).swapped())).unwrap();
    assert!(update.finish(&folder.file(), Some(&there), &run(2), now()).unwrap());
    let baseline = folder.open().unwrap();
    assert_eq!(baseline.entry(&path("d/f")).unwrap(), Some(agreed(Kind::File, 9)));
    assert_eq!(baseline.entry(&path("d/s/x")).unwrap(), Some(agreed(Kind::File, 6)));
}

#[test]
fn an_amendment_counts_whether_it_comes_before_or_after() {
    for amended_first in [false, true] {
        let folder = Folder::filled();
        let update = folder.begin(&ends());
        let amend = || {
            update.amend(&path("d"), b"f", Some(&agreed(Kind::File, 7))).unwrap();
            update.amend(&path("d"), b"s", None).unwrap();
        };
        let put = || update.put(&path("d"), &[named("g", Kind::File, 8), named("f", Kind::File, 9)]).unwrap();
        if amended_first {
            amend();
            put();
        } else {
            put();
            amend();
        }
        assert!(folder.finish(update, 2));
        assert_eq!(folder.paths(), ["d", "d/f", "d/g", "f", "l"]);
        assert_eq!(folder.open().unwrap().entry(&path("d/f")).unwrap(), Some(agreed(Kind::File, 7)));
    }
}

#[test]
fn of_several_amendments_the_last_counts() {
    let folder = Folder::filled();
    let update = folder.begin(&ends());
    let entry = |number| Some(agreed(Kind::File, number));
    update.amend(&path(""), b"f", entry(7).as_ref()).unwrap();
    update
        .amend_all(&path(""), &[(b"n".to_vec(), entry(1)), (b"f".to_vec(), None), (b"f".to_vec(), entry(8))])
        .unwrap();
    update.amend(&path(""), b"n", None).unwrap();
    assert!(folder.finish(update, 2));
    assert_eq!(folder.open().unwrap().entry(&path("f")).unwrap(), entry(8));
    assert_eq!(folder.open().unwrap().entry(&path("n")).unwrap(), None);
}

#[test]
fn below_a_directory_that_goes_nothing_is_left() {
    let paths_after = |tell: &dyn Fn(&Update)| {
        let folder = Folder::filled();
        let update = folder.begin(&ends());
        tell(&update);
        assert!(folder.finish(update, 2));
        assert_eq!(folder.open().unwrap().directory(&path("d/s")).unwrap(), None);
        folder.paths()
    };
    let gone = ["f", "l"];
    assert_eq!(paths_after(&|update| update.amend(&path(""), b"d", None).unwrap()), gone);
    let kept = [named("f", Kind::File, 2), named("l", Kind::Link, 3)];
    assert_eq!(paths_after(&|update| update.put(&path(""), &kept).unwrap()), gone);
    let file = agreed(Kind::File, 3);
    assert_eq!(paths_after(&|update| update.amend(&path(""), b"d", Some(&file)).unwrap()), ["d", "f", "l"]);
    assert_eq!(paths_after(&|update| update.remove_directory(&path("d"))), ["d", "f", "l"]);
    // What was said before it went is gone, what is said after it holds.
    let again = paths_after(&|update| {
        update.put(&path("d/s"), &[named("y", Kind::File, 9)]).unwrap();
        update.remove_directory(&path("d"));
        update.put(&path("d"), &[named("z", Kind::File, 9)]).unwrap();
    });
    assert_eq!(again, ["d", "d/z", "f", "l"]);
}

#[test]
fn what_is_told_and_is_so_already_writes_nothing() {
    let folder = Folder::filled();
    let update = folder.begin(&ends());
    update.put(&path("d/s"), &[named("x", Kind::File, 6)]).unwrap();
    update.amend(&path("d"), b"f", Some(&agreed(Kind::File, 4))).unwrap();
    update.amend(&path("d"), b"absent", None).unwrap();
    assert!(!folder.finish(update, 2));
    assert_eq!(folder.open().unwrap().header().run_id, run(1).as_str());
    assert_eq!(folder.names(), ["baseline"]);
}

#[test]
fn others_baselines_are_refused() {
    let folder = Folder::filled();
    let opened = |pair: &str, a: &[u8], b: &[u8]| {
        let ends = Ends { pair: pair.parse().unwrap(), a: a.to_vec(), b: b.to_vec() };
        Baseline::open(&folder.file(), &ends)
    };
    assert!(opened("photos", b"/mnt/b", b"/mnt/a").unwrap().is_some());
    let pair = opened("music", b"/mnt/a", b"/mnt/b").unwrap_err();
    assert!(matches!(&pair, BaselineError::OtherPair { found, .. } if found == "photos"), "{pair}");
    let roots = opened("photos", b"/mnt/a", b"/mnt/c").unwrap_err();
    assert!(matches!(&roots, BaselineError::OtherRoots { other, .. } if other == "/mnt/b"), "{roots}");
    let mut bytes = local::read(&folder.file()).unwrap();
    bytes[8] = 2;
    local::replace(&folder.file(), &bytes).unwrap();
    let version = Baseline::open(&folder.file(), &ends()).unwrap_err();
    assert!(matches!(version, BaselineError::Version { found: 2, .. }), "{version}");
}

#[test]
fn a_writer_that_was_killed_leaves_the_old_file_and_is_tidied_up_after() {
    let folder = Folder::filled();
    let update = folder.begin(&ends());
    update.amend(&path(""), b"f", None).unwrap();
    // As it is when the process is killed: what is beside stays.
    let mut killed = local::Replacement::begin(&folder.file(), "killed").unwrap();
    std::io::Write::write_all(&mut killed, b"hasyncbl, and no more").unwrap();
    std::mem::forget(killed);
    assert_eq!(folder.names(), ["baseline", "baseline.killed.new"]);
    assert_eq!(folder.paths().len(), 6);
    assert!(folder.finish(update, 2));
    assert_eq!(folder.names(), ["baseline"]);
    assert_eq!(folder.paths().len(), 5);
}

#[test]
fn an_update_that_cannot_be_written_leaves_the_old_file() {
    let folder = Folder::filled();
    let update = folder.begin(&ends());
    update.amend(&path(""), b"f", None).unwrap();
    let old = folder.open();
    let elsewhere = folder.folder.path().join("absent/baseline");
    assert!(update.finish(&elsewhere, old.as_ref(), &run(2), now()).is_err());
    assert_eq!(folder.paths().len(), 6);
    assert_eq!(folder.names(), ["baseline"]);
}

/// The bound of the format: 1,000,000 files with an MD5 in 20,000 directories, with names of 20 bytes that share
/// nothing and times and inodes that tell nothing of their neighbours'.
#[test]
fn a_file_costs_at_most_100_bytes() {
    let folder = Folder::new();
    let update = folder.begin(&ends());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let directories: Vec<_> = (0..20_000)
        .map(|number| (format!("directory-{number:05}").into_bytes(), agreed(Kind::Directory, number)))
        .collect();
    update.put(&RelPath::root(), &directories).unwrap();
    for (directory, _) in &directories {
        let files: Vec<_> = (0..50)
            .map(|_| {
                let name = format!("{:016x}.jpg", random()).into_bytes();
                let mut time =
                    |span: u64| Time::new(1_700_000_000 - (random() % span) as i64, (random() % 1_000_000_000) as u32);
                // Content of ten years, copied in a month.
                let (mtime, a, b) = (time(315_360_000), time(2_592_000), time(2_592_000));
                let inodes = (random() % 100_000_000, random() % 100_000_000);
                let entry = |ctime, inode| Facts { mtime, ctime, inode, ..facts(0) };
                let mut content = [0; 16];
                content[..8].copy_from_slice(&random().to_le_bytes());
                content[8..].copy_from_slice(&random().to_le_bytes());
                let size = random() % 10_000_000;
                let (a, b) = (entry(a, inodes.0), entry(b, inodes.1));
                (name, Agreed { kind: Kind::File, size, content: Some(content), a, b })
            })
            .collect();
        update.put(&RelPath::root().join(directory), &files).unwrap();
    }
    assert!(folder.finish(update, 1));
    let baseline = folder.open().unwrap();
    assert_eq!((baseline.directories(), baseline.entries()), (20_001, 1_020_000));
    let length = baseline.file.metadata().unwrap().len();
    assert!(length <= 100_000_000, "{length}");
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'.'), Just(0xff_u8), (1..=255_u8)];
    proptest::collection::vec(byte.prop_filter("no slash", |byte| *byte != b'/'), 1..20)
        .prop_filter("a name", |name| name != b"." && name != b"..")
}

fn times() -> impl Strategy<Value = Time> {
    let edges = prop_oneof![Just(i128::MIN), Just(i128::MAX), Just(0), Just(-1)];
    prop_oneof![4 => (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, rest)| Time::new(seconds, rest)),
        1 => edges.prop_map(Time)]
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let attributes = proptest::option::of(any::<u64>());
    let inodes = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..100_u64];
    (times(), times(), inodes, any::<u32>(), any::<u32>(), any::<u32>(), attributes).prop_map(
        |(mtime, ctime, inode, mode, uid, gid, attributes)| Facts { mtime, ctime, inode, mode, uid, gid, attributes },
    )
}

fn any_agreed() -> impl Strategy<Value = Agreed> {
    let kinds = prop_oneof![3 => Just(Kind::File), 2 => Just(Kind::Directory), 1 => Just(Kind::Link)];
    let sizes = prop_oneof![0..100_u64, Just(u64::MAX), any::<u64>()];
    let sides = prop_oneof![any_facts().prop_map(|facts| (facts.clone(), facts)), (any_facts(), any_facts())];
    (kinds, sizes, proptest::option::of(any::<[u8; 16]>()), sides).prop_map(|(kind, size, content, (a, b))| Agreed {
        kind,
        size,
        content,
        a,
        b,
    })
}

type Held = BTreeMap<Vec<u8>, Agreed>;

#[derive(Debug, Clone)]
enum Tell {
    Put(RelPath, Held),
    Amend(RelPath, Vec<u8>, Option<Agreed>),
    AmendAll(RelPath, Vec<(Vec<u8>, Option<Agreed>)>),
    Remove(RelPath),
}

fn tells() -> impl Strategy<Value = Tell> {
    let name = || prop_oneof![Just(b"a".to_vec()), Just(b"b".to_vec()), Just(b"c\xff".to_vec())];
    let path = || {
        proptest::collection::vec(name(), 0..3)
            .prop_map(|parts| parts.iter().fold(RelPath::root(), |path, part| path.join(part)))
    };
    let entry = || {
        (prop_oneof![2 => Just(Kind::Directory), 1 => Just(Kind::File)], 0..3_u64)
            .prop_map(|(kind, number)| agreed(kind, number))
    };
    let amended = (name(), proptest::option::of(entry()));
    prop_oneof![
        4 => (path(), proptest::collection::btree_map(name(), entry(), 0..3)).prop_map(|(path, entries)| Tell::Put(path, entries)),
        4 => (path(), name(), proptest::option::of(entry())).prop_map(|(path, name, entry)| Tell::Amend(path, name, entry)),
        2 => (path(), proptest::collection::vec(amended, 0..3)).prop_map(|(path, entries)| Tell::AmendAll(path, entries)),
        1 => path().prop_map(Tell::Remove),
    ]
}

/// Is what an update does, simply: whole trees in memory.
#[derive(Default)]
struct Model {
    old: BTreeMap<RelPath, Held>,
    puts: BTreeMap<RelPath, Held>,
    amended: BTreeMap<RelPath, BTreeMap<Vec<u8>, Option<Agreed>>>,
}

impl Model {
    fn tell(&mut self, tell: Tell) {
        match tell {
            Tell::Put(path, entries) => {
                self.puts.insert(path, entries);
            }
            Tell::Amend(path, name, entry) => {
                self.amended.entry(path).or_default().insert(name, entry);
            }
            Tell::AmendAll(path, entries) => self.amended.entry(path).or_default().extend(entries),
            Tell::Remove(above) => {
                self.old.retain(|path, _| !path.is_at_or_below(&above));
                self.puts.retain(|path, _| !path.is_at_or_below(&above));
                self.amended.retain(|path, _| !path.is_at_or_below(&above));
            }
        }
    }

    fn finish(&mut self) {
        let mut now = self.old.clone();
        now.append(&mut self.puts);
        for (path, names) in std::mem::take(&mut self.amended) {
            let entries = now.entry(path).or_default();
            for (name, entry) in names {
                match entry {
                    Some(entry) => entries.insert(name, entry),
                    None => entries.remove(&name),
                };
            }
        }
        for (path, entries) in &self.old {
            let is_directory = |entry: Option<&Agreed>| entry.is_some_and(|entry| entry.kind == Kind::Directory);
            for (name, entry) in entries {
                let stays = is_directory(now.get(path).and_then(|entries| entries.get(name)));
                if is_directory(Some(entry)) && !stays {
                    let gone = path.join(name);
                    now.retain(|path, _| !path.is_at_or_below(&gone));
                }
            }
        }
        now.retain(|_, entries| !entries.is_empty());
        self.old = now;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_put_is_read_back(
        entries in proptest::collection::btree_map(names(), any_agreed(), 1..12),
        directory in proptest::collection::vec(names(), 0..3),
        swapped in any::<bool>(),
    ) {
        let folder = Folder::new();
        let ends = if swapped { reversed() } else { ends() };
        let directory = directory.iter().fold(RelPath::root(), |path, part| path.join(part));
        let update = folder.begin(&ends);
        let entries: Vec<_> = entries.into_iter().collect();
        update.put(&directory, &entries).unwrap();
        prop_assert!(update.finish(&folder.file(), None, &run(1), now()).unwrap());
        let baseline = Baseline::open(&folder.file(), &ends).unwrap().unwrap();
        baseline.verify().unwrap();
        prop_assert_eq!(baseline.directory(&directory).unwrap(), Some(entries));
    }

    #[test]
    fn updates_do_what_the_model_does(runs in proptest::collection::vec(proptest::collection::vec(tells(), 0..8), 1..6)) {
        let folder = Folder::new();
        let mut model = Model::default();
        for (number, tells) in runs.into_iter().enumerate() {
            let update = folder.begin(&ends());
            for tell in tells {
                match &tell {
                    Tell::Put(path, entries) => {
                        let entries: Vec<_> = entries.clone().into_iter().collect();
                        update.put(path, &entries).unwrap();
                    }
                    Tell::Amend(path, name, entry) => update.amend(path, name, entry.as_ref()).unwrap(),
                    Tell::AmendAll(path, entries) => update.amend_all(path, entries).unwrap(),
                    Tell::Remove(path) => update.remove_directory(path),
                }
                model.tell(tell);
            }
            folder.finish(update, number as u32);
            model.finish();
            let Some(baseline) = folder.open() else {
                prop_assert!(model.old.is_empty());
                continue;
            };
            baseline.verify().unwrap();
            prop_assert_eq!(baseline.directories(), model.old.len() as u64);
            for (path, entries) in &model.old {
                let found = baseline.directory(path).unwrap().unwrap_or_default();
                prop_assert_eq!(&found.into_iter().collect::<Held>(), entries, "{}", path);
            }
        }
    }

    /// No bit and no byte at the end is missed.
    #[test]
    fn damage_is_found(place in any::<proptest::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
        let folder = Folder::filled();
        let mut bytes = local::read(&folder.file()).unwrap();
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 1 << bit;
        }
        local::replace(&folder.file(), &bytes).unwrap();
        prop_assert!(Baseline::open(&folder.file(), &ends()).is_err());
        prop_assert!(Baseline::open_of(&folder.file(), &ends().pair).is_err());
    }

    /// What is read is not trusted, even where the checksum would hold.
    #[test]
    fn bytes_that_are_no_block_are_refused_without_a_panic(
        bytes in proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
        damaged in any::<proptest::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let read = |bytes: &[u8]| Block::open(bytes).and_then(|block| block.entries(false)).map(drop);
        let _ = read(&bytes);
        let _ = read_header(&bytes);
        let entries = [(b"ab".to_vec(), agreed(Kind::File, 7)), (b"ac".to_vec(), agreed(Kind::Directory, 8))];
        let named = entries.iter().map(|(name, agreed)| (&name[..], Some(agreed)));
        let mut block = format::write_block(b"x/y", named, false);
        prop_assert!(read(&block).is_ok());
        let place = damaged.index(block.len());
        block[place] ^= flip;
        let _ = read(&block);
    }
}
