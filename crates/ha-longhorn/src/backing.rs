//! Opens an image file by what it begins with: qcow2, or raw bytes.

use std::path::Path;

use crate::layered::{Image, ImageError, PlainImage};
use crate::qcow2::{self, Qcow2Image};
use crate::source::SourceFile;

/// Opens a raw or qcow2 image, or a block device.
pub fn open(path: &Path) -> Result<Box<dyn Image>, ImageError> {
    open_at(path, 0)
}

pub(crate) fn open_at(path: &Path, depth: usize) -> Result<Box<dyn Image>, ImageError> {
    let file = SourceFile::open(path)?;
    let mut magic = [0; 4];
    file.read_at(0, &mut magic)?;
    if magic == qcow2::MAGIC && !file.is_device() {
        return Ok(Box::new(Qcow2Image::new(file, depth)?));
    }
    Ok(Box::new(PlainImage::new(file)?))
}
