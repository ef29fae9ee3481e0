//! OCI layouts as skopeo, buildah, BuildKit and others write them.

use crate::support::*;
use serde_json::json;
use thinlayer_image::{Digest, ErrorKind, Image, ReadOptions, Source};

fn three() -> Vec<Vec<u8>> {
    vec![layer("one", "1"), layer("two", &"2".repeat(100_000)), layer("three", "3")]
}

/// `skopeo copy … oci:DIR:NAME`, `buildah push … oci:DIR:NAME`: one manifest, its name an annotation, layers by gzip or zstd.
#[test]
fn a_layout_gives_image_id_chain_and_tars() {
    let layers = three();
    let config = config(&layers);
    let mut files = Files::layout();
    let stored = [(TAR_GZIP, gzip(&layers[0])), (TAR_ZSTD, zstd(&layers[1])), (TAR, layers[2].clone())];
    let manifest = files.image(&config, &stored);
    files.index(&[named(manifest.clone(), "web:1")]);

    let (_guard, from_folder) = folder(&files);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), files.tar()).unwrap();
    let from_file = Source::open(file.path(), amd64()).unwrap();
    for source in
        [from_folder, from_file, piped(&files.tar()), piped(&gzip(&files.tar())), piped(&zstd(&files.tar()))]
    {
        let images = source.images().unwrap();
        assert_eq!(images.len(), 1);
        let image = &images[0];
        assert_eq!(image.names, ["web:1"]);
        assert_eq!(image.id, Digest::of(config.to_string().as_bytes()));
        assert_eq!(image.manifest.as_ref().unwrap().digest.to_string(), manifest["digest"]);
        assert_eq!(image.platform.to_string(), "linux/amd64");
        assert_eq!(tars(image), layers);
        let second = format!("{} {}", Digest::of(&layers[0]), Digest::of(&layers[1]));
        assert_eq!(image.layers[1].chain_id, Digest::of(second.as_bytes()));
        assert_eq!(image.layers[0].blob, Some(Digest::of(&stored[0].1)));
        let mut raw = Vec::new();
        std::io::copy(&mut image.layers[0].open_stored().unwrap(), &mut raw).unwrap();
        assert_eq!(raw, stored[0].1);
    }
}

/// Tools lie about compression without harm: the bytes decide, and every digest is checked all the same.
#[test]
fn the_bytes_tell_the_compression() {
    let layers = three();
    let mut files = Files::layout();
    let manifest = files.image(
        &config(&layers),
        &[(TAR, gzip(&layers[0])), (TAR_GZIP, layers[1].clone()), (TAR_GZIP, zstd(&layers[2]))],
    );
    files.index(&[manifest]);
    assert_eq!(tars(&folder(&files).1.images().unwrap()[0]), layers);
}

fn several() -> Files {
    let mut files = Files::layout();
    let manifests: Vec<_> = ["arm64", "amd64", "s390x"]
        .into_iter()
        .map(|architecture| {
            let layers = [layer("for", architecture)];
            let manifest = files.image(&config_for(architecture, &layers), &[(TAR, layers[0].clone())]);
            on_platform(manifest, architecture)
        })
        .chain([])
        .collect();
    // BuildKit's provenance stands beside them.
    let attestation = files.blob(OCI_MANIFEST, b"{}");
    let mut attestation =
        annotated(attestation, json!({"vnd.docker.reference.type": "attestation-manifest"}));
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let manifests = [manifests, vec![attestation]].concat();
    let nested = files
        .json_blob(OCI_INDEX, &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}));
    files.index(&[named(nested, "multi:1")]);
    files.put_json("flat.json", &json!({"schemaVersion": 2, "manifests": manifests}));
    files
}

fn platform_of(image: &Image) -> String {
    image.platform.to_string()
}

/// `skopeo copy --all`, `docker buildx build --platform a,b -o type=oci`: an index in the index.
#[test]
fn the_platform_asked_for_is_taken() {
    let files = several();
    let (guard, source) = folder(&files);
    assert_eq!(platform_of(&source.image("multi:1").unwrap()), "linux/amd64");
    for architecture in ["arm64", "s390x"] {
        let platform = format!("linux/{architecture}");
        let options = ReadOptions { platform: Some(platform.parse().unwrap()), ..ReadOptions::default() };
        let images = Source::open(guard.path(), options).unwrap().images().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(platform_of(&images[0]), platform);
    }
    let options = ReadOptions { platform: Some("linux/riscv64".parse().unwrap()), ..ReadOptions::default() };
    let error = Source::open(guard.path(), options).unwrap().images().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    for part in ["multi:1", "linux/riscv64", "linux/arm64", "linux/amd64", "linux/s390x"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("unknown"), "{text}");
}

/// crane and others list the platforms in `index.json` itself.
#[test]
fn platforms_at_the_top_are_one_image() {
    let mut files = several();
    let flat = files.0.remove("flat.json").unwrap();
    files.put("index.json", &flat);
    let images = folder(&files).1.images().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(platform_of(&images[0]), "linux/amd64");
}

#[test]
fn an_image_for_one_platform_is_taken_unless_another_is_asked_for() {
    let layers = [layer("a", "b")];
    let mut files = Files::layout();
    let manifest = files.image(&config_for("mips64", &layers), &[(TAR, layers[0].clone())]);
    files.index(&[manifest]);
    let guard = tempfile::tempdir().unwrap();
    files.write(guard.path());
    let images = Source::open(guard.path(), ReadOptions::default()).unwrap().images().unwrap();
    assert_eq!(platform_of(&images[0]), "linux/mips64");
    let error = Source::open(guard.path(), amd64()).unwrap().images().unwrap_err();
    assert!(error.to_string().contains("linux/mips64"), "{error}");
}

#[test]
fn several_images_are_found_by_name_and_id_and_do_not_disturb_each_other() {
    let (first, second) = (vec![layer("a", "1")], vec![layer("a", "2")]);
    let mut files = Files::layout();
    let one = files.image(&config(&first), &[(TAR, first[0].clone())]);
    let two = files.image(&config(&second), &[(TAR, second[0].clone())]);
    let nameless = files.image(&config(&[]), &[]);
    files.index(&[
        annotated(one.clone(), json!({"io.containerd.image.name": "docker.io/library/one:latest", "org.opencontainers.image.ref.name": "latest"})),
        annotated(one, json!({"io.containerd.image.name": "docker.io/me/other:2", "org.opencontainers.image.ref.name": "2"})),
        named(two, "two"),
        nameless,
    ]);
    let (guard, source) = folder(&files);
    let images = source.images().unwrap();
    assert_eq!(images.len(), 3);
    assert_eq!(images[0].names, ["me/other:2", "one:latest"]);
    assert_eq!((images[1].names.len(), images[2].names.len()), (1, 0));
    assert_eq!(images[2].chain_id(), None);
    for name in ["one", "docker.io/library/one:latest", "me/other:2"] {
        assert_eq!(source.image(name).unwrap().id, images[0].id);
    }
    assert_eq!(source.image(&images[1].id.to_string()).unwrap().names, ["two"]);
    assert_eq!(source.names().unwrap(), ["me/other:2", "one:latest", "two"]);
    let error = source.image("three").unwrap_err();
    assert!(error.to_string().contains("three") && error.to_string().contains("one:latest"), "{error}");

    let blob = guard.path().join("blobs/sha256").join(Digest::of(&second[0]).hex());
    std::fs::remove_file(blob).unwrap();
    assert_eq!(tars(&source.image("one").unwrap()), first);
    let error = source.image("two").unwrap_err().to_string();
    assert!(error.contains("image two, layer 1 of 1") && error.contains("missing"), "{error}");
}

#[test]
fn who_stops_early_can_have_the_rest_checked() {
    let layers = [layer("a", &"x".repeat(2_000_000))];
    let mut files = Files::layout();
    let manifest = files.image(&config(&layers), &[(TAR_GZIP, gzip(&layers[0]))]);
    files.index(&[manifest]);
    let (_guard, source) = folder(&files);
    let image = source.images().unwrap().remove(0);
    let mut stream = image.layers[0].open_ahead().unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 512]).unwrap();
    stream.finish().unwrap();
}
