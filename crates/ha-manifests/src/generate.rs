//! Makes the files of a deployment: a kustomize base, components that change it, overlays that put them together.

mod base;
mod jobs;
mod overlays;
mod parts;
mod policies;
mod ui;

pub(crate) use jobs::OWN_VOLUMES;

use crate::inventory::Inventory;

/// Begins every file that was made here; a file without it is somebody's own.
pub const HEADER: &str = "# Made by `ha-sync manifests` from the inventory. Change that: an edit here is lost.\n";

/// The folders that belong to the inventory. What lies in them and is not made from it is in the way.
const OWNED: [&str; 7] = [
    "base",
    "components/live",
    "components/rootless",
    "overlays/production",
    "overlays/rootless",
    "overlays/ingress",
    "overlays/monitoring",
];

/// Is a file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path below the folder of the deployment, with `/`.
    pub path: String,
    /// All of it.
    pub content: String,
}

/// Returns the folders that hold generated files only, below the folder of the deployment.
pub fn owned() -> &'static [&'static str] {
    &OWNED
}

/// Makes all files, in the order of the plan's list.
pub fn files(inventory: &Inventory) -> Vec<File> {
    let mut files = base::files(inventory);
    files.extend(overlays::files(inventory));
    files
}
