//! The real binary, in an empty environment: what it prints and how it exits.

mod agreed_metadata;
mod agreement;
mod bad_input;
mod baseline;
mod database;
mod diff;
mod docs;
mod dry_run;
mod faults;
mod file_systems;
mod filters;
mod halts;
mod kill;
mod lacking;
mod lease;
mod lease_bad_input;
mod lock;
mod manifests;
mod memory;
mod metadata;
mod peers;
mod place;
mod records;
mod restore;
mod shards;
mod status;
mod two_way;

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ha-sync"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    binary().args(words).output().unwrap()
}

/// Returns stdout of a command that must succeed silently.
fn printed(words: &[&str]) -> String {
    let output = run(words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_fits_100_columns_and_names_every_flag_of_the_plan() {
    for words in [
        &["--help"][..],
        &["-h"],
        &["two-way", "--help"],
        &["restore", "--help"],
        &["prune", "--help"],
        &["status", "--help"],
        &["conflicts", "--help"],
        &["conflicts", "resolve", "--help"],
        &["diff", "--help"],
        &["baseline", "--help"],
        &["baseline", "show", "--help"],
        &["baseline", "verify", "--help"],
        &["baseline", "forget", "--help"],
        &["manifests", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ] {
        for columns in ["100", "300"] {
            let output = binary().args(words).env("COLUMNS", columns).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "{words:?}: {line}");
            }
        }
    }
    let help = printed(&["--help"]);
    for flag in [
        "--src",
        "--dest",
        "--pair",
        "--direction",
        "--db-dsn",
        "--lock-ttl",
        "--log-dir",
        "--log-retain-days",
        "--mtime-threshold",
        "--delete-missing",
        "--workers",
        "--dry-run",
        "--verbose",
        "--help",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn short_help() {
    insta::assert_snapshot!(printed(&["-h"]), @r"
    Keeps folder pairs in sync: the newest file wins

    Usage: ha-sync --src <DIR> --dest <DIR> --pair <NAME> [OPTIONS]
           ha-sync <COMMAND>

    Commands:
      two-way      Keep two folders in step: changes and deletions go both ways
      restore      List what was replaced and deleted, or put it back
      prune        Remove old records and old trash
      status       Tell how a pair stands: last runs, open conflicts, trash, and whether its sides are
                   known to be equal
      conflicts    List the conflicts of a pair that nobody has decided, or decide one
      diff         Tell in what two directories differ, and change nothing
      baseline     Show, check or forget what both sides of a pair last agreed on
      manifests    Make the Kubernetes manifests of a deployment from an inventory
      completions  Print the completions for a shell
      man          Print the manual page, or write all pages to a directory

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Files:
          --src <DIR>              Source directory, an absolute path
          --dest <DIR>             Destination directory, an absolute path
          --pair <NAME>            Name of the folder pair, which also names the lock: a-z, 0-9 and '-'
          --direction <LABEL>      Label of the direction in logs and the database [default: fwd]
          --dry-run[=<BOOL>]       Print and store what a run would do; copy and delete nothing
          --shard <I/N>            Work on one of N parts of the tree only, I from 0: other runs do the
                                   others
          --shards <N>             Work on one of N parts of the tree; which one, the index of an
                                   Indexed Job's pod says
          --hard-links[=<BOOL>]    Keep hard links between synchronised files
          --cross-mounts[=<BOOL>]  Enter other file systems mounted below the roots

    Comparison and filters:
          --mtime-threshold <SECONDS>  Time difference up to which two files count as equally old
                                       [default: 2]
          --checksum[=<BOOL>]          Compare the content of files whose size and time are equal
          --exclude <GLOB>             Leave out what matches; repeatable, the first rule that matches
                                       wins
          --include <GLOB>             Keep what matches although a later rule leaves it out; repeatable

    Deletion:
          --delete-missing[=<MODE>]   Delete what the source does not have: off, on (the flag alone) or
                                      strict [default: off]
          --delete-excluded[=<BOOL>]  Delete what is left out by a rule, too
          --max-delete <LIMIT>        Halt when more would be deleted: a count or a percentage [default:
                                      25% once more than 20]
          --keep-replaced <DAYS>      Days for which replaced and deleted files stay in the trash; 0
                                      keeps none [default: 7]

    Safety:
          --approve <ID>                   Let the set of operations through that a halted run printed
                                           the id of
          --allow-empty-root[=<BOOL>]      Go on although a root that had entries is empty
          --allow-missing-mounts[=<BOOL>]  Go on below a directory that was a mount point and is none
                                           now
          --allow-clock-skew[=<BOOL>]      Go on although the clocks of the two sides disagree
          --require-mount[=<BOOL>]         Halt unless both roots are mount points
          --check-access <FILE>            Halt unless this file, relative to the roots, is on both
                                           sides
          --min-free <SIZE>                Make no copy that leaves less space: a size or a percentage
                                           [default: 1GiB or 1%, the smaller]

    Lock:
          --lock <KIND>              What keeps two runs of a pair apart [default: auto] [possible
                                     values: auto, lease, file, none]
          --lock-ttl <SECONDS>       Time without renewal after which a Lease is stale [default: 3600]
          --kubeconfig <FILE>        How to reach the cluster of the Lease
          --kube-context <NAME>      Context of the kubeconfig [default: its current one]
          --namespace <NAME>         Namespace of the Lease [default: the pod's, or the context's]
          --lock-wait <SECONDS>      Time to wait for a lock that another holds [default: 0]
          --skip-if-locked[=<BOOL>]  Exit with 0, not 4, when another holds the lock

    Records:
          --log-dir <DIR>           Directory for logs, an absolute path [default: /var/log/ha-sync]
          --db-dsn <DSN>            Database of the records [default: SQLite in the log directory] [env:
                                    HA_SYNC_DB_DSN]
          --log-retain-days <DAYS>  Days for which logs that were set aside are kept [default: 10]
          --audit-md5 <WHEN>        When MD5 sums of copied files are recorded [default: auto] [possible
                                    values: auto, always, never]

    Speed and durability:
          --workers <N>   Threads that copy files [default: 4]
          --walkers <N>   Threads that list directories [default: the cores; 32 on NFS, CIFS and FUSE]
          --fsync <WHEN>  When written data is made durable [default: batch] [possible values: batch,
                          file, off]

    Output:
      -o, --output <FORMAT>      Form of stdout [default: text] [possible values: text, json]
          --log-format <FORMAT>  Form of the lines on stderr [default: a bar on a terminal, else text]
                                 [possible values: text, json]
      -v, --verbose[=<BOOL>]     Tell skipped files and why
      -q, --quiet[=<BOOL>]       Tell only warnings and failures; no summary

    --help says more about each flag and shows examples.
    ");
}

#[test]
fn help_of_subcommands() {
    insta::assert_snapshot!(printed(&["restore", "-h"]), @r"
    List what was replaced and deleted, or put it back

    Usage: ha-sync restore [OPTIONS] --root <DIR> [PATH]...

    Arguments:
      [PATH]...  Files and folders, relative to the root

    Options:
          --root <DIR>        Root whose trash it is, an absolute path
          --run <ID>          Run whose trash is meant [default: for each path the newest that has it]
          --list[=<BOOL>]     List, put nothing back
          --force[=<BOOL>]    Replace what is there now (it goes to the trash)
          --dry-run[=<BOOL>]  Print what would be put back, change nothing
      -h, --help              Print help (see more with '--help')

    Output:
      -o, --output <FORMAT>  Form of stdout [default: text] [possible values: text, json]
    ");
    insta::assert_snapshot!(printed(&["prune", "-h"]), @r"
    Remove old records and old trash

    Usage: ha-sync prune [OPTIONS]

    Options:
          --db-older-than <AGE>     Remove database rows of runs that are older, like 30d
          --logs-older-than <AGE>   Remove logs that were set aside and are older, like 10d
          --trash <ROOT>            Prune the trash of this root, an absolute path; repeatable
          --trash-older-than <AGE>  Remove trash of runs that are older [default: 7d]
          --dry-run[=<BOOL>]        Print what would go, remove nothing
      -h, --help                    Print help (see more with '--help')

    Records:
          --log-dir <DIR>  Directory for logs, an absolute path [default: /var/log/ha-sync]
          --db-dsn <DSN>   Database of the records [default: SQLite in the log directory] [env:
                           HA_SYNC_DB_DSN]

    Output:
      -o, --output <FORMAT>  Form of stdout [default: text] [possible values: text, json]
    ");
}

#[test]
fn version() {
    assert_eq!(printed(&["--version"]), format!("ha-sync {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let text = printed(&["completions", shell]);
        assert!(text.contains("delete-missing") && text.contains("restore"), "{shell}");
    }
}

#[test]
fn manual_pages_render() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH ha-sync 1"), "{page}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert_eq!(printed(&["man", "--out", path]), "");
    for name in
        ["ha-sync.1", "ha-sync-restore.1", "ha-sync-prune.1", "ha-sync-baseline-forget.1", "ha-sync-completions.1"]
    {
        assert!(Path::new(path).join(name).is_file(), "{name}");
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    for words in [&["--help"][..], &["man"], &["completions", "bash"]] {
        let mut child = binary().args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
    }
}

#[test]
fn a_password_in_the_environment_is_not_shown() {
    let secret = "mysql://user:hunter2@host/db";
    for words in [&["--help"][..], &["prune", "--help"], &["man"], &["--nonsense"], &["--src", "a"]] {
        let output = binary().args(words).env("HA_SYNC_DB_DSN", secret).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&text).contains("hunter2"), "{words:?}");
    }
}

#[test]
fn the_environment_does_not_disturb_subcommands() {
    let output = binary().args(["completions", "bash"]).env("HA_SYNC_DB_DSN", "sqlite:/x").output().unwrap();
    assert!(output.status.success());
}
