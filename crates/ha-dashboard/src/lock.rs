//! Who holds the lock of a pair now: the port to whatever locks, a file of this host or a Lease.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// How long somebody who asks others may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a page waits for an answer that usually comes at once.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// How old an answer may be that is shown while the next one is under way.
const KEPT: Duration = Duration::from_secs(10);

/// Is what is known of the lock of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockState {
    /// Nothing here can tell.
    Unknown,
    /// Who should know it does not say.
    Unanswered {
        /// Why, in one line.
        why: String,
    },
    /// Nobody holds it.
    Free,
    /// Somebody does.
    Held {
        /// What the holder says of itself.
        holder: String,
        /// Since when, where that is known.
        since: Option<Timestamp>,
    },
}

/// Is an answer that may take a while.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Vec<LockState>> + Send + 'a>>;

/// Tells who holds locks, without touching them. It answers in bounded time, [`LockState::Unanswered`] where it cannot.
pub trait LockStatus: Send + Sync {
    /// Returns the state of the lock of each pair, in the order of `pairs`.
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a>;
}

/// Knows of no lock.
#[derive(Debug, Clone, Copy)]
pub struct NoLocks;

impl LockStatus for NoLocks {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(std::future::ready(vec![LockState::Unknown; pairs.len()]))
    }
}

/// Asks a function that does not wait for long, as one that reads a file of this host.
pub struct Immediate<F>(pub F);

impl<F: Fn(&str) -> LockState + Send + Sync> LockStatus for Immediate<F> {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(std::future::ready(pairs.iter().map(|pair| (self.0)(pair)).collect()))
    }
}

/// Asks one that may be slow, in the background: nobody waits long for it, and one question at a time is under way.
pub struct Background<L> {
    inner: Arc<L>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    states: BTreeMap<String, (LockState, Instant)>,
    asking: bool,
    /// Whether the last question was not answered.
    silent: bool,
}

impl<L: LockStatus + 'static> Background<L> {
    /// Asks nothing yet.
    pub fn new(inner: L) -> Self {
        Self { inner: Arc::new(inner), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, unless a question is under way, and waits a moment, unless that was of no use the last time.
    async fn ask(&self, pairs: &[String]) {
        let wait = {
            let mut known = self.known();
            if known.asking {
                return;
            }
            known.asking = true;
            if known.silent { Duration::ZERO } else { SHORT_WAIT }
        };
        let (inner, known, pairs) = (Arc::clone(&self.inner), Arc::clone(&self.known), pairs.to_vec());
        let question = tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, inner.states(&pairs)).await;
            let now = Instant::now();
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.asking = false;
            let why = || LockState::Unanswered { why: format!("no answer within {} s", PATIENCE.as_secs()) };
            let states = answered.unwrap_or_else(|_| vec![why(); pairs.len()]);
            known.silent = states.iter().any(|state| matches!(state, LockState::Unanswered { .. }));
            known.states = pairs.into_iter().zip(states.into_iter().map(|state| (state, now))).collect();
        });
        let _ = tokio::time::timeout(wait, question).await;
    }
}

impl<L: LockStatus + 'static> LockStatus for Background<L> {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(async move {
            self.ask(pairs).await;
            let known = self.known();
            let state = |pair: &String| match known.states.get(pair) {
                Some((state, at)) if at.elapsed() < KEPT => state.clone(),
                _ => LockState::Unanswered { why: "no answer yet".to_owned() },
            };
            pairs.iter().map(state).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Never answers as long as it is told not to.
    struct Moody(Arc<Mutex<bool>>, Arc<AtomicU32>);

    impl LockStatus for Moody {
        fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let silent = *self.0.lock().unwrap();
            Box::pin(async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                vec![LockState::Free; pairs.len()]
            })
        }
    }

    #[test]
    fn nobody_waits_long_for_one_who_is_silent() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (silent, asked) = (Arc::new(Mutex::new(false)), Arc::new(AtomicU32::new(0)));
        let locks = Background::new(Moody(Arc::clone(&silent), Arc::clone(&asked)));
        let pairs = ["media".to_owned(), "photos".to_owned()];
        runtime.block_on(async {
            assert_eq!(locks.states(&pairs).await, vec![LockState::Free; 2]);
            *silent.lock().unwrap() = true;
            let begun = Instant::now();
            // the last answer stands in until it is known that there is none
            assert_eq!(locks.states(&pairs).await, vec![LockState::Free; 2]);
            assert_eq!(locks.states(&pairs).await, vec![LockState::Free; 2]);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            assert_eq!(asked.load(Ordering::Relaxed), 2, "one question at a time");
            tokio::time::sleep(PATIENCE + Duration::from_millis(200)).await;
            let begun = Instant::now();
            let states = locks.states(&pairs).await;
            assert!(states.iter().all(|state| matches!(state, LockState::Unanswered { .. })), "{states:?}");
            assert!(begun.elapsed() < SHORT_WAIT, "{:?}", begun.elapsed());
            *silent.lock().unwrap() = false;
            tokio::time::sleep(PATIENCE + Duration::from_millis(200)).await;
            // the question that finds it back is not waited for, the next one is
            locks.states(&pairs).await;
            tokio::task::yield_now().await;
            assert_eq!(locks.states(&pairs).await, vec![LockState::Free; 2]);
        });
    }
}
