//! The cases and their goals.

use ha_testkit::loopmount::FileSystem;

use crate::data::Shape;
use crate::tool::Tool;

/// What lies on the source.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Data {
    Tree(Shape),
    /// 20 files of 500 MB, times the scale.
    Large,
    /// 1 TiB, 8 MiB of it data.
    Sparse,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Both sides are equal; each tool has run once before.
    Nothing,
    /// The same, then one file in a hundred is rewritten at the source.
    Changes,
    /// The destination is empty; the source is in the page cache.
    Copy,
}

/// What ours must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Wall time as a part of another tool's.
    Wall { of: Tool, most: f64 },
    /// Peak memory in MiB.
    Memory { most: f64 },
    /// Peak memory as a part of another tool's.
    Peak { of: Tool, most: f64 },
    /// Wall time in seconds.
    Seconds { most: f64 },
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) data: Data,
    pub(crate) work: Work,
    pub(crate) tools: &'static [Tool],
    /// The tool of ours that the goals are about.
    pub(crate) subject: Tool,
    pub(crate) goals: &'static [Goal],
    pub(crate) kind: FileSystem,
    /// Size of the file system, of which only what is used takes room.
    pub(crate) size: u64,
    /// Room that one copy of the image takes at the end, about.
    pub(crate) used: u64,
    /// Both sides are FUSE mounts that take 0.5 ms for each metadata request.
    pub(crate) slow: bool,
    /// At most this many runs.
    pub(crate) most_runs: u32,
    /// A tool that takes longer is stopped and reported so.
    pub(crate) timeout: u64,
    /// The result is compared with the source once for each tool.
    pub(crate) verify: bool,
}

const MANY: Shape = Shape { files: 200_000, directories: 4_000, mean: 2_048 };
const GIB: u64 = 1 << 30;

pub(crate) fn all() -> Vec<Case> {
    use Tool::{Cp, Ours, OursDelete, OursTwoWay, Rclone, Rsync, Unison};
    let base = || Case {
        name: "nochange-200k",
        what: "200,000 files (2 KB mean, exponential, at most 8 KB) in 4,000 directories on both sides, nothing changed, warm",
        data: Data::Tree(MANY),
        work: Work::Nothing,
        tools: &[OursDelete, Ours, Rsync, Rclone],
        subject: OursDelete,
        goals: &[
            Goal::Wall { of: Rsync, most: 0.5 },
            Goal::Wall { of: Rclone, most: 0.35 },
            Goal::Memory { most: 24.0 },
        ],
        kind: FileSystem::Ext4,
        size: 6 * GIB,
        used: 2 * GIB,
        slow: false,
        most_runs: u32::MAX,
        timeout: 900,
        verify: false,
    };
    let two_way = || Case {
        tools: &[OursTwoWay],
        subject: OursTwoWay,
        goals: &[Goal::Memory { most: 96.0 }],
        most_runs: 1,
        ..base()
    };
    vec![
        Case {
            name: "two-way-nochange-200k",
            what: "the same 200,000 files on both sides, kept in step both ways, nothing changed, warm",
            tools: &[OursTwoWay, Unison],
            goals: &[Goal::Wall { of: Unison, most: 0.5 }, Goal::Peak { of: Unison, most: 0.2 }],
            most_runs: u32::MAX,
            ..two_way()
        },
        Case {
            name: "two-way-100k",
            what: "100,000 files (empty) in 20,000 directories on both sides, both ways, nothing changed; memory only",
            data: Data::Tree(Shape { files: 100_000, directories: 20_000, mean: 0 }),
            used: GIB,
            ..two_way()
        },
        Case {
            name: "two-way-300k",
            what: "300,000 files (empty) in 20,000 directories on both sides, both ways, nothing changed; memory only",
            data: Data::Tree(Shape { files: 300_000, directories: 20_000, mean: 0 }),
            used: GIB,
            ..two_way()
        },
        Case {
            name: "two-way-1m",
            what: "1,000,000 files (empty) in 20,000 directories on both sides, both ways, nothing changed; memory only",
            data: Data::Tree(Shape { files: 1_000_000, directories: 20_000, mean: 0 }),
            size: 16 * GIB,
            used: GIB,
            ..two_way()
        },
        base(),
        Case {
            name: "nochange-1m",
            what: "1,000,000 files (empty: the contents are not read) in 4,000 directories on both sides, nothing changed; memory only",
            data: Data::Tree(Shape { files: 1_000_000, mean: 0, ..MANY }),
            tools: &[OursDelete],
            goals: &[Goal::Memory { most: 28.0 }],
            size: 16 * GIB,
            used: GIB,
            most_runs: 1,
            ..base()
        },
        Case {
            name: "changed-1pct",
            what: "the same 200,000 files, 2,000 of them rewritten at the source",
            work: Work::Changes,
            goals: &[Goal::Wall { of: Rsync, most: 0.7 }],
            verify: true,
            ..base()
        },
        Case {
            name: "initial-200k",
            what: "the same 200,000 files, the destination empty",
            work: Work::Copy,
            tools: &[Ours, Rsync, Rclone, Cp],
            subject: Ours,
            goals: &[Goal::Wall { of: Rsync, most: 0.5 }, Goal::Wall { of: Cp, most: 0.5 }],
            verify: true,
            ..base()
        },
        Case {
            name: "large",
            what: "20 files of 500 MB (times the scale), the destination empty",
            data: Data::Large,
            work: Work::Copy,
            tools: &[Ours, Rsync, Rclone, Cp],
            subject: Ours,
            goals: &[Goal::Wall { of: Cp, most: 1.0 }],
            size: 24 * GIB,
            used: 20_000_000_000,
            most_runs: 3,
            ..base()
        },
        Case {
            name: "sparse-1t",
            what: "one sparse file of 1 TiB with 8 MiB of data, the destination empty",
            data: Data::Sparse,
            work: Work::Copy,
            tools: &[Ours, Cp, Rsync],
            subject: Ours,
            // Its goal is the time of its allocated bytes: any second says that the hole was not read.
            goals: &[Goal::Seconds { most: 1.0 }],
            kind: FileSystem::Xfs,
            size: GIB,
            used: GIB / 8,
            timeout: 60,
            ..base()
        },
        Case {
            name: "latency",
            what: "12,600 files in 252 directories on both sides, 0.5 ms for every metadata request, nothing changed",
            data: Data::Tree(Shape { files: 12_600, directories: 252, mean: 2_048 }),
            tools: &[OursDelete, Ours, Rsync, Rclone],
            goals: &[Goal::Wall { of: Rsync, most: 0.12 }],
            size: GIB,
            used: GIB / 4,
            slow: true,
            most_runs: 3,
            ..base()
        },
        Case {
            name: "wide",
            what: "one directory with 500,000 entries (empty files) on both sides, nothing changed",
            data: Data::Tree(Shape { files: 500_000, directories: 1, mean: 0 }),
            tools: &[OursDelete, Rsync],
            goals: &[Goal::Memory { most: 96.0 }],
            size: 8 * GIB,
            used: GIB,
            most_runs: 3,
            ..base()
        },
        Case {
            name: "wide-initial",
            what: "one directory with 500,000 entries (empty files), the destination empty",
            data: Data::Tree(Shape { files: 500_000, directories: 1, mean: 0 }),
            work: Work::Copy,
            tools: &[Ours, Rsync],
            subject: Ours,
            goals: &[Goal::Memory { most: 96.0 }],
            size: 8 * GIB,
            used: GIB,
            most_runs: 3,
            ..base()
        },
        Case {
            name: "empty-dirs",
            what: "80,000 empty directories on both sides, nothing changed",
            data: Data::Tree(Shape { files: 0, directories: 80_000, mean: 0 }),
            tools: &[OursDelete, Rsync],
            goals: &[Goal::Memory { most: 28.0 }],
            size: 4 * GIB,
            used: GIB,
            most_runs: 3,
            ..base()
        },
        Case {
            name: "empty-dirs-initial",
            what: "80,000 empty directories, the destination empty",
            data: Data::Tree(Shape { files: 0, directories: 80_000, mean: 0 }),
            work: Work::Copy,
            tools: &[Ours, Rsync],
            subject: Ours,
            goals: &[Goal::Memory { most: 28.0 }],
            size: 4 * GIB,
            used: GIB,
            most_runs: 3,
            ..base()
        },
    ]
}
