//! What the block on a terminal says, as a pure function of counters and time.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::summary::{grouped, human_bytes, human_duration};

/// Is what has been counted at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) scanned: u64,
    pub(super) planned: u64,
    pub(super) planned_bytes: u64,
    pub(super) done: u64,
    pub(super) copied: u64,
    pub(super) failed: u64,
}

/// Smooths speeds, so that one large file does not make the time left jump.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Speed {
    pub(super) bytes: f64,
    pub(super) operations: f64,
    started: bool,
}

impl Speed {
    /// Takes what was done in a stretch of time; a change shows to two thirds after five seconds.
    pub(super) fn add(&mut self, bytes: u64, operations: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let weight = if self.started { 1.0 - (-seconds / 5.0).exp() } else { 1.0 };
        self.bytes += weight * (bytes as f64 / seconds - self.bytes);
        self.operations += weight * (operations as f64 / seconds - self.operations);
        // The first stretches in which nothing was done do not count.
        self.started = self.started || bytes + operations > 0;
    }

    /// Returns the time that the rest takes: the longer of what its bytes and what its number need.
    fn left(self, counters: Counters) -> Option<Duration> {
        let need = |rest: u64, speed: f64| if rest == 0 { 0.0 } else { rest as f64 / speed };
        let bytes = need(counters.planned_bytes.saturating_sub(counters.copied), self.bytes);
        let operations = match self.operations {
            // The first file is a large one: its bytes are all that is known.
            speed if speed == 0.0 && self.bytes > 0.0 => 0.0,
            speed => need(counters.planned.saturating_sub(counters.done), speed),
        };
        let seconds = bytes.max(operations);
        // Beyond ten days it is a guess that helps nobody; `from_secs_f64` panics on infinity.
        (seconds.is_finite() && seconds < 864_000.0).then(|| Duration::from_secs(seconds.ceil() as u64))
    }
}

/// Returns the lines of the block, each at most `width` wide. `scanning` tells that the plan still grows, so that no
/// time left can be told.
pub(super) fn block(
    phase: &str,
    scanning: bool,
    counters: Counters,
    speed: Speed,
    path: Option<&str>,
    width: usize,
) -> String {
    let mut parts = Vec::new();
    if scanning {
        parts.push(format!("{} scanned", grouped(counters.scanned)));
    }
    parts.push(format!("{}/{} done", grouped(counters.done), grouped(counters.planned)));
    if counters.planned_bytes > 0 {
        parts.push(format!("{}/{}", human_bytes(counters.copied), human_bytes(counters.planned_bytes)));
        parts.push(format!("{}/s", human_bytes(speed.bytes as u64)));
    }
    if counters.failed > 0 {
        parts.push(format!("{} failed", grouped(counters.failed)));
    }
    if !scanning
        && counters.done < counters.planned
        && let Some(left) = speed.left(counters)
    {
        parts.push(format!("{} left", human_duration(left)));
    }
    let mut text = format!("{phase}  {}", parts.join("  "));
    if text.width() > width {
        text = text.chars().take(width).collect();
    }
    if let Some(path) = path {
        text.push_str("\n  ");
        text.push_str(&shortened(path, width.saturating_sub(2)));
    }
    text
}

/// Returns how much of the work is done, of 1.
pub(super) fn share(counters: Counters) -> f64 {
    let (done, planned) = match counters.planned_bytes {
        0 => (counters.done, counters.planned),
        bytes => (counters.copied, bytes),
    };
    if planned == 0 { 0.0 } else { (done as f64 / planned as f64).min(1.0) }
}

/// Shortens a path from the left: its end tells more.
pub(super) fn shortened(path: &str, width: usize) -> String {
    if path.width() <= width {
        return path.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut start = path.len();
    for (index, character) in path.char_indices().rev() {
        let Some(rest) = left.checked_sub(character.width().unwrap_or(0)) else { break };
        (left, start) = (rest, index);
    }
    format!("…{}", &path[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: Counters =
        Counters { scanned: 12_345, planned: 5_000, planned_bytes: 3 << 30, done: 1_234, copied: 1 << 30, failed: 2 };

    #[test]
    fn the_block_tells_what_is_left() {
        let mut speed = Speed::default();
        speed.add(100 << 20, 200, Duration::from_secs(1));
        let text = block("executing", false, COUNTERS, speed, Some("photos/2026/a.jpg"), 90);
        insta::assert_snapshot!(text, @r"
        executing  1,234/5,000 done  1.0 GiB/3.0 GiB  100.0 MiB/s  2 failed  21s left
          photos/2026/a.jpg
        ");
        let text = block("scanning", true, Counters { failed: 0, ..COUNTERS }, speed, None, 90);
        insta::assert_snapshot!(text, @"scanning  12,345 scanned  1,234/5,000 done  1.0 GiB/3.0 GiB  100.0 MiB/s");
        assert!((share(COUNTERS) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_done_has_no_time_left_and_does_not_panic() {
        let text = block("executing", false, Counters { done: 0, copied: 0, ..COUNTERS }, Speed::default(), None, 9);
        assert_eq!(text, "executing");
        assert_eq!(share(Counters::default()), 0.0);
    }

    #[test]
    fn paths_lose_their_left_end() {
        assert_eq!(shortened("a/b/c.txt", 9), "a/b/c.txt");
        assert_eq!(shortened("a/b/c.txt", 6), "…c.txt");
        assert_eq!(shortened("写真/写真", 6), "…/写真");
        assert_eq!(shortened("abc", 0), "…");
    }
}
