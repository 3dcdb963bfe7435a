//! The decision of a one-way job for one path (sync.md §2 and the rulings of §11).

use std::cmp::Ordering;

use crate::baseline::{Agreed, Side};
use crate::entry::{Entry, Kind, Time};
use crate::newest::Clock;
use crate::reason::Reason;

/// Is what `--delete-missing` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeleteMissing {
    /// Nothing is deleted.
    #[default]
    Off,
    /// What is missing at the source goes, unless it may be new at the destination.
    On,
    /// What is missing at the source goes.
    Strict,
}

/// Is what a run decides by.
#[derive(Debug, Clone)]
pub struct Policy {
    /// When the run began.
    pub start: Time,
    /// `--mtime-threshold`, nanoseconds.
    pub threshold: i128,
    /// The coarser of the two sides' time granularities, nanoseconds; at least 1.
    pub granularity: i128,
    /// When the pair's last run began, where times are coarse: files of that tick are compared by content.
    pub last_start: Option<Time>,
    /// `--checksum`.
    pub checksum: bool,
    /// `--delete-missing`.
    pub delete: DeleteMissing,
    /// Whether the pair also runs in the other direction.
    pub two_directions: bool,
    /// Whether owners and groups can be set and so are compared.
    pub owners: bool,
    /// Whether the destination keeps permission bits (vfat does not).
    pub modes: bool,
}

/// Is how the content of two files of equal size compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// MD5 of the source.
    pub source: [u8; 16],
    /// MD5 of the destination.
    pub destination: [u8; 16],
    /// Whether every byte is equal.
    pub equal: bool,
}

/// Looks closer at the two entries of one path, when a decision needs it; each look costs reads.
pub trait Evidence {
    /// Says what went wrong.
    type Error;
    /// Compares the content of two files.
    fn content(&mut self) -> Result<Content, Self::Error>;
    /// Reads the targets of two links: source, destination.
    fn targets(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error>;
    /// Compares extended attributes and ACLs; true where they are not synchronised.
    fn same_attributes(&mut self) -> Result<bool, Self::Error>;
    /// Tells whether everything below the destination's directory is as it was agreed, and may go.
    fn below_as_agreed(&mut self) -> Result<bool, Self::Error>;
}

/// Is what is to be done with one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: both sides are equal.
    Equal,
    /// Nothing, for a reason.
    Skip(Reason),
    /// Make what the source has.
    Create,
    /// Put the source's file or link in place of the destination's.
    Update(Option<Reason>),
    /// Put the source's entry in place of one of another type.
    Replace(Option<Reason>),
    /// Give the destination the source's times, mode, owner and attributes.
    Metadata(Option<Reason>),
    /// Remove the destination's.
    Delete,
    /// Nothing, and that is a failure.
    Fail(Reason),
}

/// Says how a directory stands because of an earlier run that was interrupted while it worked in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unfinished {
    /// No such run.
    #[default]
    No,
    /// A run in this direction: the source's metadata holds.
    SameDirection,
    /// A run in the other direction: the source's times are that run's doing and are not taken.
    OtherDirection,
}

/// Decides for a path that the source has.
///
/// `destination` is absent when nothing is there; `agreed` is what the baseline knows, the source being its A. For two
/// directories the decision is about their metadata.
pub fn decide<E: Evidence>(
    source: &Entry,
    destination: Option<&Entry>,
    agreed: Option<&Agreed>,
    policy: &Policy,
    unfinished: Unfinished,
    evidence: &mut E,
) -> Result<Decision, E::Error> {
    if source.kind == Kind::Special {
        return Ok(Decision::Skip(Reason::Special));
    }
    let Some(destination) = destination else {
        return Ok(Decision::Create);
    };
    let clock = policy.clock();
    let pair = Pair { source, destination, agreed, policy, clock };
    match (source.kind, destination.kind) {
        (_, Kind::Special) => Ok(Decision::Skip(Reason::Special)),
        (Kind::Directory, Kind::Directory) => pair.directories(unfinished, evidence),
        (Kind::File, Kind::File) => pair.files(evidence),
        (Kind::Link, Kind::Link) => pair.links(evidence),
        (Kind::Directory, _) | (_, Kind::Directory) => Ok(match policy.delete {
            DeleteMissing::Off if !pair.replaceable(evidence)? => Decision::Fail(Reason::TypeConflict),
            DeleteMissing::Off | DeleteMissing::On | DeleteMissing::Strict => Decision::Replace(None),
        }),
        _ => Ok(pair.other_type()),
    }
}

/// Decides for a path that only the destination has. `content` reads the MD5 of the destination's file, or of its
/// link's target.
pub fn decide_missing<E>(
    destination: &Entry,
    agreed: Option<&Agreed>,
    policy: &Policy,
    content: impl FnOnce() -> Result<[u8; 16], E>,
) -> Result<Decision, E> {
    Ok(match policy.delete {
        DeleteMissing::Off => Decision::Equal,
        _ if destination.kind == Kind::Special => Decision::Skip(Reason::Special),
        _ if destination.mount_point => Decision::Skip(Reason::MountPoint),
        // What both sides never agreed on may be new there.
        DeleteMissing::On if policy.two_directions && !unchanged(destination, agreed, policy, content)? => {
            Decision::Skip(Reason::NewAtDestination)
        }
        DeleteMissing::On | DeleteMissing::Strict => Decision::Delete,
    })
}

/// Tells whether the destination still is what was agreed; of a directory what is below it is not meant. Metadata do
/// not count.
fn unchanged<E>(
    destination: &Entry,
    agreed: Option<&Agreed>,
    policy: &Policy,
    content: impl FnOnce() -> Result<[u8; 16], E>,
) -> Result<bool, E> {
    let Some(agreed) = agreed.filter(|agreed| agreed.kind == destination.kind) else { return Ok(false) };
    if destination.kind == Kind::Directory {
        return Ok(true);
    }
    if agreed.size != destination.size {
        return Ok(false);
    }
    let untouched = agreed.b.untouched(destination) && !policy.in_last_tick(destination);
    match agreed.content {
        _ if untouched && !policy.checksum => Ok(true),
        Some(known) => Ok(content()? == known),
        None => Ok(untouched),
    }
}

/// Tells whether a time lies ahead of the run's start by more than the threshold.
pub fn is_future(time: Time, policy: &Policy) -> bool {
    policy.clock().is_future(time)
}

impl Policy {
    fn clock(&self) -> Clock {
        Clock { start: self.start, threshold: self.threshold, granularity: self.granularity }
    }

    /// Where times are coarse, an edit in the tick of the last run's start leaves size and mtime as they were.
    fn in_last_tick(&self, entry: &Entry) -> bool {
        // Rounded down, so that both directions look alike at two times of one tick.
        let within = |start: Time| (self.clock().floor(entry.mtime).0 - start.0).abs() <= self.granularity;
        self.last_start.is_some_and(within)
    }
}

struct Pair<'a> {
    source: &'a Entry,
    destination: &'a Entry,
    agreed: Option<&'a Agreed>,
    policy: &'a Policy,
    clock: Clock,
}

impl Pair<'_> {
    /// The distance of the two times, 0 when a tick of the coarser side hides it.
    fn delta(&self) -> i128 {
        self.clock.delta(self.source.mtime, self.destination.mtime)
    }

    fn within_threshold(&self) -> bool {
        self.clock.close(self.source.mtime, self.destination.mtime)
    }

    fn newer(&self) -> (Ordering, Option<Reason>) {
        self.clock.newer(self.source.mtime, self.destination.mtime)
    }

    /// Tells whether the destination is unchanged since it was agreed, and so may give way to another type.
    fn replaceable<E: Evidence>(&self, evidence: &mut E) -> Result<bool, E::Error> {
        let agreed = self.agreed.is_some_and(|agreed| agreed.untouched(Side::B, self.destination));
        let certain = !self.policy.in_last_tick(self.destination) || self.destination.is_directory();
        Ok(agreed && certain && (!self.destination.is_directory() || evidence.below_as_agreed()?))
    }

    /// Tells whether both files were compared and found equal, and neither was touched since.
    fn compared_before(&self) -> bool {
        let untouched = |side, entry| self.agreed.is_some_and(|agreed| agreed.untouched(side, entry));
        untouched(Side::A, self.source) && untouched(Side::B, self.destination)
    }

    fn newer_wins(&self) -> Decision {
        match self.newer() {
            (Ordering::Greater, reason) => Decision::Update(reason),
            (_, reason) => Decision::Skip(reason.unwrap_or(Reason::DestinationNewer)),
        }
    }

    fn files<E: Evidence>(&self, evidence: &mut E) -> Result<Decision, E::Error> {
        let (source, destination) = (self.source, self.destination);
        let delta = self.delta();
        if source.size != destination.size {
            let key = |entry: &Entry| (self.clock.floor(entry.mtime), entry.size);
            return Ok(if self.within_threshold() { tie(key(source), key(destination)) } else { self.newer_wins() });
        }
        let read = self.policy.checksum || self.policy.in_last_tick(source);
        if delta == 0 && !read {
            return self.settle(Decision::Equal, evidence);
        }
        let differing = if self.compared_before() && !read {
            None
        } else {
            Some(evidence.content()?).filter(|content| !content.equal)
        };
        match (differing, self.within_threshold()) {
            (None, true) => {
                let settled = if delta == 0 { Decision::Equal } else { Decision::Skip(Reason::SameContent) };
                self.settle(settled, evidence)
            }
            (Some(content), true) => {
                let key = |entry: &Entry, sum| (self.clock.floor(entry.mtime), sum);
                Ok(tie(key(source, content.source), key(destination, content.destination)))
            }
            (None, false) => Ok(match self.newer() {
                (Ordering::Greater, reason) => Decision::Metadata(reason.or(Some(Reason::SameContent))),
                (_, reason) => Decision::Skip(reason.unwrap_or(Reason::SameContent)),
            }),
            (Some(_), false) => Ok(self.newer_wins()),
        }
    }

    fn links<E: Evidence>(&self, evidence: &mut E) -> Result<Decision, E::Error> {
        let (source, destination) = evidence.targets()?;
        if source != destination {
            return Ok(if self.within_threshold() {
                let floor = |entry: &Entry| self.clock.floor(entry.mtime);
                tie((floor(self.source), source), (floor(self.destination), destination))
            } else {
                self.newer_wins()
            });
        }
        if self.within_threshold() {
            return Ok(if self.same_owner() { Decision::Equal } else { Decision::Metadata(None) });
        }
        Ok(match self.newer() {
            (Ordering::Greater, reason) => Decision::Metadata(reason),
            (_, reason) => Decision::Skip(reason.unwrap_or(Reason::DestinationNewer)),
        })
    }

    fn other_type(&self) -> Decision {
        let decision = if self.within_threshold() {
            let key = |entry: &Entry| (self.clock.floor(entry.mtime), entry.size, entry.kind);
            tie(key(self.source), key(self.destination))
        } else {
            self.newer_wins()
        };
        match decision {
            Decision::Update(reason) => Decision::Replace(reason),
            other => other,
        }
    }

    fn directories<E: Evidence>(&self, unfinished: Unfinished, evidence: &mut E) -> Result<Decision, E::Error> {
        let delta = self.delta();
        match unfinished {
            Unfinished::OtherDirection => return Ok(Decision::Equal),
            Unfinished::SameDirection if delta > 0 => return Ok(Decision::Metadata(None)),
            Unfinished::SameDirection | Unfinished::No => {}
        }
        if delta > self.policy.threshold {
            return Ok(match self.newer() {
                (Ordering::Greater, _) => Decision::Metadata(None),
                _ => Decision::Equal,
            });
        }
        self.settle(Decision::Equal, evidence)
    }

    /// Content and times agree: takes over mode, owner and attributes where they differ.
    fn settle<E: Evidence>(&self, agreed: Decision, evidence: &mut E) -> Result<Decision, E::Error> {
        let same_mode = !self.policy.modes || {
            // Without the owner, set-id bits cannot be kept.
            let mask = if self.policy.owners { 0o7777 } else { 0o1777 };
            self.source.mode & mask == self.destination.mode & mask
        };
        if same_mode && self.same_owner() && evidence.same_attributes()? {
            return Ok(agreed);
        }
        Ok(Decision::Metadata(None))
    }

    fn same_owner(&self) -> bool {
        !self.policy.owners || (self.source.uid, self.source.gid) == (self.destination.uid, self.destination.gid)
    }
}

/// The greater key wins, so that the opposite job decides alike.
fn tie<K: Ord>(source: K, destination: K) -> Decision {
    if source > destination { Decision::Update(Some(Reason::Tie)) } else { Decision::Skip(Reason::Tie) }
}

#[cfg(test)]
mod tests;
