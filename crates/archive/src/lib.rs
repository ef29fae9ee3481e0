//! Container layers as tar streams.

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
