//! The project's own commands. No dependencies, so that `cargo xtask test` can install what the rest needs before
//! anything else is built.

mod assets;
mod demo;
mod packages;
mod step;
mod test;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
the project's own commands

usage: cargo xtask <command>

  demo             the main job from end to end, on two folders made from files of this repository
  test             what CI runs: packages, formatting, clippy, Cargo.lock, every test
  bench [options]  ours, unison, rsync, rclone and cp in turn (--help lists the options); needs root
  dist [options]   static binaries, an OCI image, checksums and an SBOM (--help lists the options)
  kube-assets      a Kubernetes control plane for the tests, built once from Go modules
  peers            other programs that the tests run ours against, built once from Go modules
";

fn main() -> ExitCode {
    // Every command works from the workspace's root, wherever it is typed.
    if let Some(root) = Path::new(env!("CARGO_MANIFEST_DIR")).parent()
        && let Err(error) = std::env::set_current_dir(root)
    {
        return fail(&format!("failed to enter the workspace: {}: {error}", root.display()));
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["demo", ref options @ ..] => demo::run(options),
        ["test"] => test::run(),
        ["kube-assets"] => assets::kubernetes(),
        ["peers"] => assets::peers(),
        // The bench needs crates that take a while to build, so it is a program of its own.
        ["bench", ref options @ ..] => {
            step::Step::cargo(&["run", "--quiet", "--release", "--package", "ha-bench", "--"]).args(options).run_plain()
        }
        // It reads JSON and computes sums, for which it has crates.
        ["dist", ref options @ ..] => {
            step::Step::cargo(&["run", "--quiet", "--package", "ha-dist", "--"]).args(options).run_plain()
        }
        [] | ["help" | "--help" | "-h"] => {
            say(USAGE);
            Ok(())
        }
        _ => Err(format!("unknown command: {}\n\n{USAGE}", arguments.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

#[allow(clippy::print_stderr, reason = "this is the edge of a program")]
fn fail(why: &str) -> ExitCode {
    eprintln!("xtask: {why}");
    ExitCode::FAILURE
}

#[allow(clippy::print_stdout, reason = "this is the edge of a program")]
pub(crate) fn say(words: &str) {
    println!("{words}");
}
