//! The case `dashboard`: 20 clients ask the dashboard over 10,000 runs and 5,000,000 operations in MariaDB.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ha_testkit::mariadb::Server;

pub(crate) const NAME: &str = "dashboard";
pub(crate) const WHAT: &str = "20 clients ask ha-sync-ui over 10,000 runs and 5,000,000 operations in MariaDB";

const RUNS: u64 = 10_000;
const OPERATIONS: u64 = 5_000_000;
/// Runs that brought a whole folder over.
const LARGE_RUNS: u64 = 12;
const LARGE: u64 = 200_000;
const CLIENTS: usize = 20;
/// How long each page is asked for.
const TIME: Duration = Duration::from_secs(5);
const PORT: u16 = 18_437;
/// What each answer must stay below, in milliseconds.
const MEDIAN_GOAL: f64 = 100.0;
const P99_GOAL: f64 = 250.0;
/// What the dashboard's memory must stay below.
const MEMORY_GOAL_MIB: f64 = 64.0;

/// What is asked for; `{…}` are filled with what is there.
const TARGETS: [&str; 20] = [
    "/",
    "/pairs/media",
    "/runs/{small}",
    "/runs/{large}",
    "/runs/{large}?status=fail",
    "/runs/{large}?operation=delete&status=success",
    "/runs/{large}?cursor={middle}",
    "/runs/{large}?path=nothing-like-it",
    "/search?q=photos/2019/event-00042/IMG_0042.jpg",
    "/search?q=photos/2019/event-000",
    "/search?q=IMG_0042.jpg",
    "/search?q=nothing-like-it",
    "/api/pairs",
    "/api/iterations?pair=media&limit=20",
    "/api/iterations?status=failed&limit=20",
    "/api/operations?iteration_id={large}&status=fail",
    "/api/operations?iteration_id={small}&limit=500",
    "/api/history?path=photos/2019/event-00042/IMG_0042.jpg",
    "/api/paths?prefix=photos/2019/",
    "/metrics",
];

/// A dashboard's process; it is killed on drop.
struct Dashboard(Child);

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is the section of the report.
pub(crate) struct Section {
    pub(crate) text: String,
    /// What has missed its goal.
    pub(crate) missed: Vec<String>,
}

/// Measures each page, then all at once.
pub(crate) fn section(ours: &Path) -> Result<Section, String> {
    let text = |error: std::io::Error| format!("failed to prepare the dashboard: {error}");
    let program = ours.with_file_name("ha-sync-ui");
    let server = Server::start(&["--innodb-buffer-pool-size=512M", "--innodb-flush-log-at-trx-commit=0"])
        .map_err(|skipped| skipped.to_string())?;
    let directory = tempfile::tempdir().map_err(text)?;
    let database = server.create_database();
    let dsn = server.dsn(&database);
    let prune = ["prune", "--db-older-than", "10000d", "--db-dsn", &dsn, "--log-dir"];
    let prepared = Command::new(ours).args(prune).arg(directory.path()).output().map_err(text)?;
    if !prepared.status.success() {
        return Err(format!("failed to make the tables: {}", String::from_utf8_lossy(&prepared.stderr)));
    }
    let begun = Instant::now();
    fill(&server, &database);
    let large = one(&server, &database, &format!("SELECT run_id FROM sync_iterations WHERE id = {LARGE_RUNS}"))?;
    let small = one(&server, &database, &format!("SELECT run_id FROM sync_iterations WHERE id = {RUNS}"))?;
    let middle = (LARGE_RUNS * LARGE - LARGE / 2).to_string();
    let rows = one(&server, &database, "SELECT COUNT(*) FROM sync_operations")?;
    eprintln!("   {rows} operations are there after {:.0} s", begun.elapsed().as_secs_f64());
    let dashboard = Command::new(program)
        .args(["--listen", &format!("127.0.0.1:{PORT}"), "--lock", "none", "--log-dir"])
        .arg(directory.path())
        .env("HA_SYNC_DB_DSN", &dsn)
        .stderr(Stdio::null())
        .spawn()
        .map(Dashboard)
        .map_err(text)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", PORT)).is_err() {
        if Instant::now() > deadline {
            return Err("the dashboard does not listen".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let targets: Vec<String> = TARGETS
        .iter()
        .map(|target| target.replace("{large}", &large).replace("{small}", &small).replace("{middle}", &middle))
        .collect();
    let mut measured = Vec::new();
    for (name, target) in TARGETS.iter().zip(&targets) {
        measured.push((*name, load(std::slice::from_ref(target), TIME)?));
    }
    measured.push(("all of them in turn", load(&targets, TIME * 3)?));
    let version = server.sql("", "SELECT VERSION()").remove(0);
    Ok(report(&measured, &version, &rows, peak_kib(dashboard.0.id())))
}

fn one(server: &Server, database: &str, sql: &str) -> Result<String, String> {
    server.sql(database, sql).pop().ok_or_else(|| format!("no row: {sql}"))
}

/// Makes six pairs in two directions that run every 15 minutes; the first run of each direction is large.
fn fill(server: &Server, database: &str) {
    server.sql(
        database,
        &format!(
            "INSERT INTO sync_iterations (id, run_id, sync_pair, direction, src, dest, started_at, ended_at, status, \
             dry_run, files_created, files_updated, files_deleted, files_skipped, files_failed, \
             total_bytes_transferred, error_message) \
             SELECT seq, CONCAT(DATE_FORMAT(at, '%Y%m%dT%H%i%SZ-'), LPAD(LOWER(HEX(seq)), 8, '0')), \
             ELT(1 + seq % 6, 'ai', 'games', 'infra', 'media', 'owncloud', 'photos'), \
             IF(seq DIV 6 % 2, 'dell-to-hp', 'hp-to-dell'), '/mnt/a/x', '/mnt/b/x', at, at + INTERVAL 3 SECOND, \
             ELT(1 + (seq % 97 = 0) + 2 * (seq % 211 = 0), 'success', 'partial_failure', 'failed', 'failed'), \
             seq % 50 = 49, 3, 2, 1, 8000, seq % 97 = 0, seq * 12345, IF(seq % 97 = 0, 'an operation failed', NULL) \
             FROM (SELECT seq, UTC_TIMESTAMP(3) - INTERVAL ({RUNS} - seq) * 75 SECOND AS at FROM seq_1_to_{RUNS}) AS runs"
        ),
    );
    // as many in the other runs as are left
    let small = (OPERATIONS - LARGE_RUNS * LARGE) / (RUNS - LARGE_RUNS);
    // a number counts within its run, but may begin anywhere
    let insert = |from: u64, to: u64, iteration: &str| {
        server.sql(
            database,
            &format!(
                "INSERT INTO sync_operations (iteration_id, seq, dry_run, operation, filepath, size_before, size_after, \
                 md5_after, started_at, ended_at, status, error_message) \
                 SELECT {iteration}, seq, 0, ELT(1 + (seq % 10 > 6) + (seq % 10 > 8), 'create', 'update', 'delete'), \
                 CONCAT(ELT(1 + seq % 3, 'photos', 'albums', 'documents'), '/', 2015 + seq % 11, '/event-', \
                 LPAD(seq DIV 77 % 20000, 5, '0'), '/IMG_', LPAD(seq % 10000, 4, '0'), '.jpg'), \
                 seq % 1000000, seq % 1000003, MD5(seq), '2026-04-13 15:23:57.123', '2026-04-13 15:23:57.223', \
                 IF(seq % 50021 = 0, 'fail', 'success'), IF(seq % 50021 = 0, 'permission denied', NULL) \
                 FROM seq_{from}_to_{to}"
            ),
        );
    };
    for run in 1..=LARGE_RUNS {
        insert((run - 1) * LARGE + 1, run * LARGE, &run.to_string());
    }
    let mut from = LARGE_RUNS * LARGE;
    while from < OPERATIONS {
        let to = (from + LARGE).min(OPERATIONS);
        let iteration = format!("LEAST({} + (seq - {} - 1) DIV {small}, {RUNS})", LARGE_RUNS + 1, LARGE_RUNS * LARGE);
        insert(from + 1, to, &iteration);
        from = to;
    }
    server.sql(database, "ANALYZE TABLE sync_iterations, sync_operations");
}

/// Is what one load has shown, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, share: f64) -> f64 {
        let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(index).map_or(f64::NAN, Duration::as_secs_f64) * 1000.0
    }
}

/// Lets the clients ask for a time, each on a connection of its own, the next request after the answer.
fn load(targets: &[String], time: Duration) -> Result<Times, String> {
    let deadline = Instant::now() + time;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let targets = targets.to_vec();
            std::thread::spawn(move || ask(&targets, client, deadline))
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.join().map_err(|_| "a client panicked".to_owned())?.map_err(|error| error.to_string())?);
    }
    times.sort();
    Ok(Times(times))
}

fn ask(targets: &[String], client: usize, deadline: Instant) -> std::io::Result<Vec<Duration>> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", PORT))?);
    stream.get_ref().set_nodelay(true)?;
    let mut times = Vec::new();
    let mut body = Vec::new();
    for target in targets.iter().cycle().skip(client) {
        if Instant::now() >= deadline {
            break;
        }
        let begun = Instant::now();
        write!(stream.get_mut(), "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut length = 0;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(format!("{target}: {line}")));
        }
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            if line == "\r\n" {
                break;
            }
        }
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Returns the peak of the resident memory of a process.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Says which goals were missed; what could not be measured was.
fn missed(measured: &[(&str, Times)], peak_kib: Option<u64>) -> Vec<String> {
    let mut missed = Vec::new();
    let mut judge = |name: &str, what: &str, value: f64, goal: f64, unit: &str| {
        // in this order, since a number that is none is below nothing
        let met = value < goal;
        if !met {
            missed.push(format!("{name}: {what} {value:.1} {unit}, goal < {goal} {unit}"));
        }
    };
    for (name, times) in measured {
        judge(name, "median", times.at(0.5), MEDIAN_GOAL, "ms");
        judge(name, "p99", times.at(0.99), P99_GOAL, "ms");
    }
    judge("memory", "peak", mib(peak_kib), MEMORY_GOAL_MIB, "MiB");
    missed
}

fn mib(kib: Option<u64>) -> f64 {
    kib.map_or(f64::NAN, |kib| kib as f64 / 1024.0)
}

fn report(measured: &[(&str, Times)], version: &str, rows: &str, peak_kib: Option<u64>) -> Section {
    let missed = missed(measured, peak_kib);
    let mut text = format!(
        "\n## {NAME}\n\n{WHAT}.\n\nServer: {version} with a buffer pool of 512 MiB, on the same machine, as are the \
         dashboard and the clients. {rows} operations, in {LARGE_RUNS} runs of {LARGE} and {} of about 260. Each client \
         has a connection and asks again when it has the answer; nothing is cached but the state of all pairs, for a \
         second. Times are in milliseconds. Peak of the dashboard's memory: {:.1} MiB.\n\n\
         Goals: each answer takes less than {MEDIAN_GOAL} ms at the median and less than {P99_GOAL} ms at p99, and the \
         memory stays below {MEMORY_GOAL_MIB} MiB. ",
        RUNS - LARGE_RUNS,
        mib(peak_kib)
    );
    if missed.is_empty() {
        text.push_str("All are met.\n");
    } else {
        text.push_str("Missed:\n\n");
        for miss in &missed {
            let _ = writeln!(text, "- {miss}");
        }
    }
    text.push_str("\n| answer | requests a second | median | p99 | most | goals |\n|---|--:|--:|--:|--:|---|\n");
    for (name, times) in measured {
        let seconds = if *name == "all of them in turn" { TIME * 3 } else { TIME };
        let met = times.at(0.5) < MEDIAN_GOAL && times.at(0.99) < P99_GOAL;
        let _ = writeln!(
            text,
            "| `{name}` | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
            times.0.len() as f64 / seconds.as_secs_f64(),
            times.at(0.5),
            times.at(0.99),
            times.at(1.0),
            if met { "met" } else { "**missed**" }
        );
    }
    Section { text, missed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: &[u64]) -> Times {
        Times(milliseconds.iter().map(|number| Duration::from_millis(*number)).collect())
    }

    #[test]
    fn goals_that_are_missed_are_named() {
        let fast = || ("/", times(&[10; 200]));
        let section = report(&[fast()], "11.8", "5", Some(20 * 1024));
        assert!(section.missed.is_empty() && section.text.contains("All are met."), "{}", section.text);
        let mut slow_end = vec![10; 195];
        slow_end.extend([250; 5]);
        for (measured, peak, miss) in [
            (("/a", times(&[100; 200])), Some(1), "/a: median 100.0 ms, goal < 100 ms"),
            (("/b", times(&slow_end)), Some(1), "/b: p99 250.0 ms, goal < 250 ms"),
            (("/c", times(&[])), Some(1), "/c: median NaN ms, goal < 100 ms"),
            (("/d", times(&[1])), Some(64 * 1024), "memory: peak 64.0 MiB, goal < 64 MiB"),
            (("/e", times(&[1])), None, "memory: peak NaN MiB, goal < 64 MiB"),
        ] {
            let row = !miss.starts_with("memory");
            let section = report(&[fast(), measured], "11.8", "5", peak);
            assert_eq!(section.missed.first().map(String::as_str), Some(miss));
            assert!(section.text.contains(&format!("- {miss}\n")), "{}", section.text);
            assert_eq!(section.text.matches("**missed**").count(), usize::from(row), "{}", section.text);
        }
    }
}
