//! Streams that lie, escape, flood or break off: each ends in a clear error, in little memory, and nothing around the tree is touched.

#![allow(clippy::unwrap_used, reason = "a test that cannot do its work has to end")]

mod common;
#[path = "common/memory.rs"]
mod memory;
#[path = "common/raw.rs"]
mod raw;

use common::{assert_same, read, scratch};
use raw::{Block, directory, file, gzip, hard_link, long, pax, pax_of, record, symlink, tar};
use std::fs;
use std::path::{Path, PathBuf};
use thinlayer_archive::ErrorKind::{Io, Limit, Malformed, Refused, Truncated, Unsupported};
use thinlayer_archive::{Applied, ApplyOptions, Error, ErrorKind, ReadOptions, Tree, apply};

/// What one stream may take beyond what was there before it.
const MOST_MEMORY: usize = 12 << 20;

/// A tree with a canary beside it, and links in the tree that point to the canary.
struct Field {
    folder: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        let folder = scratch();
        let path = folder.path();
        for name in ["canary/folder", "root/usr/lib", "root/etc", "root/lower/below"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        for name in
            ["canary/file", "canary/folder/file", "root/file", "root/etc/passwd", "root/lower/below/file"]
        {
            fs::write(path.join(name), name).unwrap();
        }
        let link = |target: &Path, name: &str| {
            std::os::unix::fs::symlink(target, path.join("root").join(name)).unwrap()
        };
        link(Path::new("usr/lib"), "lib");
        link(&path.join("canary"), "out");
        link(Path::new("../canary"), "up");
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn canary(&self) -> common::Tree {
        read(&self.folder.path().join("canary"))
    }

    /// Applies a stream, and looks at what it must not touch.
    fn apply(&self, stream: &[u8], options: &ApplyOptions, what: &str) -> Result<Applied, Error> {
        let before = self.canary();
        let tree = Tree::open(self.root()).unwrap();
        let (answer, peak) = memory::peak(|| apply(&tree, stream, options));
        assert_same(&before, &self.canary(), &format!("{what}: the canary was touched"));
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "root"], "{what}: something is beside the tree");
        assert!(peak < MOST_MEMORY, "{what}: it took {peak} bytes of memory");
        answer
    }
}

fn refuse(what: &str, stream: &[u8], kind: ErrorKind, says: &str) {
    refuse_with(what, stream, kind, says, &ApplyOptions::default());
}

fn refuse_with(what: &str, stream: &[u8], kind: ErrorKind, says: &str, options: &ApplyOptions) {
    let error = Field::new().apply(stream, options, what).expect_err(what);
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{what}: {text}");
    assert!(text.contains(says), "{what}: {text:?} does not say {says:?}");
    assert!(text.len() < 600 && !text.contains(['\n', '\0', '\u{1b}']), "{what}: {text:?}");
}

fn sparse_old(runs: &[(u64, u64)], real: u64, data: &[u8]) -> Vec<u8> {
    let mut block = Block::new(b'S', b"sparse").with(257, b"ustar  \0").with(345, &[0; 155]);
    for (index, (offset, length)) in runs.iter().enumerate() {
        block.set(386 + index * 24, format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    block.with(483, format!("{real:011o}\0").as_bytes()).data(data)
}

fn sparse_1_0(real: &str, data: &[u8]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", real.as_bytes()),
    ];
    [pax_of(&records), file("GNUSparseFile.0/sparse", data)].concat()
}

#[test]
fn names_that_escape() {
    let outside = "/tmp/escaped";
    for (what, entries) in [
        ("a parent", file("../escaped", b"x")),
        ("a parent behind a folder", file("a/../../escaped", b"x")),
        ("a parent that stays inside", file("a/../escaped", b"x")),
        ("nothing but a parent", directory("..")),
        ("a parent at the end", directory("a/b/..")),
        ("an absolute name", file(outside, b"x")),
        ("two slashes", file("//escaped", b"x")),
        ("the root by a slash", directory("/")),
        ("a parent in a PAX record", [pax_of(&[("path", b"../escaped")]), file("fine", b"x")].concat()),
        ("an absolute name in a PAX record", [pax_of(&[("path", b"/escaped")]), file("fine", b"x")].concat()),
        ("a parent in a long name", [long(b'L', "../".repeat(60).as_bytes()), file("fine", b"x")].concat()),
        ("a parent in the prefix", Block::new(b'0', b"escaped").with(345, b"..").data(b"x")),
        (
            "a parent in a sparse name",
            [
                pax_of(&[
                    ("GNU.sparse.name", b"../x"),
                    ("GNU.sparse.size", b"1"),
                    ("GNU.sparse.map", b"0,1"),
                ]),
                file("fine", b"x"),
            ]
            .concat(),
        ),
        ("a folder above", directory("../new")),
        ("a link above", symlink("../new", "/etc")),
        ("a device above", Block::new(b'3', b"../null").sealed()),
        ("a FIFO above", Block::new(b'6', b"../fifo").sealed()),
    ] {
        refuse(what, &tar(&[entries]), Refused, "at byte 0");
    }
}

#[test]
fn names_that_are_none() {
    let deep = "a/".repeat(10_000);
    refuse("no name", &tar(&[file("", b"x")]), Malformed, "no name");
    refuse("a NUL", &tar(&[pax_of(&[("path", b"a\0b")]), file("x", b"")]), Malformed, "NUL");
    refuse(
        "10,000 folders deep",
        &tar(&[pax_of(&[("path", deep.as_bytes())]), directory("x")]),
        Limit,
        "folders deep",
    );
    refuse(
        "10,000 folders deep, GNU",
        &tar(&[long(b'L', deep.as_bytes()), file("x", b"")]),
        Limit,
        "folders deep",
    );
    let long_name = "n".repeat(300);
    refuse(
        "a name of 300 bytes",
        &tar(&[pax_of(&[("path", long_name.as_bytes())]), file("x", b"")]),
        Limit,
        "too long",
    );
    let path = "123456789/".repeat(450);
    refuse(
        "a path of 4500 bytes",
        &tar(&[pax_of(&[("path", path.as_bytes())]), directory("x")]),
        Limit,
        "bytes, more than",
    );
    refuse("the root as a file", &tar(&[file("./", b"x")]), Refused, "only be a directory");
    refuse("the root as a link", &tar(&[symlink(".", "/etc")]), Refused, "only be a directory");
    refuse("the root as another name", &tar(&[hard_link("./", "file")]), Refused, "only be a directory");
}

#[test]
fn links_that_escape() {
    let field = Field::new();
    let canary = field.folder.path().join("canary");
    let absolute = canary.to_str().unwrap();
    for (what, entries, says) in [
        ("through an absolute link", [symlink("l", absolute), file("l/x", b"")].concat(), "leads nowhere"),
        ("through a lower layer's link", file("out/x", b""), "leads nowhere"),
        ("through a relative link", file("up/x", b""), "leads nowhere"),
        ("a folder through a link", directory("up/x"), "leads nowhere"),
        ("through a link to a link", [symlink("l", "up"), file("l/x", b"")].concat(), "leads nowhere"),
        ("links in a circle", [symlink("a", "b"), symlink("b", "a"), file("a/x", b"")].concat(), "circle"),
        ("a link to itself", [symlink("a", "a"), file("a/b/x", b"")].concat(), "circle"),
        (
            "through the process's files",
            [symlink("p", "/proc/self/cwd"), file("p/x", b"")].concat(),
            "leads nowhere",
        ),
        (
            "a folder that became a link",
            [directory("d"), file("d/x", b""), symlink("d", absolute), file("d/y", b"")].concat(),
            "leads nowhere",
        ),
        ("below a file", file("file/x", b""), "no folder"),
        ("below a FIFO", [Block::new(b'6', b"fifo").sealed(), file("fifo/x", b"")].concat(), "no folder"),
        ("a hard link above", hard_link("l", "../canary/file"), ".."),
        ("an absolute hard link", hard_link("l", absolute), "absolute"),
        ("a hard link through a link", hard_link("l", "out/file"), "not there"),
        ("a hard link through a relative link", hard_link("l", "up/file"), "not there"),
        ("a hard link to nothing", hard_link("l", "nothing"), "not there"),
        ("a hard link to a folder", hard_link("l", "etc"), "is a directory"),
        ("a hard link to the root", hard_link("l", "."), "root"),
        ("a hard link to itself", [file("l", b""), hard_link("l", "./l")].concat(), "its own name"),
        (
            "a hard link to itself through a link",
            [file("lib/l", b""), hard_link("usr/lib/l", "lib/l")].concat(),
            "its own name",
        ),
        ("a hard link into what it replaces", hard_link("etc", "etc/passwd"), "cannot be made"),
    ] {
        let error = Field::new().apply(&tar(&[entries]), &ApplyOptions::default(), what).expect_err(what);
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert!(matches!(error.kind(), Refused | ErrorKind::NotFound), "{what}: {error}");
        assert!(!error.entry.is_empty() && error.offset.is_some(), "{what}: {error}");
    }
    refuse("a hard link without a name", &tar(&[hard_link("l", "")]), Refused, "no name");
    refuse("a link to nothing", &tar(&[symlink("l", "")]), Malformed, "to nothing");
    let target = "x".repeat(5000);
    refuse(
        "a link of 5000 bytes",
        &tar(&[long(b'K', target.as_bytes()), symlink("l", "")]),
        Limit,
        "too long",
    );
    refuse("a NUL in a link", &tar(&[pax_of(&[("linkpath", b"a\0b")]), symlink("l", "")]), Malformed, "NUL");
}

#[test]
fn deletions_that_escape() {
    for (what, name, says) in [
        ("of nothing", ".wh.", "no name"),
        ("of the root", ".wh..", "from within"),
        ("of the parent", ".wh...", "from within"),
        ("of a folder's parent", "etc/.wh...", "from within"),
        ("below a deletion", ".wh.a/b", "begins with"),
        ("below a folder's deletion", "etc/.wh.a/b", "begins with"),
        ("above", "../.wh.canary", ".."),
        ("absolute", "/.wh.canary", "absolute"),
        ("through a link", "out/.wh.file", "leads nowhere"),
        ("of all through a link", "up/.wh..wh..opq", "leads nowhere"),
        ("of all below a file", "file/.wh..wh..opq", "no folder"),
    ] {
        refuse(what, &tar(&[file(name, b"")]), Refused, says);
    }
}

#[test]
fn records_that_lie() {
    let with = |records: &[u8]| tar(&[pax(records), file("x", b"data")]);
    for (what, records, says) in [
        ("longer than the header", &b"99 path=x\n"[..], "past the extended header"),
        ("of no length", b"0 path=x\n", "shorter"),
        ("shorter than it is", b"5 path=x\n", "newline"),
        ("longer than it is", b"11 path=x\n12", "newline"),
        ("of more than 64 bits", b"99999999999999999999 path=x\n", "no number"),
        ("of negative length", b"-9 path=x\n", "no number"),
        ("without a length", b"path=x\n", "no number"),
        ("without a key", b"6 =12\n", "no key"),
        ("without a value", b"8 abcde\n", "no key"),
        ("of zeros", &[0; 100], "no number"),
        ("an attribute without a name", &record(b"SCHILY.xattr.", b"x"), "attribute's name"),
        ("an attribute's name with a NUL", &record(b"SCHILY.xattr.user.a\0b", b"x"), "attribute's name"),
        ("a time that is none", &record(b"mtime", b"yesterday"), "no time"),
        ("a size that is none", &record(b"size", b"1e3"), "no number"),
        ("a negative size", &record(b"size", b"-1"), "no number"),
        ("a size of 2^63", &record(b"size", b"9223372036854775808"), "out of range"),
        ("a size of 2^64", &record(b"size", b"18446744073709551616"), "no number"),
        ("a size just below 2^63", &record(b"size", b"9223372036854775807"), "out of range"),
        ("no user's number", &record(b"uid", b"4294967295"), "out of range"),
        ("a group beyond 32 bits", &record(b"gid", b"4294967296"), "out of range"),
        ("a user by name", &record(b"uid", b"root"), "no number"),
        ("no ACL", &record(b"SCHILY.acl.access", b"rwxrwxrwx"), "TAG:NAME"),
    ] {
        refuse(what, &with(records), Malformed, says);
    }
    let all = ApplyOptions { all_xattrs: true, ..ApplyOptions::default() };
    let names = with(&record(b"SCHILY.acl.access", b"user:anna:rwx"));
    refuse_with("an ACL of names", &names, Unsupported, "not their numbers", &all);
    let done = Field::new().apply(&names, &ApplyOptions::default(), "an ACL of names").unwrap();
    assert_eq!(done.skipped_xattrs, 1);
    refuse(
        "a size beyond the stream",
        &with(&record(b"size", b"4096")),
        Truncated,
        "within the entry's data",
    );
    refuse(
        "two headers",
        &tar(&[pax_of(&[("path", b"a")]), pax_of(&[("path", b"b")]), file("x", b"")]),
        Malformed,
        "two extended",
    );
    refuse(
        "two long names",
        &tar(&[long(b'L', b"a"), long(b'L', b"b"), file("x", b"")]),
        Malformed,
        "two long names",
    );
    refuse(
        "two long links",
        &tar(&[long(b'K', b"a"), long(b'K', b"b"), symlink("x", "")]),
        Malformed,
        "two long link",
    );
    refuse(
        "nothing behind the header",
        &tar(&[pax_of(&[("path", b"a")])]),
        Malformed,
        "behind an extended header",
    );
    refuse("nothing behind a long name", &tar(&[long(b'L', b"a")]), Malformed, "behind an extended header");
    for key in ["path", "linkpath", "size", "GNU.sparse.major", "SCHILY.xattr.user.a", "SCHILY.acl.access"] {
        let global = Block::new(b'g', b"global").data(&record(key.as_bytes(), b"1"));
        refuse(key, &tar(&[global, file("x", b"")]), Malformed, "of all entries");
    }
    let broken = Block::new(b'g', b"global").data(b"99 a=b\n");
    refuse(
        "a global header that lies",
        &tar(&[broken, file("x", b"")]),
        Malformed,
        "past the extended header",
    );
}

#[test]
fn headers_that_flood() {
    let huge = |kind| tar(&[Block::new(kind, b"x").with(124, b"77777777777\0").sealed(), file("x", b"")]);
    for (what, kind) in [("PAX", b'x'), ("global", b'g'), ("long name", b'L'), ("long link", b'K')] {
        refuse(what, &huge(kind), Limit, "extended header has 8589934591 bytes");
    }
    refuse(
        "records of 2 MiB",
        &tar(&[pax(&vec![b'x'; 2 << 20]), file("x", b"")]),
        Limit,
        "extended header has",
    );
    refuse(
        "a name of 2 MiB",
        &tar(&[long(b'L', &vec![b'x'; 2 << 20]), file("x", b"")]),
        Limit,
        "extended header has",
    );
    let value = vec![1; 70_000];
    refuse(
        "an attribute of 70,000 bytes",
        &tar(&[pax_of(&[("SCHILY.xattr.user.a", &value)]), file("x", b"")]),
        Io,
        "user.a cannot be set",
    );
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    refuse(
        "an attribute's name of 300 bytes",
        &tar(&[pax_of(&[(&name, b"1")]), file("x", b"")]),
        Io,
        "cannot be set",
    );
}

#[test]
fn numbers_out_of_range() {
    let with = |kind, at, bytes: &[u8]| tar(&[Block::new(kind, b"x").with(at, bytes).sealed()]);
    let base256 = |bytes: [u8; 12]| with(b'0', 124, &bytes);
    refuse("a size of 2^63", &base256([0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), Malformed, "63 bits");
    refuse("a size of 95 bits", &base256([0xbf; 12]), Malformed, "63 bits");
    refuse("a negative size", &base256([0xff; 12]), Malformed, "negative");
    refuse(
        "a size just below 2^63",
        &base256([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        Malformed,
        "out of range",
    );
    refuse(
        "a size beyond the stream",
        &base256([0x80, 0, 0, 0, 0x3f, 0, 0, 0, 0, 0, 0, 0]),
        Truncated,
        "within the entry's data",
    );
    refuse("a size of letters", &with(b'0', 124, b"12345abcdef\0"), Malformed, "no number");
    refuse("a size of eights", &with(b'0', 124, b"00000000008\0"), Malformed, "no number");
    refuse("a size with a sign", &with(b'0', 124, b"-0000000001\0"), Malformed, "no number");
    refuse("a negative user", &with(b'0', 108, &[0xff; 8]), Malformed, "negative");
    refuse("no group", &with(b'0', 116, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), Malformed, "out of range");
    refuse("a mode of letters", &with(b'0', 100, b"rwxr-xr\0"), Malformed, "no number");
    refuse("a time of 95 bits", &with(b'0', 136, &[0xbf; 12]), Malformed, "63 bits");
    refuse("a device's major number", &with(b'3', 329, b"0010000\0"), Malformed, "4096:0 is out of range");
    refuse("a device's minor number", &with(b'4', 337, b"7777777\0"), Malformed, "out of range");
    refuse("a device's number of letters", &with(b'3', 329, b"major\0\0\0"), Malformed, "no number");
}

#[test]
fn streams_that_are_no_tar() {
    let mut flipped = tar(&[file("x", b"data")]);
    flipped[3] ^= 1;
    refuse("a flipped bit", &flipped, Malformed, "checksum");
    refuse("text", &b"#!/bin/sh\n".repeat(200), Malformed, "checksum");
    refuse("nothing", b"", Truncated, "without an end-of-archive marker");
    refuse("a few bytes", b"abc", Truncated, "within a header");
    refuse(
        "zeros between entries",
        &[file("a", b""), vec![0; 512], file("b", b"")].concat(),
        Malformed,
        "between entries",
    );
    refuse("a type that is none", &tar(&[Block::new(b'Z', b"x").sealed()]), Unsupported, "'Z'");
    refuse("a type of 255", &tar(&[Block::new(255, b"x").sealed()]), Unsupported, "xff");
    refuse("a part of a volume", &tar(&[Block::new(b'M', b"x").sealed()]), Unsupported, "several volumes");
    refuse("a dump", &tar(&[Block::new(b'D', b"x").sealed()]), Unsupported, "incremental");
    refuse("xz", b"\xfd7zXZ\0\0\0\0", Unsupported, "xz");
    refuse("bzip2", b"BZh91AY&SY", Unsupported, "bzip2");
}

#[test]
fn sparse_maps_that_lie() {
    let old = |runs: &[(u64, u64)], real| tar(&[sparse_old(runs, real, &[1; 1024])]);
    refuse("overlap", &old(&[(0, 512), (256, 512)], 4096), Malformed, "overlap");
    refuse("backwards", &old(&[(2048, 512), (0, 512)], 4096), Malformed, "order");
    refuse("past the size", &old(&[(4000, 1024)], 4096), Malformed, "past the file's size");
    refuse("too little", &old(&[(0, 512)], 4096), Malformed, "do not agree");
    refuse("too much", &old(&[(0, 2048)], 4096), Malformed, "do not agree");
    let more = Block::new(b'S', b"x").with(257, b"ustar  \0").with(345, &[0; 155]).with(482, &[1]).sealed();
    let mut empty = vec![0; 512];
    empty[504] = 1;
    refuse("blocks of nothing for ever", &tar(&[more.clone(), empty.repeat(50)]), Malformed, "empty");
    refuse("more blocks than there are", &more, Truncated, "within a header");
    let mut run = b"00000000000\x0000000000000\0".repeat(21);
    run.resize(512, 0);
    run[504] = 1;
    let flood = gzip(&[more, run.repeat(20_000)].concat());
    refuse("400,000 runs", &flood, Malformed, "more than 262144 runs");

    let zero = |records: &[(&str, &[u8])]| tar(&[pax_of(records), file("sparse", &[1; 512])]);
    refuse(
        "no length",
        &zero(&[("GNU.sparse.size", b"512"), ("GNU.sparse.offset", b"0")]),
        Malformed,
        "no length",
    );
    refuse(
        "no offset",
        &zero(&[("GNU.sparse.size", b"512"), ("GNU.sparse.numbytes", b"512")]),
        Malformed,
        "no offset",
    );
    refuse(
        "two offsets",
        &zero(&[("GNU.sparse.offset", b"0"), ("GNU.sparse.offset", b"1")]),
        Malformed,
        "no length",
    );
    refuse(
        "half a pair",
        &zero(&[("GNU.sparse.size", b"512"), ("GNU.sparse.map", b"0,512,600")]),
        Malformed,
        "numbers",
    );
    refuse("no size", &zero(&[("GNU.sparse.map", b"0,512")]), Malformed, "size is not told");
    refuse(
        "a form to come",
        &zero(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.size", b"512")]),
        Malformed,
        "not known",
    );
    let both = [
        pax_of(&[("GNU.sparse.size", b"512"), ("GNU.sparse.map", b"0,512")]),
        sparse_old(&[(0, 512)], 512, &[1; 512]),
    ]
    .concat();
    refuse("two forms", &tar(&[both]), Malformed, "two ways");

    let map = |text: &[u8]| raw::padded(text);
    refuse(
        "a count of 2^60",
        &tar(&[sparse_1_0("512", &map(b"1152921504606846976\n"))]),
        Malformed,
        "more than",
    );
    refuse("letters", &tar(&[sparse_1_0("512", &map(b"one\n0\n512\n"))]), Malformed, "numbers");
    refuse(
        "a map beyond the data",
        &tar(&[sparse_1_0("512", &[&b"400\n"[..], &b"0\n".repeat(254)].concat())]),
        Malformed,
        "longer than its data",
    );
    refuse(
        "past the size",
        &tar(&[sparse_1_0("10", &map(b"1\n5\n10\n"))]),
        Malformed,
        "past the file's size",
    );
    refuse(
        "a size of 2^63",
        &tar(&[sparse_1_0("9223372036854775808", &map(b"0\n"))]),
        Malformed,
        "out of range",
    );
    refuse(
        "a size that no disk has",
        &tar(&[sparse_1_0("4611686018427387904", &map(b"0\n"))]),
        Limit,
        "too large",
    );
    refuse(
        "a run that wraps",
        &tar(&[sparse_1_0("9", &map(b"1\n18446744073709551615\n9\n"))]),
        Malformed,
        "past the file's size",
    );
}

#[test]
fn bombs_against_a_limit() {
    let limited = ApplyOptions {
        read: ReadOptions { limit: Some(1 << 20), ..ReadOptions::default() },
        ..ApplyOptions::default()
    };
    let bomb = tar(&[Block::new(b'0', b"zeros").data(&vec![0; 16 << 20])]);
    refuse_with("plain", &bomb, Limit, "1048576 bytes", &limited);
    refuse_with("gzip", &gzip(&bomb), Limit, "1048576 bytes", &limited);
    refuse_with("zstd", &zstd::encode_all(&bomb[..], 1).unwrap(), Limit, "1048576 bytes", &limited);
    let files: Vec<_> = (0..4000).map(|number| file(&format!("f{number}"), b"")).collect();
    refuse_with("many files", &gzip(&tar(&files)), Limit, "1048576 bytes", &limited);
    refuse_with(
        "behind the end",
        &gzip(&[tar(&[]), vec![0; 8 << 20]].concat()),
        Limit,
        "1048576 bytes",
        &limited,
    );
    let exact = tar(&[file("x", &[1; 512])]);
    let fits = ApplyOptions {
        read: ReadOptions { limit: Some(exact.len() as u64), ..ReadOptions::default() },
        ..ApplyOptions::default()
    };
    assert_eq!(Field::new().apply(&exact, &fits, "a limit that fits").unwrap().size, 512);
    let tight = ApplyOptions {
        read: ReadOptions { limit: Some(exact.len() as u64 - 1), ..ReadOptions::default() },
        ..ApplyOptions::default()
    };
    refuse_with("one byte too many", &exact, Limit, "allowed", &tight);
}

/// Without a checksum, damage in zstd's literal bytes is not seen.
fn checked_zstd(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn damaged_compression() {
    let noise: Vec<u8> =
        (0..60_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let stream = tar(&[file("noise", &noise)]);
    for (what, whole) in [("gzip", gzip(&stream)), ("zstd", checked_zstd(&stream))] {
        refuse(what, &whole[..whole.len() / 2], Truncated, "source failed");
        let mut damaged = whole.clone();
        let middle = whole.len() / 2;
        damaged[middle..middle + 40].iter_mut().for_each(|byte| *byte ^= 0x5a);
        refuse(what, &damaged, Malformed, "damaged");
        let behind = [&whole[..], b"trailing bytes"].concat();
        refuse(what, &behind, Malformed, "damaged");
    }
    // A frame that asks for a window of 2 GiB.
    refuse("a window", &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00], Malformed, "damaged zstd");
}

/// One of each kind of entry, and of each kind of header before one.
fn all_kinds() -> Vec<u8> {
    tar(&[
        directory("./"),
        directory("d/"),
        file("d/file", &[7; 1500]),
        file("empty", b""),
        symlink("link", "d/file"),
        hard_link("hard", "d/file"),
        Block::new(b'6', b"fifo").sealed(),
        file("d/.wh.gone", b""),
        pax_of(&[("path", b"by-pax"), ("SCHILY.xattr.user.a", b"\n1\0"), ("mtime", b"1.5")]),
        file("x", &[8; 700]),
        long(b'L', "long/".repeat(40).as_bytes()),
        file("x", &[9; 512]),
        sparse_old(&[(512, 512), (4096, 512)], 8192, &[1; 1024]),
        sparse_1_0("4096", &[raw::padded(b"1\n1024\n600\n"), vec![2; 600]].concat()),
        file("lower/.wh..wh..opq", b""),
        file("last", &[3; 512]),
    ])
}

#[test]
fn cut_off_at_every_block() {
    let whole = all_kinds();
    let done = Field::new().apply(&whole, &ApplyOptions::default(), "whole").unwrap();
    assert_eq!((done.entries, done.skipped_xattrs), (14, 0));
    let field = Field::new();
    for cut in (0..whole.len()).step_by(512) {
        let what = format!("cut at {cut}");
        let error = field.apply(&whole[..cut], &ApplyOptions::default(), &what).expect_err(&what);
        assert_eq!(error.kind(), Truncated, "{what}: {error}");
        assert!(error.to_string().contains("the stream ends"), "{what}: {error}");
    }
    for cut in [1, 511, 513, 700, whole.len() - 1, whole.len() - 513] {
        let what = format!("cut at {cut}");
        let error = field.apply(&whole[..cut], &ApplyOptions::default(), &what).expect_err(&what);
        assert_eq!(error.kind(), Truncated, "{what}: {error}");
    }
}

/// Between entries only the end's marker shows that something is missing; who checks a digest may do without it.
#[test]
fn without_a_marker_a_stream_ends_between_entries_only() {
    let whole = all_kinds();
    let options = ApplyOptions {
        read: ReadOptions { end_required: false, ..ReadOptions::default() },
        ..ApplyOptions::default()
    };
    let field = Field::new();
    let mut ends = 0;
    for cut in (0..whole.len()).step_by(512) {
        match field.apply(&whole[..cut], &options, "cut") {
            Ok(_) => ends += 1,
            Err(error) => assert_eq!(error.kind(), Truncated, "cut at {cut}: {error}"),
        }
    }
    // Before the first of 14 entries, behind each, and within the marker.
    assert_eq!(ends, 16);
}

/// What looks like an escape, and is none in a chroot.
#[test]
fn confined() {
    for (what, entries, made) in [
        ("a link to the parent", [symlink("l", ".."), file("l/x", b"1")].concat(), "x"),
        ("a link far up", [symlink("l", "../../../../.."), file("l/x", b"1")].concat(), "x"),
        ("a link to the root", [symlink("l", "/"), file("l/x", b"1")].concat(), "x"),
        ("an absolute link", [symlink("l", "/etc"), file("l/x", b"1")].concat(), "etc/x"),
        ("a lower layer's link", file("lib/x", b"1"), "usr/lib/x"),
        ("a new folder behind a link", file("lib/new/x", b"1"), "usr/lib/new/x"),
        (
            "a value that holds a record",
            [pax_of(&[("comment", b"1\n18 path=../escape\n")]), file("x", b"1")].concat(),
            "x",
        ),
        (
            "a link's size",
            [Block::new(b'2', b"l").link(b"x").with(124, b"77777777777\0").sealed(), file("x", b"1")]
                .concat(),
            "x",
        ),
    ] {
        let field = Field::new();
        field.apply(&tar(&[entries]), &ApplyOptions::default(), what).unwrap();
        assert_eq!(fs::read(field.root().join(made)).unwrap(), b"1", "{what}");
    }
    let field = Field::new();
    let absolute = ApplyOptions { absolute_names: true, ..ApplyOptions::default() };
    field.apply(&tar(&[file("/etc/x", b"1"), hard_link("/y", "/etc/x")]), &absolute, "absolute").unwrap();
    assert_eq!(fs::read(field.root().join("y")).unwrap(), b"1");
    refuse_with("above, absolute", &tar(&[file("/../x", b"")]), Refused, "..", &absolute);
}

/// A name that is a link is replaced, and what it points to stays.
#[test]
fn the_last_part_is_never_followed() {
    let field = Field::new();
    let entries = [
        file("out", b"now a file"),
        directory("up/"),
        file("up/inside", b"1"),
        Block::new(b'0', b"lib").data(b"2"),
    ];
    field.apply(&tar(&entries), &ApplyOptions::default(), "links replaced").unwrap();
    assert_eq!(fs::read(field.root().join("out")).unwrap(), b"now a file");
    assert_eq!(fs::read(field.root().join("up/inside")).unwrap(), b"1");
    assert_eq!(fs::read(field.root().join("lib")).unwrap(), b"2");
    assert!(fs::read_dir(field.root().join("usr/lib")).unwrap().next().is_none());
}
