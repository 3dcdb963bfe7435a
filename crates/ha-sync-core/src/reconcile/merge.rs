//! Whose metadata hold, where the content of both sides is or becomes the same.

use serde::{Deserialize, Serialize};

use super::{Both, ConflictPolicy, Look, Verdict};
use crate::baseline::{Agreed, Side};
use crate::entry::Kind;
use crate::reason::Reason;

/// Is whose metadata hold on both sides, field by field; absent where each side keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Merge {
    /// The mtime.
    pub times: Option<Side>,
    /// Permission, set-id and sticky bits.
    pub mode: Option<Side>,
    /// Owner and group.
    pub owner: Option<Side>,
    /// Extended attributes and ACLs.
    pub attributes: Option<Side>,
}

impl Merge {
    /// Takes everything from one side.
    pub fn all(from: Side) -> Self {
        Self { times: Some(from), mode: Some(from), owner: Some(from), attributes: Some(from) }
    }

    /// Tells whether nothing is set.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Tells whether something is set on a side, which comes from the other.
    pub fn sets(self, side: Side) -> bool {
        [self.times, self.mode, self.owner, self.attributes].contains(&Some(side.other()))
    }

    /// Returns the same with the sides exchanged.
    pub fn swapped(self) -> Self {
        let swap = |side: Option<Side>| side.map(Side::other);
        let Self { times, mode, owner, attributes } = self;
        Self { times: swap(times), mode: swap(mode), owner: swap(owner), attributes: swap(attributes) }
    }
}

impl Both<'_> {
    /// The content is the same: merges what else differs. `compared` says that times had no say in that.
    pub(super) fn settle<L: Look>(
        &self,
        content: Option<[u8; 16]>,
        compared: bool,
        look: &mut L,
    ) -> Result<Verdict, L::Error> {
        let merge =
            Merge { times: self.times(), mode: self.mode(), owner: self.owner(), attributes: self.attributes(look)?.0 };
        let current = self.facts().is_some_and(|agreed| {
            (self.a.is_directory() || agreed.size == self.a.size)
                && agreed.content == content
                && agreed.a.current(self.a)
                && agreed.b.current(self.b)
        });
        if current && merge.is_empty() {
            return Ok(Verdict::Nothing);
        }
        let reason = (compared && merge.times.is_some()).then_some(Reason::SameContent);
        Ok(Verdict::Settle { merge, content, reason })
    }

    /// The content of `from` goes to the other side, with its times; of the rest, what only the other side changed
    /// stays. What could not be set stays on each side, too; but of modes the narrower one holds where it is the
    /// content's: who may read it must not become more by an edit.
    pub(super) fn merge_into<L: Look>(&self, from: Side, look: &mut L) -> Result<Merge, L::Error> {
        if self.facts().is_none() || self.a.kind != self.b.kind {
            return Ok(Merge::all(from));
        }
        let (new, old) = (self.entry(from), self.entry(from.other()));
        let widens = self.rules.modes && new.mode & !old.mode & 0o777 != 0;
        let owners_differ = self.rules.owners && (new.uid, new.gid) != (old.uid, old.gid);
        let (attributes, attributes_differ) = self.attributes(look)?;
        let or_from = |held: Option<Side>, keeps: bool| held.or((!keeps).then_some(from));
        Ok(Merge {
            times: Some(from),
            mode: or_from(self.mode(), widens),
            owner: or_from(self.owner(), owners_differ),
            attributes: or_from(attributes, attributes_differ),
        })
    }

    /// What was agreed, where it was an entry of the type that A has now.
    fn facts(&self) -> Option<&Agreed> {
        self.agreed.filter(|agreed| agreed.kind == self.a.kind)
    }

    /// Whose value holds, of one that differs. Where neither changed, both keep theirs: that was agreed, or could not
    /// be set.
    fn pick(&self, a_changed: bool, b_changed: bool) -> Option<Side> {
        match (a_changed, b_changed) {
            (true, true) if self.rules.conflict == ConflictPolicy::PreferB => Some(Side::B),
            (true, _) => Some(Side::A),
            (false, true) => Some(Side::B),
            (false, false) => None,
        }
    }

    fn newer(&self) -> Side {
        if self.clock.newer(self.a.mtime, self.b.mtime).0.is_lt() { Side::B } else { Side::A }
    }

    fn times(&self) -> Option<Side> {
        let (a, b) = (self.a.mtime, self.b.mtime);
        let file = self.a.kind == Kind::File;
        if self.clock.delta(a, b) <= if file { 0 } else { self.rules.threshold } {
            return None;
        }
        let Some(agreed) = self.facts() else {
            // Nobody knows who set which time; then it is decided like a conflict.
            return Some(match self.rules.conflict {
                ConflictPolicy::PreferA if file => Side::A,
                ConflictPolicy::PreferB if file => Side::B,
                _ => self.newer(),
            });
        };
        let (a_changed, b_changed) = (a != agreed.a.mtime, b != agreed.b.mtime);
        match self.a.kind {
            Kind::Directory if a_changed || b_changed => Some(self.newer()),
            Kind::Link if a_changed && b_changed => Some(self.newer()),
            _ => self.pick(a_changed, b_changed),
        }
    }

    fn mode(&self) -> Option<Side> {
        // Without the owner, set-id bits cannot be kept.
        let mask = if self.rules.owners { 0o7777 } else { 0o1777 };
        let same = |one: u32, other: u32| (one ^ other) & mask == 0;
        if !self.rules.modes || self.a.kind == Kind::Link || same(self.a.mode, self.b.mode) {
            return None;
        }
        let Some(agreed) = self.facts() else { return self.pick(true, true) };
        self.pick(!same(self.a.mode, agreed.a.mode), !same(self.b.mode, agreed.b.mode))
    }

    fn owner(&self) -> Option<Side> {
        let (a, b) = ((self.a.uid, self.a.gid), (self.b.uid, self.b.gid));
        if !self.rules.owners || a == b {
            return None;
        }
        let Some(agreed) = self.facts() else { return self.pick(true, true) };
        self.pick(a != (agreed.a.uid, agreed.a.gid), b != (agreed.b.uid, agreed.b.gid))
    }

    /// Returns whose attributes hold, and whether the sides' differ as far as is known. They are read where the ctime or
    /// the inode says that they may have changed.
    fn attributes<L: Look>(&self, look: &mut L) -> Result<(Option<Side>, bool), L::Error> {
        if self.a.kind == Kind::Link {
            return Ok((None, false));
        }
        let Some(agreed) = self.facts() else {
            let same = look.attributes(Side::A)? == look.attributes(Side::B)?;
            return Ok((if same { None } else { self.pick(true, true) }, !same));
        };
        let touched = |side| {
            let (facts, entry) = (agreed.facts(side), self.entry(side));
            facts.ctime != entry.ctime || facts.inode != entry.inode
        };
        let (a_touched, b_touched) = (touched(Side::A), touched(Side::B));
        if !a_touched && !b_touched {
            let differ = agreed.a.attributes.zip(agreed.b.attributes).is_some_and(|(a, b)| a != b);
            return Ok((None, differ));
        }
        let mut now = |side, touched: bool| match agreed.facts(side).attributes {
            Some(known) if !touched => Ok(known),
            _ => look.attributes(side),
        };
        let (a, b) = (now(Side::A, a_touched)?, now(Side::B, b_touched)?);
        if a == b {
            return Ok((None, false));
        }
        let changed = |side, touched, now| touched && agreed.facts(side).attributes.is_none_or(|known| known != now);
        Ok((self.pick(changed(Side::A, a_touched, a), changed(Side::B, b_touched, b)), true))
    }
}
