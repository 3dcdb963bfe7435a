//! SIGTERM and SIGINT stop a run in order; a second one ends the process at once.

use std::sync::Arc;

use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_sync_engine::{Stop, StopReason};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Listens from now on. What a second signal cuts off is whole all the same: files get their names in one step.
pub(crate) fn listen(stop: &Arc<Stop>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).or_failure(FailureKind::Failed)?;
    let stop = Arc::clone(stop);
    let listen = move || {
        for signal in signals.forever() {
            if matches!(stop.reason(), Some(StopReason::Signal(_))) {
                signal_hook::low_level::exit(128 + signal);
            }
            stop.stop(StopReason::Signal(signal));
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).or_failure(FailureKind::Failed)?;
    Ok(())
}
