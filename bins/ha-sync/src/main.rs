//! The command `ha-sync`.
fn main() {}
