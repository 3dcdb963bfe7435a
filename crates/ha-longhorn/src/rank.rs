//! Which replica of a volume to take, and why (volumes.md §4). Pure.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Is what is known of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Layers in the chain; nothing when it does not resolve.
    pub layers: Option<usize>,
    /// What makes the chain incomplete: a broken one, a layer that is too long, an error of the engine.
    pub faults: Vec<String>,
    /// Whether it was being rebuilt; nothing when no usable `volume.meta` tells.
    pub rebuilding: Option<bool>,
    /// Whether the volume was open.
    pub dirty: bool,
    /// The revision counter.
    pub revision: Option<u64>,
    /// Allocated bytes of the head.
    pub head_allocated: u64,
    /// Allocated bytes of all layers.
    pub allocated: u64,
    /// When the head and `volume.meta` were written, ascending.
    pub written: Vec<Timestamp>,
    /// When the file system inside was written last, by its superblock.
    pub file_system_written: Option<Timestamp>,
    /// Whether a superblock was found.
    pub file_system: bool,
    /// Whether the journal holds what is not in its place.
    pub needs_recovery: bool,
}

/// Is what a replica is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its volume can be taken from it.
    Candidate,
    /// Only parts of it can be saved.
    Salvage,
    /// It was never written to.
    Empty,
}

/// Is one reason for a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// A fixed word.
    pub code: &'static str,
    /// A sentence.
    pub text: String,
}

/// Is the place of a replica among those of its volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// 1 for the best.
    pub rank: usize,
    /// What it is good for.
    pub standing: Standing,
    /// Whether it and its neighbour are both candidates that only times or evidence set apart: nobody should choose
    /// between them without comparing.
    pub close: bool,
    /// Why, in the order of weight.
    pub reasons: Vec<Reason>,
}

/// Ranks the replicas of one volume. The answer has their order.
pub fn rank(candidates: &[Candidate], before: Option<Timestamp>) -> Vec<Place> {
    let longest = candidates.iter().filter_map(|candidate| candidate.layers).max().unwrap_or(0);
    let standings: Vec<Standing> = candidates.iter().map(|candidate| standing(candidate, longest)).collect();
    let among = || candidates.iter().zip(&standings).filter(|(_, standing)| **standing == Standing::Candidate);
    let by_revision = among().count() > 0 && among().all(|(candidate, _)| candidate.revision.is_some());
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let firm = |a: usize, b: usize| firm(&candidates[a], &candidates[b], standings[a], standings[b], by_revision);
    order.sort_by(|a, b| firm(*a, *b).then_with(|| soft(&candidates[*a], &candidates[*b], before)));
    let mut places: Vec<Option<Place>> = vec![None; candidates.len()];
    for (rank, index) in order.iter().copied().enumerate() {
        let neighbours = [rank.checked_sub(1), Some(rank + 1)];
        let close = standings[index] == Standing::Candidate
            && neighbours.iter().flatten().filter_map(|rank| order.get(*rank)).any(|other| firm(index, *other).is_eq());
        let reasons = reasons(&candidates[index], standings[index], longest, by_revision, before);
        places[index] = Some(Place { rank: rank + 1, standing: standings[index], close, reasons });
    }
    places.into_iter().flatten().collect()
}

fn standing(candidate: &Candidate, longest: usize) -> Standing {
    let short = candidate.layers.is_none_or(|layers| layers < longest);
    if candidate.layers == Some(1) && candidate.allocated == 0 && candidate.faults.is_empty() {
        Standing::Empty
    } else if !candidate.faults.is_empty()
        || candidate.layers.is_none()
        || (candidate.rebuilding != Some(false) && short)
    {
        Standing::Salvage
    } else {
        Standing::Candidate
    }
}

/// Compares by what cannot be chance.
fn firm(a: &Candidate, b: &Candidate, of_a: Standing, of_b: Standing, by_revision: bool) -> Ordering {
    let revision = |candidate: &Candidate| if by_revision { candidate.revision } else { None };
    of_a.cmp(&of_b)
        .then(a.faults.len().min(1).cmp(&b.faults.len().min(1)))
        .then(doubt(a).cmp(&doubt(b)))
        .then(revision(b).cmp(&revision(a)))
}

/// Returns how much speaks for a rebuild that was cut off: one of which nobody knows stands between the two.
fn doubt(candidate: &Candidate) -> u8 {
    match candidate.rebuilding {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    }
}

/// Returns the newest time, before the incident when one is given.
fn last_before(candidate: &Candidate, before: Option<Timestamp>) -> Option<Timestamp> {
    candidate.written.iter().copied().filter(|written| before.is_none_or(|before| *written < before)).max()
}

/// Compares by times and evidence.
fn soft(a: &Candidate, b: &Candidate, before: Option<Timestamp>) -> Ordering {
    let time = |candidate: &Candidate| {
        let in_time = last_before(candidate, before);
        (in_time.is_some(), candidate.head_allocated > 0, in_time.or(last_before(candidate, None)))
    };
    time(b)
        .cmp(&time(a))
        .then(a.dirty.cmp(&b.dirty))
        .then(b.file_system.cmp(&a.file_system))
        .then(b.file_system_written.cmp(&a.file_system_written))
        .then(a.needs_recovery.cmp(&b.needs_recovery))
}

fn reasons(
    candidate: &Candidate,
    standing: Standing,
    longest: usize,
    by_revision: bool,
    before: Option<Timestamp>,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut say = |code: &'static str, text: String| reasons.push(Reason { code, text });
    match (candidate.layers, candidate.faults.as_slice()) {
        (Some(layers), []) => say("chain-complete", format!("the chain is complete: {layers} layers")),
        (_, faults) => say("chain-incomplete", faults.join("; ")),
    }
    if candidate.layers.is_none() && candidate.written.is_empty() {
        // It could not be looked at.
        return reasons;
    }
    if standing == Standing::Empty {
        say("never-written", "it was never written to: one layer, nothing allocated".to_owned());
    }
    let short = candidate.layers.is_some_and(|layers| layers < longest);
    let chain = match (short, candidate.faults.is_empty()) {
        (_, false) => String::new(),
        (false, true) => ", though its chain is as long as the others'".to_owned(),
        (true, true) => format!(", and its chain is shorter than the {longest} layers of another"),
    };
    match candidate.rebuilding {
        Some(true) => say("rebuilding", format!("it was being rebuilt{chain}")),
        Some(false) => say("not-rebuilding", "it was not being rebuilt".to_owned()),
        None => say("rebuilding-unknown", format!("nothing tells whether it was being rebuilt{chain}")),
    }
    match (candidate.revision, by_revision) {
        (Some(revision), false) if standing == Standing::Candidate => {
            say("revision-unused", format!("revision {revision}, which not all have, so it does not count"));
        }
        (Some(revision), _) => say("revision", format!("revision {revision}")),
        (None, _) => {}
    }
    if candidate.head_allocated == 0 {
        say("head-empty", "its head is empty, so its time says little".to_owned());
    }
    match (last_before(candidate, before), last_before(candidate, None)) {
        (Some(written), Some(last)) if before.is_some() => {
            let more = if last > written { format!(", and once more at {last:.0}, after it") } else { String::new() };
            say("written-before", format!("written at {written:.0}, before the incident{more}"));
        }
        (None, Some(last)) => say("written-after", format!("written at {last:.0}, after the incident")),
        (Some(written), _) => say("written", format!("written last at {written:.0}")),
        (None, None) => {}
    }
    if !candidate.dirty {
        say("clean", "the volume was closed in order".to_owned());
    }
    if let Some(written) = candidate.file_system_written {
        say("file-system-written", format!("the file system was written last at {written:.0}"));
    }
    if candidate.needs_recovery {
        say("journal", "the journal must be replayed".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Vec<Timestamp> {
        Timestamp::from_second(1_800_000_000 + seconds).into_iter().collect()
    }

    fn good() -> Candidate {
        Candidate {
            layers: Some(3),
            head_allocated: 1 << 20,
            allocated: 1 << 30,
            written: at(0),
            dirty: true,
            file_system: true,
            rebuilding: Some(false),
            ..Candidate::default()
        }
    }

    fn order(candidates: &[Candidate], before: Option<Timestamp>) -> Vec<usize> {
        rank(candidates, before).iter().map(|place| place.rank).collect()
    }

    #[test]
    fn each_rule_is_weaker_than_the_one_before() {
        let broken = Candidate { layers: None, faults: vec!["broken".to_owned()], revision: Some(99), ..good() };
        let rebuilt = Candidate { rebuilding: Some(true), written: at(99), ..good() };
        let older = Candidate { written: at(-9), dirty: false, ..good() };
        let evidence = Candidate { file_system_written: at(5).pop(), ..good() };
        for (candidates, expected) in [
            (vec![broken.clone(), good()], [2, 1]),
            (vec![rebuilt.clone(), good()], [2, 1]),
            (vec![rebuilt.clone(), broken], [1, 2]),
            (vec![older, good()], [2, 1]),
            (vec![good(), Candidate { dirty: false, ..good() }], [2, 1]),
            (vec![good(), evidence], [2, 1]),
            (
                vec![
                    Candidate { revision: Some(5), ..good() },
                    Candidate { revision: Some(6), written: at(-9), ..good() },
                ],
                [2, 1],
            ),
            (vec![Candidate { revision: Some(5), ..good() }, Candidate { written: at(9), ..good() }], [2, 1]),
        ] {
            assert_eq!(order(&candidates, None), expected, "{candidates:?}");
        }
    }

    #[test]
    fn a_short_replica_under_rebuild_is_salvage_and_an_empty_one_is_last() {
        let short = Candidate { layers: Some(2), rebuilding: Some(true), written: at(99), ..good() };
        let stray = Candidate { faults: vec!["beside".to_owned()], rebuilding: Some(true), ..good() };
        let empty =
            Candidate { layers: Some(1), head_allocated: 0, allocated: 0, dirty: false, written: at(99), ..good() };
        let places = rank(&[empty, short, stray, good()], None);
        let standings: Vec<_> = places.iter().map(|place| place.standing).collect();
        assert_eq!(standings, [Standing::Empty, Standing::Salvage, Standing::Salvage, Standing::Candidate]);
        assert_eq!(places[3].rank, 1);
        assert_eq!(places[0].rank, 4);
        assert!(!places[3].close);
    }

    #[test]
    fn without_volume_meta_a_rebuild_cannot_be_ruled_out() {
        let unknown = Candidate { rebuilding: None, written: at(99), ..good() };
        assert_eq!(order(&[unknown.clone(), good()], None), [2, 1]);
        assert_eq!(rank(std::slice::from_ref(&unknown), None)[0].standing, Standing::Candidate);
        let short = Candidate { layers: Some(2), ..unknown };
        assert_eq!(rank(&[short, good()], None)[0].standing, Standing::Salvage);
    }

    #[test]
    fn what_was_written_after_the_incident_comes_later_and_candidates_may_be_close() {
        let after = Candidate { written: at(50), ..good() };
        assert_eq!(order(&[after.clone(), good()], None), [1, 2]);
        assert_eq!(order(&[after.clone(), good()], at(10).pop()), [2, 1]);
        // One that was only closed or touched after the incident was written before it.
        let touched = Candidate { written: [at(5), at(50)].concat(), ..good() };
        assert_eq!(order(&[good(), touched, after.clone()], at(10).pop()), [2, 1, 3]);
        assert!(rank(&[after, good()], None).iter().all(|place| place.close));
        let apart = [Candidate { revision: Some(1), ..good() }, Candidate { revision: Some(2), ..good() }];
        assert!(rank(&apart, None).iter().all(|place| !place.close));
    }

    #[test]
    fn an_empty_head_beside_snapshots_was_written_to() {
        let cut_off = Candidate { layers: Some(1), head_allocated: 0, allocated: 117 << 20, ..good() };
        assert_ne!(rank(std::slice::from_ref(&cut_off), None)[0].standing, Standing::Empty);
    }

    #[test]
    fn a_small_replica_is_whole() {
        let small = Candidate { allocated: 16 << 10, head_allocated: 16 << 10, layers: Some(1), ..good() };
        assert_eq!(rank(&[small], None)[0].standing, Standing::Candidate);
    }
}
