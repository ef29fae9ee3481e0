//! A disk in memory for this crate's tests: a change is visible at once and durable after its sync; it stops at a chosen step, and gives the images that a
//! crash may leave.

use crate::{Disk, Entry, Finding, LayerId, Mode, Record, Store};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file's content: what is seen, and what is safe.
#[derive(Clone, Debug, Default)]
struct Node {
    seen: Vec<u8>,
    safe: Vec<u8>,
}

/// A change of names that no folder sync has made safe: all its parts happen or none.
#[derive(Clone, Debug)]
struct Change {
    set: Vec<(PathBuf, Option<usize>)>,
    /// Of a rename, the old name: whatever has that when the change happens gets the new one, which is something else if an earlier change was lost.
    from: Option<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct State {
    folders: BTreeSet<PathBuf>,
    nodes: Vec<Node>,
    seen: BTreeMap<PathBuf, usize>,
    safe: BTreeMap<PathBuf, usize>,
    pending: Vec<Change>,
    steps: Vec<&'static str>,
    stop_after: Option<usize>,
    full: bool,
    broken: Option<(&'static str, io::ErrorKind)>,
}

/// What a crash does to changes that no sync made safe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
    /// Each by the next bit of this number.
    Some(u64),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

pub(crate) fn path(text: &str) -> &Path {
    Path::new(text)
}

pub(crate) fn id(text: &str) -> LayerId {
    LayerId::stored(text).unwrap()
}

pub(crate) fn device(number: u32) -> crate::DeviceId {
    crate::DeviceId::new(number).unwrap()
}

pub(crate) fn record(number: u32, transaction_id: u64) -> Record {
    Record::new(device(number), 10 << 30, transaction_id)
}

impl MemoryDisk {
    /// A disk with these files, all safe.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let disk = Self::default();
        for (name, content) in files {
            disk.plant(name, content.as_bytes());
        }
        disk
    }

    pub(crate) fn plant(&self, name: &str, content: &[u8]) {
        let mut state = self.0.lock();
        let name = PathBuf::from(name);
        state.folders.extend(name.ancestors().skip(1).map(Path::to_owned));
        let node = state.add(Node { seen: content.to_vec(), safe: content.to_vec() });
        state.seen.insert(name.clone(), node);
        state.safe.insert(name, node);
    }

    pub(crate) fn open(&self, mode: Mode) -> (Store, Vec<Finding>) {
        Store::open(Arc::new(self.clone()), mode).unwrap()
    }

    /// Opened for writing, at this pool transaction id.
    pub(crate) fn store(&self, pool: u64) -> Store {
        let store = self.open(Mode::ReadWrite).0;
        assert_eq!(store.recovery(pool), crate::Recovery::Clean);
        store
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let content = self.read(path(name)).ok()?;
        Some(String::from_utf8(content).unwrap())
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .list(path(folder))
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What it did since the last call.
    pub(crate) fn take_steps(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().steps)
    }

    /// After this many steps each further one fails, as after a crash.
    pub(crate) fn stop_after(&self, steps: usize) {
        let mut state = self.0.lock();
        state.steps.clear();
        state.stop_after = Some(steps);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// From now on this call fails; reading, only of a file called `bad`.
    pub(crate) fn break_call(&self, call: &'static str, kind: io::ErrorKind) {
        self.0.lock().broken = Some((call, kind));
    }

    pub(crate) fn mend(&self) {
        self.0.lock().broken = None;
    }

    /// The disk as the next start finds it.
    pub(crate) fn image(&self, unsynced: Unsynced) -> Self {
        let state = self.0.lock();
        let mut bits = 0;
        let mut keep = || match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Some(seed) => {
                bits += 1;
                (seed >> (bits % 64)) & 1 == 1
            }
        };
        let mut names = state.safe.clone();
        for change in &state.pending {
            if keep() {
                apply(&mut names, change);
            }
        }
        let mut image = State { folders: state.folders.clone(), ..State::default() };
        for (name, node) in names {
            let Node { seen, safe } = &state.nodes[node];
            // What was not synced may have arrived in part.
            let content = match (keep(), seen == safe) {
                (_, true) | (false, _) => safe.clone(),
                (true, false) if keep() || matches!(unsynced, Unsynced::Kept) => seen.clone(),
                (true, false) => seen[..seen.len() / 2].to_vec(),
            };
            let node = image.add(Node { seen: content.clone(), safe: content });
            image.seen.insert(name.clone(), node);
            image.safe.insert(name, node);
        }
        Self(Arc::new(Mutex::new(image)))
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    let moved = change.from.as_ref().and_then(|from| names.get(from)).copied();
    for (name, node) in &change.set {
        match node {
            Some(node) => names.insert(name.clone(), moved.unwrap_or(*node)),
            None => names.remove(name),
        };
    }
}

fn above(name: &Path) -> PathBuf {
    name.parent().unwrap_or(path("")).to_owned()
}

impl State {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn step(&mut self, call: &'static str) -> io::Result<()> {
        if self.stop_after.is_some_and(|stop| self.steps.len() >= stop) {
            return Err(io::Error::other("the machine is off"));
        }
        if let Some((broken, kind)) = self.broken
            && broken == call
        {
            return Err(kind.into());
        }
        self.steps.push(call);
        Ok(())
    }

    fn node(&self, name: &Path) -> io::Result<usize> {
        self.seen.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.pending.push(change);
    }
}

impl Disk for MemoryDisk {
    fn read(&self, name: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        if let Some(("read", kind)) = state.broken
            && name.ends_with("bad")
        {
            return Err(kind.into());
        }
        Ok(state.nodes[state.node(name)?].seen.clone())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.lock();
        if !state.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |name: &Path, is_dir| Entry { name: name.file_name().unwrap().to_owned(), is_dir };
        let inside = |name: &&PathBuf| name.parent() == Some(folder);
        let files = state.seen.keys().filter(inside).map(|name| entry(name, false));
        let folders = state.folders.iter().filter(inside).map(|name| entry(name, true));
        Ok(files.chain(folders).collect())
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.full && !state.folders.contains(folder) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.step("make_folder")?;
        state.folders.extend(folder.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn write(&self, name: &Path, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step("write")?;
        if !state.folders.contains(&above(name)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let node = match state.node(name) {
            Ok(node) => node,
            Err(_) => {
                let node = state.add(Node::default());
                state.change(Change { set: vec![(name.to_owned(), Some(node))], from: None });
                node
            }
        };
        let full = state.full;
        state.nodes[node].seen = content[..if full { content.len() / 3 } else { content.len() }].to_vec();
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn overwrite(&self, name: &Path, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = state.node(name)?;
        assert!(content.len() <= 512, "more than a sector may tear");
        assert!(content.len() <= state.nodes[node].seen.len(), "the file must not grow");
        state.step("overwrite")?;
        let node = &mut state.nodes[node];
        node.seen[..content.len()].copy_from_slice(content);
        node.safe = node.seen.clone();
        Ok(())
    }

    fn sync_file(&self, name: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step("sync_file")?;
        let node = state.node(name)?;
        let node = &mut state.nodes[node];
        node.safe = node.seen.clone();
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.step("sync_folder")?;
        if !state.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for mut change in std::mem::take(&mut state.pending) {
            // A change that spans two folders is safe in each by itself.
            let (safe, open) = change.set.into_iter().partition(|(name, _)| above(name) == folder);
            let from = change.from.clone();
            apply(&mut state.safe, &Change { set: safe, from });
            change.set = open;
            if !change.set.is_empty() {
                state.pending.push(change);
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = state.node(from)?;
        state.step("rename")?;
        let set = vec![(to.to_owned(), Some(node)), (from.to_owned(), None)];
        state.change(Change { set, from: Some(from.to_owned()) });
        Ok(())
    }

    fn remove(&self, name: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.node(name)?;
        state.step("remove")?;
        state.change(Change { set: vec![(name.to_owned(), None)], from: None });
        Ok(())
    }
}

/// Runs `act` on a copy of `disk` with a stop after 0, 1, 2, … steps until it gets through, and gives each image that a crash may leave to `check`, with
/// whether `act` had answered.
pub(crate) fn at_every_step(
    make: impl Fn() -> MemoryDisk,
    act: impl Fn(&MemoryDisk) -> bool,
    check: impl Fn(&MemoryDisk, bool),
) -> usize {
    let policies = [Unsynced::Lost, Unsynced::Kept].into_iter();
    let policies: Vec<Unsynced> = policies.chain((0..32).map(Unsynced::Some)).collect();
    for stop in 0..200 {
        let disk = make();
        disk.stop_after(stop);
        let answered = act(&disk);
        for policy in &policies {
            check(&disk.image(*policy), answered);
        }
        if answered {
            return stop;
        }
    }
    panic!("it did not end");
}
