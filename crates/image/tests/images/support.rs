//! Layers, layouts and archives, built byte by byte.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use thinlayer_image::{Digest, Image, ReadOptions, Source};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What an entry of a tar is.
pub(crate) enum Kind<'a> {
    File(&'a [u8]),
    Folder,
    Symlink(&'a str),
    HardLink(&'a str),
}

/// A ustar header with its checksum.
pub(crate) fn header(name: &str, flag: u8, size: u64, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000755\0");
    block[108..124].copy_from_slice(b"0000000\x000000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"14000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    sealed(block)
}

/// With the checksum made right again.
pub(crate) fn sealed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

pub(crate) fn entry(name: &str, kind: &Kind<'_>) -> Vec<u8> {
    let mut bytes = match kind {
        Kind::File(content) => [&header(name, b'0', content.len() as u64, "")[..], content].concat(),
        Kind::Folder => header(name, b'5', 0, "").to_vec(),
        Kind::Symlink(target) => header(name, b'2', 0, target).to_vec(),
        Kind::HardLink(target) => header(name, b'1', 0, target).to_vec(),
    };
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A tar with its end.
pub(crate) fn tar(entries: &[(&str, Kind<'_>)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|(name, kind)| entry(name, kind)).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A layer with one file.
pub(crate) fn layer(name: &str, content: &str) -> Vec<u8> {
    tar(&[("etc/", Kind::Folder), (&format!("etc/{name}"), Kind::File(content.as_bytes()))])
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image's config for `amd64`.
pub(crate) fn config(layers: &[Vec<u8>]) -> Value {
    config_for("amd64", layers)
}

pub(crate) fn config_for(architecture: &str, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "ADD file", "comment": "unit é"}],
    })
}

/// Files by name: a layout or an archive before it is written.
#[derive(Clone, Default)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl Files {
    /// Of an OCI layout without images.
    pub(crate) fn layout() -> Self {
        let mut files = Self::default();
        files.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        files
    }

    pub(crate) fn put(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), content.to_vec());
    }

    pub(crate) fn put_json(&mut self, name: &str, content: &Value) {
        self.put(name, content.to_string().as_bytes());
    }

    /// Adds a blob; the answer is its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.put(&format!("blobs/sha256/{}", digest.hex()), content);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()})
    }

    pub(crate) fn json_blob(&mut self, media_type: &str, content: &Value) -> Value {
        self.blob(media_type, content.to_string().as_bytes())
    }

    /// Adds config, layers and manifest; the answer is the manifest's descriptor.
    pub(crate) fn image(&mut self, config: &Value, layers: &[(&str, Vec<u8>)]) -> Value {
        let config = self.json_blob(OCI_CONFIG, config);
        let layers: Vec<Value> =
            layers.iter().map(|(media_type, bytes)| self.blob(media_type, bytes)).collect();
        self.json_blob(
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}),
        )
    }

    pub(crate) fn index(&mut self, manifests: &[Value]) {
        self.put_json("index.json", &json!({"schemaVersion": 2, "manifests": manifests}));
    }

    pub(crate) fn write(&self, folder: &Path) {
        for (name, content) in &self.0 {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let entries: Vec<(&str, Kind<'_>)> =
            self.0.iter().map(|(name, content)| (name.as_str(), Kind::File(content))).collect();
        tar(&entries)
    }
}

/// A descriptor with annotations.
pub(crate) fn annotated(mut descriptor: Value, annotations: Value) -> Value {
    descriptor["annotations"] = annotations;
    descriptor
}

pub(crate) fn named(descriptor: Value, name: &str) -> Value {
    annotated(descriptor, json!({"org.opencontainers.image.ref.name": name}))
}

pub(crate) fn on_platform(mut descriptor: Value, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
    descriptor
}

/// Options that do not depend on the machine: for `linux/amd64`.
pub(crate) fn amd64() -> ReadOptions {
    ReadOptions { platform: Some("linux/amd64".parse().unwrap()), ..ReadOptions::default() }
}

/// A source of files, as folder.
pub(crate) fn folder(files: &Files) -> (tempfile::TempDir, Source) {
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path());
    let source = Source::open(folder.path(), amd64()).unwrap();
    (folder, source)
}

/// A source of an archive's bytes, through a pipe.
pub(crate) fn piped(bytes: &[u8]) -> Source {
    Source::from_stream(bytes, Path::new("stdin"), amd64()).unwrap()
}

/// Every layer's tar, by both ways of reading, which must agree.
pub(crate) fn tars(image: &Image) -> Vec<Vec<u8>> {
    let read = |mut stream: thinlayer_image::LayerStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    };
    image
        .layers
        .iter()
        .map(|layer| {
            let stream = layer.open_ahead().unwrap();
            let progress = stream.progress();
            let all = read(stream);
            assert_eq!(progress.load(std::sync::atomic::Ordering::Relaxed), layer.stored_bytes);
            assert_eq!(all, read(layer.open().unwrap()));
            assert_eq!(Digest::of(&all), layer.diff_id);
            all
        })
        .collect()
}
