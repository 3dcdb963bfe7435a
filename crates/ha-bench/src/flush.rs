//! The case `flush-1m`: a log of 1,000,000 operations is brought into the database, beside the server's own ways to take
//! the same rows.

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use ha_testkit::mariadb::{PASSWORD, Server};

use crate::measure::{Sample, measure};

pub(crate) const NAME: &str = "flush-1m";
pub(crate) const WHAT: &str = "A log of 1,000,000 operations is flushed into an empty database";
const ROWS: u64 = 1_000_000;
const RUN_ID: &str = "20260413T152357Z-0123abcd";
/// Rows of a statement, as ha-sync's.
const ROWS_OF_INSERT: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    OursSqlite,
    OursMariadb,
    Insert,
    LoadData,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::OursSqlite => "ha-sync, SQLite",
            Self::OursMariadb => "ha-sync, MariaDB",
            Self::Insert => "mariadb, INSERT of 1,000 rows",
            Self::LoadData => "mariadb, LOAD DATA LOCAL INFILE",
        }
    }
}

/// Measures each way so many times in turn, and returns the section of the report.
pub(crate) fn section(runs: u32, ours: &Path) -> Result<String, String> {
    let server = Server::start(&["--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M", "--local-infile=ON"])
        .map_err(|skipped| skipped.to_string())?;
    let directory = tempfile::tempdir().map_err(|error| format!("failed to make a directory: {error}"))?;
    let directory = directory.path();
    let data = Data::write(directory).map_err(|error| format!("failed to write the rows: {error}"))?;
    let mut samples: Vec<(Way, Vec<Sample>)> =
        [Way::OursMariadb, Way::Insert, Way::LoadData, Way::OursSqlite].map(|way| (way, Vec::new())).into();
    for run in 0..runs {
        for (way, samples) in &mut samples {
            let sample = one(*way, run, ours, directory, &data, &server)?;
            eprintln!("   {}: {:.2} s", way.name(), sample.wall.as_secs_f64());
            samples.push(sample);
        }
    }
    let version = server.sql("", "SELECT VERSION()").remove(0);
    Ok(report(&samples, &version))
}

/// The same rows in three forms.
struct Data {
    log: String,
    inserts: String,
    lines: String,
}

impl Data {
    fn write(directory: &Path) -> std::io::Result<Self> {
        let path = |name: &str| directory.join(name).display().to_string();
        let data = Self { log: path("log"), inserts: path("inserts.sql"), lines: path("lines") };
        let mut log = BufWriter::new(std::fs::File::create(&data.log)?);
        let mut inserts = BufWriter::new(std::fs::File::create(&data.inserts)?);
        let mut lines = BufWriter::new(std::fs::File::create(&data.lines)?);
        writeln!(
            log,
            "{{\"type\":\"iteration\",\"run_id\":\"{RUN_ID}\",\"sync_pair\":\"bench\",\"direction\":\"fwd\",\
             \"src\":\"/a\",\"dest\":\"/b\",\"started_at\":\"2026-04-13T15:23:57.123Z\",\"dry_run\":false}}"
        )?;
        for seq in 1..=ROWS {
            let (directory, file) = (seq / 500, seq % 500);
            let path = format!("albums/2019/event-{directory:05}/IMG_{file:04}.jpg");
            let (size, md5) = (seq * 37 % 5_000_000, format!("{:032x}", u128::from(seq) * 0x9e37_79b9_7f4a_7c15_f39c));
            let time = format!(
                "2026-04-13T{:02}:{:02}:{:02}.{:03}",
                15 + seq / 3_600_000,
                seq / 60_000 % 60,
                seq / 1000 % 60,
                seq % 1000
            );
            writeln!(
                log,
                "{{\"type\":\"operation\",\"seq\":{seq},\"operation\":\"create\",\"filepath\":\"{path}\",\
                 \"size_after\":{size},\"bytes\":{size},\"md5_after\":\"{md5}\",\"started_at\":\"{time}Z\",\
                 \"ended_at\":\"{time}Z\",\"status\":\"success\"}}"
            )?;
            let time = time.replace('T', " ");
            if seq % ROWS_OF_INSERT == 1 {
                write!(
                    inserts,
                    "INSERT INTO sync_operations (iteration_id, seq, dry_run, operation, filepath, size_after, md5_after, \
                     started_at, ended_at, status) VALUES "
                )?;
            }
            let end = if seq % ROWS_OF_INSERT == 0 { ";\n" } else { "," };
            write!(inserts, "(1,{seq},0,'create','{path}',{size},'{md5}','{time}','{time}','success'){end}")?;
            writeln!(lines, "1\t{seq}\t0\tcreate\t{path}\t{size}\t{md5}\t{time}\t{time}\tsuccess")?;
        }
        writeln!(
            log,
            "{{\"type\":\"end\",\"ended_at\":\"2026-04-13T16:00:00.000Z\",\"status\":\"success\",\
             \"files_created\":{ROWS},\"files_updated\":0,\"files_deleted\":0,\"files_skipped\":0,\"files_failed\":0,\
             \"total_bytes_transferred\":0,\"skip_reasons\":{{}},\"error_message\":null}}"
        )?;
        log.flush()?;
        inserts.flush()?;
        lines.flush()?;
        Ok(data)
    }
}

fn one(way: Way, run: u32, ours: &Path, directory: &Path, data: &Data, server: &Server) -> Result<Sample, String> {
    let text = |error: std::io::Error| format!("failed to prepare a flush: {error}");
    let logs = directory.join(format!("logs-{way:?}-{run}"));
    let (source, destination) = (directory.join("source"), directory.join("destination"));
    for path in [&logs, &source, &destination] {
        std::fs::create_dir_all(path).map_err(text)?;
    }
    let database = server.create_database();
    let dsn = match way {
        Way::OursSqlite => format!("sqlite:{}", logs.join("audit.db").display()),
        _ => server.dsn(&database),
    };
    // the tables are there before the clock starts
    let prune = ["prune", "--db-older-than", "10000d", "--db-dsn", &dsn, "--log-dir"];
    let prepared = std::process::Command::new(ours).args(prune).arg(&logs).output().map_err(text)?;
    if !prepared.status.success() {
        return Err(format!("failed to make the tables: {}", String::from_utf8_lossy(&prepared.stderr)));
    }
    let client = |input: &str| {
        vec![
            "sh".to_owned(),
            "-c".to_owned(),
            format!(
                "MYSQL_PWD='{PASSWORD}' mariadb --no-defaults --user=root --local-infile=1 \
                 --default-character-set=utf8mb4 --socket={} {database} {input}",
                server.socket().display()
            ),
        ]
    };
    let command = match way {
        Way::OursSqlite | Way::OursMariadb => {
            let log = logs.join("opslog-bench-fwd-2026-04-13T15:23:57.123Z.jsonl");
            std::fs::copy(&data.log, &log).map_err(text)?;
            let words = [
                ours.display().to_string(),
                "--quiet".to_owned(),
                format!("--src={}", source.display()),
                format!("--dest={}", destination.display()),
                format!("--log-dir={}", logs.display()),
                format!("--db-dsn={dsn}"),
                "--pair=bench-flush".to_owned(),
            ];
            words.to_vec()
        }
        Way::Insert | Way::LoadData => {
            server.sql(
                &database,
                "INSERT INTO sync_iterations (id, sync_pair, direction, src, dest, started_at) \
                 VALUES (1, 'bench', 'fwd', '/a', '/b', '2026-04-13 15:23:57.123')",
            );
            match way {
                Way::Insert => client(&format!("< {}", data.inserts)),
                _ => client(&format!(
                    "--execute=\"LOAD DATA LOCAL INFILE '{}' INTO TABLE sync_operations (iteration_id, seq, dry_run, \
                     operation, filepath, size_after, md5_after, started_at, ended_at, status)\"",
                    data.lines
                )),
            }
        }
    };
    let sample = measure(&command, directory, Duration::from_secs(900))?;
    if way == Way::OursSqlite {
        std::fs::remove_file(logs.join("audit.db")).map_err(text)?;
    } else {
        let stored = server.sql(&database, "SELECT COUNT(*) FROM sync_operations").remove(0);
        if stored != ROWS.to_string() {
            return Err(format!("{}: {stored} rows instead of {ROWS}", way.name()));
        }
        server.sql("", &format!("DROP DATABASE {database}"));
    }
    Ok(sample)
}

fn report(samples: &[(Way, Vec<Sample>)], version: &str) -> String {
    let median = |samples: &[Sample]| {
        let mut walls: Vec<f64> = samples.iter().map(|sample| sample.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        walls.get(walls.len() / 2).copied().unwrap_or_default()
    };
    let ours = samples.iter().find(|(way, _)| *way == Way::OursMariadb).map_or(0.0, |(_, samples)| median(samples));
    let mut text = format!(
        "\n## {NAME}\n\n{WHAT}.\n\nServer: {version}, its own process on the same machine, one commit made durable for \
         each transaction (`innodb_flush_log_at_trx_commit = 1`, the default). The rows, the tables and the indices are \
         the same each time. ha-sync reads its log and ends a whole run; the client reads prepared statements or lines. \
         INSERT commits every 1,000 rows like ha-sync, LOAD DATA once.\n\n\
         | way | runs | wall | rows a second | peak | ha-sync, MariaDB / way |\n|---|--:|--:|--:|--:|--:|\n"
    );
    for (way, samples) in samples {
        let wall = median(samples);
        let low = samples.iter().map(|sample| sample.wall.as_secs_f64()).fold(f64::INFINITY, f64::min);
        let high = samples.iter().map(|sample| sample.wall.as_secs_f64()).fold(0.0, f64::max);
        let peak = samples.iter().map(|sample| sample.peak_kib).max().unwrap_or(0) as f64 / 1024.0;
        let ratio = if *way == Way::OursMariadb { String::new() } else { format!("{:.2}", ours / wall) };
        let _ = writeln!(
            text,
            "| {} | {} | {wall:.2} s ({low:.2}–{high:.2}) | {:.0} | {peak:.1} MiB | {ratio} |",
            way.name(),
            samples.len(),
            ROWS as f64 / wall
        );
    }
    text
}
