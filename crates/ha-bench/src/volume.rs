//! `ha-volume merge` beside `qemu-img convert` of an equivalent qcow2 chain, and `cp --sparse=always` of the merged
//! image: a volume of 1 TiB with 1 GiB of data in three layers.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ha_testkit::loopmount::{FileSystem, Mounted, loop_mount_in, need_tool};

use crate::Options;
use crate::measure::measure;

pub(crate) const NAME: &str = "volume-1t";
pub(crate) const WHAT: &str =
    "ha-volume: a Longhorn volume of 1 TiB with 1 GiB of data in 3 layers becomes one raw image; sources warm";

const SIZE: u64 = 1 << 40;
const MIB: u64 = 1 << 20;
/// Chunks of 1 MiB in each layer, the oldest first. Every chunk has a place of its own in the volume.
const LAYERS: [(&str, u64); 3] = [("volume-snap-a.img", 600), ("volume-snap-b.img", 300), ("volume-head-002.img", 124)];
const TIMEOUT: Duration = Duration::from_secs(300);
/// Ours must have at least this part of the faster one's throughput.
const GOAL: f64 = 0.9;
const MEMORY: f64 = 64.0;

struct Sample {
    wall: f64,
    and_sync: f64,
    peak: f64,
}

/// Measures, and returns a section of the report.
pub(crate) fn run(options: &Options) -> Result<String, String> {
    let qemu = need_tool("qemu-img").map_err(|skipped| skipped.to_string())?;
    let ours = crate::build("ha-volume")?;
    let directory = options.directory.clone().unwrap_or_else(|| PathBuf::from("/dev/shm"));
    let disk = loop_mount_in(&directory, FileSystem::Ext4, 6 << 30).map_err(|skipped| skipped.to_string())?;
    let top = disk.path();
    let replica = top.join("pvc-bench-00000001");
    make(&replica).map_err(|error| format!("failed to make the replica: {error}"))?;
    chain(top, &replica, &ours, &qemu)?;
    command(&ours, &["merge".as_ref(), replica.as_os_str(), "-o".as_ref(), top.join("whole.img").as_os_str()])?;
    let path = |name: &str| top.join(name).display().to_string();
    let out = path("out.img");
    let program = |path: &Path| path.display().to_string();
    let merge = |more: &[&str]| {
        let words = ["merge", "-q"].iter().chain(more).map(|word| (*word).to_owned());
        std::iter::once(program(&ours)).chain(words).chain([program(&replica), "-o".into(), out.clone()]).collect()
    };
    let tools = [
        ("ha-volume merge", merge(&[])),
        ("ha-volume merge --fsync off", merge(&["--fsync", "off"])),
        (
            "qemu-img convert",
            ["convert", "-O", "raw"].map(str::to_owned).into_iter().chain([path("head.qcow2"), out.clone()]).collect(),
        ),
        ("cp --sparse=always", vec!["cp".into(), "--sparse=always".into(), path("whole.img"), out.clone()]),
    ]
    .map(|(name, mut words): (&str, Vec<String>)| {
        if name.starts_with("qemu") {
            words.insert(0, program(&qemu));
        }
        (name, words)
    });
    let mut samples: [Vec<Sample>; 4] = Default::default();
    // The first round warms up.
    for round in 0..=options.runs {
        for ((name, words), samples) in tools.iter().zip(&mut samples) {
            for left in ["out.img", "out.img.ha-volume.json"] {
                let _ = std::fs::remove_file(top.join(left));
            }
            sync(&disk)?;
            let started = Instant::now();
            let sample = measure(words, top, TIMEOUT).map_err(|why| format!("{name}: {why}"))?;
            sync(&disk)?;
            let and_sync = started.elapsed().as_secs_f64();
            let sample = Sample { wall: sample.wall.as_secs_f64(), and_sync, peak: sample.peak_kib as f64 / 1024.0 };
            eprintln!("   {name:<26} {:>8.3} s, with sync {:>7.3} s, {:>6.1} MiB", sample.wall, and_sync, sample.peak);
            if round == 0 {
                same(&top.join("whole.img"), &top.join("out.img"), &ours)?;
            } else {
                samples.push(sample);
            }
        }
    }
    Ok(report(&tools.map(|(name, _)| name), &samples, disk.description()))
}

/// Writes the layers: noise, so that no block is zero.
fn make(replica: &Path) -> std::io::Result<()> {
    std::fs::create_dir(replica)?;
    let mut parent = "";
    let mut place = 0_u64;
    let mut state = 1_u64;
    let mut chunk = vec![0; 1 << 20];
    for (name, chunks) in LAYERS {
        let file = std::fs::File::create(replica.join(name))?;
        file.set_len(SIZE)?;
        for _ in 0..chunks {
            for word in chunk.chunks_exact_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&(state | 1).to_le_bytes());
            }
            file.write_all_at(&chunk, place % (SIZE / MIB) * MIB)?;
            // A step without a common divisor visits every place once.
            place += 1_021;
        }
        std::fs::write(replica.join(format!("{name}.meta")), format!("{{\"Parent\":\"{parent}\"}}"))?;
        parent = name;
    }
    let meta = format!("{{\"Size\":{SIZE},\"Head\":\"volume-head-002.img\",\"Parent\":\"volume-snap-b.img\"}}");
    std::fs::write(replica.join("volume.meta"), meta)
}

/// Makes the equivalent chain: each layer alone as a qcow2 file, and each put over the one before.
fn chain(top: &Path, replica: &Path, ours: &Path, qemu: &Path) -> Result<(), String> {
    let alone = top.join("pvc-alone-00000001");
    let mut below: Option<&str> = None;
    for ((layer, _), name) in LAYERS.iter().zip(["a.qcow2", "b.qcow2", "head.qcow2"]) {
        let failed = |error: std::io::Error| format!("failed to set a layer apart: {error}");
        std::fs::create_dir(&alone).map_err(failed)?;
        std::fs::hard_link(replica.join(layer), alone.join("volume-head-000.img")).map_err(failed)?;
        std::fs::write(alone.join("volume-head-000.img.meta"), "{\"Parent\":\"\"}").map_err(failed)?;
        let file = top.join(name);
        let words =
            ["merge".as_ref(), alone.as_os_str(), "--output-format=qcow2".as_ref(), "-o".as_ref(), file.as_os_str()];
        command(ours, &words)?;
        if let Some(below) = below {
            let words = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below].map(AsRef::as_ref);
            command(qemu, &[&words[..], &[file.as_os_str()]].concat())?;
        }
        below = Some(name);
        for entry in ["volume-head-000.img", "volume-head-000.img.meta"] {
            std::fs::remove_file(alone.join(entry)).map_err(failed)?;
        }
        std::fs::remove_dir(&alone).map_err(failed)?;
    }
    Ok(())
}

fn command(program: &Path, words: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("failed to start {}: {error}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{} {words:?}: {}", program.display(), String::from_utf8_lossy(&output.stderr))),
    }
}

/// Every tool must have made the same image.
fn same(whole: &Path, out: &Path, ours: &Path) -> Result<(), String> {
    let output = Command::new(ours).arg("compare").args([whole, out]).output().map_err(|error| error.to_string())?;
    match String::from_utf8_lossy(&output.stdout).starts_with("no difference") {
        true => Ok(()),
        false => Err(format!("the image differs: {}", String::from_utf8_lossy(&output.stdout))),
    }
}

fn sync(disk: &Mounted) -> Result<(), String> {
    let handle = std::fs::File::open(disk.path()).map_err(|error| format!("failed to open the mount: {error}"))?;
    rustix::fs::syncfs(handle).map_err(|errno| format!("failed to sync: {errno}"))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Compares like with like: what ends on the disk with the others and a sync, what may stay in memory with the others
/// as they are.
fn report(names: &[&str; 4], samples: &[Vec<Sample>; 4], place: &str) -> String {
    let mut text = format!("## {NAME}\n\n{WHAT}.\n\nFile system: {place}.\n\n");
    text.push_str(
        "| tool | runs | wall | and sync | peak | throughput of ha-volume / tool, on the disk | in memory |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    let wall: Vec<_> = samples.iter().map(|samples| median(samples.iter().map(|sample| sample.wall))).collect();
    let synced: Vec<_> = samples.iter().map(|samples| median(samples.iter().map(|sample| sample.and_sync))).collect();
    let peak = |index: usize| samples[index].iter().map(|sample| sample.peak).fold(0.0, f64::max);
    for (index, name) in names.iter().enumerate() {
        let (durable, passing) = (synced[index] / synced[0], wall[index] / wall[1]);
        let ratios = if index < 2 { "| ".to_owned() } else { format!("{durable:.2} | {passing:.2}") };
        let _ = writeln!(
            text,
            "| {name} | {} | {:.3} s | {:.3} s | {:.1} MiB | {ratios} |",
            samples[index].len(),
            wall[index],
            synced[index],
            peak(index),
        );
    }
    let goals = [
        ("when all have the data on the disk", synced[2].min(synced[3]) / synced[0]),
        ("when all may leave them in memory (--fsync off)", wall[2].min(wall[3]) / wall[1]),
    ];
    let verdict = |ok: bool| if ok { "ok" } else { "MISSED" };
    text.push('\n');
    for (when, ratio) in goals {
        let _ =
            writeln!(text, "- {}: throughput ≥ {GOAL} of the faster one's, {when}: {ratio:.2}", verdict(ratio >= GOAL));
    }
    let most = peak(0).max(peak(1));
    let _ = write!(
        text,
        "- {}: peak memory ≤ {MEMORY} MiB: {most:.1} MiB\n\n\
         ha-volume hashes the image and writes its marker. By default it ends when the image is on the disk; the other tools leave the data in memory.\n",
        verdict(most <= MEMORY),
    );
    text
}
