//! Read-only layers: `layerdb/sha256`.

use super::DockerStore;
use crate::digest::{Digest, chain_ids};
use crate::documents::MOST_LAYERS;
use crate::error::{Error, Result};
use std::io::Read;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DockerLayer {
    /// The digest of the stack up to this layer.
    pub chain_id: Digest,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The storage driver's name for it: with `devicemapper` the name of the layer's record and device.
    pub cache_id: String,
    /// Bytes of its files, as Docker counted them.
    pub size: Option<u64>,
    /// The chain id of the layer below.
    pub parent: Option<Digest>,
}

impl DockerStore {
    /// The layer with that chain id. Its chain id must be that of its parent and its own diff id.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], [`Error::WrongDigest`], and those of the disk.
    pub fn layer(&self, chain_id: &Digest) -> Result<DockerLayer> {
        let name = |file: &str| format!("layerdb/sha256/{}/{file}", chain_id.hex());
        let missing =
            |file: &str| Error::Missing { what: self.below_root(&name(file)).display().to_string() };
        let cache_id = self.layer_name(&name("cache-id"))?.ok_or_else(|| missing("cache-id"))?;
        let diff_id = self.digest(&name("diff"))?.ok_or_else(|| missing("diff"))?;
        let parent = self.digest(&name("parent"))?;
        let found = Digest::chain(parent.as_ref(), &diff_id);
        if found != *chain_id {
            return Err(Error::WrongDigest { what: "the layer", expected: *chain_id, found });
        }
        let size = self.line(&name("size")).ok().flatten().and_then(|text| text.parse().ok());
        Ok(DockerLayer { chain_id: *chain_id, diff_id, cache_id, size, parent })
    }

    /// The layer with that chain id and all below it, the lowest first.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn stack(&self, chain_id: &Digest) -> Result<Vec<DockerLayer>> {
        let mut layers = Vec::new();
        let mut next = Some(*chain_id);
        while let Some(chain_id) = next {
            if layers.len() == MOST_LAYERS {
                return Err(Error::TooLarge {
                    what: "the stack".into(),
                    limit: MOST_LAYERS as u64,
                    unit: "layers",
                });
            }
            let layer = self.layer(&chain_id).map_err(|error| error.within(format!("layer {chain_id}")))?;
            next = layer.parent;
            layers.push(layer);
        }
        layers.reverse();
        Ok(layers)
    }

    /// The layers that a config names.
    pub(super) fn layers_of(&self, diff_ids: &[Digest]) -> Result<Vec<DockerLayer>> {
        match chain_ids(diff_ids).last() {
            Some(top) => self.stack(top),
            None => Ok(Vec::new()),
        }
    }

    /// The record of the layer's tar, for [`crate::Assembler`]; `None` if Docker kept none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn tar_split(&self, layer: &DockerLayer) -> Result<Option<Box<dyn Read + Send>>> {
        let name = format!("layerdb/sha256/{}/tar-split.json.gz", layer.chain_id.hex());
        Ok(self.folder.open(&name)?.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }
}
