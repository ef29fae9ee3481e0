//! An image that a source holds.

use crate::digest::{Digest, chain_ids, clipped};
use crate::documents::Config;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::platform::Platform;
use crate::source::Storage;
use std::sync::Arc;

/// An image: what its config says, and its layers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Image {
    /// The names that the source has for it, sorted: `debian:12`, or what stands in a layout as a name. Often none.
    pub names: Vec<String>,
    /// The machine it is for, as its config says.
    pub platform: Platform,
    /// The image id: the digest of [`Image::config`].
    pub id: Digest,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The manifest, where the source has one: an OCI layout always, older archives of Docker's never.
    pub manifest: Option<StoredManifest>,
    /// The lowest layer first.
    pub layers: Vec<Layer>,
}

/// A manifest as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredManifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// OCI's or Docker's.
    pub media_type: String,
    /// The bytes, which are signed by some.
    pub bytes: Vec<u8>,
}

impl Image {
    /// How the image is called in messages: its first name, or its id.
    pub fn label(&self) -> String {
        label(&self.names, Some(&self.id))
    }

    /// The chain id of the whole image; `None` if it has no layers.
    pub fn chain_id(&self) -> Option<Digest> {
        self.layers.last().map(|layer| layer.chain_id)
    }
}

pub(crate) fn label(names: &[String], id: Option<&Digest>) -> String {
    match (names.first(), id) {
        (Some(name), _) => format!("image {}", clipped(name)),
        (None, Some(id)) => format!("image {id}"),
        (None, None) => "image without a name".to_owned(),
    }
}

/// Where a layer's bytes lie in a source.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) blob: Option<Digest>,
    pub(crate) media_type: Option<String>,
    /// The size that the source states.
    pub(crate) size: Option<u64>,
}

/// Joins a config with the layers that a manifest lists.
pub(crate) fn assemble(
    storage: &Arc<Storage>,
    names: Vec<String>,
    config: Vec<u8>,
    manifest: Option<StoredManifest>,
    stored: Vec<Stored>,
    layer_limit: u64,
) -> Result<Image> {
    let id = Digest::of(&config);
    let place = label(&names, Some(&id));
    let parsed = Config::parse(&config, &format!("its config {id}")).map_err(|error| error.within(&place))?;
    let diff_ids = parsed.diff_ids();
    if diff_ids.len() != stored.len() {
        let why = format!("it names {} layers, its manifest {}", diff_ids.len(), stored.len());
        return Err(Error::damaged(format!("its config {id}"), why).within(&place));
    }
    let count = stored.len();
    let mut layers = Vec::with_capacity(count);
    for (index, ((diff_id, chain_id), stored)) in
        diff_ids.iter().zip(chain_ids(diff_ids)).zip(stored).enumerate()
    {
        let place = format!("{place}, layer {} of {count} ({diff_id})", index + 1);
        let mut layer = Layer {
            diff_id: *diff_id,
            chain_id,
            blob: stored.blob,
            media_type: stored.media_type,
            stored_bytes: 0,
            storage: Arc::clone(storage),
            name: stored.name,
            place,
            limit: layer_limit,
        };
        layer.stored_bytes = layer.look(stored.size)?;
        layers.push(layer);
    }
    Ok(Image { names, platform: parsed.platform(), id, config, manifest, layers })
}
