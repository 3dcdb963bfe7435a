//! Runs a case: for each run and each tool a fresh copy of the file system, the untimed work, the measurement.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ha_testkit::loopmount::{Mounted, loop_mount_copy, loop_mount_in};
use ha_testkit::passthrough::{Options as FuseOptions, Passthrough};

use crate::Options;
use crate::case::{Case, Data, Work};
use crate::data;
use crate::machine;
use crate::measure::{Sample, measure};
use crate::tool::{Sides, Tool};

const DELAY: Duration = Duration::from_micros(500);

/// One measurement.
pub(crate) struct Run {
    pub(crate) sample: Sample,
    /// How long the file system took afterwards to write out what the tool had left in memory.
    pub(crate) sync: Duration,
}

/// What a tool did in a case.
pub(crate) struct Outcome {
    pub(crate) tool: Tool,
    pub(crate) runs: Vec<Run>,
    pub(crate) failed: Option<String>,
}

/// What came of a case.
pub(crate) struct CaseResult {
    pub(crate) case: Case,
    pub(crate) outcomes: Vec<Outcome>,
    /// File system, its options, and what its image lies on.
    pub(crate) place: String,
    pub(crate) remarks: Vec<String>,
}

pub(crate) fn case(case: Case, options: &Options, ours: &Path) -> Result<CaseResult, String> {
    let mut remarks = Vec::new();
    let runs = options.runs.min(case.most_runs);
    let (directory, scale) = place_for(&case, options, &mut remarks)?;
    let tools: Vec<Tool> = case
        .tools
        .iter()
        .copied()
        .filter(|tool| options.tools.is_empty() || options.tools.iter().any(|word| word == tool.family()))
        .collect();
    let started = Instant::now();
    let fresh = loop_mount_in(&directory, case.kind, case.size).map_err(|skipped| skipped.to_string())?;
    let place = format!("{}, image in {}", fresh.description(), kind_of_place(&directory));
    fill(&case, fresh.path(), scale).map_err(|errno| format!("failed to make the files of {}: {errno}", case.name))?;
    let (image, _keep) = fresh.into_image().ok_or("the file system has no image")?;
    eprintln!("   data made in {:.1} s", started.elapsed().as_secs_f64());

    let mut outcomes: Vec<Outcome> =
        tools.iter().map(|tool| Outcome { tool: *tool, runs: Vec::new(), failed: None }).collect();
    for round in 0..runs {
        for outcome in &mut outcomes {
            if outcome.failed.is_some() {
                continue;
            }
            match one(&case, outcome.tool, round, &image, &directory, ours) {
                Ok(run) => {
                    eprintln!(
                        "   {:<26} {:>8.3} s, then sync {:>6.3} s, {:>7.1} MiB",
                        outcome.tool.name(),
                        run.sample.wall.as_secs_f64(),
                        run.sync.as_secs_f64(),
                        run.sample.peak_kib as f64 / 1024.0
                    );
                    outcome.runs.push(run);
                }
                Err(why) => {
                    eprintln!("   {:<26} failed: {why}", outcome.tool.name());
                    outcome.failed = Some(why);
                }
            }
        }
    }
    Ok(CaseResult { case, outcomes, place, remarks })
}

fn kind_of_place(directory: &Path) -> &'static str {
    // linux/magic.h: TMPFS_MAGIC
    match rustix::fs::statfs(directory).map(|whole| whole.f_type) {
        Ok(0x0102_1994) => "tmpfs (memory)",
        _ => "a file on disk",
    }
}

/// Chooses where the images lie, and how large the large files are.
fn place_for(case: &Case, options: &Options, remarks: &mut Vec<String>) -> Result<(PathBuf, f64), String> {
    // The image that is copied, and the copy; a large case's image holds the source only.
    let images = |scale: f64| match case.data {
        Data::Large => (case.used as f64 * scale * 1.5) as u64,
        _ => case.used * 2,
    };
    let memory = PathBuf::from("/dev/shm");
    let fits = |directory: &Path, scale: f64| {
        let need = images(scale);
        let in_memory = kind_of_place(directory) == "tmpfs (memory)";
        // Inodes and the pages of the file system itself need room as well.
        let spare = if in_memory { 4 << 30 } else { 1 << 30 };
        let page_cache = if matches!(case.data, Data::Large) && in_memory { need } else { 0 };
        machine::free(directory) > need + spare
            && (!in_memory || machine::memory_available() > need + page_cache + spare)
    };
    let candidates = match &options.directory {
        Some(directory) => vec![directory.clone()],
        None => vec![memory, std::env::temp_dir()],
    };
    let scales: &[f64] = match (case.data, options.scale) {
        (Data::Large, None) => &[1.0, 0.5, 0.2, 0.1, 0.05],
        (Data::Large, Some(ref scale)) => &[*scale],
        _ => &[1.0],
    };
    for scale in scales {
        for directory in &candidates {
            if fits(directory, *scale) {
                if matches!(case.data, Data::Large) {
                    remarks.push(format!("files of {:.0} MB (scale {scale})", 500.0 * scale));
                }
                return Ok((directory.clone(), *scale));
            }
        }
    }
    Err(format!("no room for the case {} (about {} MiB)", case.name, images(scales[0]) >> 20))
}

fn fill(case: &Case, root: &Path, scale: f64) -> Result<(), rustix::io::Errno> {
    let sides = [root.join("source"), root.join("destination")];
    for (index, side) in sides.iter().enumerate() {
        rustix::fs::mkdir(side, rustix::fs::Mode::from_raw_mode(0o755))?;
        if index == 0 || case.work != Work::Copy {
            match case.data {
                Data::Tree(shape) => shape.make(side)?,
                Data::Large => data::large(side, 20, (500_000_000.0 * scale) as u64)?,
                Data::Sparse => data::sparse(side, 1 << 40, 64)?,
            }
        }
        data::settle(side)?;
    }
    Ok(())
}

fn one(case: &Case, tool: Tool, round: u32, image: &Path, directory: &Path, ours: &Path) -> Result<Run, String> {
    let disk = loop_mount_copy(directory, case.kind, image).map_err(|skipped| skipped.to_string())?;
    let home = tempfile::Builder::new()
        .prefix("ha-bench-home-")
        .tempdir_in(directory)
        .map_err(|error| format!("failed to make a home for the tools: {error}"))?;
    let logs = home.path().join("logs");
    std::fs::create_dir(&logs).map_err(|error| format!("failed to make {}: {error}", logs.display()))?;
    let real = [disk.path().join("source"), disk.path().join("destination")];
    let slow: Vec<Passthrough> = if case.slow {
        // As NFS does by default, directories are cached for a while. Without that, a tool that names whole paths would
        // pay for each of their directories again and again, and the comparison would flatter us.
        let options = FuseOptions { directories_cached_for: Duration::from_secs(30), ..FuseOptions::default() };
        let mount = |side: &PathBuf| Passthrough::mount(side, &options).map_err(|why| why.to_string());
        real.iter().map(mount).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    let side = |index: usize| slow.get(index).map_or(real[index].as_path(), Passthrough::path);
    // The lock is one per pair and host.
    let pair = format!("bench-{}-{round}", std::process::id());
    let sides = Sides { source: side(0), destination: side(1), ours, logs: &logs, pair: &pair };
    let command = tool.command(&sides);
    let timeout = Duration::from_secs(case.timeout);

    match case.work {
        Work::Nothing | Work::Changes => {
            measure(&command, home.path(), timeout).map_err(|why| format!("in the run that warms up: {why}"))?;
        }
        Work::Copy if matches!(case.data, Data::Sparse) => {}
        Work::Copy => read_all(&real[0]).map_err(|error| format!("failed to read the source: {error}"))?,
    }
    if let (Work::Changes, Data::Tree(shape)) = (case.work, case.data) {
        shape.change(&real[0], round).map_err(|errno| format!("failed to change files: {errno}"))?;
    }
    sync(&disk)?;
    for mount in &slow {
        mount.set_delay(DELAY);
    }
    let sample = measure(&command, home.path(), timeout)?;
    for mount in &slow {
        mount.set_delay(Duration::ZERO);
    }
    let started = Instant::now();
    sync(&disk)?;
    let sync = started.elapsed();
    // A tool that does nothing is fast; ours has at least written its records when it has run.
    let records = std::fs::read_dir(&logs).map(Iterator::count).unwrap_or(0);
    if tool.family() == "ours" && records == 0 {
        return Err("it ended well but wrote neither a log nor a database".to_owned());
    }
    if case.verify && round == 0 {
        verify(&real)?;
    }
    Ok(Run { sample, sync })
}

fn sync(disk: &Mounted) -> Result<(), String> {
    let handle = std::fs::File::open(disk.path()).map_err(|error| format!("failed to open the mount: {error}"))?;
    rustix::fs::syncfs(handle).map_err(|errno| format!("failed to sync: {errno}"))
}

/// Brings a tree into the page cache.
fn read_all(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_all(&entry.path())?;
        } else {
            std::io::copy(&mut std::fs::File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

/// Asks rsync what it would still have to do, contents included.
fn verify(sides: &[PathBuf; 2]) -> Result<(), String> {
    let output = std::process::Command::new("rsync")
        .args([
            "-a",
            "--delete",
            "--checksum",
            "--dry-run",
            "--itemize-changes",
            "--exclude=/.ha-sync",
            "--omit-dir-times",
        ])
        .arg(format!("{}/", sides[0].display()))
        .arg(format!("{}/", sides[1].display()))
        .output()
        .map_err(|error| format!("failed to start rsync: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let different: Vec<_> = text.lines().take(3).collect();
    if output.status.success() && different.is_empty() {
        Ok(())
    } else {
        Err(format!("the sides differ afterwards: {}", different.join("; ")))
    }
}
