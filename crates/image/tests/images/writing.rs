//! What is written is read back: by this crate, by GNU tar and by Python.

use crate::support::*;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use thinlayer_image::{
    ArchiveWriter, Compression, Digest, Error, ErrorKind, LayoutWriter, NewImage, Source, WrittenLayer,
    new_config,
};

fn two() -> Vec<Vec<u8>> {
    vec![layer("one", "1"), layer("two", &"2".repeat(50_000))]
}

fn names(names: &[&str]) -> Vec<thinlayer_image::Name> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// An archive of two images that share a layer.
fn archive(compression: Compression) -> Vec<u8> {
    let layers = two();
    let spool = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::new(spool.path()).unwrap();
    let written: Vec<WrittenLayer> = layers
        .iter()
        .map(|layer| writer.layer(&layer[..], compression, Some(Digest::of(layer))).unwrap())
        .collect();
    let first = config(&layers[..1]).to_string();
    let both = config(&layers).to_string();
    let image = |config, layers| NewImage { names: &[], config, layers, manifest: None };
    let tags = names(&["web:2", "example.org/a/web", "web:1"]);
    writer.image(&NewImage { names: &tags, ..image(both.as_bytes(), &written) }).unwrap();
    writer.image(&image(first.as_bytes(), &written[..1])).unwrap();
    let mut bytes = Vec::new();
    writer.finish(&mut bytes).unwrap();
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "the spool is gone");
    bytes
}

#[test]
fn an_archive_is_read_back_the_same() {
    let layers = two();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let bytes = archive(compression);
        assert!(bytes == archive(compression), "the same images give the same bytes");
        let images = piped(&bytes).images().unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images[0].names, ["example.org/a/web:latest", "web:1", "web:2"]);
        assert_eq!((tars(&images[0]), tars(&images[1])), (layers.clone(), layers[..1].to_vec()));
        assert_eq!(images[0].id, Digest::of(config(&layers).to_string().as_bytes()));
        assert!(images[1].names.is_empty());
    }
}

/// What Docker before 25 goes by.
#[test]
fn an_archive_has_dockers_lists() {
    let bytes = archive(Compression::None);
    let file = |name: &str| -> Value { serde_json::from_slice(&by_python(&bytes, name)).unwrap() };
    let manifest = file("manifest.json");
    let top = Digest::of(&two()[1]);
    let blob = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    assert_eq!(manifest[0]["RepoTags"], json!(["web:2", "example.org/a/web:latest", "web:1"]));
    assert_eq!(manifest[0]["Config"], blob(Digest::of(config(&two()).to_string().as_bytes())));
    assert_eq!(manifest[0]["Layers"][1], blob(top));
    assert_eq!(manifest[1]["RepoTags"], Value::Null);
    let repositories =
        json!({"example.org/a/web": {"latest": top.hex()}, "web": {"1": top.hex(), "2": top.hex()}});
    assert_eq!(file("repositories"), repositories);
    assert_eq!(file("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let index = file("index.json");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 4);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/library/web:2");
    assert_eq!(by_python(&bytes, &blob(top)), two()[1]);
}

/// Runs a program of the host with the archive as its input.
fn run(command: &mut Command, input: &[u8], package: &str) -> Vec<u8> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, input).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = command
        .stdin(Stdio::from(file))
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}): apt-get install {package}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn by_python(archive: &[u8], name: &str) -> Vec<u8> {
    let script = "import sys, tarfile\nt = tarfile.open(fileobj=sys.stdin.buffer, mode='r:')\nsys.stdout.buffer.write(t.extractfile(sys.argv[1]).read())";
    run(Command::new("python3").args(["-c", script, name]), archive, "python3")
}

#[test]
fn gnu_tar_lists_the_archive_sorted_and_without_times() {
    let bytes = archive(Compression::None);
    let list = run(Command::new("tar").args(["-t", "-f", "-"]), &bytes, "tar");
    let list = String::from_utf8(list).unwrap();
    let names: Vec<&str> = list.lines().collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(names.len(), 2 + 2 + 2 + 2 + 4, "{names:?}");
    let long =
        run(Command::new("tar").args(["-t", "-v", "-f", "-", "--numeric-owner", "--utc"]), &bytes, "tar");
    for line in String::from_utf8(long).unwrap().lines() {
        assert!(line.contains(" 0/0 ") && line.contains(" 1970-01-01 00:00 "), "{line}");
    }
}

/// Export of what was imported: config, manifest and blobs byte for byte.
#[test]
fn a_layout_that_is_copied_keeps_every_digest() {
    let layers = two();
    let mut files = Files::layout();
    let manifest =
        files.image(&config(&layers), &[(TAR_GZIP, gzip(&layers[0])), (TAR_ZSTD, zstd(&layers[1]))]);
    files.index(&[named(manifest.clone(), "web:1")]);
    let (_guard, source) = folder(&files);
    let image = source.image("web:1").unwrap();

    let target = tempfile::tempdir().unwrap();
    let copy = |image: &thinlayer_image::Image, tag: &str| {
        let mut writer = LayoutWriter::create(target.path()).unwrap();
        let layers: Vec<WrittenLayer> =
            image.layers.iter().map(|layer| writer.copy(layer).unwrap()).collect();
        let kept = image.manifest.as_ref().map(|manifest| manifest.bytes.as_slice());
        let names = names(&[tag]);
        let new = NewImage { names: &names, config: &image.config, layers: &layers, manifest: kept };
        let written = writer.image(&new).unwrap();
        writer.finish().unwrap();
        written
    };
    let written = copy(&image, "web:1");
    assert_eq!(
        (written.id, written.manifest.to_string().as_str()),
        (image.id, manifest["digest"].as_str().unwrap())
    );
    for (name, content) in &files.0 {
        if name != "index.json" {
            assert!(std::fs::read(target.path().join(name)).unwrap() == *content, "{name}");
        }
    }
    // Another tag beside it, then the same again in its place.
    copy(&image, "other:2");
    copy(&image, "web:1");
    let again = Source::open(target.path(), amd64()).unwrap().images().unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].names, ["other:2", "web:1"]);
    assert_eq!(tars(&again[0]), layers);
    let left: Vec<_> = std::fs::read_dir(target.path().join("blobs/sha256")).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_layer_that_is_not_what_it_should_be_is_not_kept() {
    let target = tempfile::tempdir().unwrap();
    let mut writer = LayoutWriter::create(target.path()).unwrap();
    let error = writer.layer(&b"other"[..], Compression::Gzip, Some(Digest::of(b"this"))).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");

    let layers = [layer("a", "b")];
    let mut files = Files::layout();
    let manifest = files.image(&config(&[b"other".to_vec()]), &[(TAR, layers[0].clone())]);
    files.index(&[manifest]);
    let (_guard, source) = folder(&files);
    let error = writer.copy(&source.images().unwrap()[0].layers[0]).unwrap_err();
    assert!(error.to_string().contains("layer 1 of 1"), "{error}");
    assert_eq!(std::fs::read_dir(target.path().join("blobs/sha256")).unwrap().count(), 0);
    assert!(!target.path().join("index.json").exists());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let target = tempfile::tempdir().unwrap();
    let mut writer = LayoutWriter::create(target.path()).unwrap();
    let layers = two();
    let one = writer.layer(&layers[0][..], Compression::None, None).unwrap();
    let both = config(&layers).to_string();
    let first = config(&layers[..1]).to_string();
    let new =
        |config, manifest| NewImage { names: &[], config, layers: std::slice::from_ref(&one), manifest };
    let error = writer.image(&new(both.as_bytes(), None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut files = Files::layout();
    let manifest = files.image(&config(&layers[..1]), &[(TAR_GZIP, gzip(&layers[0]))]);
    let digest: Digest = manifest["digest"].as_str().unwrap().parse().unwrap();
    let manifest = &files.0[&format!("blobs/sha256/{}", digest.hex())];
    let error = writer.image(&new(first.as_bytes(), Some(manifest))).unwrap_err();
    assert!(error.to_string().contains("other blobs"), "{error}");
    writer.image(&new(first.as_bytes(), None)).unwrap();
}

#[test]
fn a_folder_that_holds_something_else_is_left_alone() {
    let target = tempfile::tempdir().unwrap();
    std::fs::write(target.path().join("letter.txt"), "dear").unwrap();
    let error = LayoutWriter::create(target.path()).unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);

    let damaged = tempfile::tempdir().unwrap();
    std::fs::write(damaged.path().join("index.json"), "{").unwrap();
    assert_eq!(LayoutWriter::create(damaged.path()).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn an_image_made_of_new_layers_is_one() {
    let layers = two();
    let target = tempfile::tempdir().unwrap();
    let mut writer = LayoutWriter::create(target.path()).unwrap();
    let written: Vec<WrittenLayer> =
        layers.iter().map(|layer| writer.layer(&layer[..], Compression::Zstd, None).unwrap()).collect();
    let base = config(&layers[..1]).to_string();
    let addition = thinlayer_image::Addition {
        diff_id: written[1].diff_id,
        created: std::time::UNIX_EPOCH,
        created_by: "thinlayer export".into(),
        comment: String::new(),
    };
    let config =
        new_config(Some(base.as_bytes()), &"linux/amd64".parse().unwrap(), None, &[addition]).unwrap();
    let tag = names(&["new"]);
    writer.image(&NewImage { names: &tag, config: &config, layers: &written, manifest: None }).unwrap();
    writer.finish().unwrap();
    let image = Source::open(target.path(), amd64()).unwrap().image("new").unwrap();
    assert_eq!((image.config.clone(), tars(&image)), (config, layers));
}

#[test]
fn a_target_that_fails_is_told() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let spool = tempfile::tempdir().unwrap();
    let writer = ArchiveWriter::new(spool.path()).unwrap();
    assert_eq!(writer.finish(Full).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(ArchiveWriter::new(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
}
