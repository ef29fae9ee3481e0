//! Which files with several names have other names now.
//!
//! A file whose names changed is sent whole, under all its names: those that did not change, too. Else a link in the stream would point to
//! a name that the stream lacks, or two names would stay one file that are two by now.

use crate::tree::{Id, Metadata};
use std::collections::{HashMap, HashSet};

/// What was seen of the files with several names. Memory: some 100 bytes for each of them.
#[derive(Debug, Default)]
pub(crate) struct Links {
    new: HashMap<Id, New>,
    /// For each old file the new one that keeps its names, of those seen so far.
    old: HashMap<Id, Id>,
}

#[derive(Debug, Default)]
struct New {
    /// The old file whose names it keeps.
    keeps: Option<Id>,
    /// One of its names goes into the stream, or it keeps names of two old files, or of one that others keep, too.
    changed: bool,
}

impl Links {
    /// A name that goes into the stream.
    pub(crate) fn sent(&mut self, new: &Metadata) {
        if new.links > 1 {
            self.new.entry(new.id).or_default().changed = true;
        }
    }

    /// A name that does not.
    pub(crate) fn kept(&mut self, old: &Metadata, new: &Metadata) {
        if old.links < 2 && new.links < 2 {
            return;
        }
        let file = self.new.entry(new.id).or_default();
        if *file.keeps.get_or_insert(old.id) != old.id {
            file.changed = true;
        }
        let keeper = *self.old.entry(old.id).or_insert(new.id);
        if keeper != new.id {
            for id in [keeper, new.id] {
                self.new.entry(id).or_default().changed = true;
            }
        }
    }

    /// The files to be sent whole that have names which by themselves would not be sent.
    pub(crate) fn resend(self) -> HashSet<Id> {
        self.new
            .into_iter()
            .filter(|(_, file)| file.changed && file.keeps.is_some())
            .map(|(id, _)| id)
            .collect()
    }
}
