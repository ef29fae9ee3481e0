//! The [`Lab`] of the simulation.

use super::{Failure, Lab, Outcome};
use crate::{Holder, World};
use std::any::Any;
use std::path::{Path, PathBuf};
use thinlayer_dm::DeviceMapper;
use thinlayer_filesystem::Filesystems;
use thinlayer_graphdriver::Machine;
use thinlayer_provision::Backing;
use thinlayer_store::Disk;

/// A world of its own with an empty folder.
#[derive(Debug)]
pub struct SimLab {
    world: World,
    machine: Machine,
    folder: PathBuf,
}

impl SimLab {
    /// A new world.
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let folder = PathBuf::from("/scratch");
        Self { machine: world.machine(&folder), world, folder }
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }
}

struct Held(World, Holder);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

impl Lab for SimLab {
    fn dm(&self) -> &dyn DeviceMapper {
        &*self.machine.dm
    }

    fn filesystems(&self) -> &dyn Filesystems {
        &*self.machine.filesystems
    }

    fn backing(&self) -> &dyn Backing {
        &*self.machine.backing
    }

    fn disk(&self) -> &dyn Disk {
        &*self.machine.disk
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn write(&self, path: &Path, contents: &[u8]) -> Outcome {
        Ok(self.world.write_file(path, contents)?)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.world.read_file(path)?)
    }

    fn sync(&self, path: &Path) -> Outcome {
        Ok(self.world.sync_fs(path)?)
    }

    fn enter(&self, folder: &Path) -> Result<Box<dyn Any>, Failure> {
        let holder = self.world.hold(folder)?;
        Ok(Box::new(Held(self.world.clone(), holder)))
    }

    fn open_node(&self, node: &Path) -> Result<Box<dyn Any>, Failure> {
        let holder = self.world.open_node(node)?;
        Ok(Box::new(Held(self.world.clone(), holder)))
    }
}
