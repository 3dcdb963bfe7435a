//! Each bad command line: exit code 2, one sentence, a hint, nothing on stdout.

use crate::run;

/// Returns stderr; a password of these tests is never in it.
fn refused(words: &[&str]) -> String {
    let output = run(words);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    text
}

#[test]
fn nothing() {
    insta::assert_snapshot!(refused(&[]), @r"
    error: required but missing: --src, --dest, --pair
    hint: ha-sync --help
    ");
}

#[test]
fn an_unknown_flag() {
    insta::assert_snapshot!(refused(&["--sorce", "/a"]), @r"
    error: unknown argument: --sorce
    hint: did you mean --src?
    ");
}

#[test]
fn a_missing_root() {
    insta::assert_snapshot!(refused(&["--dest", "/b", "--pair", "media"]), @r"
    error: required but missing: --src
    hint: ha-sync --help
    ");
}

#[test]
fn a_relative_root() {
    insta::assert_snapshot!(refused(&["--src", "./photos", "--dest", "/b", "--pair", "media"]), @r#"
    error: invalid value for --src: "./photos": not an absolute path
    hint: --src "$PWD/photos"
    "#);
}

#[test]
fn an_empty_root() {
    insta::assert_snapshot!(refused(&["--src=", "--dest", "/b", "--pair", "media"]), @r#"
    error: invalid value for --src: "": expected an absolute path
    hint: ha-sync --help
    "#);
}

#[test]
fn a_relative_log_directory() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--log-dir", "logs"]), @r#"
    error: invalid value for --log-dir: "logs": not an absolute path
    hint: --log-dir "$PWD/logs"
    "#);
}

#[test]
fn a_bad_pair() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "Media"]), @r#"
    error: invalid value for --pair: "Media": character 'M' at position 1 is not allowed: use a-z, 0-9 and '-', and begin and end with a letter or digit
    hint: --pair media (the lock is called ha-sync-media)
    "#);
}

#[test]
fn a_bad_direction() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--direction", "a/b"]), @r#"
    error: invalid value for --direction: "a/b": a direction has 1 to 64 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit
    hint: --direction dell-to-hp
    "#);
}

#[test]
fn a_bad_glob() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--exclude", "[a"]), @r#"
    error: invalid value for --exclude: "[a": invalid glob: unclosed character class; missing ']'
    hint: --exclude '*.tmp', or --exclude '/cache/**' for one place
    "#);
}

#[test]
fn a_bad_threshold() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--mtime-threshold", "-1"]), @r#"
    error: invalid value for --mtime-threshold: "-1": expected seconds, like 2, 0.5, 30s, 15m or 1h
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_time() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--lock-wait", "soon"]), @r#"
    error: invalid value for --lock-wait: "soon": expected seconds, like 2, 0.5, 30s, 15m or 1h
    hint: ha-sync --help
    "#);
}

#[test]
fn no_time_to_live() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--lock-ttl=0"]), @r#"
    error: invalid value for --lock-ttl: "0": expected at least 1 second
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_limit() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--max-delete", "101%"]), @r#"
    error: invalid value for --max-delete: "101%": expected a count or a percentage, like 100 or 25%
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_size() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--min-free", "lots"]), @r#"
    error: invalid value for --min-free: "lots": expected a size or a percentage, like 1GiB, 500M or 2%
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_number_of_days() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--keep-replaced", "x"]), @r#"
    error: invalid value for --keep-replaced: "x": expected a number of days, like 7
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_number_of_threads() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--workers", "0"]), @r#"
    error: invalid value for --workers: "0": expected a number from 1 to 1024
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_switch() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--dry-run=maybe"]), @r#"
    error: invalid value for --dry-run: "maybe": expected true or false
    hint: ha-sync --help
    "#);
}

#[test]
fn a_switch_with_a_word_after_it() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--dry-run", "true"]), @r"
    error: unexpected word: true
    hint: a subcommand comes first, the value of a switch follows a '=': --dry-run=false
    ");
}

#[test]
fn a_bad_mode_of_deletion() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--delete-missing=all"]), @r#"
    error: invalid value for --delete-missing: "all": expected off, on or strict
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_choice() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--lock", "flock"]), @r#"
    error: invalid value for --lock: "flock": expected one of auto, lease, file, none
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_file_to_check() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--check-access", "../x"]), @r#"
    error: invalid value for --check-access: "../x": expected a path relative to the root, without '..'
    hint: ha-sync --help
    "#);
}

#[test]
fn a_bad_approval() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "--approve", "a b"]), @r#"
    error: invalid value for --approve: "a b": expected the id that the halted run printed
    hint: ha-sync --help
    "#);
}

#[test]
fn a_missing_value() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair"]), @r"
    error: a value is missing for --pair
    hint: ha-sync --help
    ");
}

#[test]
fn loud_and_quiet() {
    insta::assert_snapshot!(refused(&["--src", "/a", "--dest", "/b", "--pair", "media", "-v", "-q"]), @r"
    error: --verbose cannot go with --quiet
    hint: ha-sync --help
    ");
}

#[test]
fn a_subcommand_after_flags() {
    insta::assert_snapshot!(refused(&["--src", "/a", "restore"]), @r"
    error: unexpected word: restore
    hint: a subcommand comes first, the value of a switch follows a '=': --dry-run=false
    ");
}

#[test]
fn an_unknown_subcommand() {
    insta::assert_snapshot!(refused(&["restor"]), @r"
    error: unknown subcommand: restor
    hint: ha-sync --help
    ");
}

#[test]
fn a_restore_of_nothing() {
    insta::assert_snapshot!(refused(&["restore"]), @r"
    error: required but missing: --root
    hint: ha-sync restore --help
    ");
}

#[test]
fn a_restore_out_of_the_root() {
    insta::assert_snapshot!(refused(&["restore", "--root", "/b", "../x"]), @r#"
    error: invalid value for PATH: "../x": expected a path relative to the root, without '..'
    hint: ha-sync restore --help
    "#);
}

#[test]
fn a_restore_of_no_run() {
    insta::assert_snapshot!(refused(&["restore", "--root", "/b", "--run", "yesterday"]), @r#"
    error: invalid value for --run: "yesterday": expected a run id of the form 20260413T152357Z-0123abcd
    hint: ha-sync restore --root DIR lists the runs
    "#);
}

#[test]
fn a_list_that_forces() {
    insta::assert_snapshot!(refused(&["restore", "--root", "/b", "--list", "--force"]), @r"
    error: --list cannot go with --force
    hint: ha-sync restore --help
    ");
}

#[test]
fn a_prune_of_nothing() {
    insta::assert_snapshot!(refused(&["prune"]), @r"
    error: nothing was named to be pruned
    hint: give --db-older-than 30d, --logs-older-than 10d or --trash ROOT
    ");
}

#[test]
fn a_prune_without_unit() {
    insta::assert_snapshot!(refused(&["prune", "--db-older-than", "30"]), @r#"
    error: invalid value for --db-older-than: "30": expected an age with its unit, like 12h, 7d or 4w
    hint: ha-sync prune --help
    "#);
}

#[test]
fn an_unknown_shell() {
    insta::assert_snapshot!(refused(&["completions", "cmd"]), @r#"
    error: invalid value for SHELL: "cmd": expected one of bash, elvish, fish, powershell, zsh
    hint: ha-sync completions --help
    "#);
}

#[test]
fn a_dsn_in_the_wrong_place() {
    insta::assert_snapshot!(refused(&["mysql://user:hunter2@host/db"]), @r"
    error: unknown subcommand: …@host/db
    hint: ha-sync --help
    ");
    insta::assert_snapshot!(refused(&["--db-dns=user:hunter2@tcp(host:3306)/db"]), @r"
    error: unknown argument: --db-dns
    hint: did you mean --db-dsn?
    ");
    insta::assert_snapshot!(refused(&["--db-dns", "user:hunter2@tcp(host:3306)/db"]), @r"
    error: unknown argument: --db-dns
    hint: did you mean --db-dsn?
    ");
    insta::assert_snapshot!(refused(&["--src", "user:hunter2@tcp(host:3306)/db"]), @r#"
    error: invalid value for --src: "…@tcp(host:3306)/db": not an absolute path
    hint: ha-sync --help
    "#);
}
