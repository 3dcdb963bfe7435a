//! The decision of a two-way job for one path (sync.md §3 and the rulings of §11).

use crate::baseline::{Agreed, Side};
use crate::decide::Content;
use crate::entry::{Entry, Kind, Time};
use crate::newest::Clock;
use crate::reason::Reason;

mod merge;

pub use merge::Merge;

/// Is what `--conflict` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConflictPolicy {
    /// The newer one wins; the loser goes to the trash.
    #[default]
    Newest,
    /// The newer one wins; the loser is kept beside it under another name.
    KeepBoth,
    /// A's wins.
    PreferA,
    /// B's wins.
    PreferB,
    /// Neither is touched, and the conflict stays open.
    Skip,
}

/// Is what a two-way run decides by.
#[derive(Debug, Clone)]
pub struct Rules {
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
    /// `--conflict`.
    pub conflict: ConflictPolicy,
    /// Whether owners and groups can be set on both sides and so are compared.
    pub owners: bool,
    /// Whether both sides keep permission bits (vfat does not).
    pub modes: bool,
}

/// Is what is below a directory that would have to go as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// Nothing but what was agreed, or less.
    Agreed,
    /// Something new, or with another content than was agreed.
    Changed,
    /// Something that may not move: special, excluded, on another file system or unreadable.
    Held,
}

/// Looks closer at the entries of one path, when a verdict needs it; each look costs reads.
pub trait Look {
    /// Says what went wrong.
    type Error;
    /// Compares the content of both sides' files; `source` is A's.
    fn compare(&mut self) -> Result<Content, Self::Error>;
    /// Returns the MD5 of one side's file, or of its link's target.
    fn content(&mut self, side: Side) -> Result<[u8; 16], Self::Error>;
    /// Returns the target of one side's link.
    fn target(&mut self, side: Side) -> Result<Vec<u8>, Self::Error>;
    /// Returns XXH3 of the attributes of one side, equal for equal attributes; the same everywhere where they are not
    /// synchronised.
    fn attributes(&mut self, side: Side) -> Result<u64, Self::Error>;
    /// Looks through one side's directory.
    fn below(&mut self, side: Side) -> Result<Below, Self::Error>;
}

/// Is what is to be done with one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: both sides are as agreed.
    Nothing,
    /// The content of both sides is the same: metadata are set where `merge` says so, and the agreement is recorded.
    /// Of a directory the children are decided on their own.
    Settle {
        /// What is set; nothing, when only the agreement is new.
        merge: Merge,
        /// What is known of the common content.
        content: Option<[u8; 16]>,
        /// Why, when it is not plain.
        reason: Option<Reason>,
    },
    /// It is gone on both sides: the agreement goes too.
    Forget,
    /// The entry of `from` is made on the other side, or replaces what is there; its metadata are those of `merge`,
    /// on both sides. Of a directory the children are decided on their own; one that is replaced goes whole.
    Propagate {
        /// Where the content comes from.
        from: Side,
        /// Whose metadata hold.
        merge: Merge,
        /// Why, when it is not plain.
        reason: Option<Reason>,
    },
    /// The entry of a side goes. Of a directory the children are decided on their own; it goes when none of them
    /// stays, else it is made again on the other side, like one that was changed.
    Delete {
        /// Where.
        side: Side,
    },
    /// Both sides changed differently.
    Conflict {
        /// Whose version holds; of `skip`, whose would be the newer one.
        winner: Side,
        /// What becomes of the other version.
        how: ConflictPolicy,
        /// Why this one won.
        reason: Reason,
    },
    /// Nothing, for a reason; the agreement stays as it was.
    Skip(Reason),
    /// Nothing, and that is a failure; the agreement stays as it was.
    Fail(Reason),
}

/// Decides for one path from what each side has now and what both had when they last agreed; no agreement means that
/// the path is new, or that the pair has no baseline, and then nothing is ever deleted.
///
/// Mount points that are not crossed and excluded entries are the caller's: they have no verdict.
pub fn reconcile<L: Look>(
    a: Option<&Entry>,
    b: Option<&Entry>,
    agreed: Option<&Agreed>,
    rules: &Rules,
    look: &mut L,
) -> Result<Verdict, L::Error> {
    let special = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.kind == Kind::Special);
    if special(a) || special(b) {
        return Ok(Verdict::Skip(Reason::Special));
    }
    match (a, b) {
        (None, None) => Ok(if agreed.is_some() { Verdict::Forget } else { Verdict::Nothing }),
        (Some(entry), None) => one_sided(Side::A, entry, agreed, rules, look),
        (None, Some(entry)) => one_sided(Side::B, entry, agreed, rules, look),
        (Some(a), Some(b)) => Both { a, b, agreed, rules, clock: rules.clock() }.verdict(look),
    }
}

impl Rules {
    fn clock(&self) -> Clock {
        Clock { start: self.start, threshold: self.threshold, granularity: self.granularity }
    }

    /// Where times are coarse, an edit in the tick of the last run's start leaves size and mtime as they were.
    fn in_last_tick(&self, entry: &Entry) -> bool {
        // Rounded down, so that both directions look alike at two times of one tick.
        let within = |start: Time| (self.clock().floor(entry.mtime).0 - start.0).abs() <= self.granularity;
        self.last_start.is_some_and(within)
    }

    fn glance(&self, side: Side, entry: &Entry, agreed: &Agreed) -> Glance {
        if entry.kind != agreed.kind {
            return Glance::Changed;
        }
        if entry.kind == Kind::Directory {
            return Glance::Same;
        }
        if entry.size != agreed.size {
            return Glance::Changed;
        }
        if !agreed.facts(side).untouched(entry) || (entry.kind == Kind::File && self.in_last_tick(entry)) {
            return Glance::Touched;
        }
        if entry.kind == Kind::File && self.checksum { Glance::Reread } else { Glance::Same }
    }
}

/// Is what can be said of one side's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Glance {
    /// As agreed.
    Same,
    /// As agreed, and to be read all the same.
    Reread,
    /// Of the same type and size, but somebody was there.
    Touched,
    /// Another type or size.
    Changed,
}

/// Decides for what only one side has.
fn one_sided<L: Look>(
    side: Side,
    entry: &Entry,
    agreed: Option<&Agreed>,
    rules: &Rules,
    look: &mut L,
) -> Result<Verdict, L::Error> {
    let restore = |reason| Verdict::Propagate { from: side, merge: Merge::all(side), reason };
    let Some(agreed) = agreed else {
        return Ok(restore(rules.clock().is_future(entry.mtime).then_some(Reason::FutureTime)));
    };
    let glance = rules.glance(side, entry, agreed);
    let changed = match (glance, agreed.content) {
        (Glance::Same, _) | (Glance::Reread, None) => false,
        (Glance::Reread | Glance::Touched, Some(content)) => look.content(side)? != content,
        // What was agreed is not known: it may have changed, and the change wins.
        (Glance::Touched, None) | (Glance::Changed, _) => true,
    };
    Ok(if changed {
        restore(Some(Reason::KeptChanged))
    } else if entry.mount_point {
        Verdict::Skip(Reason::MountPoint)
    } else {
        Verdict::Delete { side }
    })
}

/// Is what both sides have at one path.
struct Both<'a> {
    a: &'a Entry,
    b: &'a Entry,
    agreed: Option<&'a Agreed>,
    rules: &'a Rules,
    clock: Clock,
}

/// Is the MD5s of two contents: A's, B's.
type Sums = ([u8; 16], [u8; 16]);

impl Both<'_> {
    fn entry(&self, side: Side) -> &Entry {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
    }

    fn verdict<L: Look>(&self, look: &mut L) -> Result<Verdict, L::Error> {
        let Some(agreed) = self.agreed else {
            return self.both_changed(None, look);
        };
        let glances = (self.rules.glance(Side::A, self.a, agreed), self.rules.glance(Side::B, self.b, agreed));
        match glances {
            (Glance::Same, Glance::Same) => self.settle(agreed.content, false, look),
            (Glance::Changed, _) | (_, Glance::Changed) => {
                let a = self.changed(Side::A, glances.0, agreed, look)?;
                let b = self.changed(Side::B, glances.1, agreed, look)?;
                self.by_changes(a, b, None, look)
            }
            _ => self.read(glances, agreed, look),
        }
    }

    /// Tells whether a side changed, where the other one has another type or size than was agreed.
    fn changed<L: Look>(&self, side: Side, glance: Glance, agreed: &Agreed, look: &mut L) -> Result<bool, L::Error> {
        Ok(match (glance, agreed.content) {
            (Glance::Same | Glance::Reread, _) => false,
            (Glance::Touched, Some(content)) => look.content(side)? != content,
            (Glance::Touched, None) | (Glance::Changed, _) => true,
        })
    }

    /// Decides by content: types and sizes are as agreed on both sides, but times, inodes or `--checksum` ask for a
    /// look.
    fn read<L: Look>(&self, glances: (Glance, Glance), agreed: &Agreed, look: &mut L) -> Result<Verdict, L::Error> {
        let (a, b) = glances;
        let alone = match glances {
            (Glance::Same, _) => Some((Side::B, b)),
            (_, Glance::Same) => Some((Side::A, a)),
            _ => None,
        };
        if let (Some((side, glance)), Some(content)) = (alone, agreed.content) {
            // The other side is as agreed, so one read tells.
            if look.content(side)? == content {
                return self.settle(agreed.content, false, look);
            }
            return match glance {
                Glance::Reread => Ok(Verdict::Fail(Reason::SilentChange)),
                _ => self.by_changes(side == Side::A, side == Side::B, None, look),
            };
        }
        let (equal, sums) = self.compare(look)?;
        if equal {
            return self.settle(Some(sums.0), true, look);
        }
        let differs = |sum, glance| match agreed.content {
            Some(content) => sum != content,
            None => glance == Glance::Touched,
        };
        let (a_changed, b_changed) = (differs(sums.0, a), differs(sums.1, b));
        let silent = |changed, glance| changed && glance != Glance::Touched;
        if silent(a_changed, a) || silent(b_changed, b) || !(a_changed || b_changed) {
            // Nobody wrote it, so it is damage rather than work: neither side may overwrite the other with it.
            return Ok(Verdict::Fail(Reason::SilentChange));
        }
        self.by_changes(a_changed, b_changed, Some(sums), look)
    }

    /// Compares content of the same type and size.
    fn compare<L: Look>(&self, look: &mut L) -> Result<(bool, Sums), L::Error> {
        if self.a.kind == Kind::Link {
            let sums = (look.content(Side::A)?, look.content(Side::B)?);
            return Ok((sums.0 == sums.1, sums));
        }
        let content = look.compare()?;
        Ok((content.equal, (content.source, content.destination)))
    }

    fn by_changes<L: Look>(&self, a: bool, b: bool, sums: Option<Sums>, look: &mut L) -> Result<Verdict, L::Error> {
        match (a, b) {
            (true, true) => self.both_changed(sums, look),
            (true, false) => self.propagate(Side::A, look),
            (false, true) => self.propagate(Side::B, look),
            (false, false) => self.settle(self.agreed.and_then(|agreed| agreed.content), false, look),
        }
    }

    /// One side changed, the other is as agreed.
    fn propagate<L: Look>(&self, from: Side, look: &mut L) -> Result<Verdict, L::Error> {
        let (new, old) = (self.entry(from), self.entry(from.other()));
        if old.is_directory() && !new.is_directory() {
            if old.mount_point {
                return Ok(Verdict::Fail(Reason::MountPoint));
            }
            match look.below(from.other())? {
                Below::Agreed => {}
                Below::Changed => return Ok(self.conflict(from.other(), Reason::TypeConflict)),
                Below::Held => return Ok(Verdict::Fail(Reason::HoldsKept)),
            }
        }
        let reason = self.clock.is_future(new.mtime).then_some(Reason::FutureTime);
        Ok(Verdict::Propagate { from, merge: self.merge_into(from, look)?, reason })
    }

    /// Both sides changed, or were made without an agreement. `sums` are of contents that were found to differ.
    fn both_changed<L: Look>(&self, sums: Option<Sums>, look: &mut L) -> Result<Verdict, L::Error> {
        match (self.a.is_directory(), self.b.is_directory()) {
            (true, true) => return self.settle(None, false, look),
            (true, false) => return Ok(self.conflict(Side::A, Reason::TypeConflict)),
            (false, true) => return Ok(self.conflict(Side::B, Reason::TypeConflict)),
            (false, false) => {}
        }
        let mut sums = sums;
        if sums.is_none() && self.a.kind == self.b.kind && self.a.size == self.b.size {
            let (equal, found) = self.compare(look)?;
            if equal {
                return self.settle(Some(found.0), true, look);
            }
            sums = Some(found);
        }
        let (winner, reason) = match self.rules.conflict {
            ConflictPolicy::PreferA => (Side::A, Reason::Conflict),
            ConflictPolicy::PreferB => (Side::B, Reason::Conflict),
            ConflictPolicy::Newest | ConflictPolicy::KeepBoth | ConflictPolicy::Skip => self.newest(sums, look)?,
        };
        Ok(self.conflict(winner, reason))
    }

    fn conflict(&self, winner: Side, reason: Reason) -> Verdict {
        Verdict::Conflict { winner, how: self.rules.conflict, reason }
    }

    /// The newer one; of two that are close the greater of (mtime, size, MD5), of links (mtime, target).
    fn newest<L: Look>(&self, sums: Option<Sums>, look: &mut L) -> Result<(Side, Reason), L::Error> {
        let (a, b) = (self.a, self.b);
        if !self.clock.close(a.mtime, b.mtime) {
            let (order, reason) = self.clock.newer(a.mtime, b.mtime);
            let winner = if order.is_gt() { Side::A } else { Side::B };
            return Ok((winner, reason.unwrap_or(Reason::Conflict)));
        }
        let times = self.clock.floor(a.mtime).cmp(&self.clock.floor(b.mtime));
        let order = if a.kind == Kind::Link && b.kind == Kind::Link {
            if times.is_eq() { look.target(Side::A)?.cmp(&look.target(Side::B)?) } else { times }
        } else {
            let kinds = a.kind.cmp(&b.kind);
            let content = sums.map_or(std::cmp::Ordering::Equal, |sums| sums.0.cmp(&sums.1));
            times.then(a.size.cmp(&b.size)).then(kinds).then(content)
        };
        Ok((if order.is_gt() { Side::A } else { Side::B }, Reason::Tie))
    }
}

#[cfg(test)]
mod tests;
