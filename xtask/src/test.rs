//! `cargo xtask test`: what the README names and CI runs.

use crate::say;
use crate::step::{Step, timed};
use crate::{assets, packages};

/// How many packages Cargo.lock may have. Each is code that somebody has to trust and build; a change that needs more
/// raises the number here, where it is seen in the review.
const MOST_PACKAGES: usize = 360;

pub(crate) fn run() -> Result<(), String> {
    timed("Debian packages", packages::ensure)?;
    timed("packages in Cargo.lock", lock_file)?;
    timed("Kubernetes control plane", assets::ensure_kubernetes)?;
    assets::peers()?;
    Step::cargo(&["fmt", "--all", "--check"]).run()?;
    Step::cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    // Last, so that the last lines are the test runner's own summaries. (No time after it: it would be the last line.)
    let tests = Step::cargo(&["test", "--locked", "--workspace"]);
    say(&format!("==> {}", tests.line()));
    tests.run_plain()
}

#[allow(clippy::disallowed_methods, reason = "the error says which file it is")]
fn lock_file() -> Result<(), String> {
    let text = std::fs::read_to_string("Cargo.lock").map_err(|error| format!("failed to read Cargo.lock: {error}"))?;
    let number = text.lines().filter(|line| *line == "[[package]]").count();
    if number > MOST_PACKAGES {
        return Err(format!(
            "Cargo.lock has {number} packages, more than the {MOST_PACKAGES} of MOST_PACKAGES in xtask/src/test.rs; \
             drop one or raise the number with a reason"
        ));
    }
    say(&format!("    {number} of at most {MOST_PACKAGES}"));
    Ok(())
}
