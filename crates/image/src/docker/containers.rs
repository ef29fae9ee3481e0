//! Containers: `containers` and `layerdb/mounts`.

use super::{DockerFinding, DockerLayer, DockerStore, Listed, find, list};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::json::{or_default, parse, read_limited};
use crate::source::MOST_JSON;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A container of Docker's, stopped or not.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DockerContainer {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, without the slash that Docker writes in front.
    pub name: String,
    /// The image id that it was made of, if that is known.
    pub image: Option<Digest>,
    /// The image as it was called when the container was made.
    pub image_name: String,
    /// As Docker wrote it last: a machine that lost power still says that it runs.
    pub running: bool,
    /// When it was made, as Docker wrote it.
    pub created: String,
    /// The storage driver's name for the layer that it writes to.
    pub mount_id: String,
    /// The layer below that one, with Docker's own `/etc/hosts` and so on.
    pub init_id: Option<String>,
    /// The image's layers, the lowest first.
    pub layers: Vec<DockerLayer>,
    /// Its command, environment and so on, as an image's config has them: for [`crate::new_config`].
    pub config: Value,
}

#[derive(Default, Deserialize)]
struct State {
    #[serde(default, rename = "Running")]
    running: bool,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default, rename = "Name")]
    name: String,
    #[serde(default, rename = "Driver")]
    driver: String,
    #[serde(default, rename = "Image")]
    image: String,
    #[serde(default, rename = "Created")]
    created: String,
    #[serde(default, rename = "State", deserialize_with = "or_default")]
    state: State,
    #[serde(default, rename = "Config")]
    config: Value,
}

impl DockerStore {
    /// The containers whose layers this store's driver has, sorted by name. One that is damaged is a finding; one of another storage driver is left out, as Docker
    /// does.
    ///
    /// # Errors
    /// Those of listing the folder.
    pub fn containers(&self) -> Result<Listed<DockerContainer>> {
        let path = self.root.join("containers");
        let mut listed = Listed { items: Vec::new(), findings: Vec::new() };
        let ids = list(&path)?;
        if ids.is_empty() {
            return Ok(listed);
        }
        let folder = Folder::open_root(&path)?;
        for id in ids {
            match self.container_of(&folder, &id) {
                Ok(Some(container)) => listed.items.push(container),
                Ok(None) => {}
                Err(error) => listed.findings.push(self.container_finding(&id, &error)),
            }
        }
        listed.items.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(listed)
    }

    /// The container of that name, id, or beginning of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`].
    pub fn container(&self, wanted: &str) -> Result<DockerContainer> {
        let listed = self.containers()?;
        let called =
            |container: &DockerContainer| container.name == wanted.strip_prefix('/').unwrap_or(wanted);
        find(
            "container",
            wanted,
            &listed.items,
            called,
            |container| container.id.clone(),
            |container| container.name.clone(),
        )
    }

    /// Its layer is named, too, for those who want to look at it by hand.
    fn container_finding(&self, id: &str, error: &Error) -> DockerFinding {
        let layer = self.layer_name(&format!("layerdb/mounts/{id}/mount-id")).ok().flatten();
        let layer = layer.map(|layer| format!("; its files are in layer {layer}")).unwrap_or_default();
        let path: PathBuf = Path::new("containers").join(id);
        DockerFinding { path, why: format!("{error}{layer}") }
    }

    fn container_of(&self, folder: &Folder, id: &str) -> Result<Option<DockerContainer>> {
        let what = "config.v2.json";
        let Some(file) = folder.open(&format!("{id}/{what}"))? else {
            return Err(Error::Missing { what: what.into() });
        };
        let stored: Stored = parse(&read_limited(file, what, MOST_JSON)?, what)?;
        if stored.driver != self.driver {
            return Ok(None);
        }
        if stored.id != id {
            return Err(Error::damaged(what, "it is of another container"));
        }
        let name = |file: &str| format!("layerdb/mounts/{id}/{file}");
        let Some(mount_id) = self.layer_name(&name("mount-id"))? else {
            return Err(Error::Missing { what: self.below_root(&name("mount-id")).display().to_string() });
        };
        let parent = self.digest(&name("parent"))?;
        let layers = parent.map(|chain_id| self.stack(&chain_id)).transpose()?.unwrap_or_default();
        Ok(Some(DockerContainer {
            id: stored.id,
            name: stored.name.strip_prefix('/').unwrap_or(&stored.name).to_owned(),
            image: stored.image.parse().ok(),
            image_name: stored.config["Image"].as_str().unwrap_or_default().to_owned(),
            running: stored.state.running,
            created: stored.created,
            mount_id,
            init_id: self.layer_name(&name("init-id"))?,
            layers,
            config: stored.config,
        }))
    }
}
