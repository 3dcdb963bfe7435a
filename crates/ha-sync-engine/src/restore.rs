//! Lists, puts back and prunes what runs replaced or deleted at a root.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter::{self, OWN_DIRECTORY};
use ha_sync_core::name::RunId;
use ha_sync_core::path::{RelPath, unescape};
use ha_sync_fs::commit::CommitError;
use ha_sync_fs::trash::{self, PutBack, TRASH};
use ha_sync_fs::{Dir, Fence, FsError, Root, attributes};
use jiff::Timestamp;
use rustix::fs::Mode;
use rustix::io::Errno;
use serde::Deserialize;

use crate::closed::is_open_to_owner;
use crate::execute::error_line;

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
    /// Whether it is a directory that went to the trash as it was, or one in such a directory.
    pub whole: bool,
}

/// Is what to do with one entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is (in a dry run: would be) at its place again.
    Done,
    /// It is at its place; what was there went to the trash of this restore.
    Replaced,
    /// Its place is a directory already: what is in it goes back entry by entry.
    Merged,
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
    /// Whether it was not removed: it is in the trash as it was.
    #[serde(default)]
    whole: bool,
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
    let mut keyed = Vec::new();
    for run in runs {
        keyed.push((run.started(), last_change(root, &run)?, run));
    }
    keyed.sort();
    Ok(keyed.into_iter().map(|(_, _, run)| run).collect())
}

/// Says when a run put something in its folder: this tells which of two runs of one second was the later one. A
/// restore sets it back when it takes something out.
fn last_change(root: &Root, run: &RunId) -> Result<Time, FsError> {
    let trash = root.open_dir(&trash_path())?;
    for name in [run.as_str().as_bytes(), &trash::directory_record(run)] {
        if let Some(entry) = trash.find(name)? {
            return Ok(entry.mtime);
        }
    }
    Ok(Time::default())
}

/// Goes through everything that a run put in the trash: directories before what was in them. `path` limits it to
/// one path and what is below it.
pub fn list(root: &Root, run: &RunId, path: Option<&RelPath>, take: &mut dyn FnMut(&Trashed)) -> Result<(), FsError> {
    let wanted = |candidate: &RelPath| path.is_none_or(|wanted| candidate.is_at_or_below(wanted));
    let contents = Contents::read(root, run)?;
    for (directory, removed) in contents.records.iter().filter(|(_, removed)| !removed.whole) {
        // One that is there again has nothing left to restore.
        if wanted(directory) && root.open_dir(directory).is_err() {
            let (path, mtime) = (directory.clone(), Time(removed.mtime.into()));
            take(&Trashed { run: run.clone(), path, kind: Kind::Directory, size: 0, mtime, whole: false });
        }
    }
    let top = run_path(run);
    let mut stack = vec![(RelPath::root(), false)];
    while let Some((below, whole)) = stack.pop() {
        let place = if below.is_root() { top.clone() } else { top.join(below.as_bytes()) };
        let directory = match root.open_dir(&place) {
            Ok(directory) => directory,
            Err(error) if is_absent(&error) => continue,
            // It can be put back all the same, by who may.
            Err(error) if whole && error.errno() == Some(Errno::ACCESS) => continue,
            Err(error) => return Err(error),
        };
        let listing = directory.list()?;
        // What is left of one whose entries all went back into a directory that was there.
        let is_left = whole && listing.is_empty() && root.open_dir(&below).is_ok();
        if whole && wanted(&below) && !is_left {
            let mtime = directory.entry()?.mtime;
            take(&Trashed { run: run.clone(), path: below.clone(), kind: Kind::Directory, size: 0, mtime, whole });
        }
        for index in (0..listing.len()).rev() {
            let name = listing.name(index);
            let path = below.join(name);
            match directory.find(name)? {
                Some(entry) if entry.is_directory() => {
                    let whole = contents.is_whole(&path, &entry, whole);
                    stack.push((path, whole));
                }
                Some(entry) if wanted(&path) => take(&Trashed {
                    run: run.clone(),
                    path,
                    kind: entry.kind,
                    size: entry.size,
                    mtime: entry.mtime,
                    whole: false,
                }),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Is what tells, in the trash of a run, a directory that went there as it was from a folder that was made to hold
/// what was deleted or replaced in a directory.
#[derive(Debug)]
struct Contents {
    records: BTreeMap<RelPath, Removed>,
    run: RunId,
    /// The folder of the run.
    folder: Option<Entry>,
}

impl Contents {
    fn read(root: &Root, run: &RunId) -> Result<Self, FsError> {
        let folder = match root.open_dir(&run_path(run)) {
            Ok(folder) => Some(folder.entry()?),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { records: removed_directories(root, run)?, run: run.clone(), folder })
    }

    /// A record decides. Without one: a folder has the mode and owner of the run's own folder, which was made the
    /// same way, and its time is not before the run.
    fn is_whole(&self, path: &RelPath, entry: &Entry, above: bool) -> bool {
        if let Some(record) = self.records.get(path) {
            return record.whole;
        }
        let like_a_folder = |folder: &Entry| {
            let began = Time(self.run.started().as_nanosecond() - CLOCKS);
            (entry.mode, entry.uid, entry.gid) == (folder.mode, folder.uid, folder.gid) && entry.mtime >= began
        };
        above || !self.folder.as_ref().is_some_and(like_a_folder)
    }
}

/// A file system's clock may differ this much from that which gave a run its id.
const CLOCKS: i128 = 10 * Time::SECOND;

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
    /// Directories that were made again, and their times.
    made: RefCell<Vec<(RelPath, Time)>>,
    /// The run whose entries are being put back.
    contents: RefCell<Option<Rc<Contents>>>,
    /// Numbers temporary names.
    temporaries: Cell<u64>,
}

impl<'a> Restore<'a> {
    /// Makes a restore into a root.
    pub fn new(root: &'a Root, id: &'a RunId, force: bool, dry_run: bool) -> Self {
        let (contents, made) = (RefCell::default(), RefCell::default());
        Self { root, id, force, dry_run, made, contents, temporaries: Cell::new(0) }
    }

    /// Puts one entry back. Directories above it that are gone are made again as they were. `over` says that what is
    /// at its place is an older version that this restore put there.
    pub fn put_back(&self, entry: &Trashed, over: bool) -> Restored {
        match self.attempt(entry, self.force || over) {
            Ok(done) => done,
            Err(CommitError::Changed) => Restored::Failed("it or what is at its place changed meanwhile".to_owned()),
            Err(error) => Restored::Failed(error_line(&error)),
        }
    }

    fn attempt(&self, trashed: &Trashed, force: bool) -> Result<Restored, CommitError> {
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
        if trashed.kind == Kind::Directory && !trashed.whole {
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
        if present.as_ref().is_some_and(Entry::is_directory) {
            return Ok(if trashed.whole { Restored::Merged } else { Restored::Occupied });
        }
        let top = run_path(&trashed.run);
        let place = if parent.is_root() { top } else { top.join(parent.as_bytes()) };
        let trash = self.root.open_dir(&place)?;
        let Some(kept) = trash.find(name)? else { return Err(CommitError::Changed) };
        // A kill between a link and the removal of the other name leaves one file at both.
        let same =
            |present: &Entry| (present.inode, present.device, present.kind) == (kept.inode, kept.device, Kind::File);
        let same = present.as_ref().is_some_and(same);
        if !same && !force && present.is_some() {
            return Ok(Restored::Occupied);
        }
        if self.dry_run {
            return Ok(if present.is_some() && !same { Restored::Replaced } else { Restored::Done });
        }
        let directory = match directory {
            Some(directory) => directory,
            None => self.directory(&trashed.run, &parent)?,
        };
        let before = trash.entry()?.mtime;
        // To move a directory changes what it holds, its `..`, so it must be open to its owner.
        let opened = match kept.is_directory() && !is_open_to_owner(&kept) {
            true => Some(trash.open_child(name)?),
            false => None,
        };
        if let Some(opened) = &opened {
            opened.set_mode(kept.mode | 0o700)?;
        }
        let number = self.temporaries.replace(self.temporaries.get() + 1);
        let temporary = filter::temporary_name(self.id, number);
        let put_back = PutBack { trash: &trash, directory: &directory, name, kept: &kept, temporary: &temporary };
        let done = match &present {
            Some(_) if same => trash.remove_file(name).map(|()| Restored::Done).map_err(CommitError::from),
            Some(present) => {
                let own = trash::open(self.root, self.id, &parent)?;
                put_back.replace(present, &own).map(|()| Restored::Replaced)
            }
            None => match put_back.create() {
                Ok(()) => Ok(Restored::Done),
                Err(CommitError::Changed) => Ok(Restored::Occupied),
                Err(CommitError::Fs(error)) if trashed.whole && error.errno() == Some(Errno::XDEV) => {
                    self.directory(&trashed.run, &trashed.path)?;
                    Ok(Restored::Merged)
                }
                Err(error) => Err(error),
            },
        };
        if let Some(opened) = &opened {
            opened.set_mode(kept.mode)?;
        }
        // Times in the trash tell which run was the later one, and are those of directories that are there whole.
        let _ = trash.set_mtime(before);
        done
    }

    /// Returns what is known of a run; entries mostly come run by run, so one is kept.
    fn contents(&self, run: &RunId) -> Result<Rc<Contents>, FsError> {
        let mut held = self.contents.borrow_mut();
        if let Some(contents) = held.as_ref().filter(|contents| contents.run == *run) {
            return Ok(Rc::clone(contents));
        }
        let contents = Rc::new(Contents::read(self.root, run)?);
        *held = Some(Rc::clone(&contents));
        Ok(contents)
    }

    /// Opens a directory, making it and those above it as they were recorded or are in the trash, else for the owner
    /// only.
    fn directory(&self, run: &RunId, path: &RelPath) -> Result<Dir, FsError> {
        let contents = self.contents(run)?;
        let mut current = self.root.open_dir(&RelPath::root())?;
        let mut kept = self.root.open_dir(&run_path(run)).ok();
        let (mut at, mut whole) = (RelPath::root(), false);
        for part in path.components() {
            at = at.join(part);
            kept = kept.and_then(|kept| kept.open_child(part).ok());
            let entry = match &kept {
                Some(kept) => Some(kept.entry()?),
                None => None,
            };
            whole = entry.as_ref().is_some_and(|entry| contents.is_whole(&at, entry, whole));
            match current.open_child(part) {
                Ok(child) => current = child,
                Err(error) if is_absent(&error) => {
                    let model = kept.as_ref().zip(entry.as_ref()).filter(|_| whole);
                    current = self.make(&current, part, &at, contents.records.get(&at), model)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(current)
    }

    fn make(
        &self,
        parent: &Dir,
        name: &[u8],
        path: &RelPath,
        record: Option<&Removed>,
        model: Option<(&Dir, &Entry)>,
    ) -> Result<Dir, FsError> {
        parent.make_directory(name)?;
        let recorded = record.map(|record| (record.uid, record.gid, record.mode, Time(record.mtime.into())));
        let wanted = recorded.or_else(|| model.map(|(_, entry)| (entry.uid, entry.gid, entry.mode, entry.mtime)));
        let Some((uid, gid, mode, mtime)) = wanted else { return parent.open_child(name) };
        let _ = parent.set_owner_of(name, uid, gid);
        let child = parent.open_child(name)?;
        if let Some((model, _)) = model
            && let Ok(held) = attributes::read(model, true)
        {
            let _ = attributes::write(&child, &held, &Vec::new());
        }
        rustix::fs::fchmod(&child, Mode::from_raw_mode(mode))
            .map_err(|errno| child.error("set mode of", b"", errno))?;
        child.set_mtime(mtime)?;
        self.made.borrow_mut().push((path.clone(), mtime));
        Ok(child)
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
///
/// `fence` is that of the lock under which this is done, when that must be renewed.
pub fn prune(root: &Path, before: Timestamp, dry_run: bool, fence: Option<Arc<Fence>>) -> Result<Pruned, FsError> {
    let root = Root::open(root, false)?.fenced(fence);
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
            let entry = directory.entry()?;
            if !is_open_to_owner(&entry) {
                directory.set_mode(entry.mode | 0o700)?;
            }
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
