//! Every row of the table of sync.md §3, and every ruling of §11 on two-way jobs.

use proptest::prelude::*;

use super::*;

mod node;
mod properties;

use node::*;

fn nothing() -> Verdict {
    Verdict::Nothing
}

fn delete(side: Side) -> Verdict {
    Verdict::Delete { side }
}

/// Goes over whole, for no reason.
fn goes(from: Side) -> Verdict {
    Verdict::Propagate { from, merge: Merge::all(from), reason: None }
}

fn kept(from: Side) -> Verdict {
    Verdict::Propagate { from, merge: Merge::all(from), reason: Some(Reason::KeptChanged) }
}

/// Is only recorded.
fn recorded(content: Option<&str>) -> Verdict {
    Verdict::Settle { merge: Merge::default(), content: content.map(|content| sum(content.as_bytes())), reason: None }
}

fn settled(merge: Merge, content: Option<&str>) -> Verdict {
    Verdict::Settle { merge, content: content.map(|content| sum(content.as_bytes())), reason: None }
}

fn wins(winner: Side, reason: Reason) -> Verdict {
    Verdict::Conflict { winner, how: ConflictPolicy::Newest, reason }
}

const A: Side = Side::A;
const B: Side = Side::B;

fn times(side: Side) -> Merge {
    Merge { times: Some(side), ..Merge::default() }
}

fn mode(side: Side) -> Merge {
    Merge { mode: Some(side), ..Merge::default() }
}

fn owner(side: Side) -> Merge {
    Merge { owner: Some(side), ..Merge::default() }
}

fn attributes(side: Side) -> Merge {
    Merge { attributes: Some(side), ..Merge::default() }
}

/// Is a path in a row: what each side has now.
type Row<'a> = (&'a str, Option<Node>, Option<Node>, Verdict);

#[track_caller]
fn check(rows: &[Row<'_>], agreed: Option<&Agreed>, rules: &Rules) {
    for (what, a, b, expected) in rows {
        let found = look(a.as_ref(), b.as_ref(), agreed, rules).0;
        assert_eq!(found, *expected, "{what}");
        // Seen from the other end it is the same, where no side is preferred.
        let agreed = agreed.cloned().map(Agreed::swapped);
        let mirrored = look(b.as_ref(), a.as_ref(), agreed.as_ref(), &swapped_rules(rules)).0;
        let both_changed = what.starts_with("both set");
        assert!(both_changed || mirrored == swapped(found), "{what}: from the other end: {mirrored:?}");
    }
}

#[test]
fn unchanged_on_both_sides_is_nothing_and_reads_nothing() {
    for node in [file(OLD, "1"), link(OLD, "1"), directory(OLD)] {
        let agreed = node.agreed();
        let found = look(Some(&node), Some(&node), Some(&agreed), &rules());
        assert_eq!(found, (nothing(), 0));
        assert_eq!(look(None, None, Some(&agreed), &rules()).0, Verdict::Forget);
    }
    assert_eq!(look(None, None, None, &rules()).0, nothing());
}

#[test]
fn created_on_one_side() {
    for node in [file(OLD, "1"), link(OLD, "1"), directory(OLD)] {
        check(&[("created", Some(node), None, goes(A))], None, &rules());
    }
    let ahead = Verdict::Propagate { from: A, merge: Merge::all(A), reason: Some(Reason::FutureTime) };
    check(&[("in the future", Some(file(START + 9 * S, "1")), None, ahead)], None, &rules());
}

#[test]
fn deleted_on_one_side() {
    let old = file(OLD, "1");
    let rows = [
        ("unchanged there", None, Some(old.clone()), delete(B)),
        ("changed there", None, Some(old.clone().write(OLD + S, "22")), kept(B)),
        ("changed there, same size", None, Some(old.clone().write(OLD + S, "2")), kept(B)),
        ("changed there, same size and time", None, Some(old.clone().write(OLD, "2")), kept(B)),
        ("another type there", None, Some(link(OLD, "1")), kept(B)),
        ("a directory there", None, Some(directory(OLD)), kept(B)),
        ("only its mode there", None, Some(old.clone().mode(0o600)), delete(B)),
        ("only its owner there", None, Some(old.clone().owner(0)), delete(B)),
        ("only its attributes there", None, Some(old.clone().attributes(1)), delete(B)),
        ("only its time there", None, Some(old.clone().write(OLD + 99 * S, "1")), delete(B)),
        ("another inode, same content", None, Some(old.clone().inode(9)), delete(B)),
        ("special there", None, Some(special(OLD)), Verdict::Skip(Reason::Special)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
    // What was agreed is not known, so a touch may have been an edit.
    let unknown = Agreed { content: None, ..old.agreed() };
    let rows = [
        ("unchanged there", None, Some(old.clone()), delete(B)),
        ("touched there", None, Some(old.clone().mode(0o600)), kept(B)),
    ];
    check(&rows, Some(&unknown), &rules());
    let old = link(OLD, "1");
    let rows = [
        ("link unchanged", None, Some(old.clone()), delete(B)),
        ("link to elsewhere", None, Some(old.clone().write(OLD, "2")), kept(B)),
        ("link touched", None, Some(old.clone().write(OLD + 9 * S, "1")), delete(B)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn a_directory_deleted_on_one_side_goes_unless_something_is_mounted_on_it() {
    let old = directory(OLD);
    let mut mounted = old.clone();
    mounted.entry.mount_point = true;
    let rows = [
        ("as it was", None, Some(old.clone()), delete(B)),
        ("only emptied there", None, Some(directory(OLD + 99 * S)), delete(B)),
        ("only its mode there", None, Some(old.clone().mode(0o700)), delete(B)),
        ("mounted on", None, Some(mounted), Verdict::Skip(Reason::MountPoint)),
        ("a file there", None, Some(file(OLD, "1")), kept(B)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn changed_on_one_side() {
    let old = file(OLD, "1");
    let rows = [
        ("larger", Some(old.clone().write(OLD + S, "22")), Some(old.clone()), goes(A)),
        ("older", Some(old.clone().write(OLD - 99 * S, "22")), Some(old.clone()), goes(A)),
        ("same size", Some(old.clone().write(OLD + S, "2")), Some(old.clone()), goes(A)),
        ("same size and time", Some(old.clone().write(OLD, "2")), Some(old.clone()), goes(A)),
        ("another inode", Some(file(OLD, "2").inode(9)), Some(old.clone()), goes(A)),
        ("a link", Some(link(OLD, "2")), Some(old.clone()), goes(A)),
        ("a directory", Some(directory(OLD)), Some(old.clone()), goes(A)),
        ("special", Some(special(OLD)), Some(old.clone()), Verdict::Skip(Reason::Special)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
    // Compared with the other side, which is as agreed, an edit is known even where the old content is not.
    let unknown = Agreed { content: None, ..old.agreed() };
    let rows = [
        ("same size", Some(old.clone().write(OLD + S, "2")), Some(old.clone()), goes(A)),
        ("another inode, same content", Some(old.clone().inode(9)), Some(old.clone()), recorded(Some("1"))),
    ];
    check(&rows, Some(&unknown), &rules());
    let old = link(OLD, "1");
    let rows = [
        ("link to elsewhere", Some(old.clone().write(OLD, "2")), Some(old.clone()), goes(A)),
        ("link to far elsewhere", Some(old.clone().write(OLD, "22")), Some(old.clone()), goes(A)),
        ("a file", Some(file(OLD, "1")), Some(old.clone()), goes(A)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn an_edit_costs_one_read_of_one_side() {
    let old = file(OLD, "1");
    let reads = |node: Node, agreed: &Agreed| look(Some(&node), Some(&old), Some(agreed), &rules()).1;
    assert_eq!(reads(old.clone().write(OLD + S, "2"), &old.agreed()), 1);
    assert_eq!(reads(old.clone().mode(0o600), &old.agreed()), 1);
    assert_eq!(reads(old.clone().write(OLD + S, "22"), &old.agreed()), 0, "the size tells");
    let unknown = Agreed { content: None, ..old.agreed() };
    assert_eq!(reads(old.clone().mode(0o600), &unknown), 2);
    // A link made beside it changes the ctime, and so may an edit through the other name.
    let mut linked = old.clone().touched();
    linked.entry.links = 2;
    assert_eq!(reads(linked, &old.agreed()), 1);
}

#[test]
fn changed_to_the_same_on_both_sides() {
    let old = file(OLD, "1");
    let new = old.clone().write(OLD + 9 * S, "22");
    let rows = [
        ("same time", Some(new.clone()), Some(new.clone()), recorded(Some("22"))),
        (
            "same size as before",
            Some(old.clone().write(OLD, "2")),
            Some(old.clone().write(OLD, "2")),
            recorded(Some("2")),
        ),
        ("both directories now", Some(directory(OLD)), Some(directory(OLD)), recorded(None)),
        ("both links now", Some(link(OLD, "9")), Some(link(OLD, "9")), recorded(Some("9"))),
    ];
    check(&rows, Some(&old.agreed()), &rules());
    // Same size and time do not mean the same content.
    let rows = [(
        "only alike",
        Some(old.clone().write(OLD + S, "33")),
        Some(old.clone().write(OLD + S, "22")),
        wins(A, Reason::Tie),
    )];
    check(&rows, Some(&old.agreed()), &rules());
    let apart = Verdict::Settle { merge: times(A), content: Some(sum(b"22")), reason: Some(Reason::SameContent) };
    let rows = [(
        "both set the time",
        Some(old.clone().write(OLD + S, "22")),
        Some(old.clone().write(OLD + 9 * S, "22")),
        apart,
    )];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn changed_differently_on_both_sides() {
    let old = file(OLD, "1");
    let conflict = Reason::Conflict;
    let write = |mtime, content: &str| Some(file(OLD, "1").write(mtime, content));
    let rows = [
        ("newer", write(OLD + 9 * S, "22"), write(OLD + S, "333"), wins(A, conflict)),
        ("same size, newer", write(OLD + 9 * S, "22"), write(OLD + S, "33"), wins(A, conflict)),
        ("newer, with the old size", write(OLD + 9 * S, "2"), write(OLD + S, "333"), wins(A, conflict)),
        ("newer, both with the old size", write(OLD + 9 * S, "2"), write(OLD + S, "3"), wins(A, conflict)),
        ("newer than the past", write(OLD - 9 * S, "22"), write(OLD - 99 * S, "333"), wins(A, conflict)),
        ("tie by time", write(OLD + 2 * S, "22"), write(OLD + S, "333"), wins(A, Reason::Tie)),
        ("tie by size", write(OLD + S, "333"), write(OLD + S, "99"), wins(A, Reason::Tie)),
        ("tie by content", write(OLD + S, "33"), write(OLD + S, "22"), wins(A, Reason::Tie)),
        ("against a link", Some(link(OLD + 9 * S, "22")), write(OLD + S, "333"), wins(A, conflict)),
        ("tie of types", Some(file(OLD, "22")), Some(link(OLD, "22")), wins(A, Reason::Tie)),
        ("links", Some(link(OLD + 9 * S, "2")), Some(link(OLD, "3")), wins(A, conflict)),
        ("tie of links", Some(link(OLD, "3")), Some(link(OLD, "22")), wins(A, Reason::Tie)),
        ("future", write(START + 99 * S, "22"), write(OLD, "333"), wins(A, Reason::FutureTime)),
        // One future time is the run's start, so what was written after that is newer.
        ("future against later", write(START + 99 * S, "22"), write(START + S, "333"), wins(B, Reason::FutureTime)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
    for how in [ConflictPolicy::KeepBoth, ConflictPolicy::Skip] {
        let rows: Vec<Row<'_>> =
            rows.iter().cloned().map(|(what, a, b, verdict)| (what, a, b, with(verdict, how))).collect();
        check(&rows, Some(&old.agreed()), &Rules { conflict: how, ..rules() });
    }
    for (how, winner) in [(ConflictPolicy::PreferA, A), (ConflictPolicy::PreferB, B)] {
        let verdict = Verdict::Conflict { winner, how, reason: conflict };
        let rows: Vec<Row<'_>> = rows.iter().cloned().map(|(what, a, b, _)| (what, a, b, verdict.clone())).collect();
        check(&rows, Some(&old.agreed()), &Rules { conflict: how, ..rules() });
    }
}

/// Puts another policy into a conflict.
fn with(verdict: Verdict, how: ConflictPolicy) -> Verdict {
    match verdict {
        Verdict::Conflict { winner, reason, .. } => Verdict::Conflict { winner, how, reason },
        other => other,
    }
}

#[test]
fn a_directory_against_a_file_stays() {
    let newer = file(OLD + 99 * S, "22");
    for how in [ConflictPolicy::Newest, ConflictPolicy::KeepBoth, ConflictPolicy::Skip, ConflictPolicy::PreferB] {
        let rules = Rules { conflict: how, ..rules() };
        let stays = Verdict::Conflict { winner: A, how, reason: Reason::TypeConflict };
        let rows = [
            ("made on both sides", Some(directory(OLD)), Some(newer.clone()), stays.clone()),
            ("against a link", Some(directory(OLD)), Some(link(OLD + 99 * S, "22")), stays.clone()),
        ];
        for agreed in [None, Some(file(OLD, "1").agreed())] {
            let found = look(rows[0].1.as_ref(), rows[0].2.as_ref(), agreed.as_ref(), &rules).0;
            assert_eq!(found, stays);
        }
        for (what, a, b, expected) in rows {
            assert_eq!(look(a.as_ref(), b.as_ref(), None, &rules).0, expected, "{what}");
        }
    }
}

#[test]
fn a_directory_that_became_a_file_gives_way_when_nothing_below_changed() {
    let old = directory(OLD);
    let agreed = old.agreed();
    let verdict = |node: &Node, below| look_below(Some(node), Some(&old), Some(&agreed), &rules(), below);
    for node in [file(OLD - 9 * S, "1"), link(OLD, "1")] {
        assert_eq!(verdict(&node, Below::Agreed), goes(A));
        assert_eq!(verdict(&node, Below::Changed), wins(B, Reason::TypeConflict));
        assert_eq!(verdict(&node, Below::Held), Verdict::Fail(Reason::HoldsKept));
    }
    let mut mounted = old.clone();
    mounted.entry.mount_point = true;
    let found = look_below(Some(&file(OLD, "1")), Some(&mounted), Some(&agreed), &rules(), Below::Agreed);
    assert_eq!(found, Verdict::Fail(Reason::MountPoint));
    // On both sides something else now.
    let found = look(Some(&file(OLD + 9 * S, "1")), Some(&link(OLD, "1")), Some(&agreed), &rules()).0;
    assert_eq!(found, wins(A, Reason::Conflict));
}

#[test]
fn special_files_are_left_alone_on_both_sides() {
    let skip = Verdict::Skip(Reason::Special);
    for other in [None, Some(file(OLD, "1")), Some(directory(OLD)), Some(special(OLD))] {
        for agreed in [None, Some(file(OLD, "1").agreed())] {
            check(&[("special", Some(special(OLD)), other.clone(), skip.clone())], agreed.as_ref(), &rules());
        }
    }
}

#[test]
fn metadata_that_one_side_changed_goes_to_the_other() {
    let old = file(OLD, "1");
    let content = Some("1");
    let rows = [
        ("mode", Some(old.clone().mode(0o600)), Some(old.clone()), settled(mode(A), content)),
        ("owner", Some(old.clone().owner(0)), Some(old.clone()), settled(owner(A), content)),
        ("attributes", Some(old.clone().attributes(1)), Some(old.clone()), settled(attributes(A), content)),
        ("time", Some(old.clone().write(OLD + 99 * S, "1")), Some(old.clone()), settled(times(A), content)),
        ("time back", Some(old.clone().write(OLD - 99 * S, "1")), Some(old.clone()), settled(times(A), content)),
        ("time by a little", Some(old.clone().write(OLD + 1, "1")), Some(old.clone()), settled(times(A), content)),
        ("only touched", Some(old.clone().touched()), Some(old.clone()), recorded(content)),
        (
            "each another field",
            Some(old.clone().mode(0o600)),
            Some(old.clone().owner(0)),
            settled(Merge { mode: Some(A), owner: Some(B), ..Merge::default() }, content),
        ),
        ("the same on both", Some(old.clone().mode(0o600)), Some(old.clone().mode(0o600)), recorded(content)),
        ("both set the mode", Some(old.clone().mode(0o600)), Some(old.clone().mode(0o640)), settled(mode(A), content)),
        ("both set the owner", Some(old.clone().owner(0)), Some(old.clone().owner(5)), settled(owner(A), content)),
        (
            "both set attributes",
            Some(old.clone().attributes(1)),
            Some(old.clone().attributes(2)),
            settled(attributes(A), content),
        ),
    ];
    // Both were touched, so both are read, and their times say nothing of their content.
    let rows: Vec<Row<'_>> = rows.into_iter().collect();
    check(&rows, Some(&old.agreed()), &rules());
    let prefer = Rules { conflict: ConflictPolicy::PreferB, ..rules() };
    for (what, a, b, expected) in rows.into_iter().filter(|row| row.0.starts_with("both set")) {
        let Verdict::Settle { merge, content, reason } = expected else { panic!("{what}") };
        let expected = Verdict::Settle { merge: merge.swapped(), content, reason };
        assert_eq!(look(a.as_ref(), b.as_ref(), Some(&old.agreed()), &prefer).0, expected, "{what}");
    }
}

#[test]
fn metadata_that_differ_as_they_did_when_agreed_stay() {
    let (a, b) = (file(OLD, "1"), file(OLD + 99 * S, "1").mode(0o600).owner(5));
    let agreed = Agreed { content: Some(sum(b"1")), ..Agreed::new(&a.entry, &b.entry, None) };
    assert_eq!(look(Some(&a), Some(&b), Some(&agreed), &rules()), (nothing(), 0));
    // Of several fields only the one that changed is merged.
    let found = look(Some(&a.clone().mode(0o640)), Some(&b), Some(&agreed), &rules()).0;
    assert_eq!(found, settled(mode(A), Some("1")));
}

#[test]
fn metadata_that_are_not_synchronised_are_not_compared() {
    let old = file(OLD, "1");
    let unowned = Rules { owners: false, ..rules() };
    let rows = [
        ("owner", Some(old.clone().owner(0)), Some(old.clone()), recorded(Some("1"))),
        ("set-id", Some(old.clone().mode(0o4644)), Some(old.clone()), recorded(Some("1"))),
        ("sticky", Some(old.clone().mode(0o1644)), Some(old.clone()), settled(mode(A), Some("1"))),
    ];
    check(&rows, Some(&old.agreed()), &unowned);
    let unmoded = Rules { modes: false, ..rules() };
    check(
        &[("mode", Some(old.clone().mode(0o600)), Some(old.clone()), recorded(Some("1")))],
        Some(&old.agreed()),
        &unmoded,
    );
    let old = link(OLD, "1");
    let rows = [
        ("mode of a link", Some(old.clone().mode(0o700)), Some(old.clone()), recorded(Some("1"))),
        ("owner of a link", Some(old.clone().owner(0)), Some(old.clone()), settled(owner(A), Some("1"))),
        ("time of a link", Some(old.clone().write(OLD + 9 * S, "1")), Some(old.clone()), settled(times(A), Some("1"))),
        (
            "time of a link by less than T",
            Some(old.clone().write(OLD + S, "1")),
            Some(old.clone()),
            recorded(Some("1")),
        ),
        (
            "times of both links",
            Some(old.clone().write(OLD - 99 * S, "1")),
            Some(old.clone().write(OLD + 9 * S, "1")),
            Verdict::Settle { merge: times(B), content: Some(sum(b"1")), reason: Some(Reason::SameContent) },
        ),
    ];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn metadata_merge_with_a_content_change_of_the_other_side() {
    let old = file(OLD, "1");
    let new = old.clone().write(OLD + 9 * S, "22");
    let merged = |merge| Verdict::Propagate { from: A, merge, reason: None };
    let all = Merge::all(A);
    let rows = [
        ("mode", Some(new.clone()), Some(old.clone().mode(0o600)), merged(Merge { mode: Some(B), ..all })),
        ("owner", Some(new.clone()), Some(old.clone().owner(0)), merged(Merge { owner: Some(B), ..all })),
        (
            "attributes",
            Some(new.clone()),
            Some(old.clone().attributes(1)),
            merged(Merge { attributes: Some(B), ..all }),
        ),
        ("time", Some(new.clone()), Some(old.clone().write(OLD + 99 * S, "1")), merged(all)),
        ("both set the mode", Some(new.clone().mode(0o640)), Some(old.clone().mode(0o600)), merged(all)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
    let prefer = Rules { conflict: ConflictPolicy::PreferB, ..rules() };
    let found = look(Some(&new.clone().mode(0o640)), Some(&old.clone().mode(0o600)), Some(&old.agreed()), &prefer).0;
    assert_eq!(found, merged(Merge { mode: Some(B), ..all }));
    // Another type has metadata of its own.
    let found = look(Some(&link(OLD, "2")), Some(&old.clone().mode(0o600)), Some(&old.agreed()), &rules()).0;
    assert_eq!(found, goes(A));
}

#[test]
fn directories_take_the_newer_time_and_whatever_mode_was_set() {
    let old = directory(OLD);
    let at = |mtime| Some(directory(mtime).touched());
    let rows = [
        ("one newer", at(OLD + 99 * S), Some(old.clone()), settled(times(A), None)),
        ("one older", at(OLD - 99 * S), Some(old.clone()), settled(times(B), None)),
        ("both newer", at(OLD + 9 * S), at(OLD + 99 * S), settled(times(B), None)),
        ("by less than T", at(OLD + 2 * S), Some(old.clone()), recorded(None)),
        ("the same", at(OLD + 9 * S), at(OLD + 9 * S), recorded(None)),
        ("mode", Some(old.clone().mode(0o700)), Some(old.clone()), settled(mode(A), None)),
        ("attributes", Some(old.clone().attributes(3)), Some(old.clone()), settled(attributes(A), None)),
    ];
    check(&rows, Some(&old.agreed()), &rules());
}

#[test]
fn without_a_baseline_it_is_a_union() {
    let same = |merge| Verdict::Settle { merge, content: Some(sum(b"1")), reason: Some(Reason::SameContent) };
    let rows = [
        ("equal", Some(file(OLD, "1")), Some(file(OLD, "1")), recorded(Some("1"))),
        ("equal, other times", Some(file(OLD, "1")), Some(file(OLD + 99 * S, "1")), same(times(B))),
        ("equal, within T", Some(file(OLD, "1")), Some(file(OLD + S, "1")), same(times(B))),
        ("both set the mode", Some(file(OLD, "1").mode(0o600)), Some(file(OLD, "1")), settled(mode(A), Some("1"))),
        (
            "both set attributes",
            Some(file(OLD, "1").attributes(1)),
            Some(file(OLD, "1")),
            settled(attributes(A), Some("1")),
        ),
        ("only alike", Some(file(OLD, "2")), Some(file(OLD, "1")), wins(A, Reason::Tie)),
        ("newer", Some(file(OLD + 9 * S, "1")), Some(file(OLD, "2")), wins(A, Reason::Conflict)),
        ("links", Some(link(OLD, "1")), Some(link(OLD, "1")), recorded(Some("1"))),
        ("directories", Some(directory(OLD)), Some(directory(OLD)), recorded(None)),
        ("directories, newer", Some(directory(OLD)), Some(directory(OLD + 9 * S)), settled(times(B), None)),
    ];
    check(&rows, None, &rules());
    for (how, side) in [(ConflictPolicy::PreferA, A), (ConflictPolicy::PreferB, B)] {
        let rules = Rules { conflict: how, ..rules() };
        for (one, other) in [(OLD, OLD + 99 * S), (OLD + 99 * S, OLD)] {
            let found = look(Some(&file(one, "1")), Some(&file(other, "1")), None, &rules).0;
            assert_eq!(found, same(times(side)));
        }
    }
}

#[test]
fn checksum_finds_damage_and_does_not_spread_it() {
    let old = file(OLD, "1");
    let agreed = old.agreed();
    let checksum = Rules { checksum: true, ..rules() };
    assert_eq!(look(Some(&old), Some(&old), Some(&agreed), &checksum), (nothing(), 2));
    // The content is another one, and nothing says that anybody wrote it.
    let damaged = Node { bytes: b"9".to_vec(), ..old.clone() };
    let silent = Verdict::Fail(Reason::SilentChange);
    assert_eq!(look(Some(&old), Some(&damaged), Some(&agreed), &rules()), (nothing(), 0));
    let unknown = Agreed { content: None, ..agreed.clone() };
    for agreed in [&agreed, &unknown] {
        check(&[("damaged", Some(damaged.clone()), Some(old.clone()), silent.clone())], Some(agreed), &checksum);
    }
    let edited = old.clone().write(OLD + 9 * S, "2");
    check(&[("edited", Some(edited), Some(old.clone()), goes(A))], Some(&agreed), &checksum);
    check(&[("deleted", None, Some(damaged), kept(B))], Some(&agreed), &checksum);
}

#[test]
fn where_times_are_coarse_the_tick_of_the_last_run_is_read() {
    let old = file(OLD, "1");
    let coarse = Rules { granularity: 2 * S, last_start: Some(Time(OLD + S)), ..rules() };
    let unseen = Node { bytes: b"9".to_vec(), ..old.clone() };
    let rows = [
        ("edited in the tick", Some(unseen.clone()), Some(old.clone()), goes(A)),
        ("not edited", Some(old.clone()), Some(old.clone()), nothing()),
        ("edited in the tick, deleted", Some(unseen), None, kept(A)),
    ];
    check(&rows, Some(&old.agreed()), &coarse);
    assert_eq!(look(Some(&old), Some(&old), Some(&old.agreed()), &coarse).1, 2);
    let later = Rules { last_start: Some(Time(OLD + 3 * S)), ..coarse };
    assert_eq!(look(Some(&old), Some(&old), Some(&old.agreed()), &later), (nothing(), 0));
}

#[test]
fn a_look_that_fails_decides_nothing() {
    struct Blind;
    impl Look for Blind {
        type Error = &'static str;
        fn compare(&mut self) -> Result<Content, Self::Error> {
            Err("compare")
        }
        fn content(&mut self, _: Side) -> Result<[u8; 16], Self::Error> {
            Err("content")
        }
        fn target(&mut self, _: Side) -> Result<Vec<u8>, Self::Error> {
            Err("target")
        }
        fn attributes(&mut self, _: Side) -> Result<u64, Self::Error> {
            Err("attributes")
        }
        fn below(&mut self, _: Side) -> Result<Below, Self::Error> {
            Err("below")
        }
    }
    let old = file(OLD, "1");
    let agreed = old.agreed();
    let edited = old.clone().write(OLD + S, "2");
    let rows = [
        (Some(&edited), Some(&old), Some(&agreed), "content"),
        (Some(&edited), None, Some(&agreed), "content"),
        (Some(&edited), Some(&edited), Some(&agreed), "compare"),
        (Some(&old), Some(&old), None, "compare"),
        (Some(&directory(OLD)), Some(&directory(OLD)), None, "attributes"),
        (Some(&old), Some(&directory(OLD)), Some(&directory(OLD).agreed()), "below"),
    ];
    for (a, b, agreed, expected) in rows {
        let (a, b) = (a.map(|node| &node.entry), b.map(|node| &node.entry));
        assert_eq!(reconcile(a, b, agreed, &rules(), &mut Blind), Err(expected));
    }
}
