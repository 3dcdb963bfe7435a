//! Files of this machine outside the synchronised trees (logs, state, settings), with errors that name the path.
#![allow(clippy::disallowed_methods, reason = "this module is what the ban points to")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::FsError;

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, FsError> {
    fs::read(path).map_err(|error| FsError::local("read", path, error))
}

/// Reads a whole file, nothing when it is absent.
pub fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, FsError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::local("read", path, error)),
    }
}

/// Makes a directory and those above it.
pub fn create_directories(path: &Path) -> Result<(), FsError> {
    fs::create_dir_all(path).map_err(|error| FsError::local("make directory", path, error))
}

/// Replaces a file whole: the content is written beside it, synced, and renamed over it.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(folder(path))?.sync_all()
    };
    write().map_err(|error| {
        // What is left of a write that failed takes space that may be what was missing.
        let _ = fs::remove_file(&beside);
        FsError::local("write", path, error)
    })
}

/// Returns the directory that a path is in. The parent of a bare name is written as nothing.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Is a file that is written beside another one and takes its place when it is whole. Dropped before that, it goes.
#[derive(Debug)]
pub struct Replacement {
    file: fs::File,
    beside: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Replacement {
    /// Begins a file that is to replace `path`, named `<its name>.<mark>.new` until then. Others of that form are
    /// what dead writers left, and are removed: there is one writer at a time.
    pub fn begin(path: &Path, mark: &str) -> Result<Self, FsError> {
        let mut stem = path.file_name().unwrap_or_default().to_owned();
        stem.push(".");
        let is_left = |found: &PathBuf| {
            let name = found.file_name().unwrap_or_default().as_encoded_bytes();
            name.starts_with(stem.as_encoded_bytes()) && name.ends_with(b".new")
        };
        for left in list(folder(path))?.iter().filter(|found| is_left(found)) {
            remove(left)?;
        }
        let mut name = stem;
        name.push(format!("{mark}.new"));
        let beside = path.with_file_name(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&beside);
        let file = file.map_err(|error| FsError::local("make", &beside, error))?;
        Ok(Self { file, beside, path: path.to_owned(), committed: false })
    }

    /// Makes the content durable and puts it in place of the other file.
    pub fn commit(mut self) -> Result<(), FsError> {
        let put = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.beside, &self.path)?;
            fs::File::open(folder(&self.path))?.sync_all()
        };
        put().map_err(|error| FsError::local("write", &self.path, error))?;
        self.committed = true;
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.file.write(content)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Gives a file or a directory a name at which nothing is, and makes the name durable. `EEXIST` says that something is
/// there.
pub fn rename_new(from: &Path, to: &Path) -> Result<(), FsError> {
    let failed = |errno| FsError::new("rename to", crate::error::printable_path(to), errno);
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // Some file systems, NFS among them, know no flags. A link replaces nothing either; a directory has none, and
        // replaces nothing but an empty one.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if is_directory(from) => {
            rustix::fs::renameat(CWD, from, CWD, to).map_err(failed)?;
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()).map_err(failed)?;
            remove(from)?;
        }
        Err(errno) => return Err(failed(errno)),
    }
    sync_parent(to);
    Ok(())
}

/// Makes durable what names a directory has. One that cannot be synced is no failure of what lies in it.
pub fn sync_parent(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = fs::File::open(parent).and_then(|parent| parent.sync_all());
}

/// Opens a file to read, nothing when it is absent.
pub fn open_if_present(path: &Path) -> Result<Option<fs::File>, FsError> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::local("open", path, error)),
    }
}

/// Appends to a file, making it when it is absent.
pub fn append(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let write =
        || -> io::Result<()> { fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(content) };
    write().map_err(|error| FsError::local("write", path, error))
}

/// Removes a file; that it is absent already is no error.
pub fn remove(path: &Path) -> Result<(), FsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FsError::local("remove", path, error)),
        _ => Ok(()),
    }
}

/// Lists a directory's paths, sorted; none when it is absent.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, FsError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FsError::local("list directory", path, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| FsError::local("list directory", path, error))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Opens an unnamed file in a directory, gone when it is closed.
pub fn unnamed_file(directory: &Path) -> Result<fs::File, FsError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)) {
        Ok(handle) => return Ok(handle.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(FsError::local("make a temporary file in", directory, errno.into())),
    }
    let mut random = [0; 8];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let path = directory.join(format!(".plan-{:016x}", u64::from_le_bytes(random)));
    let open = || -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    };
    open().map_err(|error| FsError::local("make a temporary file", &path, error))
}

/// Tells whether a path is a directory that can be looked at.
pub fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|entry| entry.is_dir())
}

/// Tells whether something is at a path.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Returns the name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the one path of a directory that may be spelled in several ways: links resolved, no slash at its end. One
/// that is not there is returned as it is spelled, without the slash.
pub fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.components().collect())
}
