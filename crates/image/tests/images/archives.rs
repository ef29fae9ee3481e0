//! Archives as `docker save` wrote them in several versions, and as others write that format.

use crate::support::*;
use serde_json::{Value, json};
use thinlayer_image::{Digest, ErrorKind, Image, Source};

fn two() -> Vec<Vec<u8>> {
    vec![layer("one", "1"), layer("two", "2")]
}

fn check(source: &Source, layers: &[Vec<u8>], config: &Value, names: &[&str]) -> Image {
    let images = source.images().unwrap();
    assert_eq!(images.len(), 1);
    let image = images.into_iter().next().unwrap();
    assert_eq!(image.names, names);
    assert_eq!(image.id, Digest::of(config.to_string().as_bytes()));
    assert_eq!(tars(&image), layers);
    image
}

/// Docker 1.10 to 24: `ID/layer.tar`, a layer that stands there twice being a link, `HEX.json`, `manifest.json`, `repositories`.
#[test]
fn docker_20_10() {
    let mut layers = two();
    layers.push(layers[0].clone());
    let config = config(&layers);
    let text = config.to_string();
    let name = format!("{}.json", Digest::of(text.as_bytes()).hex());
    let manifest = json!([{
        "Config": name, "RepoTags": ["web:1", "localhost:5000/web:latest"],
        "Layers": ["aa/layer.tar", "bb/layer.tar", "cc/layer.tar"],
    }])
    .to_string();
    let archive = tar(&[
        ("aa/", Kind::Folder),
        ("aa/VERSION", Kind::File(b"1.0")),
        ("aa/json", Kind::File(b"{}")),
        ("aa/layer.tar", Kind::File(&layers[0])),
        ("bb/", Kind::Folder),
        ("bb/layer.tar", Kind::File(&layers[1])),
        ("cc/", Kind::Folder),
        ("cc/layer.tar", Kind::Symlink("../aa/layer.tar")),
        (&name, Kind::File(text.as_bytes())),
        ("manifest.json", Kind::File(manifest.as_bytes())),
        ("repositories", Kind::File(b"{}")),
    ]);
    let image = check(&piped(&archive), &layers, &config, &["localhost:5000/web:latest", "web:1"]);
    assert_eq!((&image.manifest, image.layers[0].blob), (&None, None));
    check(&piped(&gzip(&archive)), &layers, &config, &["localhost:5000/web:latest", "web:1"]);
}

/// Docker 25 and later: an OCI layout with `manifest.json` and `repositories`. Without a name when it was saved by its id.
#[test]
fn current_docker() {
    let layers = two();
    let config = config(&layers);
    for tagged in [true, false] {
        let mut files = Files::layout();
        let manifest = files.image(&config, &[(TAR, layers[0].clone()), (TAR, layers[1].clone())]);
        let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        files.put_json(
            "manifest.json",
            &json!([{
                "Config": path(config.to_string().as_bytes()),
                "RepoTags": if tagged { json!(["web:1"]) } else { Value::Null },
                "Layers": [path(&layers[0]), path(&layers[1])],
                "LayerSources": {},
            }]),
        );
        files.put_json("repositories", &json!({"web": {"1": Digest::of(&layers[1]).hex()}}));
        files.index(&[match tagged {
            true => annotated(
                manifest.clone(),
                json!({"io.containerd.image.name": "docker.io/library/web:1", "org.opencontainers.image.ref.name": "1"}),
            ),
            false => manifest.clone(),
        }]);
        let names: &[&str] = if tagged { &["web:1"] } else { &[] };
        let image = check(&piped(&files.tar()), &layers, &config, names);
        assert_eq!(image.manifest.unwrap().digest.to_string(), manifest["digest"]);
        assert_eq!(piped(&files.tar()).image(&image.id.to_string()).unwrap().layers.len(), 2);

        // What an older Docker reads of it is enough, too.
        files.0.remove("index.json");
        let image = check(&piped(&files.tar()), &layers, &config, names);
        assert_eq!(image.layers[0].blob, Some(Digest::of(&layers[0])));
    }
}

/// A name that only `manifest.json` has, while the index has the tag or nothing.
#[test]
fn names_of_both_lists_are_joined() {
    let layers = two();
    let config = config(&layers);
    let mut files = Files::layout();
    let manifest = files.image(&config, &[(TAR, layers[0].clone()), (TAR, layers[1].clone())]);
    let path = format!("blobs/sha256/{}", Digest::of(config.to_string().as_bytes()).hex());
    files.put_json("manifest.json", &json!([{"Config": path, "RepoTags": ["web:1"], "Layers": []}]));
    files.index(&[named(manifest, "1")]);
    let source = piped(&files.tar());
    assert_eq!(source.image("web:1").unwrap().names, ["1", "web:1"]);
}

/// `skopeo copy … docker-archive:FILE`, `podman save`, `buildah push … docker-archive:FILE`: `DIFFID.tar`, old names linking to them.
#[test]
fn skopeo_and_buildah() {
    let layers = two();
    let config = config(&layers);
    let text = config.to_string();
    let name = format!("{}.json", Digest::of(text.as_bytes()).hex());
    let files: Vec<String> = layers.iter().map(|layer| format!("{}.tar", Digest::of(layer).hex())).collect();
    let manifest =
        json!([{"Config": name, "RepoTags": ["localhost/web:latest"], "Layers": files}]).to_string();
    let links: Vec<String> = files.iter().map(|file| format!("../{file}")).collect();
    let archive = tar(&[
        (&files[0], Kind::File(&layers[0])),
        ("aa/layer.tar", Kind::Symlink(&links[0])),
        (&files[1], Kind::File(&layers[1])),
        ("bb/layer.tar", Kind::Symlink(&links[1])),
        (&name, Kind::File(text.as_bytes())),
        ("repositories", Kind::File(b"{}")),
        ("manifest.json", Kind::File(manifest.as_bytes())),
    ]);
    check(&piped(&archive), &layers, &config, &["localhost/web:latest"]);
}

/// kaniko, jib and bazel: compressed layers in the archive, a config called by its digest, `./` before names, hard links.
#[test]
fn others() {
    let mut layers = two();
    layers.push(layers[1].clone());
    let config = config(&layers);
    let text = config.to_string();
    let name = Digest::of(text.as_bytes()).to_string();
    let manifest =
        json!([{"Config": name, "RepoTags": null, "Layers": ["x.tar.gz", "./y.tar", "z.tar"]}]).to_string();
    let archive = tar(&[
        ("./manifest.json", Kind::File(manifest.as_bytes())),
        (&name, Kind::File(text.as_bytes())),
        ("x.tar.gz", Kind::File(&gzip(&layers[0]))),
        ("./y.tar", Kind::File(&zstd(&layers[1]))),
        ("z.tar", Kind::HardLink("y.tar")),
    ]);
    check(&piped(&archive), &layers, &config, &[]);
}

/// An archive that somebody unpacked.
#[test]
fn an_archive_as_a_folder() {
    let layers = two();
    let config = config(&layers);
    let mut files = Files::default();
    files.put_json("c.json", &config);
    files.put("a/layer.tar", &layers[0]);
    files.put("b/layer.tar", &layers[1]);
    files.put_json("manifest.json", &json!([{"Config": "c.json", "Layers": ["a/layer.tar", "b/layer.tar"]}]));
    check(&folder(&files).1, &layers, &config, &[]);
}

#[test]
fn what_is_no_image_is_told_with_what_was_expected() {
    let old = tar(&[("repositories", Kind::File(b"{}")), ("aa/layer.tar", Kind::File(b""))]);
    for (bytes, why) in
        [(tar(&[]), "index.json"), (tar(&[("etc/", Kind::Folder)]), "manifest.json"), (old, "before 1.10")]
    {
        let error = Source::from_stream(&bytes[..], std::path::Path::new("in.tar"), amd64()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("in.tar") && error.to_string().contains(why), "{error}");
    }
}
