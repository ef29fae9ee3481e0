//! Layouts that lie. Each gives one clear error, which says what to do, and nothing else is touched.

use crate::support::*;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use thinlayer_image::{Digest, Error, ErrorKind, ReadOptions, Source};

const REMEDIES: [&str; 12] = [
    "get or save",
    "is expected",
    "are expected",
    "larger limit",
    "make the image again",
    "ask for one of",
    "names are like",
    "with gzip or zstd",
    "convert it first",
    "have layers",
    "a current Docker",
    "have a manifest or an index",
];

/// Reads everything, and gives the error there must be.
pub(crate) fn failure(what: &str, source: Result<Source, Error>) -> Error {
    let all = |source: Source| {
        for image in source.images()? {
            for layer in &image.layers {
                layer.open()?.finish()?;
            }
        }
        Ok(())
    };
    let error = match source.and_then(all) {
        Ok(()) => panic!("{what}: it was taken"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 1500, "{what}: {text}");
    assert!(!text.bytes().any(|byte| byte.is_ascii_control()), "{what}: {text}");
    let elsewhere = ["decompress it", "is the path right", "load and save", "a newer one"];
    assert!(
        REMEDIES.iter().chain(&elsewhere).any(|remedy| text.contains(remedy)),
        "{what}: no remedy in: {text}"
    );
    error
}

pub(crate) fn says(what: &str, error: &Error, parts: &[&str]) {
    for part in parts {
        assert!(error.to_string().contains(part), "{what}: no '{part}' in: {error}");
    }
}

/// As folder and as archive, with the same error.
fn refused(what: &str, files: &Files, parts: &[&str]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    files.write(folder.path());
    let error = failure(what, Source::open(folder.path(), amd64()));
    says(what, &error, parts);
    let piped = failure(what, Source::from_stream(&files.tar()[..], Path::new("stdin"), amd64()));
    says(what, &piped, parts);
    assert_eq!(error.kind(), piped.kind());
    error
}

/// An image of two layers, called `web:1`, in a layout.
struct Sound {
    files: Files,
    layers: Vec<Vec<u8>>,
    manifest: Value,
}

fn sound() -> Sound {
    let layers = vec![layer("one", "1"), layer("two", "2")];
    let mut files = Files::layout();
    let manifest = files.image(&config(&layers), &[(TAR, layers[0].clone()), (TAR_GZIP, gzip(&layers[1]))]);
    files.index(&[named(manifest.clone(), "web:1")]);
    Sound { files, layers, manifest }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn name_of(descriptor: &Value) -> String {
    format!("blobs/sha256/{}", descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:"))
}

impl Sound {
    /// With another manifest.
    fn with_manifest(mut self, change: impl FnOnce(&mut Value)) -> Files {
        let mut manifest: Value = serde_json::from_slice(&self.files.0[&name_of(&self.manifest)]).unwrap();
        change(&mut manifest);
        let manifest = self.files.json_blob(OCI_MANIFEST, &manifest);
        self.files.index(&[named(manifest, "web:1")]);
        self.files
    }

    fn with_config(mut self, change: impl FnOnce(&mut Value)) -> Files {
        let mut config = config(&self.layers);
        change(&mut config);
        let config = self.files.json_blob(OCI_CONFIG, &config);
        self.with_manifest(|manifest| manifest["config"] = config)
    }
}

#[test]
fn the_sound_one_is_taken() {
    let (_guard, source) = folder(&sound().files);
    assert_eq!(tars(&source.image("web:1").unwrap()), sound().layers);
}

#[test]
fn digests_that_lie() {
    let second = gzip(&sound().layers[1]);
    for (what, name, place) in [
        ("plain layer", blob_name(&Digest::of(&sound().layers[0])), "layer 1 of 2"),
        ("compressed layer", blob_name(&Digest::of(&second)), "layer 2 of 2"),
        ("manifest", name_of(&sound().manifest), "manifest"),
        ("config", blob_name(&Digest::of(config(&sound().layers).to_string().as_bytes())), "config"),
    ] {
        let mut files = sound().files;
        let blob = files.0.get_mut(&name).unwrap();
        // A place where no decompressor or parser sees it first.
        let at = if what == "compressed layer" { 4 } else { blob.len() - 1 };
        blob[at] ^= 0x20;
        let error = refused(what, &files, &["web:1", place, "sha256:", "is damaged"]);
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
    let files = sound().with_config(|config| config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"another")));
    refused(
        "diff id",
        &files,
        &["web:1", "layer 2 of 2", "the layer's tar", &Digest::of(b"another").to_string()],
    );
}

#[test]
fn sizes_that_lie() {
    for (what, change) in [("shorter", -1_i64), ("longer", 1)] {
        let files = sound().with_manifest(|manifest| {
            let size = &mut manifest["layers"][0]["size"];
            *size = json!(size.as_i64().unwrap() + change);
        });
        refused(what, &files, &["web:1", "layer 1 of 2", "bytes"]);
        let mut files = sound().files;
        let mut manifest = sound().manifest;
        manifest["size"] = json!(manifest["size"].as_i64().unwrap() + change);
        files.index(&[manifest]);
        refused(what, &files, &["manifest", "bytes"]);
    }
    let bad = [json!(-1), json!(1.5), json!("12"), json!(u64::MAX), json!(1e30), Value::Null];
    for size in bad {
        let files = sound().with_manifest(|manifest| manifest["config"]["size"] = size.clone());
        refused(&size.to_string(), &files, &["web:1"]);
    }
}

#[test]
fn blobs_that_are_missing() {
    for (name, part) in [
        (blob_name(&Digest::of(&sound().layers[0])), "layer 1 of 2"),
        (name_of(&sound().manifest), "the manifest sha256:"),
        (blob_name(&Digest::of(config(&sound().layers).to_string().as_bytes())), "the config sha256:"),
    ] {
        let mut files = sound().files;
        files.0.remove(&name).unwrap();
        refused(&name, &files, &["web:1", part, "is missing"]);
    }
}

#[test]
fn digests_that_are_paths_or_of_other_kinds() {
    let hex = Digest::of(b"").hex();
    let bad = [
        "sha256:../../../../../../../../../../../../../etc/passwd".to_owned(),
        format!("sha256:{}", "../".repeat(21) + "x"),
        "/etc/passwd".to_owned(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha512:{hex}{hex}"),
        format!("SHA256:{hex}"),
        hex.clone(),
        String::new(),
    ];
    for digest in bad {
        let files = sound().with_manifest(|manifest| manifest["layers"][1]["digest"] = json!(digest));
        refused(&digest, &files, &["web:1", "sha256"]);
        let files = sound().with_config(|config| config["rootfs"]["diff_ids"][0] = json!(digest));
        refused(&digest, &files, &["web:1", "config"]);
    }
}

#[test]
fn indexes_that_are_cycles_nested_or_wide() {
    // A true cycle would need a broken hash; a lie about it is found by its digest.
    let mut files = Files::layout();
    let digest = Digest::of(b"itself");
    let itself = json!({"mediaType": OCI_INDEX, "digest": digest, "size": 300});
    let text = json!({"schemaVersion": 2, "manifests": [itself]}).to_string();
    let text = format!("{text:<300}");
    files.put(&blob_name(&digest), text.as_bytes());
    files.index(&[itself]);
    refused("cycle", &files, &["the index", &digest.to_string()]);

    let mut files = sound().files;
    let mut descriptor = sound().manifest;
    for _ in 0..10 {
        descriptor = files.json_blob(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [descriptor]}));
    }
    files.index(&[descriptor]);
    refused("nested", &files, &["inside each other"]);

    let mut files = sound().files;
    files.index(&vec![sound().manifest; 5000]);
    refused("wide", &files, &["index.json", "1024 items"]);

    let mut files = sound().files;
    let mut indexes = Vec::new();
    for outer in 0..40 {
        let inner: Vec<Value> = (0..40)
            .map(|inner| on_platform(json!({"mediaType": OCI_MANIFEST, "size": 2, "digest": Digest::of(format!("{outer} {inner}").as_bytes())}), "s390x"))
            .collect();
        indexes.push(files.json_blob(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": inner})));
    }
    let top = files.json_blob(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": indexes}));
    files.index(&[top]);
    refused("wide and nested", &files, &["1024 documents"]);
}

#[test]
fn media_types_that_are_others() {
    for media_type in [
        "text/plain",
        "",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+xz",
        "application/vnd.oci.image.layer.v1.targz",
    ] {
        let files = sound().with_manifest(|manifest| manifest["layers"][0]["mediaType"] = json!(media_type));
        refused(media_type, &files, &["web:1", media_type, "sha256:"]);
    }
    let files = sound().with_manifest(|manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
    });
    refused("artifact", &files, &["web:1", "helm"]);
    for media_type in ["application/vnd.docker.distribution.manifest.v1+prettyjws", "text/plain"] {
        let mut files = sound().files;
        let mut manifest = sound().manifest;
        manifest["mediaType"] = json!(media_type);
        files.index(&[manifest]);
        refused(media_type, &files, &[media_type]);
    }
    let files = sound().with_manifest(|manifest| manifest["mediaType"] = json!(OCI_INDEX));
    refused("manifest that says it is an index", &files, &["web:1", "media type"]);
    let files = sound().with_manifest(|manifest| {
        manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json")
    });
    refused("manifest of another type than stated", &files, &["web:1", "media type"]);
    let files = sound().with_manifest(|manifest| manifest["manifests"] = json!([]));
    refused("manifest and index at once", &files, &["web:1", "at once"]);
    let files = sound().with_manifest(|manifest| manifest["schemaVersion"] = json!(1));
    refused("schema 1", &files, &["web:1", "schema version 1"]);
}

#[test]
fn documents_that_are_bombs() {
    let mut files = sound().files;
    files.put("index.json", &vec![b' '; 9 << 20]);
    assert_eq!(refused("blanks", &files, &["index.json", "8388608 bytes"]).kind(), ErrorKind::TooLarge);
    files.put("index.json", "[".repeat(1 << 20).as_bytes());
    refused("deep", &files, &["index.json"]);
    let deep =
        format!(r#"{{"schemaVersion":2,"x":{}{},"manifests":[]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let wrong =
        format!(r#"{{"schemaVersion":2,"manifests":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    files.put("index.json", wrong.as_bytes());
    refused("deep where a list is read", &files, &["index.json"]);
    // Where nothing is read, depth costs nothing: this is an index without images.
    files.put("index.json", deep.as_bytes());
    assert!(folder(&files).1.images().unwrap().is_empty());
    for bad in ["", "null", "[]", "{", "\u{feff}{}", r#"{"schemaVersion":2}"#] {
        files.put("index.json", bad.as_bytes());
        refused(bad, &files, &["index.json"]);
    }
    let descriptor = json!({"mediaType": TAR, "digest": Digest::of(b""), "size": 0});
    for (layers, part) in [(5000, "1024 items"), (100_000, "8388608 bytes")] {
        let mut text = serde_json::to_vec(&vec![&descriptor; 1]).unwrap();
        text.truncate(text.len() - 1);
        let mut one = text.split_off(1);
        one.insert(0, b',');
        text.extend_from_slice(&one[1..]);
        text.extend(one.repeat(layers - 1));
        text.push(b']');
        let mut files = sound().files;
        let config = files.json_blob(OCI_CONFIG, &config(&[])).to_string();
        let manifest =
            [format!(r#"{{"schemaVersion":2,"config":{config},"layers":"#).as_bytes(), &text, b"}"].concat();
        let manifest = files.blob(OCI_MANIFEST, &manifest);
        files.index(&[named(manifest, "web:1")]);
        refused("layers", &files, &["web:1", "manifest", part]);
    }
    let files =
        sound().with_config(|config| config["rootfs"]["diff_ids"] = json!(vec![Digest::of(b""); 2000]));
    refused("diff ids", &files, &["web:1", "config", "1024 items"]);
}

#[test]
fn members_that_stand_there_twice() {
    let layer = json!({"mediaType": TAR, "digest": Digest::of(b""), "size": 0});
    let mut files = sound().files;
    let config = files.json_blob(OCI_CONFIG, &config(&[])).to_string();
    let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[{layer}]}}"#);
    let manifest = files.blob(OCI_MANIFEST, text.as_bytes());
    files.index(&[named(manifest, "web:1")]);
    refused("layers twice", &files, &["web:1", "duplicate field"]);

    let mut files = sound().files;
    let other = files.image(&crate::support::config(&[]), &[]);
    files.index(&[named(sound().manifest, "web:1"), named(other, "web:1")]);
    refused("a name twice", &files, &["two images", "web:1"]);
}

#[test]
fn configs_that_do_not_fit() {
    type Change = (&'static str, fn(&mut Value), &'static str);
    let changes: [Change; 6] = [
        (
            "one layer less",
            |config| config["rootfs"]["diff_ids"] = json!([]),
            "names 0 layers, its manifest 2",
        ),
        ("no rootfs", |config| config["rootfs"] = Value::Null, "1.10"),
        ("another rootfs", |config| config["rootfs"]["type"] = json!("zip"), "not of layers"),
        ("swapped", |config| config["rootfs"]["diff_ids"].as_array_mut().unwrap().swap(0, 1), "layer 1 of 2"),
        ("another machine", |config| config["architecture"] = json!("m68k\u{1b}[2J"), "linux/amd64"),
        ("a list", |config| *config = json!([]), "config"),
    ];
    for (what, change, part) in changes {
        refused(what, &sound().with_config(change), &["web:1", part]);
    }
}

#[test]
fn names_that_are_none() {
    for name in ["a b", "a\nb", "\u{1b}[31mred", "", "ü"] {
        let mut files = sound().files;
        files.index(&[named(sound().manifest, name)]);
        refused(name, &files, &["is no name"]);
    }
}

#[test]
fn layers_that_are_no_streams_of_their_kind() {
    let tar = layer("one", &"1".repeat(3000));
    let packed = |packed: Vec<u8>| {
        let mut files = Files::layout();
        let manifest = files.image(&config(std::slice::from_ref(&tar)), &[(TAR_GZIP, packed)]);
        files.index(&[named(manifest, "web:1")]);
        files
    };
    let damaged = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        bytes
    };
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    for (what, bytes) in [
        ("cut gzip", half(&gzip(&tar))),
        ("cut zstd", half(&zstd(&tar))),
        ("damaged gzip", damaged(gzip(&tar))),
        ("damaged zstd", damaged(zstd(&tar))),
        ("more behind gzip", [gzip(&tar), b"more more more more".to_vec()].concat()),
        ("two members", [gzip(&tar), gzip(&tar)].concat()),
        ("empty", Vec::new()),
        ("compressed twice", gzip(&gzip(&tar))),
        ("xz", b"\xfd7zXZ\0\0\0".to_vec()),
        ("bzip2", b"BZh91AY&SY".to_vec()),
    ] {
        refused(what, &packed(bytes), &["web:1", "layer 1 of 1"]);
    }
}

#[test]
fn a_layer_that_unpacks_to_more_than_the_limit() {
    let bomb = vec![0; 3 << 20];
    for (media_type, packed) in [(TAR_GZIP, gzip(&bomb)), (TAR_ZSTD, zstd(&bomb)), (TAR, bomb.clone())] {
        let mut files = Files::layout();
        let manifest = files.image(&config(std::slice::from_ref(&bomb)), &[(media_type, packed)]);
        files.index(&[named(manifest, "web:1")]);
        let options = ReadOptions { layer_limit: 1 << 20, ..amd64() };
        let source = Source::from_stream(&files.tar()[..], Path::new("stdin"), options.clone()).unwrap();
        let layer = source.images().unwrap().remove(0).layers.remove(0);
        for stream in [layer.open().unwrap(), layer.open_ahead().unwrap()] {
            let error = stream.finish().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            says(media_type, &error, &["web:1", "layer 1 of 1", "1048576 bytes"]);
        }
    }
}

#[test]
fn blobs_in_a_folder_that_are_no_files() {
    let digest = Digest::of(&sound().layers[0]);
    let outer = tempfile::tempdir().unwrap();
    let canary = outer.path().join("canary");
    std::fs::write(&canary, &sound().layers[0]).unwrap();
    type Make = (&'static str, fn(&Path, &Path));
    let makes: [Make; 5] = [
        ("link", |blob, canary| symlink(canary, blob).unwrap()),
        ("link to itself", |blob, _| symlink(blob, blob).unwrap()),
        ("folder", |blob, _| std::fs::create_dir(blob).unwrap()),
        ("pipe", |blob, _| nix::unistd::mkfifo(blob, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("device", |blob, _| symlink("/dev/zero", blob).unwrap()),
    ];
    for (what, make) in makes {
        let folder = tempfile::tempdir().unwrap();
        sound().files.write(folder.path());
        let blob = folder.path().join(blob_name(&digest));
        std::fs::remove_file(&blob).unwrap();
        make(&blob, &canary);
        let error = failure(what, Source::open(folder.path(), amd64()));
        says(what, &error, &["web:1", "layer 1 of 2", &digest.hex()]);
    }
    // The folder of all blobs, and the index.
    for name in ["blobs/sha256", "blobs", "index.json"] {
        let folder = tempfile::tempdir().unwrap();
        sound().files.write(folder.path());
        let moved = outer.path().join(name.replace('/', "-"));
        std::fs::rename(folder.path().join(name), &moved).unwrap();
        symlink(&moved, folder.path().join(name)).unwrap();
        says(name, &failure(name, Source::open(folder.path(), amd64())), &["symbolic link"]);
    }
    assert_eq!(std::fs::read(&canary).unwrap(), sound().layers[0]);
}
