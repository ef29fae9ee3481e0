//! How often each mounted layer is in use, in a folder that is gone after a reboot together with the mounts.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_store::{Disk, LayerId};

const FOLDER: &str = "uses";

/// The use counts of a root's layers. A mounted layer without a count is used once; an unmounted one has none.
#[derive(Debug)]
pub(crate) struct Uses {
    disk: Arc<dyn Disk>,
    counts: Mutex<HashMap<LayerId, u32>>,
}

impl Uses {
    /// Reads the counts of the layers that are mounted. With `tidy`, counts of layers that are not are removed.
    pub(crate) fn load(disk: Arc<dyn Disk>, mounted: &[LayerId], tidy: bool) -> Self {
        let mut counts = HashMap::new();
        for id in mounted {
            let count = disk.read(&file(id)).ok().and_then(|text| parse(&text)).unwrap_or(1);
            counts.insert(id.clone(), count.max(1));
        }
        if tidy {
            for entry in disk.list(Path::new(FOLDER)).unwrap_or_default() {
                let known = entry
                    .name
                    .to_str()
                    .and_then(|name| LayerId::found(name).ok())
                    .is_some_and(|id| counts.contains_key(&id));
                if !known && let Err(error) = disk.remove(&Path::new(FOLDER).join(&entry.name)) {
                    tracing::warn!(name = ?entry.name, %error, "cannot remove the use count of a layer that is not mounted");
                }
            }
        }
        Self { disk, counts: Mutex::new(counts) }
    }

    /// How many use a layer; 0 if it is not mounted.
    pub(crate) fn get(&self, id: &LayerId) -> u32 {
        self.counts.lock().get(id).copied().unwrap_or(0)
    }

    /// All layers in use.
    pub(crate) fn all(&self) -> Vec<LayerId> {
        self.counts.lock().keys().cloned().collect()
    }

    /// Sets a count; 0 forgets the layer. The caller has reserved the layer.
    pub(crate) fn set(&self, id: &LayerId, count: u32) -> Result<()> {
        let mut counts = self.counts.lock();
        let before = counts.get(id).copied().unwrap_or(0);
        if count == 0 {
            counts.remove(id);
            match self.disk.remove(&file(id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    // The mount is gone, so nobody will ask for it.
                    tracing::warn!(layer = %id, %error, "a use count stays behind");
                }
                _ => {}
            }
            return Ok(());
        }
        // The first count of a mount needs no file: where it is missing, the mount table says 1.
        if count > 1 || before > 0 {
            self.keep(id, count).map_err(|e| Error::Root {
                path: file(id),
                why: format!("cannot keep the use count of layer {id}: {e}"),
            })?;
        }
        counts.insert(id.clone(), count);
        Ok(())
    }

    /// Replaced in one step, so that a process that is killed leaves the old count or the new one.
    fn keep(&self, id: &LayerId, count: u32) -> std::io::Result<()> {
        let new = Path::new(FOLDER).join(format!(".{}", id.file_name()));
        self.disk.make_folder(Path::new(FOLDER))?;
        self.disk.write(&new, count.to_string().as_bytes())?;
        self.disk.rename(&new, &file(id))
    }
}

fn file(id: &LayerId) -> PathBuf {
    Path::new(FOLDER).join(id.file_name())
}

fn parse(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thinlayer_store::Folder;

    #[test]
    fn counts_survive_a_restart_and_go_with_the_mount() {
        let run = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(Folder::open(run.path()).unwrap());
        let (a, b) = (LayerId::given("a").unwrap(), LayerId::given("b").unwrap());
        let uses = Uses::load(disk.clone(), &[], true);
        uses.set(&a, 1).unwrap();
        uses.set(&a, 2).unwrap();
        uses.set(&b, 1).unwrap();
        let again = Uses::load(disk.clone(), &[a.clone(), b.clone()], true);
        assert_eq!((again.get(&a), again.get(&b)), (2, 1));
        // After a reboot nothing is mounted, whatever the folder says.
        let rebooted = Uses::load(disk.clone(), &[], true);
        assert_eq!(rebooted.get(&a), 0);
        assert_eq!(Uses::load(disk, std::slice::from_ref(&a), true).get(&a), 1);
    }
}
