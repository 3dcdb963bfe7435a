//! The tools, and how each is called.

use std::path::Path;

/// A tool with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// ha-sync with `--delete-missing`.
    OursDelete,
    /// ha-sync.
    Ours,
    /// ha-sync two-way.
    OursTwoWay,
    Unison,
    Rsync,
    Rclone,
    Cp,
}

/// What a command needs to know.
pub(crate) struct Sides<'a> {
    pub(crate) source: &'a Path,
    pub(crate) destination: &'a Path,
    pub(crate) ours: &'a Path,
    pub(crate) logs: &'a Path,
    pub(crate) pair: &'a str,
}

impl Tool {
    /// The word for `--tools`.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Ours | Self::OursDelete | Self::OursTwoWay => "ours",
            Self::Unison => "unison",
            Self::Rsync => "rsync",
            Self::Rclone => "rclone",
            Self::Cp => "cp",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OursDelete => "ha-sync --delete-missing",
            Self::Ours => "ha-sync",
            Self::OursTwoWay => "ha-sync two-way",
            Self::Unison => "unison -batch -fastcheck true",
            Self::Rsync => "rsync -a --delete",
            Self::Rclone => "rclone sync --links",
            Self::Cp => "cp -a",
        }
    }

    pub(crate) fn command(self, sides: &Sides<'_>) -> Vec<String> {
        let path = |path: &Path, end: &str| format!("{}{end}", path.display());
        let (source, destination) = (sides.source, sides.destination);
        let mut words = match self {
            Self::OursTwoWay => vec![
                path(sides.ours, ""),
                "two-way".to_owned(),
                "--a".to_owned(),
                path(source, ""),
                "--b".to_owned(),
                path(destination, ""),
                "--pair".to_owned(),
                sides.pair.to_owned(),
                "--log-dir".to_owned(),
                path(sides.logs, ""),
            ],
            // What ours keeps, too: times, owners, permissions.
            Self::Unison => ["unison", "SOURCE", "DESTINATION", "-batch", "-fastcheck", "true", "-silent", "-times"]
                .into_iter()
                .chain(["-owner", "-group", "-numericids", "-perms", "-1"])
                .map(|word| match word {
                    "SOURCE" => path(source, ""),
                    "DESTINATION" => path(destination, ""),
                    word => word.to_owned(),
                })
                .collect(),
            Self::Ours | Self::OursDelete => vec![
                path(sides.ours, ""),
                "--src".to_owned(),
                path(source, ""),
                "--dest".to_owned(),
                path(destination, ""),
                "--pair".to_owned(),
                sides.pair.to_owned(),
                "--log-dir".to_owned(),
                path(sides.logs, ""),
            ],
            Self::Rsync => {
                vec!["rsync".into(), "-a".into(), "--delete".into(), path(source, "/"), path(destination, "/")]
            }
            Self::Rclone => {
                vec!["rclone".into(), "sync".into(), "--links".into(), path(source, ""), path(destination, "")]
            }
            Self::Cp => vec!["cp".into(), "-a".into(), path(source, "/."), path(destination, "/")],
        };
        if self == Self::OursDelete {
            words.push("--delete-missing".to_owned());
        }
        words
    }
}
