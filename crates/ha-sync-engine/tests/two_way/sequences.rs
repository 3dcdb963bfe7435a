//! Random sequences of edits and runs, in the manner of "Mysteries of Dropbox" (Hughes, Pierce, Arts, Norell): whatever
//! was done, a clean run leaves two equal trees and the next one nothing to do, and nothing is lost.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_sync_core::baseline::Side;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::record::Status;

use crate::edits::{Edit, Editor, Random, Step, edit};
use crate::oracle::{self, Winner};
use crate::world::{START, Tree, Trouble, What, World};

fn steps(seed: u64) -> (ConflictPolicy, Vec<Step>) {
    let mut random = Random(seed);
    let policy = match random.below(8) {
        0 => ConflictPolicy::KeepBoth,
        1 => ConflictPolicy::PreferA,
        2 => ConflictPolicy::PreferB,
        _ => ConflictPolicy::Newest,
    };
    let mut steps = Vec::new();
    for _ in 0..1 + random.below(4) {
        for _ in 0..random.below(9) {
            let side = if random.below(2) == 0 { Side::A } else { Side::B };
            steps.push(Step::Edit(side, edit(&mut random)));
        }
        let (mut trouble, mut during) = (Trouble::default(), None);
        match random.below(10) {
            0 | 1 => trouble.killed_after = Some(random.below(12) as u32),
            2 => trouble.full = true,
            3 | 4 => {
                let side = if random.below(2) == 0 { Side::A } else { Side::B };
                during = Some((1 + random.below(6) as u32, side, edit(&mut random)));
            }
            _ => {}
        }
        steps.push(Step::Run(trouble, during));
    }
    (policy, steps)
}

/// Plays a sequence; panics when something is not as it must be.
fn play(policy: ConflictPolicy, steps: &[Step], talk: bool) {
    let mut world = World::new(policy);
    let mut editor = Editor::new();
    // What both sides last agreed on, as long as that is certain.
    let mut base = Some(Tree::new());
    for step in steps {
        if talk {
            println!("{step:?}");
        }
        match *step {
            Step::Edit(side, edit) => world.edit(&mut editor, side, edit),
            Step::Run(trouble, during) => run(&mut world, &mut editor, (policy, &mut base), trouble, during, talk),
        }
    }
    // Whatever happened: from here on nobody disturbs.
    run(&mut world, &mut editor, (policy, &mut base), Trouble::default(), None, talk);
    run(&mut world, &mut editor, (policy, &mut base), Trouble::default(), None, talk);
}

fn run(
    world: &mut World,
    editor: &mut Editor,
    (policy, base): (ConflictPolicy, &mut Option<Tree>),
    trouble: Trouble,
    during: Option<(u32, Side, Edit)>,
    talk: bool,
) {
    let before = Side::BOTH.map(|side| world.tree(side));
    let contents = world.contents();
    let destroyed = Mutex::new(Vec::new());
    let roots = Side::BOTH.map(|side| world.root(side));
    let hook = during.map(|(call, side, edit)| {
        let (destroyed, editor) = (&destroyed, &mut *editor);
        let root = roots[side as usize].clone();
        let mut done = false;
        Box::new(move |calls| {
            if calls >= call && !done {
                done = true;
                *destroyed.lock().unwrap() = editor.apply(&root, edit);
            }
        }) as Box<dyn FnMut(u32) + Send + '_>
    });
    let ran = world.run_with(trouble, hook);
    world.clock = editor.clock + 5;
    if talk {
        println!("  {:?}", ran.result.as_ref().map(|finished| (finished.status, &finished.error_message)));
        ran.told().iter().for_each(|line| println!("  {line}"));
    }
    let finished = ran.result.unwrap();
    let after = Side::BOTH.map(|side| world.tree(side));
    assert_eq!(world.temporary(), Vec::<String>::new(), "temporary entries");

    // Nothing is lost: every content is somewhere, except what a person destroyed.
    let destroyed = destroyed.into_inner().unwrap();
    let lost: Vec<_> =
        contents.difference(&world.contents()).filter(|content| !destroyed.contains(content)).cloned().collect();
    let lost: Vec<_> = lost.iter().map(|content| String::from_utf8_lossy(content)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");

    // What neither side had cannot be there, and what one side changed during the run stays.
    let had: BTreeSet<&String> = before[0].keys().chain(before[1].keys()).collect();
    if during.is_none() {
        let new = after.iter().flat_map(Tree::keys).filter(|path| !had.contains(path) && !path.contains("(conflict "));
        assert_eq!(new.collect::<Vec<_>>(), Vec::<&String>::new(), "nothing comes from nowhere");
    }

    let clean = trouble == Trouble::default() && during.is_none();
    if !clean {
        assert!([Status::Success, Status::PartialFailure, Status::Failed].contains(&finished.status));
        if finished.status != Status::Success || during.is_some() {
            *base = None;
            return;
        }
    }
    // What is set on one name of a file with several is set on the others, which the plan saw otherwise.
    let linked = |message: &Option<String>| message.as_ref().is_some_and(|why| why.ends_with("changed since scan"));
    if finished.status == Status::PartialFailure && world.has_links() && linked(&finished.error_message) {
        *base = None;
        return run(world, editor, (policy, base), trouble, during, talk);
    }
    assert_eq!(finished.status, Status::Success, "{:?}", finished.error_message);
    let after = match world.has_links() {
        // Metadata that were set on one name are those of the others, too, and go back in the next run.
        true => {
            assert_eq!(world.run().result.unwrap().status, Status::Success);
            Side::BOTH.map(|side| world.tree(side))
        }
        false => after,
    };
    assert_trees_equal(&after);
    if let Some(known) = base.as_ref().filter(|_| policy != ConflictPolicy::KeepBoth) {
        let now = i128::from(START + world.clock) * 1_000_000_000;
        let judge = |a: (&What, i128), b: (&What, i128)| winner(policy, now, a, b);
        let [a, b] = [oracle::grow(&before[0]), oracle::grow(&before[1])];
        let expected = oracle::merge(&a, &b, &oracle::grow(known), &judge);
        let found = oracle::differences(&expected, &oracle::grow(&after[0]), "");
        assert!(found.is_empty(), "not as the table says: {found:#?}");
    }
    *base = Some(after[0].clone());

    // The next run does nothing, and the one after it would not even write a baseline.
    let again = world.run();
    assert_eq!(again.told(), Vec::<String>::new(), "the next run does nothing");
    let written = std::fs::metadata(world.baseline()).ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    world.run();
    let now = std::fs::metadata(world.baseline()).ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    assert_eq!(written, now, "a run without news writes no baseline");
}

fn winner(policy: ConflictPolicy, start: i128, (a, a_time): (&What, i128), (b, b_time): (&What, i128)) -> Winner {
    const SECOND: i128 = 1_000_000_000;
    match policy {
        ConflictPolicy::PreferA => return Winner::A,
        ConflictPolicy::PreferB => return Winner::B,
        _ => {}
    }
    let size = |what: &What| match what {
        What::File(content) => content.len(),
        What::Link(target) => target.len(),
        What::Directory => 0,
    };
    if (a_time - b_time).abs() <= 2 * SECOND {
        return match a_time.cmp(&b_time).then(size(a).cmp(&size(b))) {
            std::cmp::Ordering::Greater => Winner::A,
            std::cmp::Ordering::Less => Winner::B,
            std::cmp::Ordering::Equal => Winner::Either,
        };
    }
    // A time ahead of the clock counts as now, but for two that are.
    let ahead = |time: i128| time > start + 2 * SECOND;
    let counted = |time: i128, other: i128| if ahead(time) && !ahead(other) { start } else { time };
    if counted(a_time, b_time) >= counted(b_time, a_time) { Winner::A } else { Winner::B }
}

fn assert_trees_equal(trees: &[Tree; 2]) {
    let [a, b] = trees;
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b), "names");
    for (path, node) in a {
        let other = &b[path];
        assert_eq!(node.what, other.what, "content of {path}");
        assert_eq!(node.mode, other.mode, "mode of {path}");
        // Of directories and links a difference below the threshold is none.
        let slack = if matches!(node.what, What::File(_)) { 0 } else { 2_000_000_000 };
        assert!((node.mtime - other.mtime).abs() <= slack, "time of {path}: {} and {}", node.mtime, other.mtime);
    }
}

fn fails(policy: ConflictPolicy, steps: &[Step]) -> bool {
    catch_unwind(AssertUnwindSafe(|| play(policy, steps, false))).is_err()
}

/// Leaves out steps as long as the sequence still fails.
fn shrink(policy: ConflictPolicy, mut steps: Vec<Step>) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if fails(policy, &fewer) {
                steps = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    steps
}

/// The first of the seeds, of which each makes a sequence; printed, so that one can be played again.
const SEED: u64 = 20_260_413;

fn sequences(from: u64, count: u64) {
    let next = AtomicU64::new(from);
    let failed: Mutex<Option<u64>> = Mutex::new(None);
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let (policy, steps) = steps(seed);
                    if fails(policy, &steps) {
                        failed.lock().unwrap().get_or_insert(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let shrunk = failed.map(|seed| {
        let (policy, steps) = steps(seed);
        (seed, policy, shrink(policy, steps))
    });
    std::panic::set_hook(silent);
    if let Some((seed, policy, steps)) = shrunk {
        println!("seed {seed}, {policy:?}, shrunk to:");
        play(policy, &steps, true);
        panic!("seed {seed} fails, but not what is left of it: it depends on the moment");
    }
    println!("{count} sequences, seeds from {from}");
}

#[test]
fn random_sequences_end_equal_and_lose_nothing() {
    // Another number of sequences or another first seed, to look for what these do not find.
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    sequences(number("TWO_WAY_SEED", SEED), number("TWO_WAY_SEQUENCES", 5_000));
}
