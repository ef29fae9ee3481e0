//! The JSON documents of an image, as far as they are read. Unknown members are ignored; a member that stands there twice is an error, since readers differ
//! in which one they take.
//!
//! # References
//! OCI image specification: `descriptor.md`, `image-index.md`, `manifest.md`, `config.md`; Docker's image specification v1.2 for `manifest.json`.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json::{Bounded, or_default, parse};
use crate::platform::Platform;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Layers of an image at most. The kernel's and Docker's own limits are near 125.
pub(crate) const MOST_LAYERS: usize = 1024;
/// Images of an index or archive at most.
pub(crate) const MOST_IMAGES: usize = 1024;

pub(crate) const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
pub(crate) const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
pub(crate) const CONFIG: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Annotations {
    #[serde(default, rename = "org.opencontainers.image.ref.name")]
    pub(crate) ref_name: Option<String>,
    /// The whole name, as containerd and Docker write it.
    #[serde(default, rename = "io.containerd.image.name")]
    pub(crate) image_name: Option<String>,
    #[serde(default, rename = "vnd.docker.reference.type")]
    pub(crate) reference_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(default, rename = "mediaType", deserialize_with = "or_default")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: Annotations,
}

impl Descriptor {
    /// It describes another entry, and is no image: an attestation of BuildKit's.
    pub(crate) fn is_attestation(&self) -> bool {
        self.annotations.reference_type.is_some() || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(default, rename = "mediaType", deserialize_with = "or_default")]
    media_type: String,
    pub(crate) manifests: Bounded<Descriptor, MOST_IMAGES>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

impl Index {
    /// A document that is index and manifest at once would be read differently by different programs.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let index: Self = parse(bytes, what)?;
        version(index.schema_version, what)?;
        if index.config.is_some() || index.layers.is_some() {
            return Err(Error::damaged(what, "it is index and manifest at once"));
        }
        expected_type(&index.media_type, &INDEX, what)?;
        Ok(index)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(default, rename = "mediaType", deserialize_with = "or_default")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Bounded<Descriptor, MOST_LAYERS>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let manifest: Self = parse(bytes, what)?;
        version(manifest.schema_version, what)?;
        if manifest.manifests.is_some() {
            return Err(Error::damaged(what, "it is index and manifest at once"));
        }
        expected_type(&manifest.media_type, &MANIFEST, what)?;
        Ok(manifest)
    }
}

fn version(version: u32, what: &str) -> Result<()> {
    match version {
        2 => Ok(()),
        1 => Err(Error::Unsupported {
            what: format!("{what} of schema version 1"),
            remedy: "pull and save the image with a current Docker, skopeo or buildah",
        }),
        other => Err(Error::damaged(what, format!("its schema version is {other}, not 2"))),
    }
}

fn expected_type(found: &str, known: &[&str], what: &str) -> Result<()> {
    if found.is_empty() || known.contains(&found) {
        Ok(())
    } else {
        Err(Error::damaged(what, format!("its media type is '{found}'")))
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(default)]
    diff_ids: Bounded<Digest, MOST_LAYERS>,
}

/// An image's config.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let config: Self = parse(bytes, what)?;
        match config.rootfs.as_ref() {
            None => Err(Error::Unsupported {
                what: format!("{what}, which names no layers"),
                remedy: "it was written by Docker before 1.10: load and save it again with a newer one",
            }),
            Some(root) if root.kind != "layers" => Err(Error::damaged(what, "its rootfs is not of layers")),
            Some(_) => Ok(config),
        }
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// The lowest layer first.
    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.as_ref().map(|root| root.diff_ids.0.as_slice()).unwrap_or_default()
    }
}

/// One image of an archive's `manifest.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Saved {
    #[serde(rename = "Config")]
    pub(crate) config: String,
    #[serde(default, rename = "RepoTags")]
    pub(crate) repo_tags: Bounded<String, MOST_IMAGES>,
    #[serde(default, rename = "Layers")]
    pub(crate) layers: Bounded<String, MOST_LAYERS>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_document_with_two_meanings_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"digest":"{DIGEST}","size":0}},"layers":[]}}"#
        );
        assert!(Index::parse(both.as_bytes(), "it").unwrap_err().to_string().contains("at once"));
        assert!(Manifest::parse(both.as_bytes(), "it").unwrap_err().to_string().contains("at once"));
        let twice = r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(Index::parse(twice.as_bytes(), "it").unwrap_err().to_string().contains("duplicate"));
    }

    #[test]
    fn other_versions_and_types_are_refused() {
        for (text, why) in [
            (r#"{"schemaVersion":1,"manifests":[]}"#, "schema version 1"),
            (r#"{"schemaVersion":3,"manifests":[]}"#, "is 3"),
            (r#"{"manifests":[]}"#, "schemaVersion"),
            (r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#, "text/plain"),
        ] {
            let error = Index::parse(text.as_bytes(), "the index").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("the index"), "{error}");
        }
    }

    #[test]
    fn a_config_names_its_platform_and_layers() {
        let text = format!(
            r#"{{"os":"linux","architecture":"arm","variant":"v7","x":1,"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
        );
        let config = Config::parse(text.as_bytes(), "it").unwrap();
        assert_eq!(config.platform().to_string(), "linux/arm/v7");
        assert_eq!(config.diff_ids().len(), 1);
        assert!(Config::parse(b"{}", "it").unwrap_err().to_string().contains("1.10"));
    }
}
