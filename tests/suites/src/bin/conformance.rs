//! The conformance cases of `thinlayer-sim` on the real kernel: what the simulation is held to.

use anyhow::{Result, anyhow};
use harness::{Set, scratch_dir, suite, test};
use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use thinlayer_dm::{Control, DeviceMapper};
use thinlayer_filesystem::Filesystems;
use thinlayer_provision::Backing;
use thinlayer_sim::conformance::{Failure, Lab, Outcome, cases};
use thinlayer_store::{Disk, Folder};

fn main() -> ExitCode {
    let tests = cases().into_iter().map(|case| {
        test(case.name, move || {
            let lab = Kernel::new()?;
            case.run(&lab).map_err(|why| anyhow!("{why}"))
        })
        .deadline(Duration::from_secs(180))
    });
    suite("conformance", Set::Everywhere, tests.collect()).main()
}

/// The machine that this runs on.
struct Kernel {
    dm: Control,
    filesystems: thinlayer_filesystem::System,
    backing: thinlayer_provision::System,
    disk: Folder,
    folder: PathBuf,
}

impl Kernel {
    fn new() -> Result<Self> {
        let folder = scratch_dir()?.join("lab");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir(&folder)?,
        }
        Ok(Self {
            dm: Control::open()?,
            filesystems: thinlayer_filesystem::System::default(),
            backing: thinlayer_provision::System::default(),
            disk: Folder::open(&folder)?,
            folder,
        })
    }
}

impl Lab for Kernel {
    fn dm(&self) -> &dyn DeviceMapper {
        &self.dm
    }

    fn filesystems(&self) -> &dyn Filesystems {
        &self.filesystems
    }

    fn backing(&self) -> &dyn Backing {
        &self.backing
    }

    fn disk(&self) -> &dyn Disk {
        &self.disk
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn write(&self, path: &Path, contents: &[u8]) -> Outcome {
        Ok(fs::write(path, contents)?)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
        match fs::read(path) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self, path: &Path) -> Outcome {
        // Not syncfs alone: an error in one file's data is told to whoever syncs that file.
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        Ok(nix::unistd::syncfs(File::open(path)?)?)
    }

    fn enter(&self, folder: &Path) -> Result<Box<dyn Any>, Failure> {
        Ok(Box::new(File::open(folder)?))
    }

    fn open_node(&self, node: &Path) -> Result<Box<dyn Any>, Failure> {
        Ok(Box::new(File::open(node)?))
    }
}
