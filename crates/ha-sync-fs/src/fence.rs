//! The fence around the trees of a run whose lock lapses when it is not renewed: it closes by a clock, whatever became
//! of the threads that renew (sync.md §7).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Returns the time since the machine was started. Unlike [`std::time::Instant`] it also passes while the machine is
/// suspended; and like that it passes while the process is frozen.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Says until when a run may work.
///
/// Others may take its lock over when it was not renewed for its time to live, counted from a moment after the renewal
/// was sent. So from the moment *before* that, no operation begins after two thirds of the time to live, and nothing is
/// changed after five sixths; the last sixth is for a system call that is under way.
#[derive(Debug)]
pub struct Fence {
    lock: String,
    /// Nanoseconds of [`since_boot`].
    renewed: AtomicU64,
    ttl: Duration,
    lost: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Fence {
    /// Makes a fence for a lock that was taken by a request sent at `renewed`; `lock` is its name for people.
    pub fn new(lock: impl Into<String>, ttl: Duration, renewed: Duration) -> Self {
        let renewed = AtomicU64::new(nanoseconds(renewed));
        Self { lock: lock.into(), renewed, ttl, lost: AtomicBool::new(false), trouble: Mutex::default() }
    }

    /// Takes note of a renewal that succeeded and was sent at `sent` ([`since_boot`]).
    pub fn renewed(&self, sent: Duration) {
        self.renewed.fetch_max(nanoseconds(sent), Ordering::AcqRel);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes note of a renewal that failed and will be tried again.
    pub fn trouble(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Closes the fence for good: the lock is certainly another's.
    pub fn lose(&self, why: String) {
        self.trouble(why);
        self.lost.store(true, Ordering::Release);
    }

    /// Tells whether an operation may begin.
    pub fn may_begin(&self) -> bool {
        self.is_within(2, 3)
    }

    /// Tells whether an operation that has begun may take one more step.
    pub fn may_change(&self) -> bool {
        self.is_within(5, 6)
    }

    /// Returns when operations cease to begin unless the lock is renewed before ([`since_boot`]).
    pub fn begins_until(&self) -> Duration {
        self.last() + self.ttl * 2 / 3
    }

    /// Says why the fence is closed.
    pub fn why(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.lost.load(Ordering::Acquire) {
            return trouble.unwrap_or_else(|| format!("{} is another's", self.lock));
        }
        let (age, ttl) = (since_boot().saturating_sub(self.last()).as_secs_f64(), self.ttl.as_secs());
        let what = format!("{} was not renewed for {age:.0} s of its {ttl} s", self.lock);
        trouble.map_or(what.clone(), |why| format!("{what}: {why}"))
    }

    fn last(&self) -> Duration {
        Duration::from_nanos(self.renewed.load(Ordering::Acquire))
    }

    fn is_within(&self, numerator: u32, denominator: u32) -> bool {
        !self.lost.load(Ordering::Acquire) && since_boot() < self.last() + self.ttl * numerator / denominator
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn sent_ago(seconds: u64) -> Fence {
        // A machine that was started a moment ago has no such past; its clock then stands at its beginning.
        Fence::new("lock", TTL, since_boot().saturating_sub(Duration::from_secs(seconds)))
    }

    #[test]
    fn it_closes_in_two_steps_and_opens_with_a_renewal() {
        for (age, begins, changes) in [(0, true, true), (38, true, true), (41, false, true), (51, false, false)] {
            let fence = sent_ago(age);
            assert_eq!((fence.may_begin(), fence.may_change()), (begins, changes), "{age} s");
        }
        let fence = sent_ago(59);
        assert_eq!(fence.why(), "lock was not renewed for 59 s of its 60 s");
        fence.trouble("connection refused".to_owned());
        assert_eq!(fence.why(), "lock was not renewed for 59 s of its 60 s: connection refused");
        fence.renewed(since_boot());
        assert!(fence.may_begin());
        // An answer that comes late does not set it back.
        fence.renewed(since_boot().saturating_sub(Duration::from_secs(55)));
        assert!(fence.may_begin());
    }

    #[test]
    fn a_lost_lock_stays_lost() {
        let fence = sent_ago(0);
        fence.lose("the Lease is held by pod-b".to_owned());
        fence.renewed(since_boot());
        assert!(!fence.may_begin() && !fence.may_change());
    }
}
