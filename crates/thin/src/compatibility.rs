//! What tells an active pool's table apart from the one that is wanted: [`Difference`].

use crate::error::{Error, Result};
use crate::quantity::DataBlocks;
use crate::table::{BackingDevice, Features, PoolTable};
use thinlayer_dm::{DmName, Sectors};

/// One thing in which two tables of a pool differ, and which a reload can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The length. A pool only grows: where `wanted` is less, keep `active`.
    Length {
        /// What is in use.
        active: Sectors,
        /// What is wanted.
        wanted: Sectors,
    },
    /// The low-water mark.
    LowWater {
        /// What is in use.
        active: DataBlocks,
        /// What is wanted.
        wanted: DataBlocks,
    },
    /// The features.
    Features {
        /// What is in use.
        active: Features,
        /// What is wanted.
        wanted: Features,
    },
}

/// What a reload would change; what it cannot change is an error. Paths are not compared: give numbers.
pub(crate) fn compare(pool: &DmName, active: &PoolTable, wanted: &PoolTable) -> Result<Vec<Difference>> {
    let devices = [("metadata", &active.metadata, &wanted.metadata), ("data", &active.data, &wanted.data)];
    for (role, active, wanted) in devices {
        if let (BackingDevice::Number(has), BackingDevice::Number(wants)) = (active, wanted)
            && has != wants
        {
            return Err(Error::OtherDevice {
                pool: pool.clone(),
                role,
                active: active.to_string(),
                wanted: wanted.to_string(),
            });
        }
    }
    if active.block_size != wanted.block_size {
        return Err(Error::BlockSizeMismatch {
            pool: pool.clone(),
            active: active.block_size,
            wanted: wanted.block_size,
        });
    }
    let mut found = Vec::new();
    if active.len != wanted.len {
        found.push(Difference::Length { active: active.len, wanted: wanted.len });
    }
    if active.low_water != wanted.low_water {
        found.push(Difference::LowWater { active: active.low_water, wanted: wanted.low_water });
    }
    if active.features != wanted.features {
        found.push(Difference::Features { active: active.features.clone(), wanted: wanted.features.clone() });
    }
    Ok(found)
}
