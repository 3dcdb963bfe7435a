//! The Linux file system as ha-sync uses it: every access is relative to a directory handle and follows no link,
//! every replacement is one rename, every error names the step and the path.

mod raw;

pub mod attributes;
pub mod commit;
pub mod content;
pub mod dir;
pub mod error;
pub mod fence;
pub mod local;
pub mod lock;
pub mod mounts;
pub mod probe;
pub mod root;
pub mod trash;

pub use dir::{Dir, Listing};
pub use error::FsError;
pub use fence::Fence;
pub use root::Root;
