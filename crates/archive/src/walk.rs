//! The second way through the trees: only through directories that hold changes, in the order of the stream.
//!
//! Docker sorts a layer's entries by their whole paths: `a`, `a-b`, `a/c`, since `-` sorts before `/`. So what is in a directory waits
//! until the names are past it.

use crate::compare::{CompareOptions, Rules, Verdict, by_metadata};
use crate::error::{Error, Result};
use crate::names::{Merge, Names, Side};
use crate::survey::{Survey, joined, survey};
use crate::tree::{Metadata, Tree, metadata};
use nix::dir::Dir;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// Directories on the way down that stay open; those above are opened again on the way back.
const OPEN: usize = 64;

/// A name that differs.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// From the root, without a slash before it.
    pub(crate) path: &'a [u8],
    pub(crate) name: &'a CStr,
    pub(crate) old: Option<Metadata>,
    pub(crate) new: Option<Metadata>,
    pub(crate) old_folder: Option<BorrowedFd<'a>>,
    pub(crate) new_folder: BorrowedFd<'a>,
}

struct Frame {
    path: Vec<u8>,
    in_both: bool,
    old_names: Names,
    new_names: Names,
    merge: Merge,
    /// Taken from the lists; the next to be told of.
    next: Option<(CString, Side)>,
    /// Directories to go into, the next one last, and whether the old tree has them, too.
    waiting: Vec<(CString, bool)>,
    folders: Option<(Option<Dir>, Dir)>,
}

struct Walk<'a> {
    old: Option<&'a Tree>,
    new: &'a Tree,
    rules: Rules,
    survey: Survey,
    frames: Vec<Frame>,
}

/// Tells all names that differ, in the stream's order; without an old tree all names. The root is not told of.
pub(crate) fn walk(
    old: Option<&Tree>,
    new: &Tree,
    options: &CompareOptions,
    found: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let survey = match old {
        Some(old) => survey(old, new, options)?,
        None => Survey::default(),
    };
    if old.is_some() && survey.changed.is_empty() {
        return Ok(());
    }
    let mut walk = Walk { old, new, rules: options.rules, survey, frames: Vec::new() };
    let root = walk.frame(Vec::new(), old.is_some())?;
    walk.frames.push(root);
    while walk.step(found)? {}
    Ok(())
}

impl Walk<'_> {
    fn frame(&self, path: Vec<u8>, in_both: bool) -> Result<Frame> {
        let (new_names, new_folder) = Names::read(self.new.folder(&path)?, &path)?;
        let (old_names, old_folder) = match self.old.filter(|_| in_both) {
            Some(old) => {
                let (names, folder) = Names::read(old.folder(&path)?, &path)?;
                (names, Some(folder))
            }
            None => (Names::default(), None),
        };
        Ok(Frame {
            path,
            in_both,
            old_names,
            new_names,
            merge: Merge::default(),
            next: None,
            waiting: Vec::new(),
            folders: Some((old_folder, new_folder)),
        })
    }

    /// Opens a frame's directories again.
    fn reopen(&mut self) -> Result<()> {
        let (old, new) = (self.old, self.new);
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if frame.folders.is_some() {
            return Ok(());
        }
        let open = |tree: &Tree| {
            Dir::from_fd(tree.folder(&frame.path)?)
                .map_err(|errno| Error::system("read the folder", &frame.path, "it cannot be read", errno))
        };
        frame.folders = Some((old.filter(|_| frame.in_both).map(open).transpose()?, open(new)?));
        Ok(())
    }

    /// False at the end.
    fn step(&mut self, found: &mut dyn FnMut(Found<'_>) -> Result<()>) -> Result<bool> {
        self.reopen()?;
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        if frame.next.is_none() {
            let next = frame.merge.next(&frame.old_names, &frame.new_names);
            frame.next = next.map(|(name, side)| (name.to_owned(), side));
        }
        if let Some((directory, in_both)) = due(frame) {
            let below = self.frames.last().map(|frame| joined(&frame.path, &directory)).unwrap_or_default();
            let frame = self.frame(below, in_both)?;
            self.frames.push(frame);
            if let Some(far) = self.frames.len().checked_sub(OPEN + 1) {
                self.frames[far].folders = None;
            }
            return Ok(true);
        }
        let Some((name, side)) = frame.next.take() else {
            self.frames.pop();
            return Ok(true);
        };
        if let Some(in_both) = self.name(&name, side, found)?
            && let Some(frame) = self.frames.last_mut()
        {
            frame.waiting.push((name, in_both));
        }
        Ok(true)
    }

    /// Tells of a name if it differs, and says whether to go into it.
    fn name(
        &self,
        name: &CStr,
        side: Side,
        found: &mut dyn FnMut(Found<'_>) -> Result<()>,
    ) -> Result<Option<bool>> {
        let Some(frame) = self.frames.last() else { return Ok(None) };
        let Some((old_folder, new_folder)) = &frame.folders else { return Ok(None) };
        let path = joined(&frame.path, name);
        let stat = |folder: &Dir| {
            metadata(folder.as_fd(), name)
                .map_err(|errno| Error::system("compare", &path, "it cannot be read", errno))
        };
        let old = match (side, old_folder) {
            (Side::Old | Side::Both, Some(folder)) => Some(stat(folder)?),
            _ => None,
        };
        let new = if side == Side::Old { None } else { Some(stat(new_folder)?) };
        let (tell, go) = match (&old, &new) {
            (Some(old), Some(new)) if old.id == new.id => (false, None),
            (Some(old), Some(new)) => self.both(old, new),
            (None, Some(new)) => (true, new.is_directory().then_some(false)),
            _ => (true, None),
        };
        if tell {
            found(Found {
                path: &path,
                name,
                old,
                new,
                old_folder: old_folder.as_ref().map(AsFd::as_fd),
                new_folder: new_folder.as_fd(),
            })?;
        }
        Ok(go)
    }

    fn both(&self, old: &Metadata, new: &Metadata) -> (bool, Option<bool>) {
        let id = &new.id;
        let differs = by_metadata(old, new, self.rules) == Verdict::Different
            || self.survey.looked.contains(id)
            || self.survey.resend.contains(id);
        match (old.is_directory(), new.is_directory()) {
            (true, true) => {
                let holds = self.survey.changed.contains(id);
                (differs || holds, holds.then_some(true))
            }
            (false, true) => (true, Some(false)),
            _ => (differs, None),
        }
    }
}

/// The directory whose time has come: its name with a slash sorts before the next name.
fn due(frame: &mut Frame) -> Option<(CString, bool)> {
    let (directory, _) = frame.waiting.last()?;
    let is_due = match &frame.next {
        Some((next, _)) => directory.to_bytes().iter().chain(b"/").lt(next.to_bytes()),
        None => true,
    };
    if is_due { frame.waiting.pop() } else { None }
}
