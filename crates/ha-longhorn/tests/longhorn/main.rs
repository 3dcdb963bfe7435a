//! The formats of Longhorn against what the real engine wrote, and against a model of the engine.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

mod engine;
mod fixtures;
mod fuzz;
mod locks;
mod manifest;
mod model;

use std::path::Path;

use ha_longhorn::backing;
use ha_longhorn::layered::{Image, Layered, Reading};
use ha_longhorn::replica::Replica;
use sha2::{Digest as _, Sha256};

/// Opens the layers of a replica as the tool does.
fn layered(replica: &Replica, snapshot: Option<&str>, below: Option<&Path>, reading: Reading) -> Layered {
    let chain = replica.chain_from(snapshot).unwrap();
    let layers = chain.iter().map(|name| replica.open_layer(name).unwrap()).collect();
    let below = below.map(|path| backing::open(path).unwrap());
    Layered::new(replica.size, layers, below, reading).unwrap()
}

/// Reads a whole image and returns its SHA-256.
fn sha256(image: &mut dyn Image) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < image.size() {
        let length = usize::try_from(image.size() - position).unwrap().min(buffer.len());
        image.read_at(position, &mut buffer[..length]).unwrap();
        hash.update(&buffer[..length]);
        position += length as u64;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256_of(path: &Path) -> String {
    sha256(&mut *backing::open(path).unwrap())
}
