//! The first of two ways through the trees: which directories hold changes, found in parallel and in any order.
//!
//! Both trees are walked directory by directory; neither is held. What stays in memory is a set of the directories that hold changes,
//! one of the files that only a look into them told apart, and [`Links`].

use crate::compare::{CompareOptions, Pair, Rules, Verdict, by_look, by_metadata};
use crate::error::{Error, Result};
use crate::links::Links;
use crate::names::{Merge, Names, Side};
use crate::tree::{Id, Metadata, Tree, metadata, metadata_of};
use nix::dir::Dir;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the first way found; all ids are the new tree's.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Directories of both trees in which, at any depth, something changed.
    pub(crate) changed: HashSet<Id>,
    /// Files that differ, though their metadata does not.
    pub(crate) looked: HashSet<Id>,
    /// Files to be sent under all their names.
    pub(crate) resend: HashSet<Id>,
}

/// A directory of the new tree.
#[derive(Debug)]
struct Place {
    path: Vec<u8>,
    id: Id,
    in_both: bool,
    parent: Option<Arc<Place>>,
    marked: AtomicBool,
}

struct Work<'a> {
    old: &'a Tree,
    new: &'a Tree,
    options: &'a CompareOptions,
    /// Of an earlier survey: looks need no repeating, and its files to be sent count as changes.
    earlier: Option<&'a Survey>,
    queue: Mutex<Queue>,
    wake: Condvar,
    found: Mutex<Survey>,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Queue {
    places: Vec<Arc<Place>>,
    busy: usize,
    failed: Option<Error>,
}

/// Compares two trees.
pub(crate) fn survey(old: &Tree, new: &Tree, options: &CompareOptions) -> Result<Survey> {
    let (mut found, links) = run(old, new, options, None)?;
    if options.rules == Rules::Full {
        found.resend = links.resend();
    }
    if found.resend.is_empty() {
        return Ok(found);
    }
    // The names of files to be sent lie in directories that may hold no other change.
    let (again, _) = run(old, new, options, Some(&found))?;
    found.changed = again.changed;
    Ok(found)
}

fn run(
    old: &Tree,
    new: &Tree,
    options: &CompareOptions,
    earlier: Option<&Survey>,
) -> Result<(Survey, Links)> {
    let root = metadata_of(new.root())
        .map_err(|errno| Error::system("compare", b"/", "it cannot be read", errno))?;
    let place =
        Place { path: Vec::new(), id: root.id, in_both: true, parent: None, marked: AtomicBool::new(false) };
    let work = Work {
        old,
        new,
        options,
        earlier,
        queue: Mutex::new(Queue { places: vec![Arc::new(place)], ..Queue::default() }),
        wake: Condvar::new(),
        found: Mutex::default(),
        links: Mutex::default(),
    };
    let threads = match options.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8)),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.work());
        }
        work.work();
    });
    match work.queue.into_inner().failed {
        Some(error) => Err(error),
        None => Ok((work.found.into_inner(), work.links.into_inner())),
    }
}

impl Work<'_> {
    /// Takes the newest directory first, so that few are waiting.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if queue.failed.is_some() {
                return;
            }
            let Some(place) = queue.places.pop() else {
                if queue.busy == 0 {
                    return;
                }
                self.wake.wait(&mut queue);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            let below = self.directory(&place);
            queue = self.queue.lock();
            queue.busy -= 1;
            match below {
                Ok(below) => queue.places.extend(below),
                Err(error) => queue.failed = queue.failed.take().or(Some(error)),
            }
            self.wake.notify_all();
        }
    }

    fn directory(&self, place: &Arc<Place>) -> Result<Vec<Arc<Place>>> {
        let (new_names, new_folder) = Names::read(self.new.folder(&place.path)?, &place.path)?;
        let (old_names, old_folder) = match place.in_both {
            true => {
                let (names, folder) = Names::read(self.old.folder(&place.path)?, &place.path)?;
                (names, Some(folder))
            }
            false => (Names::default(), None),
        };
        let mut below = Vec::new();
        let mut merge = Merge::default();
        while let Some((name, side)) = merge.next(&old_names, &new_names) {
            let directory = match (side, &old_folder) {
                (Side::Old, _) => {
                    self.mark(place);
                    None
                }
                (Side::Both, Some(old_folder)) => self.both(place, name, old_folder, &new_folder)?,
                _ => {
                    self.mark(place);
                    self.added(place, name, &self.stat(&new_folder, name, place)?)
                }
            };
            below.extend(directory.map(Arc::new));
        }
        Ok(below)
    }

    fn stat(&self, folder: &Dir, name: &CStr, place: &Place) -> Result<Metadata> {
        metadata(folder.as_fd(), name)
            .map_err(|errno| Error::system("compare", &joined(&place.path, name), "it cannot be read", errno))
    }

    /// Below an added directory only links matter.
    fn added(&self, place: &Arc<Place>, name: &CStr, new: &Metadata) -> Option<Place> {
        if self.options.rules == Rules::Docker {
            return None;
        }
        if new.is_directory() {
            return Some(below(place, name, new.id, false));
        }
        if new.links > 1 {
            self.links.lock().sent(new);
        }
        None
    }

    fn both(
        &self,
        place: &Arc<Place>,
        name: &CStr,
        old_folder: &Dir,
        new_folder: &Dir,
    ) -> Result<Option<Place>> {
        let old = self.stat(old_folder, name, place)?;
        let new = self.stat(new_folder, name, place)?;
        if old.id == new.id {
            return Ok(None);
        }
        let (old_folder, new_folder) = (old_folder.as_fd(), new_folder.as_fd());
        let differs = self.differs(place, Pair { old_folder, new_folder, name, old: &old, new: &new })?;
        if differs {
            self.mark(place);
        }
        if new.is_directory() {
            return Ok(match old.is_directory() {
                true => Some(below(place, name, new.id, true)),
                false => self.added(place, name, &new),
            });
        }
        if old.links > 1 || new.links > 1 {
            let mut links = self.links.lock();
            if differs { links.sent(&new) } else { links.kept(&old, &new) }
        }
        Ok(None)
    }

    fn differs(&self, place: &Place, pair: Pair<'_>) -> Result<bool> {
        let id = pair.new.id;
        match (by_metadata(pair.old, pair.new, self.options.rules), self.earlier) {
            (Verdict::Different, _) => Ok(true),
            (_, Some(earlier)) => Ok(earlier.looked.contains(&id) || earlier.resend.contains(&id)),
            (Verdict::Same, None) => Ok(false),
            (Verdict::Look, None) => {
                let same = by_look(pair, self.options, &joined(&place.path, pair.name))?;
                if !same {
                    self.found.lock().looked.insert(id);
                }
                Ok(!same)
            }
        }
    }

    fn mark(&self, place: &Arc<Place>) {
        let mut next = Some(place);
        while let Some(place) = next {
            if place.marked.swap(true, Ordering::Relaxed) {
                return;
            }
            if place.in_both {
                self.found.lock().changed.insert(place.id);
            }
            next = place.parent.as_ref();
        }
    }
}

fn below(place: &Arc<Place>, name: &CStr, id: Id, in_both: bool) -> Place {
    Place {
        path: joined(&place.path, name),
        id,
        in_both,
        parent: Some(Arc::clone(place)),
        marked: AtomicBool::new(false),
    }
}

pub(crate) fn joined(path: &[u8], name: &CStr) -> Vec<u8> {
    if path.is_empty() { name.to_bytes().to_vec() } else { [path, b"/", name.to_bytes()].concat() }
}
