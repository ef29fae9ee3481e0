//! `manifest.json` of `docker save`.
//!
//! # References
//! Docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

use super::{ReadOptions, Storage, is_called};
use crate::digest::{Digest, clipped};
use crate::documents::{MOST_IMAGES, Saved};
use crate::error::{Error, Result};
use crate::image::{Image, Stored, assemble, label};
use crate::json::{Bounded, parse};
use crate::names::Name;
use std::sync::Arc;

pub(super) fn list(bytes: &[u8]) -> Result<Vec<Saved>> {
    parse::<Bounded<Saved, MOST_IMAGES>>(bytes, "manifest.json").map(|list| list.0)
}

/// The names of one image, as Docker shows them.
pub(super) fn names(saved: &Saved) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for tag in &saved.repo_tags.0 {
        names.push(tag.parse::<Name>()?.to_string());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The digest that a file's name promises: `blobs/sha256/HEX`, `HEX.json`, `HEX.tar`, `sha256:HEX`.
fn promised(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let stem = last.split('.').next()?;
    Digest::from_hex(stem.strip_prefix("sha256:").unwrap_or(stem)).ok()
}

/// Adds the images that the archive's index does not hold, and the names of those that it does.
pub(super) fn add(
    storage: &Arc<Storage>,
    options: &ReadOptions,
    saved: &[Saved],
    wanted: Option<&str>,
    images: &mut Vec<Image>,
) -> Result<()> {
    let by_id = wanted.and_then(|wanted| wanted.parse::<Digest>().ok());
    for saved in saved {
        let names = names(saved)?;
        let place = label(&names, promised(&saved.config).as_ref());
        let known = |image: &Image| promised(&saved.config) == Some(image.id);
        if let Some(image) = images.iter_mut().find(|image| known(image)) {
            image.names.extend(names);
            image.names.sort();
            image.names.dedup();
            continue;
        }
        if let Some(wanted) = wanted
            && !is_called(&names, wanted)
            && (by_id.is_none() || by_id != promised(&saved.config))
        {
            continue;
        }
        let image = one(storage, options, saved, names).map_err(|error| match error {
            Error::In { .. } => error,
            error => error.within(place),
        })?;
        images.push(image);
    }
    if let Some(wanted) = wanted.filter(|_| by_id.is_none()) {
        images.retain(|image| is_called(&image.names, wanted));
    }
    let mut all: Vec<&String> = images.iter().flat_map(|image| &image.names).collect();
    all.sort();
    match all.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Error::damaged("manifest.json", format!("two images have the name {}", twice[0]))),
        None => Ok(()),
    }
}

fn one(storage: &Arc<Storage>, options: &ReadOptions, saved: &Saved, names: Vec<String>) -> Result<Image> {
    let Some(config) = storage.document(&saved.config)? else {
        return Err(Error::Missing { what: format!("its config {}", clipped(&saved.config)) });
    };
    match (promised(&saved.config), Digest::of(&config)) {
        (Some(expected), found) if expected != found => {
            return Err(Error::WrongDigest { what: "the config", expected, found });
        }
        _ => {}
    }
    let layers = saved.layers.0.iter().map(|name| Stored {
        name: name.clone(),
        // Other names tell a digest too, but some tools' is the diff id and others' the blob's.
        blob: name.starts_with("blobs/sha256/").then(|| promised(name)).flatten(),
        media_type: None,
        size: None,
    });
    let image = assemble(storage, names, config, None, layers.collect(), options.layer_limit)?;
    match &options.platform {
        Some(wanted) if wanted.rank(&image.platform).is_none() => {
            Err(Error::NoSuchPlatform { wanted: wanted.clone(), available: vec![image.platform] })
        }
        _ => Ok(image),
    }
}
