//! Work that takes a while: it is told on stderr, and a signal stops it.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use ha_cli::failure::{Failure, FailureKind, OrFailure as _, Signal};
use ha_cli::meter::Meter;
use ha_cli::report::printable;
use ha_longhorn::watch::Watch;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Follows one piece of work.
pub(crate) struct Work {
    meter: Meter,
    signal: Arc<AtomicI32>,
}

impl Work {
    /// Begins, and listens for signals from now on. A second signal ends the process at once: what is being made has
    /// a name of its own until it is whole.
    pub(crate) fn begin(what: &str, quiet: bool) -> Result<Self, Failure> {
        let signal = Arc::new(AtomicI32::new(0));
        let mut signals = Signals::new([SIGTERM, SIGINT]).or_failure(FailureKind::Failed)?;
        let heard = Arc::clone(&signal);
        let listen = move || {
            for signal in signals.forever() {
                if heard.swap(signal, Relaxed) != 0 {
                    signal_hook::low_level::exit(128 + signal);
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).or_failure(FailureKind::Failed)?;
        Ok(Self { meter: Meter::new(what, quiet), signal })
    }

    /// Ends the telling.
    pub(crate) fn end(&self) {
        self.meter.stop();
    }

    /// Returns the failure of work that a signal has stopped.
    pub(crate) fn stopped_by(&self) -> Failure {
        self.end();
        let signal = match self.signal.load(Relaxed) {
            SIGTERM => Signal::Terminate,
            _ => Signal::Interrupt,
        };
        Failure::new(FailureKind::Interrupted(signal), "stopped by a signal")
    }
}

/// Writes a line for people on stderr. A closed stderr is no failure.
pub(crate) fn note(label: &str, message: &str) {
    let _ = writeln!(std::io::stderr(), "{label}: {}", printable(message));
}

impl Watch for Work {
    fn expect(&self, bytes: u64) {
        self.meter.expect(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.meter.advance(bytes);
    }

    fn stopped(&self) -> bool {
        self.signal.load(Relaxed) != 0
    }
}
