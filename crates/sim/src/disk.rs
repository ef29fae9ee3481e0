//! [`Disk`] on the world: a folder of the host.

use crate::state::{Result, State, View};
use nix::errno::Errno;
use std::io;
use std::path::{Component, Path, PathBuf};
use thinlayer_dm::SECTOR_BYTES;
use thinlayer_store::{Disk, Entry};

/// A folder of the host and what is below it.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    pub(crate) view: View,
    pub(crate) name: &'static str,
    pub(crate) base: PathBuf,
}

impl SimDisk {
    fn on<T>(
        &self,
        action: &str,
        path: &Path,
        extra: &str,
        run: impl FnOnce(&mut State, &Path, &str) -> Result<T>,
    ) -> io::Result<T> {
        if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(io::Error::from(Errno::EINVAL));
        }
        let at: PathBuf = self.base.join(path).components().collect();
        let call = format!("{} {action} {}{extra}", self.name, path.display());
        Ok(self.view.call(&call, |state| run(state, &at, &call))?)
    }
}

impl Disk for SimDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let content = self.on("read", path, "", |st, at, _| match st.files.read(at) {
            Err(Errno::EISDIR | Errno::EFBIG) => Ok(None),
            other => other.map(Some),
        })?;
        content.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no regular file of a store"))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.on("list", folder, "", |st, at, _| {
            Ok(st.files.list(at)?.into_iter().map(|(name, is_dir)| Entry { name, is_dir }).collect())
        })
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.on("make folder", folder, "", |st, at, call| {
            if st.files.is_dir(at) {
                return Ok(());
            }
            st.effect_or_part(call, |st| {
                if let Some(above) = at.parent() {
                    // It is there already, most often.
                    st.files.make_folder(above, 0o700).unwrap_or_default();
                }
            })?;
            st.files.make_folder(at, 0o700).map(|_| ())
        })
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.on("write", path, &format!(" ({} bytes)", content.len()), |st, at, call| {
            if let Err(errno) = st.files.may_write(at, content.len()) {
                if errno == Errno::ENOSPC && st.files.lookup(at).is_err() {
                    // The name takes no room; the content has none.
                    st.effect(call);
                    st.files.write(at, &[])?;
                }
                return Err(errno);
            }
            st.effect_or_part(call, |st| {
                let part = match st.random.below(3) {
                    0 => 0,
                    n => content.len() * n / 3,
                };
                st.files.write(at, content.get(..part).unwrap_or_default()).unwrap_or_default();
            })?;
            st.files.write(at, content)
        })
    }

    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.on("overwrite", path, &format!(" ({} bytes)", content.len()), |st, at, call| {
            let before = st.files.read(at)?;
            if content.len() > before.len() {
                return Err(Errno::EINVAL);
            }
            let sector = usize::try_from(SECTOR_BYTES).unwrap_or(512);
            // Done in part: written but not yet synced, and of what is longer than a sector perhaps less.
            st.effect_or_part(call, |st| {
                let sectors = st.random.below(content.len().div_ceil(sector)) + 1;
                let part = content.get(..(sectors * sector).min(content.len())).unwrap_or_default();
                st.files.overwrite(at, part, false).unwrap_or_default();
            })?;
            st.files.overwrite(at, content, true)
        })
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.on("sync file", path, "", |st, at, call| {
            st.files.read(at)?;
            st.effect(call);
            st.files.sync_file(at)
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.on("sync folder", folder, "", |st, at, call| {
            if !st.files.is_dir(at) {
                st.files.lookup(at)?;
                return Err(Errno::ENOTDIR);
            }
            st.effect(call);
            st.files.sync_folder(at)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let target: PathBuf = self.base.join(to).components().collect();
        self.on("rename", from, &format!(" to {}", to.display()), |st, at, call| {
            st.files.may_rename(at, &target)?;
            st.effect(call);
            st.files.rename(at, &target)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.on("remove", path, "", |st, at, call| {
            st.files.may_remove(at)?;
            st.effect(call);
            st.files.remove(at)
        })
    }
}
