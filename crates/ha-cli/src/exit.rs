//! Exit codes that a CronJob and an alert can act on (sync.md §9).

use ha_sync_core::record::Status;

/// Is how a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitCode {
    /// Everything was done, or there was nothing to do.
    Success = 0,
    /// The run failed.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was changed.
    Usage = 2,
    /// Some operations failed, the rest was done.
    Partial = 3,
    /// The lock is held by another.
    LockHeld = 4,
    /// A safety rule stopped the run before it changed anything.
    Halted = 5,
    /// SIGINT ended the run.
    Interrupted = 130,
    /// SIGTERM ended the run.
    Terminated = 143,
}

impl ExitCode {
    /// Holds every code, ascending.
    pub const ALL: &[Self] = &[
        Self::Success,
        Self::Failed,
        Self::Usage,
        Self::Partial,
        Self::LockHeld,
        Self::Halted,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// Returns the number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns what the code means, in one sentence without a full stop.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Success => "success, or nothing to do",
            Self::Failed => "failed",
            Self::Usage => "bad usage or configuration; nothing was changed",
            Self::Partial => "partial failure: some operations failed, the rest was done",
            Self::LockHeld => "the lock is held by another",
            Self::Halted => "halted by a safety rule before anything was changed",
            Self::Interrupted => "interrupted by SIGINT",
            Self::Terminated => "interrupted by SIGTERM",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl From<Status> for ExitCode {
    /// Maps how a run ended; halts and interruptions have codes of their own, which a status cannot tell.
    fn from(status: Status) -> Self {
        match status {
            Status::Success => Self::Success,
            Status::PartialFailure => Self::Partial,
            Status::Running | Status::Failed => Self::Failed,
        }
    }
}
