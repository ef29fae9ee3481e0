//! Images: `repositories.json` and `imagedb`.

use super::{DockerLayer, DockerStore, Listed, find, list};
use crate::digest::Digest;
use crate::documents::Config;
use crate::error::{Error, Result};
use crate::json::parse;
use crate::names::Name;
use crate::platform::Platform;
use crate::source::is_called;
use serde::Deserialize;
use std::collections::BTreeMap;

const REPOSITORIES: &str = "repositories.json";
const CONTENT: &str = "imagedb/content/sha256";

/// An image of Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DockerImage {
    /// The image id: the digest of [`DockerImage::config`].
    pub id: Digest,
    /// Its names, sorted; none for an image that is only below others.
    pub names: Vec<Name>,
    /// The machine it is for.
    pub platform: Platform,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The lowest layer first.
    pub layers: Vec<DockerLayer>,
}

/// Names to ids, under each repository.
#[derive(Default, Deserialize)]
struct Repositories {
    #[serde(default, rename = "Repositories")]
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl DockerStore {
    /// All images, sorted by name and id. One with a damaged config or without all of its layers is a finding.
    ///
    /// # Errors
    /// Those of listing the folder.
    pub fn images(&self) -> Result<Listed<DockerImage>> {
        let mut findings = Vec::new();
        let mut names = self.names(&mut findings);
        let mut images = Vec::new();
        for hex in list(&self.root.join(self.below_root(CONTENT)))? {
            let file = format!("{CONTENT}/{hex}");
            let names = Digest::from_hex(&hex).ok().and_then(|id| names.remove(&id)).unwrap_or_default();
            match self.stored_image(&hex, names) {
                Ok(image) => images.push(image),
                Err(error) => findings.push(self.finding(&file, &error)),
            }
        }
        for (id, names) in names {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let error = Error::Missing { what: format!("image {id}, which is called {},", names.join(", ")) };
            findings.push(self.finding(REPOSITORIES, &error));
        }
        images.sort_by(|one, other| {
            // Those with a name first.
            (one.names.is_empty(), &one.names, one.id).cmp(&(other.names.is_empty(), &other.names, other.id))
        });
        Ok(Listed { items: images, findings })
    }

    /// The image of that name, id, or beginning of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; what is wrong with the image, if it is damaged.
    pub fn image(&self, wanted: &str) -> Result<DockerImage> {
        let listed = self.images()?;
        let called = |image: &DockerImage| {
            let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
            is_called(&names, wanted)
        };
        let shown = |image: &DockerImage| {
            image.names.first().map_or_else(|| image.id.to_string(), ToString::to_string)
        };
        find("image", wanted, &listed.items, called, |image| image.id.hex(), shown).map_err(|error| {
            // Is it the one that is damaged?
            let id = self.names(&mut Vec::new()).into_iter().find(|(_, names)| {
                is_called(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), wanted)
            });
            match id.map(|(id, names)| self.stored_image(&id.hex(), names)) {
                Some(Err(damage)) => damage.within(format!("image {}", crate::digest::clipped(wanted))),
                _ => error,
            }
        })
    }

    fn stored_image(&self, hex: &str, mut names: Vec<Name>) -> Result<DockerImage> {
        let id = Digest::from_hex(hex)?;
        let Some(config) = self.document(&format!("{CONTENT}/{hex}"))? else {
            return Err(Error::Missing { what: "its config".into() });
        };
        let found = Digest::of(&config);
        if found != id {
            return Err(Error::WrongDigest { what: "the config", expected: id, found });
        }
        let parsed = Config::parse(&config, "the config")?;
        let layers = self.layers_of(parsed.diff_ids())?;
        names.sort();
        Ok(DockerImage { id, names, platform: parsed.platform(), config, layers })
    }

    /// Names by image id. Docker also has names with a digest there, of what was pulled; no image can be loaded under such a name.
    fn names(&self, findings: &mut Vec<super::DockerFinding>) -> BTreeMap<Digest, Vec<Name>> {
        let mut names: BTreeMap<Digest, Vec<Name>> = BTreeMap::new();
        let read = || match self.document(REPOSITORIES)? {
            Some(bytes) => parse::<Repositories>(&bytes, REPOSITORIES),
            None => Ok(Repositories::default()),
        };
        let repositories = read().unwrap_or_else(|error| {
            findings.push(self.finding(REPOSITORIES, &error));
            Repositories::default()
        });
        for (name, id) in repositories.repositories.into_values().flatten() {
            if name.contains('@') {
                continue;
            }
            match (name.parse::<Name>(), id.parse::<Digest>()) {
                (Ok(name), Ok(id)) => names.entry(id).or_default().push(name),
                (Err(error), _) | (_, Err(error)) => findings.push(self.finding(REPOSITORIES, &error)),
            }
        }
        names
    }
}
