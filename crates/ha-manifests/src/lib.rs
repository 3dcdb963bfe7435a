//! One inventory becomes the manifests of a deployment: [`read`] checks it, [`files`] makes what belongs into the
//! folder, [`schema`] tells editors what an inventory may say. Pure: texts in, texts out.

mod document;
mod fields;
mod generate;
mod inventory;
mod problem;
mod read;
mod schedule;
mod schema;
mod shape;
mod value;
mod write;

pub use generate::{File, HEADER, files, owned};
pub use inventory::{Dashboard, Database, Delete, Inventory, Job, JobKind, Pair, Server, Volume};
pub use problem::Problem;
pub use read::read;
pub use schema::schema;
