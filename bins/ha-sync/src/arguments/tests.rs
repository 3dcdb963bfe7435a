use std::path::PathBuf;
use std::time::Duration;

use ha_cli::summary::OutputFormat;
use ha_cli::value::Amount;

use super::*;
use crate::settings::Lock;
use crate::settings::{AuditMd5, Delete, Fsync, LockKind};

fn request(words: &[&str]) -> Request {
    let words = ["ha-sync"].iter().chain(words).map(OsString::from);
    match parse(words) {
        Ok(request) => request,
        Err(Refusal::Failure(failure)) => panic!("{}", failure.render(false)),
        Err(Refusal::Shown(text)) => panic!("{text}"),
    }
}

fn settings(more: &[&str]) -> Settings {
    let words = [&["--src", "/a", "--dest=/b", "--pair", "media"], more].concat();
    match request(&words) {
        Request::Run(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn defaults_are_those_of_the_reference() {
    let settings = settings(&[]);
    assert_eq!((settings.src, settings.dest), (PathBuf::from("/a"), PathBuf::from("/b")));
    assert_eq!((settings.pair.as_str(), settings.direction.as_str()), ("media", "fwd"));
    assert_eq!(settings.records.log_dir, PathBuf::from("/var/log/ha-sync"));
    assert!(!settings.records.log_dir_given);
    assert_eq!((settings.log_retain_days, settings.keep_replaced_days, settings.workers), (10, 7, 4));
    assert_eq!(settings.compare.mtime_threshold, Duration::from_secs(2));
    assert_eq!((settings.delete, settings.dry_run, settings.output.verbose), (Delete::Off, false, false));
    assert_eq!((settings.safety.max_delete, settings.safety.min_free, settings.walkers), (None, None, None));
    assert_eq!((settings.fsync, settings.audit_md5), (Fsync::Batch, AuditMd5::Auto));
    let lock = Lock {
        kind: LockKind::Auto,
        wait: Duration::ZERO,
        ttl: Duration::from_secs(3600),
        skip_if_locked: false,
        kubeconfig: None,
        kube_context: None,
        namespace: None,
    };
    assert_eq!(settings.lock, lock);
    assert_eq!((settings.output.format, settings.output.log_format), (OutputFormat::Text, None));
}

#[test]
fn switches_take_values_as_in_go() {
    for (word, wanted) in
        [("--dry-run", true), ("--dry-run=true", true), ("--dry-run=F", false), ("--dry-run=0", false)]
    {
        assert_eq!(settings(&[word]).dry_run, wanted, "{word}");
    }
    assert!(settings(&["-v"]).output.verbose);
    assert!(!settings(&["--verbose", "--verbose=false"]).output.verbose);
    let modes = [
        ("--delete-missing", Delete::On),
        ("--delete-missing=true", Delete::On),
        ("--delete-missing=false", Delete::Off),
        ("--delete-missing=strict", Delete::Strict),
    ];
    for (word, wanted) in modes {
        assert_eq!(settings(&[word]).delete, wanted, "{word}");
    }
}

#[test]
fn rules_keep_the_order_of_the_command_line() {
    let settings = settings(&["--exclude", "*.a", "--include=keep/**", "--exclude=-x", "--include", "/b/"]);
    let rules: Vec<_> = settings.filters.iter().map(|rule| (rule.exclude, rule.glob.as_str())).collect();
    assert_eq!(rules, [(true, "*.a"), (false, "keep/**"), (true, "-x"), (false, "/b/")]);
}

#[test]
fn additions_are_parsed() {
    let settings = settings(&[
        "--mtime-threshold=0.5",
        "--max-delete=25%",
        "--min-free=500M",
        "--check-access=./.here",
        "--lock=file",
        "--lock-wait=5m",
        "--fsync=file",
        "--audit-md5=never",
        "--walkers=8",
        "--log-dir=/var/log/ha-sync",
        "--approve=00ff",
        "-o",
        "json",
        "--log-format=json",
    ]);
    assert_eq!(settings.compare.mtime_threshold, Duration::from_millis(500));
    assert_eq!(settings.safety.max_delete, Some(Amount::Percent(25.0)));
    assert_eq!(settings.safety.min_free, Some(Amount::Absolute(500 << 20)));
    assert_eq!(settings.safety.check_access, Some(PathBuf::from(".here")));
    assert_eq!((settings.lock.kind, settings.lock.wait), (LockKind::File, Duration::from_secs(300)));
    assert!(settings.records.log_dir_given);
    assert_eq!((settings.walkers, settings.output.format), (Some(8), OutputFormat::Json));
}

#[test]
fn a_value_may_be_called_like_a_subcommand() {
    let Request::Run(settings) = request(&["--src", "/restore", "--dest", "/prune", "--pair", "restore"]) else {
        panic!("not a run");
    };
    assert_eq!(settings.pair.as_str(), "restore");
}

#[test]
fn restore_lists_unless_something_is_named() {
    let list = |words: &[&str]| match request(&[&["restore", "--root", "/b"], words].concat()) {
        Request::Restore(settings) => settings.list,
        other => panic!("{other:?}"),
    };
    assert!(list(&[]));
    assert!(list(&["--list", "a"]));
    assert!(!list(&["a/b", "c"]));
    assert!(!list(&["--run", "20260413T152357Z-0123abcd", "--dry-run=true"]));
}

#[test]
fn prune_has_ages() {
    let Request::Prune(settings) = request(&["prune", "--db-older-than=30d", "--trash", "/a", "--trash=/b"]) else {
        panic!("not a prune");
    };
    assert_eq!(settings.db_older_than, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(settings.trash.len(), 2);
    assert_eq!(settings.trash_older_than, Duration::from_secs(7 * 86_400));
}

#[test]
fn passwords_are_not_in_debug_texts() {
    let text = format!("{:?}", settings(&["--db-dsn=mysql://u:hunter2@h/d"]));
    assert!(!text.contains("hunter2"), "{text}");
}

/// Returns the arguments of the container in a manifest that was made here: the list below `args:`.
fn arguments_of(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != "args:").skip(1);
    lines.map_while(|line| line.strip_prefix("- ")).map(|word| word.trim_matches('"')).collect()
}

#[test]
fn the_command_lines_of_the_manifests_are_taken() {
    let inventory = ha_manifests::read(include_str!("../../../../deploy/inventory.yaml")).unwrap();
    let (mut runs, mut prunes) = (0, 0);
    for file in ha_manifests::files(&inventory).iter().filter(|file| file.path.starts_with("base/cron-")) {
        match request(&arguments_of(&file.content)) {
            Request::Run(settings) => {
                runs += 1;
                let name = format!("base/cron-{}-{}.yaml", settings.pair, settings.direction.as_str());
                assert_eq!(file.path, name);
                assert!(settings.dry_run && settings.safety.require_mount && settings.lock.skip_if_locked, "{name}");
                assert_eq!((settings.lock.kind, settings.delete), (LockKind::Lease, Delete::Off), "{name}");
                assert_eq!(settings.safety.check_access, Some(PathBuf::from(".ha-sync-access")));
            }
            Request::Prune(settings) => {
                prunes += 1;
                assert!(settings.dry_run && settings.db_older_than == Some(Duration::from_secs(30 * 86400)));
            }
            other => panic!("{}: {other:?}", file.path),
        }
    }
    assert_eq!((runs, prunes), (12, 1));
}
