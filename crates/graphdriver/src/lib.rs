//! Container layers as snapshots in a thin pool: Docker's `devicemapper` graph driver, rebuilt as a library.
//!
//! For programs that need layers as block devices or as mounted trees, made in a moment and sharing what they have in common: container engines,
//! runtimes of microVMs, builders, tools for a Docker `devicemapper` directory. What `thinlayer` the program does, it does through this crate.
//!
//! - [`Driver`] is an open root: create, get, put, remove, resize, status, check, stop.
//! - [`Ownership`] is the lock that its user takes first: one process at a time changes a root.
//! - [`Options`] are Docker's `dm.*` options, parsed or set as values, whose types are this crate's too ([`Filesystem`], [`BlockSize`], [`DmName`], [`Bytes`]).
//! - [`View`] looks at a root without owning it, and writes nothing; [`ReadOnly`] also brings its pool up for that, and mounts.
//! - [`Machine`] is what the driver works on: [`Machine::system`] is the real one, a simulation can stand in its place, behind the traits
//!   [`DeviceMapper`], [`Filesystems`], [`Backing`], [`Disk`] and [`Clock`].
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use thinlayer_graphdriver::{
//!     CreateRequest, Driver, Holder, LayerId, Machine, Options, Ownership, Silent, Unmount,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let root = Path::new("/var/lib/thinlayer");
//! let _owner = Ownership::acquire(root, &Holder::this_process("example", None), Duration::from_secs(10))?;
//! let options = Options::parse(&["dm.basesize=20G"])?;
//! let (driver, notices) = Driver::open(Machine::system(root)?, &options, Arc::new(Silent))?;
//! for notice in notices {
//!     eprintln!("{}", notice.text);
//! }
//!
//! let (image, container) = (LayerId::given("image")?, LayerId::given("container")?);
//! driver.create(&image, &CreateRequest::empty())?;
//! let tree = driver.get(&image, None)?;
//! std::fs::write(tree.join("hello"), "from the image")?;
//! driver.put(&image, Unmount::Now)?;
//!
//! driver.create(&container, &CreateRequest::on(image))?; // a snapshot: nothing is copied
//! let tree = driver.get(&container, None)?;
//! assert_eq!(std::fs::read_to_string(tree.join("hello"))?, "from the image");
//! driver.put(&container, Unmount::Now)?;
//! driver.remove(&container)?;
//! driver.work_off()?; // the blocks of removed layers go back now
//! # Ok(())
//! # }
//! ```
//!
//! # What a user of this crate does
//! - Takes [`Ownership`] before [`Driver::open`], and keeps it until the process ends: a call that outlived its deadline may still be at work.
//! - Runs [`Driver::run_worker`] on a thread, or calls [`Driver::work_off`] before it ends. Without either, removed layers keep their blocks until the
//!   next owner gives them back.
//! - Gives back each [`Driver::get`] with one [`Driver::put`]. Counts survive the process.
//! - Does not run anything else while [`Driver::stop`] does, and drops the driver after it.
//!
//! # Privileges
//! `CAP_SYS_ADMIN`, in practice root: device-mapper, loop devices and mounts. [`View`] reads the root, which belongs to root, and needs the capability only to
//! ask an active pool. Layers are mounted in the mount namespace of the process.
//!
//! # Threads
//! All methods of [`Driver`] take `&self` and may be called from many threads. One operation at a time works on a layer; others on that layer wait, up to a
//! deadline. Operations on different layers share one short lock, around the pool's messages and the writes that belong to them. [`Driver::exists`],
//! [`Driver::inspect`], [`Driver::layers`] and [`Driver::metadata`] wait for nobody. System calls that cannot be ended (mount, umount, suspend, reading a superblock, making or growing a file system, discard) run on
//! threads of their own: at the deadline ([`Machine::deadlines`]) the caller gets [`Error::Deadline`], and the layer stays reserved until the call returns.
//!
//! # What it leaves behind
//! Dropping a [`Driver`] undoes nothing: pool, devices and mounts outlive the process, as Docker's do, and the next [`Driver::open`] takes them over. [`Driver::stop`] takes them down. On
//! disk there are the root's `metadata/` and `thinlayer/`, its `mnt/`, on loop-backed pools the two files under `devicemapper/`, and, until a reboot, a folder under
//! `/run/thinlayer`. No other process is started, except `mkfs` when the base is made, and LVM's programs where the pool is LVM's.
//!
//! # Crashes
//! Create and remove are durable when they return. Whatever is interrupted, by a kill or by the power, is finished or undone at the next [`Driver::open`], which says so in its notices. How
//! that works is told in `docs/how-it-works.md`.
//!
//! # Errors
//! One line: what, on which layer or device, why, what to do. [`Error::kind`] tells the cases apart that a caller treats differently.
#![forbid(unsafe_code)]

mod active;
mod adoption;
mod base;
mod check;
mod condition;
mod create;
mod deadline;
mod direct_lvm;
mod driver;
mod error;
mod grow;
mod growth;
mod identity;
mod layer;
mod looking;
mod machine;
mod mounts;
mod names;
mod options;
mod owner;
mod pool;
mod progress;
mod read_only;
mod recover;
mod remove;
mod repair;
mod reserve;
mod resize;
mod room;
mod site;
mod size;
mod startup;
mod status;
mod stop;
mod system;
mod transaction;
mod uses;
mod view;
mod watch;
mod worker;

pub use adoption::Adoption;
pub use check::{CheckFinding, CheckReport, Outcome, Reading, Repair};
pub use condition::Condition;
pub use deadline::Deadlines;
pub use driver::{Driver, Notice, Severity};
pub use error::{Error, Kind, Result};
pub use grow::{GrowRequest, PoolGrown, PoolSize, SizeChange};
pub use growth::Extend;
pub use layer::{CreateRequest, LayerInfo, Metadata, Parent, PutBack, Removed};
pub use machine::{Clock, Family, Machine, Root};
pub use options::{DEFAULT_BASE_SIZE, DEFAULT_LOOP_DATA_SIZE, DEFAULT_LOOP_METADATA_SIZE, Options};
pub use owner::{Holder, Ownership, Sharing};
pub use progress::{Event, Progress, Silent};
pub use read_only::ReadOnly;
pub use repair::repair;
pub use size::{MAX_LAYER_SIZE, human_size, parse_size};
pub use status::{Growable, Status};
pub use system::SystemClock;
pub use thinlayer_dm::{Bytes, DeviceMapper, DmName};
pub use thinlayer_filesystem::{Filesystems, Kind as Filesystem, Unmount};
pub use thinlayer_provision::Backing;
pub use thinlayer_provision::lvm::SetupConfig;
pub use thinlayer_store::{Disk, InvalidLayerId, LayerId, Record};
pub use thinlayer_thin::BlockSize;
pub use view::View;
pub use worker::Stop;
