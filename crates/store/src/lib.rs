//! Layer records and the open transaction of a device-mapper graph directory, on disk in the format of Docker's `devicemapper` driver: what a program needs
//! that reads such a directory, or keeps one through crashes and full disks.
//!
//! It knows nothing of the kernel. It keeps one small file per layer (which thin device, how large, made when), one for the set, and one with the intent of
//! the operation under way; it says after a crash what was under way, and [`decide`] says from facts what to do about it. `docs/store-format.md` describes every byte.
//!
//! ```text
//! Store::open ─► recovery(T) ─┬─ Clean, PoolAhead ──────────────────────────────► begin ─► messages, put / remove ─► set_transaction_id ─► close
//!                             ├─ Open(pending) ─► decide ─► steps ─► finish_recovery ─► begin …
//!                             └─ TooFarAhead: do not touch
//! ```
//!
//! # Cost
//! A creation is one [`Store::begin`] and one [`Store::put`], a removal one `begin` and one [`Store::remove`], a removal with the device left for later one
//! [`Store::retire`]. Reads cost nothing on disk and wait for no write.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use thinlayer_store::{Folder, LayerId, Mode, Operation, Record, Recovery, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let root = tempfile::tempdir()?;
//! let (store, findings) = Store::open(Arc::new(Folder::open(root.path())?), Mode::ReadWrite)?;
//! assert!(findings.is_empty());
//! assert_eq!(store.recovery(0), Recovery::Clean); // a new pool is at 0
//!
//! let layer = LayerId::given("debian")?;
//! let device_id = store.propose_device_id()?; // the pool must agree that it is free
//! let transaction = store.begin(&[Operation::create(layer.clone(), device_id)])?;
//! // … create_thin or create_snap …
//! store.put(&layer, &Record::new(device_id, 10 << 30, transaction.id()))?;
//! // … set_transaction_id …
//! store.close(transaction);
//! assert_eq!(store.lookup(&layer)?.device_id, device_id);
//! # Ok(())
//! # }
//! ```

mod base64;
mod device_id;
mod device_set;
mod disk;
mod error;
mod extra;
mod files;
mod finding;
mod folder;
mod go_json;
mod layer_id;
mod load;
mod record;
mod recovery;
mod store;
mod tables;
#[cfg(test)]
mod testing;
mod transaction;
mod write;

pub use device_id::DeviceId;
pub use device_set::DeviceSet;
pub use disk::{Disk, Entry};
pub use error::{Error, ErrorKind, Result};
pub use extra::{EXTRA_VERSION, Extra, Kind, Layout};
pub use finding::Finding;
pub use folder::Folder;
pub use layer_id::{GIVEN_MAX_BYTES, InvalidLayerId, LayerId};
pub use record::{ParseError, Record};
pub use recovery::{Decision, DeviceFacts, LeaveReason, Pending, Recovery, Step, decide};
pub use store::{Counts, Mode, Store};
pub use transaction::{
    IntentKind, OpenTransaction, Operation, OperationKind, TRANSACTION_FILE_BYTES, TRANSACTION_JSON_MAX_BYTES,
};
