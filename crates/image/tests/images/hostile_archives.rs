//! Archives that lie, and what is no source at all.

use crate::hostile::{failure, says};
use crate::support::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use thinlayer_image::{Digest, Error, ErrorKind, ReadOptions, Source};

/// An archive of Docker's with one layer, of these entries and this list.
fn saved(list: &Value, more: &[(&str, Kind<'_>)]) -> Vec<u8> {
    let layer = layer("one", "1");
    let config = config(std::slice::from_ref(&layer)).to_string();
    let list = list.to_string();
    let sound = [
        ("c.json", Kind::File(config.as_bytes())),
        ("a/layer.tar", Kind::File(&layer)),
        ("manifest.json", Kind::File(list.as_bytes())),
    ];
    let entries: Vec<u8> = sound.iter().chain(more).flat_map(|(name, kind)| entry(name, kind)).collect();
    [entries, vec![0; 1024]].concat()
}

fn list_of(config: &str, layer: &str) -> Value {
    json!([{"Config": config, "RepoTags": ["web:1"], "Layers": [layer]}])
}

fn refused_archive(what: &str, archive: &[u8], parts: &[&str]) -> Error {
    let error = failure(what, Source::from_stream(archive, Path::new("in.tar"), amd64()));
    says(what, &error, parts);
    says(what, &error, &["in.tar"]);
    error
}

#[test]
fn names_in_archives_that_lead_elsewhere() {
    for name in ["../../../etc/passwd", "/etc/passwd", "a/../../b", ".."] {
        refused_archive(name, &saved(&list_of(name, "a/layer.tar"), &[]), &["web:1", "leads out"]);
        refused_archive(name, &saved(&list_of("c.json", name), &[]), &["web:1", "layer 1 of 1", "leads out"]);
    }
    for (what, kind, part) in [
        ("link outside", Kind::Symlink("../../../etc/passwd"), "links out"),
        ("absolute link", Kind::Symlink("/etc/passwd"), "links out"),
        ("link to itself", Kind::Symlink("layer.tar"), "itself"),
        ("hard link outside", Kind::HardLink("../etc/passwd"), "links out"),
        ("link to nothing", Kind::Symlink("../none"), "missing"),
        ("folder", Kind::Folder, "missing"),
    ] {
        refused_archive(
            what,
            &saved(&list_of("c.json", "b/layer.tar"), &[("b/layer.tar", kind)]),
            &["web:1", part],
        );
    }
    let links: Vec<(String, String)> = (0..20).map(|at| (format!("l{at}"), format!("l{}", at + 1))).collect();
    let mut chain: Vec<(&str, Kind<'_>)> =
        links.iter().map(|(name, to)| (name.as_str(), Kind::Symlink(to))).collect();
    chain.push(("l20", Kind::HardLink("a/layer.tar")));
    refused_archive(
        "chain of links",
        &saved(&list_of("c.json", "l0"), &chain),
        &["web:1", "too many others"],
    );
    refused_archive(
        "missing",
        &saved(&list_of("c.json", "none"), &[]),
        &["web:1", "layer 1 of 1", "missing"],
    );
    refused_archive("missing config", &saved(&list_of("none", "a/layer.tar"), &[]), &["web:1", "missing"]);
}

#[test]
fn names_in_archives_that_stand_there_twice() {
    let list = list_of("c.json", "a/layer.tar");
    let other = layer("other", "2");
    for name in ["manifest.json", "c.json", "a/layer.tar", "./a//layer.tar"] {
        refused_archive(name, &saved(&list, &[(name, Kind::File(&other))]), &["twice"]);
    }
    let two = json!([list[0], {"Config": "d.json", "RepoTags": ["web:1"], "Layers": []}]);
    let config = config(&[]).to_string();
    refused_archive(
        "two of a name",
        &saved(&two, &[("d.json", Kind::File(config.as_bytes()))]),
        &["two images", "web:1"],
    );
}

#[test]
fn lists_in_archives_that_are_none() {
    let hex = format!("{}.json", Digest::of(b"other").hex());
    let config = config(&[]).to_string();
    let list = json!([{"Config": hex, "RepoTags": ["web:1"], "Layers": []}]);
    refused_archive(
        "config of another digest",
        &saved(&list, &[(&hex, Kind::File(config.as_bytes()))]),
        &["web:1", "the config"],
    );
    let one = list_of("c.json", "a/layer.tar")[0].clone();
    for (what, list, part) in [
        ("no list", json!({"Config": "c.json"}), "manifest.json"),
        ("no config", json!([{"Layers": []}]), "Config"),
        ("config of another kind", json!([{"Config": 1, "Layers": []}]), "manifest.json"),
        ("many", json!(vec![one.clone(); 5000]), "1024 items"),
        ("many layers", json!([{"Config": "c.json", "Layers": vec!["a/layer.tar"; 5000]}]), "1024 items"),
        (
            "bad name",
            json!([{"Config": "c.json", "RepoTags": ["../../x"], "Layers": ["a/layer.tar"]}]),
            "is no name",
        ),
        (
            "another number of layers",
            json!([{"Config": "c.json", "Layers": ["a/layer.tar", "a/layer.tar"]}]),
            "names 1 layers",
        ),
    ] {
        refused_archive(what, &saved(&list, &[]), &[part]);
    }
}

#[test]
fn an_archive_cut_off_at_any_block() {
    let archive = saved(&list_of("c.json", "a/layer.tar"), &[]);
    assert!(failure_free(&archive));
    // The second block of zeros is not needed: what would be behind it is nothing.
    let needed = archive.len() - 512;
    for length in (0..needed).step_by(512).chain([1, 100, 600, needed - 1]) {
        let what = format!("{length} bytes");
        refused_archive(&what, &archive[..length], &["cut off"]);
    }
    for length in [1, 20, 100] {
        let packed = gzip(&archive);
        refused_archive("gzip", &packed[..packed.len() - length], &["gzip"]);
    }
}

fn failure_free(archive: &[u8]) -> bool {
    piped(archive).images().unwrap().iter().all(|image| !tars(image).is_empty())
}

#[test]
fn headers_that_lie() {
    let list = list_of("c.json", "a/layer.tar");
    let good = saved(&list, &[]);
    let mut wrong = good.clone();
    wrong[3] ^= 1;
    refused_archive("checksum", &wrong, &["checksum"]);
    for (what, field) in [
        ("negative", b"-0000000010\0"),
        ("2^63", b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
        ("2^64-1", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("no digits", b"zzzzzzzzzzz\0"),
        ("8 GiB", b"77777777777\0"),
        ("2^62", b"\x80\0\0\0\x40\0\0\0\0\0\0\0"),
    ] {
        let mut block: [u8; 512] = good[..512].try_into().unwrap();
        block[124..136].copy_from_slice(field);
        let lying = [&sealed(block)[..], &good[512..]].concat();
        refused_archive(what, &lying, &["at byte"]);
    }
    for (what, records) in [
        ("length", "99 size=1\n"),
        ("size", "30 size=9999999999999999999999\n"),
        ("negative", "11 size=-1\n"),
    ] {
        let pax = [&header("x", b'x', records.len() as u64, "")[..], records.as_bytes()].concat();
        let mut pax = pax;
        pax.resize(1024, 0);
        refused_archive(what, &[pax, good.clone()].concat(), &["PAX"]);
    }
    let long = header("x", b'L', 2 << 20, "");
    refused_archive("long name", &[&long[..], &good].concat(), &["too long"]);
    let mut sparse: [u8; 512] = header("a/layer.tar", b'S', 0, "");
    sparse[482] = 0;
    let sparse = [&sealed(sparse)[..], &good].concat();
    refused_archive("sparse and twice", &sparse, &["twice"]);
    refused_archive(
        "sparse",
        &[&header("b", b'S', 0, "")[..], &saved(&list_of("c.json", "b"), &[])].concat(),
        &["sparse"],
    );
    let device = header("b", b'3', 0, "");
    refused_archive("device", &[&device[..], &saved(&list_of("c.json", "b"), &[])].concat(), &["is no file"]);
    let many = entry("x", &Kind::Folder).repeat(100_001);
    assert_eq!(refused_archive("entries", &many, &["100000 entries"]).kind(), ErrorKind::TooLarge);
}

#[test]
fn sources_that_are_something_else() {
    let folder = tempfile::tempdir().unwrap();
    says("empty folder", &failure("empty folder", Source::open(folder.path(), amd64())), &["neither"]);
    let file = folder.path().join("file");
    for (what, bytes) in [("empty", &b""[..]), ("text", b"hello"), ("random", &[0x5a; 2000])] {
        std::fs::write(&file, bytes).unwrap();
        failure(what, Source::open(&file, amd64()));
    }
    std::fs::write(&file, b"\xfd7zXZ\0").unwrap();
    says("xz", &failure("xz", Source::open(&file, amd64())), &["xz", "decompress it"]);
    let none = PathBuf::from("/nonexistent/image.tar");
    assert_eq!(failure("none", Source::open(&none, amd64())).kind(), ErrorKind::NotFound);

    let options = ReadOptions { spool_limit: 1 << 20, ..amd64() };
    let error = failure("endless", Source::open(Path::new("/dev/zero"), options.clone()));
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let bomb = gzip(&vec![0; 3 << 20]);
    std::fs::write(&file, bomb).unwrap();
    says("bomb", &failure("bomb", Source::open(&file, options)), &["spooled", "1048576 bytes"]);
}
