//! `--shard` and `--shards`: the real binary, several times over one pair.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_testkit::tree::{Item, file};

use crate::place::{Place, assert_says};

fn folders(number: usize) -> Vec<Item> {
    (0..number).map(|folder| file(format!("folder-{folder}/file"), "content")).collect()
}

#[test]
fn all_shards_together_bring_the_whole_over() {
    let place = Place::new(&folders(12), &[]);
    let mut created = 0;
    for shard in ["0/3", "1/3", "2/3"] {
        let outcome = place.run(&["--shard", shard, "-o", "json"]);
        outcome.assert_code(0);
        let answer: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        created += answer["summary"]["files_created"].as_u64().unwrap();
        let pair = answer["iteration"]["sync_pair"].as_str().unwrap();
        assert_eq!(pair, format!("{}-{}", place.environment.pair(), &shard[..1]), "a shard has records of its own");
    }
    assert_eq!(created, 24, "every file and every directory once");
    place.assert_sides_equal();
}

#[test]
fn the_index_of_a_pod_says_which_shard() {
    let place = Place::new(&folders(12), &[]);
    for index in 0..3 {
        let outcome = place.command(&["--shards", "3"]).env("JOB_COMPLETION_INDEX", index.to_string()).run();
        outcome.assert_code(0);
    }
    place.assert_sides_equal();
    place.run(&["--shards", "1"]).assert_code(0);
    let outcome = place.run(&["--shards", "3"]);
    outcome.assert_code(2);
    assert_says(&outcome, "--shards 3 needs JOB_COMPLETION_INDEX, which is not set");
    let outcome = place.command(&["--shards", "3"]).env("JOB_COMPLETION_INDEX", "3").run();
    outcome.assert_code(2);
    assert_says(&outcome, "JOB_COMPLETION_INDEX is no index of 3 shards");
}

#[test]
fn what_shards_cannot_do_is_refused() {
    let place = Place::new(&[], &[]);
    for (words, why) in [
        (&["--shard", "3/3"][..], "expected I/N, I from 0 to N-1"),
        (&["--shard", "1"], "expected I/N"),
        (&["--shards", "0"], "expected a number from 1 to 64"),
        (&["--shards", "65"], "expected a number from 1 to 64"),
        (&["--shard", "0/3", "--shards", "3"], "--shard cannot go with --shards"),
        (&["--shard", "0/3", "--hard-links"], "--hard-links cannot go with shards"),
    ] {
        let outcome = place.run(words);
        outcome.assert_code(2);
        assert_says(&outcome, why);
    }
}

/// A pair that ran backwards as a whole is no mirror for its shards, nor the other way round.
#[test]
fn what_is_new_at_the_destination_stays_when_a_pair_is_divided_or_put_together() {
    let whole: &[&[&str]] = &[&[]];
    let halves: &[&[&str]] = &[&["--shard", "0/2"], &["--shard", "1/2"]];
    for (first, then) in [(whole, halves), (halves, whole), (&halves[..1], &halves[1..]), (&halves[1..], &halves[..1])]
    {
        let trees = [file("kept", "a"), file("folder/kept", "a")];
        let place = Place::new(&trees, &trees);
        for words in first {
            place.back(words).assert_success();
        }
        std::fs::write(place.destination.join("new"), "new").unwrap();
        std::fs::write(place.destination.join("folder/new"), "new").unwrap();
        for words in then {
            place.sync(&[*words, &["--delete-missing"]].concat());
        }
        assert!(place.destination.join("new").exists(), "{first:?} {then:?}");
        assert!(place.destination.join("folder/new").exists(), "{first:?} {then:?}");
    }
}

/// With another number of shards, what was agreed is forgotten, and nothing is deleted by it.
#[test]
fn a_tree_that_is_divided_anew_begins_anew() {
    let trees = [file("kept", "a"), file("gone", "b")];
    let place = Place::new(&trees, &trees);
    for shard in ["0/2", "1/2"] {
        place.back(&["--shard", shard]).assert_success();
        place.sync(&["--shard", shard]);
    }
    std::fs::remove_file(place.source.join("gone")).unwrap();
    for shard in ["0/3", "1/3", "2/3"] {
        let outcome = place.sync(&["--shard", shard, "--delete-missing"]);
        let told = outcome.stderr.contains("the tree is divided otherwise than before");
        assert_eq!(told, shard != "2/3", "{}", outcome.stderr);
    }
    assert!(place.destination.join("gone").exists());
}
