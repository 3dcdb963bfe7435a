//! Decides what to do about a Lease. No I/O and no clock: everything that is known comes in.
//!
//! # Who may take a Lease over
//! A Lease is stale when it was not renewed for the duration that its holder wrote into it. Three clocks could tell:
//!
//! - `renewTime` is the holder's own clock. It is written for people and never compared with anything: a node whose
//!   clock is an hour ahead would keep its Lease an hour too long, one behind would lose it at once.
//! - `metadata.managedFields[].time` is the clock of the API server at the last write, and the `Date` header of its
//!   answer is that clock now. Their difference is the age of the Lease, and it is known at the first look: a pod of a
//!   CronJob that has just been started can take over at once. Both are whole seconds, so two are added.
//! - A contender that keeps looking can count since it first got an answer with the present `resourceVersion`: the
//!   write was before that. It counts by the `Date` of the answers and by its own clock, and the shorter time is
//!   believed: a machine whose clock leaps when it is resumed or moved takes nothing away from anybody. This needs no
//!   agreement between clocks, and is enough where `managedFields` are missing.
//!
//! The age by either rule that is reached first counts. A holder counts from before it sent its last renewal, and is
//! behind a closed fence well before its duration is over ([`ha_sync_fs::Fence`]).

use std::time::Duration;

/// What is added to a duration that is measured by whole seconds of the API server.
pub const SLACK: Duration = Duration::from_secs(2);

/// Is what an API server says of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Tells it from an earlier or later one of the same name.
    pub uid: String,
    /// Changes with every write (`resourceVersion`).
    pub version: String,
    /// Who holds it (`holderIdentity`); empty when it was given back.
    pub holder: String,
    /// After how long without renewal it is stale (`leaseDurationSeconds`); absent when nobody wrote it.
    pub duration: Option<Duration>,
    /// How often it changed hands (`leaseTransitions`).
    pub transitions: i32,
    /// When it was last written, by the API server's clock: seconds since 1970.
    pub written: Option<i64>,
}

/// Is an answer of an API server about a Lease.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The Lease; nothing when there is none.
    pub seen: Option<&'a Seen>,
    /// When it was given, by the API server's clock (`Date`): seconds since 1970.
    pub served: Option<i64>,
    /// When it was received, by our own clock, whatever that starts from.
    pub received: Duration,
}

impl Answer<'_> {
    /// Returns how long ago the Lease was written, by the API server's clock.
    pub fn age(&self) -> Option<Duration> {
        let (written, served) = (self.seen?.written?, self.served?);
        Some(seconds_between(written, served))
    }
}

/// Returns nothing for a clock that went back.
fn seconds_between(first: i64, last: i64) -> Duration {
    Duration::from_secs(u64::try_from(last.saturating_sub(first)).unwrap_or(0))
}

/// Remembers since when a contender has seen the same version of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    uid: String,
    version: String,
    /// By our own clock.
    since: Duration,
    /// By the API server's.
    served: Option<i64>,
}

impl Watched {
    /// Takes an answer into account.
    pub fn after(before: Option<Self>, answer: &Answer<'_>) -> Option<Self> {
        let seen = answer.seen?;
        match before {
            Some(before) if before.uid == seen.uid && before.version == seen.version => Some(before),
            _ => Some(Self {
                uid: seen.uid.clone(),
                version: seen.version.clone(),
                since: answer.received,
                served: answer.served,
            }),
        }
    }

    /// Returns for how long it has been seen, by the clock that says less.
    fn looked(&self, answer: &Answer<'_>) -> Duration {
        let own = answer.received.saturating_sub(self.since);
        match (self.served, answer.served) {
            (Some(first), Some(now)) => own.min(seconds_between(first, now)),
            _ => own,
        }
    }
}

/// Is who asks.
#[derive(Debug, Clone, Copy)]
pub enum Role<'a> {
    /// A run that wants the Lease.
    Contender {
        /// Its identity, which no other run ever has.
        me: &'a str,
        /// What stands in for a duration that is not in the Lease.
        ttl: Duration,
        /// What it remembers, this answer included.
        watched: Option<&'a Watched>,
    },
    /// A run that has the Lease.
    Holder {
        /// Its identity.
        me: &'a str,
        /// The Lease that it took.
        uid: &'a str,
        /// What it is about to do.
        intent: Intent,
    },
}

/// Is what a holder is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Only to look whether the Lease is still its own.
    Look,
    /// To renew it.
    Renew,
    /// To give it back.
    Leave,
}

/// Is what is to be done next. Every write carries the `uid` and `resourceVersion` of the answer that it was decided
/// from, so that it fails when anything happened meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the Lease.
    Create,
    /// Write ourselves into it; the number of transitions goes up.
    TakeOver(Stale),
    /// Write a new time of renewal. For a contender: it is ours already, the answer to our request was lost.
    Renew,
    /// Look again later.
    Wait {
        /// How long ago it was renewed, as far as is known.
        age: Duration,
        /// How long until it is stale if nobody renews it.
        left: Duration,
    },
    /// Nothing is due.
    Rest,
    /// Stop at once.
    Lost(Loss),
    /// Delete it.
    Release,
}

/// Is why a Lease may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Its holder gave it back without deleting it.
    GivenBack,
    /// It is too old by the API server's clock.
    ByServer,
    /// It did not change for too long while we looked.
    ByWatching,
}

/// Is why a Lease is certainly not ours any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// There is none.
    #[error("it was deleted")]
    Deleted,
    /// There is another one of the same name.
    #[error("it was deleted and is now held by {0}")]
    Replaced(String),
    /// Somebody else is written in it.
    #[error("it is held by {0}")]
    Taken(String),
}

/// Decides what to do.
pub fn decide(role: &Role<'_>, answer: &Answer<'_>) -> Action {
    match *role {
        Role::Contender { me, ttl, watched } => contend(me, ttl, watched, answer),
        Role::Holder { me, uid, intent } => hold(me, uid, intent, answer),
    }
}

fn contend(me: &str, ttl: Duration, watched: Option<&Watched>, answer: &Answer<'_>) -> Action {
    let Some(seen) = answer.seen else { return Action::Create };
    if seen.holder == me {
        return Action::Renew;
    }
    if seen.holder.is_empty() {
        return Action::TakeOver(Stale::GivenBack);
    }
    let duration = seen.duration.unwrap_or(ttl);
    let looked = watched.map_or(Duration::ZERO, |watched| watched.looked(answer));
    if looked >= duration {
        return Action::TakeOver(Stale::ByWatching);
    }
    let left = duration - looked;
    match answer.age() {
        Some(age) if age >= duration + SLACK => Action::TakeOver(Stale::ByServer),
        Some(age) => Action::Wait { age, left: left.min(duration + SLACK - age) },
        None => Action::Wait { age: looked, left },
    }
}

fn hold(me: &str, uid: &str, intent: Intent, answer: &Answer<'_>) -> Action {
    let Some(seen) = answer.seen else { return Action::Lost(Loss::Deleted) };
    let holder = || if seen.holder.is_empty() { "nobody".to_owned() } else { seen.holder.clone() };
    if seen.uid != uid {
        return Action::Lost(Loss::Replaced(holder()));
    }
    if seen.holder != me {
        return Action::Lost(Loss::Taken(holder()));
    }
    match intent {
        Intent::Look => Action::Rest,
        Intent::Renew => Action::Renew,
        Intent::Leave => Action::Release,
    }
}

#[cfg(test)]
mod tests;
