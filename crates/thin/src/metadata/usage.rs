//! What a thin device has for itself, and what it shares: [`Usage`].

use super::counts::Counts;
use super::details::DeviceDetails;
use super::error::{Error, Result};
use super::mapping::Mapping;
use super::node::{Expected, Tree};
use super::reader::Metadata;
use super::visits::{Visitor, Visits};
use crate::quantity::{DataBlocks, ThinId};

/// What a thin device has for itself, and what it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What the pool knows of it.
    pub details: DeviceDetails,
    /// Blocks that no other device has: what deleting it gives back.
    pub exclusive: DataBlocks,
    /// Blocks that others have, too.
    pub shared: DataBlocks,
}

/// Counts how many devices have each data block, as far as their nodes are not shared anyway.
#[derive(Default)]
struct Owners {
    counts: Counts,
    error: Option<Error>,
}

impl Visitor for Owners {
    fn refer(&mut self, _: u64) {}

    fn entry(&mut self, _: u64, _: u64, value: &[u8]) -> Result<()> {
        self.counts.add(Mapping::parse(value).data);
        Ok(())
    }

    fn damage(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

const ROOT: Expected = Expected { tree: Tree::MAPPING, depth: 0, low: 0, high: None };

impl Metadata {
    /// What each thin device has for itself and what it shares, by id, as `thin_ls` tells it. Each node is read at most twice.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Read`].
    pub fn usage(&self) -> Result<Vec<Usage>> {
        let devices: Vec<DeviceDetails> = self.devices().collect::<Result<_>>()?;
        let mut visits = Visits::default();
        let mut owners = Owners::default();
        let mut found = Vec::with_capacity(devices.len());
        for details in devices {
            let root = self.mapping_root(details.id)?;
            let mapped = visits.walk(self, Tree::MAPPING, root, &mut owners);
            if let Some(error) = owners.error.take() {
                return Err(error);
            }
            found.push((details, root, mapped.unwrap_or(0)));
        }
        found
            .into_iter()
            .map(|(details, root, mapped)| {
                let exclusive = self.exclusive(root, &visits, &owners.counts)?;
                Ok(Usage {
                    details,
                    exclusive: DataBlocks(exclusive),
                    shared: DataBlocks(mapped.saturating_sub(exclusive)),
                })
            })
            .collect()
    }

    /// Blocks below a root that were met once: what lies below a shared node is shared.
    fn exclusive(&self, root: u64, visits: &Visits, counts: &Counts) -> Result<u64> {
        let mut exclusive = 0;
        let mut left = vec![(root, ROOT)];
        while let Some((block, expected)) = left.pop() {
            if visits.is_shared(block) {
                continue;
            }
            let node = self.node(block, expected)?;
            for index in 0..node.len() {
                if node.is_internal() {
                    left.push((node.child(index), node.expected_child(index, expected)));
                } else if counts.get(Mapping::parse(node.value(index)).data) == 1 {
                    exclusive += 1;
                }
            }
        }
        Ok(exclusive)
    }

    /// The highest block of a thin device that is mapped; `None` if none is. One node of each level is read.
    ///
    /// # Errors
    /// [`Error::NoSuchId`]; [`Error::Damaged`]; [`Error::Read`].
    pub fn highest_mapped(&self, id: ThinId) -> Result<Option<u64>> {
        let (mut block, mut expected) = (self.mapping_root(id)?, ROOT);
        loop {
            let node = self.node(block, expected)?;
            let Some(last) = node.len().checked_sub(1) else { return Ok(None) };
            if !node.is_internal() {
                return Ok(Some(node.key(last)));
            }
            (block, expected) = (node.child(last), node.expected_child(last, expected));
        }
    }
}
