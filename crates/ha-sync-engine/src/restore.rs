//! Lists, puts back and prunes what runs replaced or deleted at a root.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter::{self, OWN_DIRECTORY};
use ha_sync_core::name::RunId;
use ha_sync_core::path::{RelPath, unescape};
use ha_sync_fs::commit::{self, CommitError, Ways};
use ha_sync_fs::trash::{self, TRASH};
use ha_sync_fs::{Dir, FsError, Root};
use jiff::Timestamp;
use rustix::fs::Mode;
use rustix::io::Errno;
use serde::Deserialize;

/// Is one entry in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// The run that put it there.
    pub run: RunId,
    /// Where it was.
    pub path: RelPath,
    /// Whether it is a file, a link, or a directory that was removed empty.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When it was modified.
    pub mtime: Time,
}

/// Is what to do with one entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is (in a dry run: would be) at its place again.
    Done,
    /// It is at its place; what was there went to the trash of this restore.
    Replaced,
    /// Something else is at its place.
    Occupied,
    /// It could not be put back.
    Failed(String),
}

/// Is a line of the record of removed directories.
#[derive(Debug, Deserialize)]
struct Removed {
    path: String,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

fn run_path(run: &RunId) -> RelPath {
    trash_path().join(run.as_str().as_bytes())
}

fn trash_path() -> RelPath {
    RelPath::root().join(OWN_DIRECTORY).join(TRASH)
}

fn is_absent(error: &FsError) -> bool {
    error.errno() == Some(Errno::NOENT)
}

/// Lists the runs that have something in the trash of a root, oldest first.
pub fn runs(root: &Root) -> Result<Vec<RunId>, FsError> {
    let listing = match root.open_dir(&trash_path()).and_then(|directory| directory.list()) {
        Ok(listing) => listing,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut runs: Vec<RunId> = (0..listing.len())
        .filter_map(|index| {
            let name = std::str::from_utf8(listing.name(index)).ok()?;
            name.strip_suffix(".directories.jsonl").unwrap_or(name).parse().ok()
        })
        .collect();
    runs.dedup();
    Ok(runs)
}

/// Goes through everything that a run put in the trash: directories before what was in them. `path` limits it to
/// one path and what is below it.
pub fn list(root: &Root, run: &RunId, path: Option<&RelPath>, take: &mut dyn FnMut(&Trashed)) -> Result<(), FsError> {
    let wanted = |candidate: &RelPath| path.is_none_or(|wanted| is_at_or_below(candidate, wanted));
    for (directory, removed) in removed_directories(root, run)? {
        // One that is there again has nothing left to restore.
        if wanted(&directory) && root.open_dir(&directory).is_err() {
            let mtime = Time(removed.mtime.into());
            take(&Trashed { run: run.clone(), path: directory, kind: Kind::Directory, size: 0, mtime });
        }
    }
    let top = run_path(run);
    let mut stack = vec![RelPath::root()];
    while let Some(below) = stack.pop() {
        let place = if below.is_root() { top.clone() } else { top.join(below.as_bytes()) };
        let directory = match root.open_dir(&place) {
            Ok(directory) => directory,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        let listing = directory.list()?;
        for index in (0..listing.len()).rev() {
            let name = listing.name(index);
            let path = below.join(name);
            match directory.find(name)? {
                Some(entry) if entry.is_directory() => stack.push(path),
                Some(entry) if wanted(&path) => {
                    take(&Trashed { run: run.clone(), path, kind: entry.kind, size: entry.size, mtime: entry.mtime })
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_at_or_below(path: &RelPath, above: &RelPath) -> bool {
    let (path, above) = (path.as_bytes(), above.as_bytes());
    path.strip_prefix(above).is_some_and(|rest| above.is_empty() || rest.is_empty() || rest[0] == b'/')
}

fn removed_directories(root: &Root, run: &RunId) -> Result<BTreeMap<RelPath, Removed>, FsError> {
    let mut found = BTreeMap::new();
    let file = match root.open_dir(&trash_path()).and_then(|trash| trash.open_file(&trash::directory_record(run))) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(found),
        Err(error) => return Err(error),
    };
    for line in std::io::BufRead::split(std::io::BufReader::new(std::fs::File::from(file)), b'\n') {
        let line =
            line.map_err(|error| FsError::local("read the record of removed directories", root.path(), error))?;
        // A torn last line is of a directory that was not removed.
        let Ok(removed) = serde_json::from_slice::<Removed>(&line) else { continue };
        if let Some(path) = unescape(&removed.path).and_then(RelPath::from_bytes) {
            found.insert(path, removed);
        }
    }
    Ok(found)
}

/// Is what a run removed, by path.
type Records = Rc<BTreeMap<RelPath, Removed>>;

/// Puts entries of the trash back.
pub struct Restore<'a> {
    /// Where they go.
    pub root: &'a Root,
    /// Names this restore: what it replaces goes to the trash under this id.
    pub id: &'a RunId,
    /// Whether what is at an entry's place is replaced.
    pub force: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    ways: Ways,
    /// Directories that were made again, and their times.
    made: RefCell<Vec<(RelPath, Time)>>,
    /// What the run removed whose entries are being put back.
    records: RefCell<Option<(RunId, Records)>>,
}

impl<'a> Restore<'a> {
    /// Makes a restore into a root.
    pub fn new(root: &'a Root, id: &'a RunId, force: bool, dry_run: bool) -> Self {
        let (records, made) = (RefCell::default(), RefCell::default());
        Self { root, id, force, dry_run, ways: Ways::default(), made, records }
    }

    /// Puts one entry back. Directories above it that are gone are made again as they were.
    pub fn put_back(&self, entry: &Trashed) -> Restored {
        self.attempt(entry).unwrap_or_else(|error| Restored::Failed(error.to_string()))
    }

    fn attempt(&self, trashed: &Trashed) -> Result<Restored, CommitError> {
        let Some((parent, name)) = trashed.path.split() else { return Ok(Restored::Occupied) };
        let directory = match self.root.open_dir(&parent) {
            Ok(directory) => Some(directory),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error.into()),
        };
        let present = match &directory {
            Some(directory) => directory.find(name)?,
            None => None,
        };
        if trashed.kind == Kind::Directory {
            return Ok(match present {
                Some(present) if present.is_directory() => Restored::Done,
                Some(_) => Restored::Occupied,
                None if self.dry_run => Restored::Done,
                None => {
                    self.directory(&trashed.run, &trashed.path)?;
                    Restored::Done
                }
            });
        }
        let occupied = present.as_ref().is_some_and(|present| !self.force || present.is_directory());
        if occupied {
            return Ok(Restored::Occupied);
        }
        if self.dry_run {
            return Ok(if present.is_some() { Restored::Replaced } else { Restored::Done });
        }
        let directory = match directory {
            Some(directory) => directory,
            None => self.directory(&trashed.run, &parent)?,
        };
        let place = run_path(&trashed.run);
        let place = if parent.is_root() { place } else { place.join(parent.as_bytes()) };
        let trash = self.root.open_dir(&place)?;
        // Its own temporary name first: from there it is put in place as every run does it.
        let temporary = filter::temporary_name(self.id, 0);
        let Some(kept) = trash.find(name)? else { return Err(CommitError::Changed) };
        commit::carry(&trash, name, &kept, &directory, &temporary)?;
        let result = self.commit(&directory, &parent, &temporary, name, present.as_ref());
        if result.is_err() {
            commit::carry(&directory, &temporary, &kept, &trash, name)?;
        }
        result
    }

    fn commit(
        &self,
        directory: &Dir,
        parent: &RelPath,
        temporary: &[u8],
        name: &[u8],
        present: Option<&Entry>,
    ) -> Result<Restored, CommitError> {
        match present {
            None => commit::create(directory, temporary, name, &self.ways).map(|()| Restored::Done),
            Some(present) => {
                let trash = trash::open(self.root, self.id, parent)?;
                commit::replace(directory, temporary, name, present, Some(&trash), &self.ways)?;
                Ok(Restored::Replaced)
            }
        }
    }

    /// Returns the record of a run; entries come run by run, so one is kept.
    fn records(&self, run: &RunId) -> Result<Records, FsError> {
        let mut held = self.records.borrow_mut();
        if let Some((_, records)) = held.as_ref().filter(|(of, _)| of == run) {
            return Ok(Rc::clone(records));
        }
        let records = Rc::new(removed_directories(self.root, run)?);
        *held = Some((run.clone(), Rc::clone(&records)));
        Ok(records)
    }

    /// Opens a directory, making it and those above it as they were recorded, else for the owner only.
    fn directory(&self, run: &RunId, path: &RelPath) -> Result<Dir, FsError> {
        let records = self.records(run)?;
        let mut current = self.root.open_dir(&RelPath::root())?;
        let mut at = RelPath::root();
        for part in path.components() {
            at = at.join(part);
            match current.open_child(part) {
                Ok(child) => current = child,
                Err(error) if is_absent(&error) => {
                    current.make_directory(part)?;
                    if let Some(record) = records.get(&at) {
                        let _ = current.set_owner_of(part, record.uid, record.gid);
                    }
                    let child = current.open_child(part)?;
                    if let Some(record) = records.get(&at) {
                        rustix::fs::fchmod(&child, Mode::from_raw_mode(record.mode))
                            .map_err(|errno| child.error("set mode of", b"", errno))?;
                        let mtime = Time(record.mtime.into());
                        child.set_mtime(mtime)?;
                        self.made.borrow_mut().push((at.clone(), mtime));
                    }
                    current = child;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(current)
    }

    /// Gives the directories that were made again the times that they had, when everything is back in them.
    pub fn settle(&self) -> Result<(), FsError> {
        for (path, mtime) in self.made.borrow().iter().rev() {
            self.root.open_dir(path)?.set_mtime(*mtime)?;
        }
        Ok(())
    }
}

/// Is what pruning removed, or would.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Runs.
    pub runs: u64,
    /// Files and links.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Removes from the trash of a root what runs that began before `before` put there: an entry's age is its run's.
pub fn prune(root: &Path, before: Timestamp, dry_run: bool) -> Result<Pruned, FsError> {
    let root = Root::open(root, false)?;
    let mut pruned = Pruned::default();
    for run in runs(&root)?.into_iter().filter(|run| run.started() < before) {
        pruned.runs += 1;
        let place = run_path(&run);
        if let Some((parent, name)) = place.split() {
            let parent = root.open_dir(&parent)?;
            if parent.find(name)?.is_some() {
                empty(&root, &place, dry_run, &mut pruned)?;
                if !dry_run {
                    parent.remove_directory(name)?;
                }
            }
            if !dry_run
                && let Err(error) = parent.remove_file(&trash::directory_record(&run))
                && !is_absent(&error)
            {
                return Err(error);
            }
        }
    }
    Ok(pruned)
}

/// Removes everything in a directory of the trash, children first, however deep.
fn empty(root: &Root, top: &RelPath, dry_run: bool, pruned: &mut Pruned) -> Result<(), FsError> {
    let mut stack = vec![(top.clone(), false)];
    while let Some((path, emptied)) = stack.pop() {
        if emptied {
            if let Some((parent, name)) = path.split().filter(|_| path != *top) {
                root.open_dir(&parent)?.remove_directory(name)?;
            }
            continue;
        }
        let directory = root.open_dir(&path)?;
        let listing = directory.list()?;
        if !dry_run {
            stack.push((path.clone(), true));
        }
        for index in 0..listing.len() {
            let name = listing.name(index);
            match directory.find(name)? {
                Some(entry) if entry.is_directory() => stack.push((path.join(name), false)),
                Some(entry) => {
                    pruned.entries += 1;
                    pruned.bytes += entry.size;
                    if !dry_run {
                        directory.remove_file(name)?;
                    }
                }
                None => {}
            }
        }
    }
    Ok(())
}
