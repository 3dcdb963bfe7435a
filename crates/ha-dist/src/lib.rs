//! Makes what is handed out, with no container engine: archives, images, lists of what is inside. The program beside it
//! builds the binaries and writes the files.

pub mod archive;
pub mod digest;
pub mod elf;
pub mod image;
pub mod sbom;
