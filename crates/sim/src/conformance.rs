//! Cases about how the machine behaves, for the simulation and for the real kernel alike.
//!
//! A case is given a [`Lab`]: the traits of thinlayer's crates on an empty folder, and a few things that only programs outside do. The same
//! cases run on the simulation in `cargo test -p thinlayer-sim` ([`SimLab`]) and on the kernel in the VM's suite `conformance`. Where they
//! disagree, the simulation is wrong.

mod backing;
mod bench;
mod devices;
mod disk;
mod filesystems;
mod folders;
mod messages;
mod pools;
mod sim_lab;
mod thin;

pub use sim_lab::SimLab;

use std::any::Any;
use std::fmt;
use std::path::Path;
use thinlayer_dm::DeviceMapper;
use thinlayer_filesystem::Filesystems;
use thinlayer_provision::Backing;
use thinlayer_store::Disk;

/// What a case works on.
pub trait Lab {
    /// Device-mapper.
    fn dm(&self) -> &dyn DeviceMapper;
    /// File systems, mounts, folders.
    fn filesystems(&self) -> &dyn Filesystems;
    /// Backing files and loop devices.
    fn backing(&self) -> &dyn Backing;
    /// The disk under [`Lab::folder`].
    fn disk(&self) -> &dyn Disk;
    /// A folder, absolute, empty when the case begins, on a file system with room and holes in files.
    fn folder(&self) -> &Path;
    /// Writes a file as a program would: created or replaced, not synced.
    ///
    /// # Errors
    /// In words.
    fn write(&self, path: &Path, contents: &[u8]) -> Outcome;
    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// In words.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure>;
    /// Makes everything on the file system that holds `path` durable.
    ///
    /// # Errors
    /// In words.
    fn sync(&self, path: &Path) -> Outcome;
    /// A program that has a folder open, so that its file system is in use, until the value is dropped.
    ///
    /// # Errors
    /// In words.
    fn enter(&self, folder: &Path) -> Result<Box<dyn Any>, Failure>;
    /// A program that has a block device open until the value is dropped.
    ///
    /// # Errors
    /// In words.
    fn open_node(&self, node: &Path) -> Result<Box<dyn Any>, Failure>;
}

/// Why a case failed.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// In words.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// How a case ends.
pub type Outcome = Result<(), Failure>;

/// Something that holds on every machine.
#[derive(Clone, Copy)]
pub struct Case {
    /// It in words.
    pub name: &'static str,
    run: fn(&bench::Bench<'_>) -> Outcome,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Tries it on a machine, and cleans up after it.
    ///
    /// # Errors
    /// How the machine behaves instead, or what could not be cleaned up.
    pub fn run(&self, lab: &dyn Lab) -> Outcome {
        let bench = bench::Bench::new(lab);
        let outcome = (self.run)(&bench);
        let cleaned = bench.clean();
        outcome.and(cleaned)
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        devices::CASES,
        pools::CASES,
        messages::CASES,
        thin::CASES,
        filesystems::CASES,
        folders::CASES,
        backing::CASES,
        disk::CASES,
    ]
    .concat()
}

macro_rules! list {
    ($($name:literal => $run:ident,)+) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case { name: $name, run: $run }),+];
    };
}
pub(crate) use list;

/// Fails the case unless it is so.
macro_rules! ensure {
    ($so:expr, $($text:tt)+) => {
        if !$so {
            return Err($crate::conformance::Failure::new(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;

/// Fails the case unless both are equal.
macro_rules! same {
    ($left:expr, $right:expr, $($text:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let what = format!($($text)+);
                    return Err($crate::conformance::Failure::new(format!("{what}: {left:?}, expected {right:?}")));
                }
            }
        }
    };
}
pub(crate) use same;

/// The kind of the error that is expected here; a success fails the case.
macro_rules! refused {
    ($result:expr, $kind:expr, $($text:tt)+) => {
        match $result {
            Ok(value) => {
                let what = format!($($text)+);
                return Err($crate::conformance::Failure::new(format!("{what}: it worked: {value:?}")));
            }
            Err(error) if error.kind() == $kind => {}
            Err(error) => {
                let (what, found) = (format!($($text)+), error.kind());
                return Err($crate::conformance::Failure::new(
                    format!("{what}: {found:?} ({error}), expected {:?}", $kind),
                ));
            }
        }
    };
}
pub(crate) use refused;
