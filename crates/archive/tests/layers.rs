//! What single entries of a layer do, and how a diff tells of links.

#![allow(clippy::unwrap_used, reason = "a test that cannot do its work has to end")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use common::{
    File, acl, assert_same, capability, copy, is_root, read, scratch, set_mtime, set_xattr, xattrs,
};
use raw::{Block, directory, file, hard_link, pax_of, record, symlink, tar};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thinlayer_archive::{
    Applied, ApplyOptions, DiffOptions, Entry, EntryKind, ErrorKind, IdMaps, IdRange, ReadOptions, Reader,
    Tree, apply, diff,
};

struct Layer {
    folder: tempfile::TempDir,
}

impl Layer {
    fn new() -> Self {
        Self { folder: scratch() }
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn with(self, files: &[&str]) -> Self {
        for name in files {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), name).unwrap();
        }
        self
    }

    fn apply(&self, entries: &[Vec<u8>]) -> Applied {
        self.apply_with(entries, &ApplyOptions::default())
    }

    fn apply_with(&self, entries: &[Vec<u8>], options: &ApplyOptions) -> Applied {
        apply(&Tree::open(self.root()).unwrap(), &tar(entries)[..], options).unwrap()
    }

    fn names(&self) -> Vec<String> {
        read(self.root())
            .into_keys()
            .map(|name| String::from_utf8(name).unwrap())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

fn entries(stream: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(stream, ReadOptions::default());
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn stream(old: Option<&Path>, new: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    let old = old.map(|old| Tree::open(old).unwrap());
    diff(old.as_ref(), &Tree::open(new).unwrap(), &mut stream, &DiffOptions::default()).unwrap();
    stream
}

#[test]
fn deletions() {
    let layer = Layer::new().with(&["a/b/c", "a/d", "e", "f"]);
    std::os::unix::fs::symlink("f", layer.path("link")).unwrap();
    let done = layer.apply(&[
        file("a/.wh.b", b""),
        file(".wh.e", b""),
        file(".wh.link", b""),
        file(".wh.nothing", b""),
    ]);
    assert_eq!(layer.names(), ["a", "a/d", "f"]);
    assert_eq!((done.entries, done.size), (4, 0));
}

#[test]
fn a_deep_tree_is_deleted() {
    let layer = Layer::new();
    // Deeper than there are descriptors, and than a path may be long.
    let part = "d".repeat(20);
    let mut folder: std::os::fd::OwnedFd = fs::File::open(layer.root()).unwrap().into();
    for _ in 0..1500 {
        use nix::fcntl::{OFlag, openat};
        use nix::sys::stat::{Mode, mkdirat};
        mkdirat(&folder, part.as_str(), Mode::S_IRWXU).unwrap();
        folder = openat(&folder, part.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
    let name = format!(".wh.{part}");
    layer.apply(&[file(&name, b"")]);
    assert!(fs::read_dir(layer.root()).unwrap().next().is_none());
}

#[test]
fn an_opaque_folder_keeps_only_what_this_layer_has() {
    let layer = Layer::new().with(&["d/old", "d/both/old", "d/implied/old", "d/deep/old/x", "other/old"]);
    layer.apply(&[
        directory("d/"),
        file("d/before", b""),
        directory("d/both/"),
        file("d/both/new", b""),
        file("d/implied/below/new", b""),
        file("d/.wh..wh..opq", b""),
        file("d/after", b""),
    ]);
    assert_eq!(
        layer.names(),
        [
            "d",
            "d/after",
            "d/before",
            "d/both",
            "d/both/new",
            "d/implied",
            "d/implied/below",
            "d/implied/below/new",
            "other",
            "other/old",
        ]
    );
}

#[test]
fn an_opaque_root() {
    let layer = Layer::new().with(&["old/x", "y"]);
    layer.apply(&[file("new", b""), file(".wh..wh..opq", b"")]);
    assert_eq!(layer.names(), ["new"]);
}

/// A folder behind a link is the same folder.
#[test]
fn an_opaque_folder_behind_a_link() {
    let layer = Layer::new().with(&["usr/lib/old", "usr/lib/sub/old"]);
    std::os::unix::fs::symlink("usr/lib", layer.path("lib")).unwrap();
    layer.apply(&[file("lib/new", b""), file("usr/lib/sub/new", b""), file("lib/.wh..wh..opq", b"")]);
    assert_eq!(layer.names(), ["lib", "usr", "usr/lib", "usr/lib/new", "usr/lib/sub", "usr/lib/sub/new"]);
}

#[test]
fn what_is_there_is_replaced_unless_both_are_folders() {
    let layer = Layer::new().with(&["dir/x", "file", "was-folder/x/y"]);
    fs::hard_link(layer.path("file"), layer.path("other-name")).unwrap();
    layer.apply(&[
        directory("dir/"),
        file("file", b"new"),
        file("was-folder", b""),
        directory("other-name/"),
    ]);
    assert_eq!(layer.names(), ["dir", "dir/x", "file", "other-name", "was-folder"]);
    assert_eq!(fs::read(layer.path("file")).unwrap(), b"new");
    assert!(layer.path("other-name").is_dir());
}

/// The lower layers' other name of a replaced file keeps its content.
#[test]
fn a_replaced_file_is_a_new_file() {
    let layer = Layer::new().with(&["file"]);
    fs::hard_link(layer.path("file"), layer.path("other")).unwrap();
    layer.apply(&[file("file", b"new")]);
    assert_eq!(fs::read(layer.path("other")).unwrap(), b"file");
    assert_eq!(fs::read(layer.path("file")).unwrap(), b"new");
}

#[test]
fn hard_links_to_lower_layers() {
    let layer = Layer::new().with(&["usr/bin/tool", "there"]);
    std::os::unix::fs::symlink("usr/bin", layer.path("bin")).unwrap();
    std::os::unix::fs::symlink("nowhere", layer.path("link")).unwrap();
    fs::hard_link(layer.path("usr/bin/tool"), layer.path("linked-already")).unwrap();
    layer.apply(&[
        hard_link("there", "./bin/tool"),
        hard_link("new/name", "usr/bin/tool"),
        hard_link("linked-already", "usr/bin/tool"),
        hard_link("link-too", "link"),
    ]);
    let inode = |name: &str| fs::symlink_metadata(layer.path(name)).unwrap().ino();
    for name in ["there", "new/name", "linked-already"] {
        assert_eq!(inode(name), inode("usr/bin/tool"), "{name}");
    }
    assert_eq!(inode("link-too"), inode("link"));
}

#[test]
fn missing_folders_are_made() {
    let layer = Layer::new();
    layer.apply(&[file("a/b/c", b"1")]);
    for name in ["a", "a/b"] {
        let stat = fs::metadata(layer.path(name)).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o755);
    }
}

#[test]
fn folders_get_their_times_last() {
    let layer = Layer::new();
    let time = |entry: Vec<u8>| [pax_of(&[("mtime", b"1000000000.25")]), entry].concat();
    layer.apply(&[
        time(directory("./")),
        time(directory("d/")),
        file("d/x", b""),
        time(directory("d/e/")),
        file("d/e/y", b""),
        file("d/.wh.x", b""),
    ]);
    for name in ["", "d", "d/e"] {
        let stat = fs::metadata(layer.path(name)).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 250_000_000), "{name:?}");
    }
}

/// A time that is meant for a folder is not set on what took its place.
#[test]
fn a_replaced_folder_has_no_time_to_get() {
    let layer = Layer::new();
    layer.apply(&[
        directory("d/"),
        symlink("d", "other"),
        directory("other/"),
        directory("e/"),
        file("e", b"now a file"),
    ]);
    assert!(layer.path("d").is_symlink() && layer.path("e").is_file());
}

#[test]
fn an_attribute_that_a_folder_lost() {
    let layer = Layer::new();
    fs::create_dir(layer.path("d")).unwrap();
    assert!(set_xattr(&layer.path("d"), "user.old", b"1") && set_xattr(&layer.path("d"), "user.kept", b"2"));
    // Docker's layers do not tell of most attributes, so what is not told of stays.
    layer.apply(&[directory("d/")]);
    assert_eq!(xattrs(&layer.path("d")).len(), 2);
    layer.apply(&[[pax_of(&[("THINLAYER.xattr.removed.user.old", b"1")]), directory("d/")].concat()]);
    assert_eq!(xattrs(&layer.path("d")).into_keys().collect::<Vec<_>>(), [b"user.kept"]);
}

#[test]
fn a_default_acl_is_not_inherited() {
    let layer = Layer::new();
    assert!(set_xattr(layer.root(), "system.posix_acl_default", &acl(5, 7)));
    layer.apply(&[
        file("file", b"1"),
        directory("d/"),
        file("implied/x", b""),
        Block::new(b'6', b"fifo").sealed(),
    ]);
    for name in ["file", "d", "implied", "implied/x", "fifo"] {
        assert_eq!(xattrs(&layer.path(name)).len(), 0, "{name}");
    }
    assert_eq!(fs::metadata(layer.path("file")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn attributes_that_are_refused_are_told() {
    let layer = Layer::new();
    let entry = [
        pax_of(&[
            ("SCHILY.xattr.user.on-a-link", b"1"),
            ("SCHILY.xattr.nobody.knows", b"1"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ]),
        symlink("l", "x"),
    ]
    .concat();
    let done = layer.apply(std::slice::from_ref(&entry));
    assert_eq!(done.skipped_xattrs, 3);
    assert_eq!(done.skipped_xattr_names[0], (b"l".to_vec(), b"user.on-a-link".to_vec()));
    let strict = ApplyOptions { all_xattrs: true, ..ApplyOptions::default() };
    let error = apply(&Tree::open(layer.root()).unwrap(), &tar(&[entry])[..], &strict).unwrap_err();
    assert!(error.to_string().contains("user.on-a-link"), "{error}");
}

#[test]
fn other_forms_of_attributes() {
    let layer = Layer::new();
    let mut records = record(b"SCHILY.xattr.user.b=c", b"no: the key ends at the first equals sign");
    records.extend(record(b"SCHILY.xattr.user.a%3Db", b"1"));
    records.extend(record(
        b"SCHILY.acl.access",
        b"user::rw-,user:anna:r--:1234,group::r--,mask::rw-,other::---",
    ));
    layer.apply(&[[raw::pax(&records), file("x", b"")].concat()]);
    let xattrs = xattrs(&layer.path("x"));
    assert_eq!(xattrs.get(&b"user.a=b"[..]), Some(&b"1".to_vec()));
    assert!(xattrs.contains_key(&b"user.b"[..]));
    assert!(xattrs.contains_key(&b"system.posix_acl_access"[..]));
}

#[test]
fn aufs_names_are_ignored() {
    let layer = Layer::new().with(&["kept"]);
    layer.apply(&[
        directory(".wh..wh.plnk/"),
        file(".wh..wh.plnk/1.2", b"x"),
        file(".wh..wh.aufs", b""),
        directory(".wh..wh.orph/"),
    ]);
    assert_eq!(layer.names(), ["kept"]);
}

#[test]
fn a_comment_in_a_global_header_is_ignored() {
    let layer = Layer::new();
    let global = Block::new(b'g', b"pax_global_header").data(&record(b"comment", b"4711"));
    let label = Block::new(b'V', b"a volume's label").sealed();
    assert_eq!(layer.apply(&[label, global, file("x", b"")]).entries, 1);
}

#[test]
fn ids_are_mapped() {
    assert!(is_root(), "only root may give files away: run this test as root");
    let maps = |first| {
        let range = IdRange { inside: 0, outside: first, count: 65536 };
        IdMaps { uids: vec![range], gids: vec![range] }
    };
    let layer = Layer::new();
    let owned = Block::new(b'0', b"x").with(108, b"0001750\0").with(116, b"0001751\0").sealed();
    let with_acl = [
        pax_of(&[("SCHILY.xattr.system.posix_acl_access", &acl(33, 7))]),
        Block::new(b'0', b"y").with(100, b"0000775\0").sealed(),
    ]
    .concat();
    let options = ApplyOptions { ids: maps(100_000), ..ApplyOptions::default() };
    layer.apply_with(&[owned, with_acl, file("implied/z", b"")], &options);
    let owner = |name: &str| fs::metadata(layer.path(name)).map(|stat| (stat.uid(), stat.gid())).unwrap();
    assert_eq!(owner("x"), (101_000, 101_001));
    assert_eq!(owner("y"), (100_000, 100_000));
    assert_eq!(owner("implied"), (100_000, 100_000));
    assert_eq!(xattrs(&layer.path("y"))[&b"system.posix_acl_access"[..]], acl(100_033, 7));

    std::os::unix::fs::chown(layer.root(), Some(100_000), Some(100_000)).unwrap();
    let mut back = Vec::new();
    let diff_options = DiffOptions { ids: maps(100_000), ..DiffOptions::default() };
    diff(None, &Tree::open(layer.root()).unwrap(), &mut back, &diff_options).unwrap();
    let x = entries(&back).into_iter().find(|entry| entry.path == b"x").unwrap();
    assert_eq!((x.uid, x.gid), (1000, 1001));
    let y = entries(&back).into_iter().find(|entry| entry.path == b"y").unwrap();
    assert_eq!(y.xattrs[0].value, acl(33, 7));

    let far = Block::new(b'0', b"x").with(108, b"0300000\0").sealed();
    let error = apply(&Tree::open(layer.root()).unwrap(), &tar(&[far])[..], &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let error = diff(
        None,
        &Tree::open(layer.root()).unwrap(),
        std::io::sink(),
        &DiffOptions { ids: maps(5_000_000), ..DiffOptions::default() },
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn set_id_bits_and_capabilities_survive() {
    let layer = Layer::new();
    let program = Block::new(b'0', b"x").with(100, b"0006755\0").with(108, b"0001750\0").data(b"x");
    let capable = [
        pax_of(&[("SCHILY.xattr.security.capability", &capability(1))]),
        Block::new(b'0', b"y").with(108, b"0001750\0").data(b"y"),
    ]
    .concat();
    assert!(is_root(), "only root may set capabilities: run this test as root");
    layer.apply(&[program, capable]);
    assert_eq!(fs::metadata(layer.path("x")).unwrap().mode() & 0o7777, 0o6755);
    assert_eq!(xattrs(&layer.path("y"))[&b"security.capability"[..]], capability(1));
    // A second name must not take them away.
    layer.apply(&[hard_link("z", "y")]);
    assert_eq!(xattrs(&layer.path("y"))[&b"security.capability"[..]], capability(1));
}

/// Two trees, of which the second is changed; what the stream tells, and what it makes of the first.
fn told(make: impl Fn(&Path), change: impl Fn(&Path)) -> Vec<(String, EntryKind)> {
    let folder = scratch();
    let [old, new, copied] = ["old", "new", "copied"].map(|name| folder.path().join(name));
    fs::create_dir(&old).unwrap();
    make(&old);
    copy(&old, &new);
    copy(&old, &copied);
    change(&new);
    let stream = stream(Some(&old), &new);
    apply(&Tree::open(&copied).unwrap(), &stream[..], &ApplyOptions::default()).unwrap();
    assert_same(&read(&new), &read(&copied), "the new tree");
    entries(&stream)
        .into_iter()
        .filter(|entry| entry.kind != EntryKind::Directory)
        .map(|entry| (String::from_utf8(entry.path).unwrap(), entry.kind))
        .collect()
}

fn linked(root: &Path, names: &[&str]) {
    fs::create_dir_all(root.join("far/away")).unwrap();
    fs::write(root.join(names[0]), "content").unwrap();
    set_mtime(&root.join(names[0]), 1_000_000_000, 0);
    for name in &names[1..] {
        fs::hard_link(root.join(names[0]), root.join(name)).unwrap();
    }
}

#[test]
fn a_new_name_sends_the_file_whole_with_all_its_names() {
    use EntryKind::{HardLink, Regular};
    let told = told(
        |root| linked(root, &["far/away/a"]),
        |root| fs::hard_link(root.join("far/away/a"), root.join("b")).unwrap(),
    );
    assert_eq!(told, [("b".to_owned(), Regular), ("far/away/a".to_owned(), HardLink)]);
}

#[test]
fn a_deleted_name_sends_nothing_more() {
    let told =
        told(|root| linked(root, &["a", "b", "far/c"]), |root| fs::remove_file(root.join("b")).unwrap());
    assert_eq!(told, [(".wh.b".to_owned(), EntryKind::Regular)]);
}

#[test]
fn names_that_part_are_sent() {
    // As big, as old, with the same content: only no longer one file.
    let part = |root: &Path| {
        fs::remove_file(root.join("b")).unwrap();
        fs::write(root.join("b"), "content").unwrap();
        set_mtime(&root.join("b"), 1_000_000_000, 0);
    };
    let told = told(|root| linked(root, &["a", "b", "far/c"]), part);
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "far/c"]);
}

#[test]
fn names_that_meet_are_sent() {
    let meet = |root: &Path| {
        fs::remove_file(root.join("b")).unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
    };
    let make = |root: &Path| {
        linked(root, &["a"]);
        fs::write(root.join("b"), "content").unwrap();
        set_mtime(&root.join("b"), 1_000_000_000, 0);
    };
    assert_eq!(
        told(make, meet),
        [("a".to_owned(), EntryKind::Regular), ("b".to_owned(), EntryKind::HardLink)]
    );
}

#[test]
fn unchanged_links_are_not_sent() {
    assert_eq!(told(|root| linked(root, &["a", "b", "far/c"]), |_| {}), []);
}

#[test]
fn a_socket_in_place_of_a_file_deletes_it() {
    let folder = scratch();
    let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
    fs::create_dir(&old).unwrap();
    fs::write(old.join("s"), "x").unwrap();
    fs::create_dir(&new).unwrap();
    std::os::unix::net::UnixListener::bind(new.join("s")).unwrap();
    let names: Vec<_> = entries(&stream(Some(&old), &new)).into_iter().map(|entry| entry.path).collect();
    assert_eq!(names, [b"./".to_vec(), b".wh.s".to_vec()]);
}

#[test]
fn a_name_that_means_a_deletion_is_refused() {
    let layer = Layer::new().with(&["d/.wh.x"]);
    let error =
        diff(None, &Tree::open(layer.root()).unwrap(), std::io::sink(), &DiffOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.entry.as_slice()), (ErrorKind::Refused, &b"d/.wh.x"[..]));
}

#[test]
fn a_tree_in_itself_has_no_changes() {
    let layer = Layer::new().with(&["a/b", "c"]);
    assert_eq!(entries(&stream(Some(layer.root()), layer.root())), []);
}

#[test]
fn many_small_holes_are_told_within_bounds() {
    use std::os::unix::fs::FileExt;
    let folder = scratch();
    let [tree, copied] = ["tree", "copied"].map(|name| folder.path().join(name));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&copied).unwrap();
    let file = fs::File::create(tree.join("holes")).unwrap();
    for number in 0..9000_u64 {
        file.write_all_at(b"x", number * 8192).unwrap();
    }
    file.sync_all().unwrap();
    let stream = stream(None, &tree);
    let entry = entries(&stream).into_iter().find(|entry| entry.path == b"holes").unwrap();
    assert!(entry.sparse.unwrap().len() <= 8192);
    apply(&Tree::open(&copied).unwrap(), &stream[..], &ApplyOptions::default()).unwrap();
    let of = |root: &Path| -> File { read(root).remove(&b"holes"[..]).unwrap() };
    assert_eq!(of(&tree), of(&copied));
}

/// Folders that cannot be listed by others, as images have them.
#[test]
fn modes_of_folders_are_exact() {
    let layer = Layer::new();
    layer.apply(&[
        Block::new(b'5', b"closed/").with(100, b"0000000\0").sealed(),
        file("closed/x", b"1"),
        Block::new(b'5', b"shared/").with(100, b"0003777\0").sealed(),
    ]);
    let mode = |name: &str| fs::metadata(layer.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("closed"), mode("shared")), (0, 0o3777));
}
