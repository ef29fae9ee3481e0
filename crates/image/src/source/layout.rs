//! `index.json` and what hangs from it.
//!
//! # References
//! OCI image specification, `image-layout.md`, `image-index.md`.

use super::{ReadOptions, Storage, blob_name, is_called};
use crate::digest::Digest;
use crate::documents::{CONFIG, Config, Descriptor, INDEX, MANIFEST, Manifest, Saved};
use crate::error::{Error, Result};
use crate::image::{Image, Stored, StoredManifest, assemble, label};
use crate::names::{self, Name};
use crate::platform::Platform;
use crate::{documents, source::archive};
use std::collections::HashSet;
use std::sync::Arc;

/// Indexes inside each other that are followed; registries and builders nest one.
const MOST_NESTED: usize = 4;
/// Documents that are read to find one image.
const MOST_DOCUMENTS: usize = 1024;

/// Entries of `index.json` that are one image: under one name, or for several platforms.
pub(super) struct Group {
    pub(super) names: Vec<String>,
    choices: Vec<Descriptor>,
}

/// What an index calls an image.
fn name_of(descriptor: &Descriptor) -> Result<Option<String>> {
    let annotations = &descriptor.annotations;
    let Some(text) = annotations.image_name.as_deref().or(annotations.ref_name.as_deref()) else {
        return Ok(None);
    };
    let text = names::shown(text)?;
    match annotations.image_name.is_some() {
        true => Ok(Some(text.parse::<Name>().map(|name| name.to_string()).unwrap_or(text))),
        false => Ok(Some(text)),
    }
}

/// Which entries of `index.json` belong together.
pub(super) fn groups(bytes: &[u8]) -> Result<Vec<Group>> {
    let index = documents::Index::parse(bytes, "index.json")?;
    let mut groups: Vec<Group> = Vec::new();
    let mut nameless = Vec::new();
    for descriptor in index.manifests.0 {
        if descriptor.is_attestation() {
            continue;
        }
        let Some(name) = name_of(&descriptor)? else {
            nameless.push(descriptor);
            continue;
        };
        match groups.iter_mut().find(|group| group.names.contains(&name)) {
            Some(group) if group.choices.iter().any(|choice| choice.digest == descriptor.digest) => {}
            Some(group) => group.choices.push(descriptor),
            // One manifest under several names stands there once for each.
            None => match groups.iter_mut().find(|group| is_only(group, &descriptor)) {
                Some(group) => group.names.push(name),
                None => groups.push(Group { names: vec![name], choices: vec![descriptor] }),
            },
        }
    }
    for group in &groups {
        if group.choices.len() > 1 && !differ_in_platform(&group.choices) {
            let name = group.names.first().map(String::as_str).unwrap_or_default();
            return Err(Error::damaged("index.json", format!("two images have the name {name}")));
        }
    }
    nameless.retain(|descriptor| !groups.iter().any(|group| is_only(group, descriptor)));
    if nameless.len() > 1 && groups.is_empty() && differ_in_platform(&nameless) {
        groups.push(Group { names: Vec::new(), choices: nameless });
    } else {
        for descriptor in nameless {
            if !groups.iter().any(|group| is_only(group, &descriptor)) {
                groups.push(Group { names: Vec::new(), choices: vec![descriptor] });
            }
        }
    }
    for group in &mut groups {
        group.names.sort();
    }
    Ok(groups)
}

fn is_only(group: &Group, descriptor: &Descriptor) -> bool {
    group.choices.len() == 1 && group.choices[0].digest == descriptor.digest
}

fn differ_in_platform(choices: &[Descriptor]) -> bool {
    let mut seen = HashSet::new();
    choices
        .iter()
        .all(|choice| choice.platform.as_ref().is_some_and(|platform| seen.insert(platform.normal())))
}

/// All images, or the one that is wanted.
pub(super) fn read(
    storage: &Arc<Storage>,
    options: &ReadOptions,
    bytes: &[u8],
    saved: &[Saved],
    wanted: Option<&str>,
) -> Result<Vec<Image>> {
    let mut images: Vec<Image> = Vec::new();
    let mut groups = groups(bytes)?;
    let by_id = wanted.and_then(|wanted| wanted.parse::<Digest>().ok());
    if let Some(wanted) = wanted.filter(|_| by_id.is_none()) {
        // An entry without a name, or with a tag only, may have one in the archive's manifest.json, which only its config's digest tells.
        let elsewhere =
            saved.iter().any(|saved| archive::names(saved).is_ok_and(|names| is_called(&names, wanted)));
        groups.retain(|group| {
            is_called(&group.names, wanted)
                || (elsewhere && group.names.iter().all(|name| names::is_tag(name)))
        });
    }
    for group in groups {
        let place = label(&group.names, None);
        let finder = Finder { storage, options, seen: HashSet::new(), leaves: Vec::new() };
        let image = finder.image(group).map_err(|error| match error {
            Error::In { .. } => error,
            error => error.within(place),
        })?;
        if by_id.is_none_or(|id| {
            image.id == id || image.manifest.as_ref().is_some_and(|manifest| manifest.digest == id)
        }) {
            images.push(image);
        }
    }
    Ok(images)
}

/// Looks for the manifest that fits the platform.
struct Finder<'a> {
    storage: &'a Arc<Storage>,
    options: &'a ReadOptions,
    seen: HashSet<Digest>,
    leaves: Vec<Descriptor>,
}

impl Finder<'_> {
    fn image(mut self, group: Group) -> Result<Image> {
        for descriptor in &group.choices {
            self.collect(descriptor, 0)?;
        }
        let chosen = self.choose()?;
        let bytes = self.storage.blob("the manifest", &chosen)?;
        let manifest = self.manifest(&chosen, &bytes)?;
        let config = self.storage.blob("the config", &manifest.config)?;
        let stored = manifest.layers.0.iter().map(stored).collect::<Result<Vec<Stored>>>()?;
        let media_type = if chosen.media_type.is_empty() { manifest.media_type } else { chosen.media_type };
        let kept = StoredManifest { digest: chosen.digest, media_type, bytes };
        let image =
            assemble(self.storage, group.names, config, Some(kept), stored, self.options.layer_limit)?;
        match &self.options.platform {
            Some(wanted) if wanted.rank(&image.platform).is_none() => {
                Err(Error::NoSuchPlatform { wanted: wanted.clone(), available: vec![image.platform] })
            }
            _ => Ok(image),
        }
    }

    fn collect(&mut self, descriptor: &Descriptor, nested: usize) -> Result<()> {
        if descriptor.is_attestation() || !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        if self.seen.len() > MOST_DOCUMENTS {
            let what = "its index, with all those in it,".to_owned();
            return Err(Error::TooLarge { what, limit: MOST_DOCUMENTS as u64, unit: "documents" });
        }
        let media_type = descriptor.media_type.as_str();
        if MANIFEST.contains(&media_type) {
            self.leaves.push(descriptor.clone());
            return Ok(());
        }
        if !INDEX.contains(&media_type) {
            return Err(Error::Unsupported {
                what: format!("media type '{}' of {}", crate::digest::clipped(media_type), descriptor.digest),
                remedy: "images have a manifest or an index of OCI's or Docker's second schema",
            });
        }
        let what = format!("the index {}", descriptor.digest);
        if nested == MOST_NESTED {
            return Err(Error::damaged(what, "too many indexes are inside each other"));
        }
        let bytes = self.storage.blob("the index", descriptor)?;
        for inner in documents::Index::parse(&bytes, &what)?.manifests.0 {
            self.collect(&inner, nested + 1)?;
        }
        Ok(())
    }

    /// As the index says, or else the image's own config.
    fn platform(&self, leaf: &Descriptor) -> Result<Platform> {
        if let Some(platform) = &leaf.platform {
            return Ok(platform.clone());
        }
        let manifest = self.manifest(leaf, &self.storage.blob("the manifest", leaf)?)?;
        let config = self.storage.blob("the config", &manifest.config)?;
        Ok(Config::parse(&config, &format!("the config {}", manifest.config.digest))?.platform())
    }

    fn choose(&self) -> Result<Descriptor> {
        if let ([only], None) = (self.leaves.as_slice(), &self.options.platform) {
            return Ok(only.clone());
        }
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let mut best: Option<(usize, &Descriptor)> = None;
        let mut available = Vec::new();
        for leaf in &self.leaves {
            let platform = self.platform(leaf)?;
            if let Some(rank) = wanted.rank(&platform)
                && best.is_none_or(|(least, _)| rank < least)
            {
                best = Some((rank, leaf));
            }
            available.push(platform);
        }
        best.map(|(_, leaf)| leaf.clone()).ok_or(Error::NoSuchPlatform { wanted, available })
    }

    fn manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Manifest> {
        let what = format!("the manifest {}", descriptor.digest);
        let manifest = Manifest::parse(bytes, &what)?;
        if !manifest.media_type.is_empty() && manifest.media_type != descriptor.media_type {
            return Err(Error::damaged(what, "its media type is not the one that its index states"));
        }
        if !CONFIG.contains(&manifest.config.media_type.as_str()) {
            return Err(Error::Unsupported {
                what: format!(
                    "an artifact of type '{}'",
                    crate::digest::clipped(&manifest.config.media_type)
                ),
                remedy: "only container images have layers",
            });
        }
        Ok(manifest)
    }
}

/// A layer as a manifest names it. The compression that the type states is not needed; other types are other things.
fn stored(descriptor: &Descriptor) -> Result<Stored> {
    let media_type = descriptor.media_type.as_str();
    let tar = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"));
    if !matches!(tar, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
        return Err(Error::Unsupported {
            what: format!(
                "media type '{}' of layer {}",
                crate::digest::clipped(media_type),
                descriptor.digest
            ),
            remedy: "layers are tars, plain or compressed with gzip or zstd; decrypt or convert it first",
        });
    }
    Ok(Stored {
        name: blob_name(&descriptor.digest),
        blob: Some(descriptor.digest),
        media_type: Some(media_type.to_owned()),
        size: Some(descriptor.size),
    })
}
