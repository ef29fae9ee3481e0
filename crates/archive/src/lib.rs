//! Container layers as tar streams: what changed between two directory trees, the OCI layer of it, and its unpacking, for programs that
//! make, store or start images.
//!
//! General tar crates lose what layers are made of: attributes with newlines in them, nanoseconds, devices, holes, links between names. This
//! one is for layers alone. It works on any two directories, needs no daemon, and never mounts.
//!
//! | to | use |
//! | --- | --- |
//! | see what changed | [`changes`], [`diff_size`] |
//! | write the layer that makes one tree of another | [`diff`] |
//! | unpack a layer over a tree, whoever made it | [`apply`] |
//! | read or write a tar stream entry by entry | [`Reader`], [`Writer`] |
//! | unpack gzip and zstd | [`Decompressed`] |
//!
//! ```
//! use thinlayer_archive::{ApplyOptions, DiffOptions, Tree, apply, diff};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = |name: &str| folder.path().join(name);
//! # for name in ["lower", "upper", "copy"] { std::fs::create_dir(path(name))?; }
//! std::fs::write(path("lower").join("old"), "1")?;
//! std::fs::write(path("upper").join("new"), "2")?;
//! std::fs::write(path("copy").join("old"), "1")?;
//!
//! let mut layer = Vec::new();
//! diff(Some(&Tree::open(path("lower"))?), &Tree::open(path("upper"))?, &mut layer, &DiffOptions::default())?;
//! apply(&Tree::open(path("copy"))?, &layer[..], &ApplyOptions::default())?;
//!
//! assert!(!path("copy").join("old").exists());
//! assert_eq!(std::fs::read(path("copy").join("new"))?, b"2");
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! * `apply(A, diff(A, B))` is B: types, modes, owners, times to the nanosecond, attributes, ACLs, capabilities, devices, links between names,
//!   holes. Sockets apart, which no layer holds.
//! * The same trees give the same bytes.
//! * Whatever a stream says, [`apply`] makes, changes and reads nothing outside the tree, in bounded memory.
//! * An error is one line that names the entry. After an error in [`apply`] the tree holds a part of the layer: throw it away.
//!
//! `docs/archive.md` tells what a stream holds, byte by byte where others have to agree.
//!
//! # Privileges
//! Written for root: owners, devices and most attributes are root's to read and give. `/proc` has to be mounted.

mod acl;
mod apply;
mod changes;
mod compare;
mod decompress;
mod diff;
mod entry;
mod error;
mod extended;
mod header;
mod holes;
mod ids;
mod links;
mod name;
mod names;
mod node;
mod parents;
mod pax;
mod reader;
mod remove;
mod sparse;
mod survey;
#[expect(unsafe_code, reason = "the system calls that nix lacks")]
mod sys;
mod tree;
mod walk;
mod writer;

pub use apply::{Applied, ApplyOptions, apply};
pub use changes::{Change, ChangeKind, changes, diff_size};
pub use compare::{CompareOptions, Rules};
pub use decompress::{Compression, Decompressed};
pub use diff::{DiffOptions, Diffed, diff};
pub use entry::{Entry, EntryKind, Extent, Timestamp, Xattr};
pub use error::{Error, ErrorKind, Result};
pub use ids::{IdMaps, IdRange};
pub use reader::{ReadOptions, Reader};
pub use tree::Tree;
pub use writer::Writer;
