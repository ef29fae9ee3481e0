//! What Docker's own differ says and writes, rule by rule.

#![allow(clippy::unwrap_used, reason = "a test that cannot do its work has to end")]

mod common;

use common::{capability, copy, is_root, read, scratch, set_mtime, set_xattr};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use thinlayer_archive::{
    ApplyOptions, CompareOptions, DiffOptions, Entry, EntryKind, ReadOptions, Reader, Timestamp, Tree, apply,
    changes, diff, diff_size,
};

struct Pair {
    folder: tempfile::TempDir,
}

impl Pair {
    /// Two equal trees.
    fn new(make: impl Fn(&Path)) -> Self {
        let folder = scratch();
        let pair = Self { folder };
        fs::create_dir(pair.old()).unwrap();
        make(&pair.old());
        copy(&pair.old(), &pair.new_tree());
        pair
    }

    fn old(&self) -> PathBuf {
        self.folder.path().join("old")
    }

    fn new_tree(&self) -> PathBuf {
        self.folder.path().join("new")
    }

    fn trees(&self) -> (Tree, Tree) {
        (Tree::open(self.old()).unwrap(), Tree::open(self.new_tree()).unwrap())
    }

    fn changes(&self, options: &CompareOptions) -> Vec<String> {
        let (old, new) = self.trees();
        let mut lines = Vec::new();
        changes(Some(&old), &new, options, |change| {
            lines.push(change.to_string());
            Ok(())
        })
        .unwrap();
        lines
    }

    fn docker(&self) -> Vec<String> {
        self.changes(&CompareOptions::docker())
    }

    fn full(&self) -> Vec<String> {
        self.changes(&CompareOptions::default())
    }

    fn stream(&self, options: &DiffOptions) -> Vec<u8> {
        let (old, new) = self.trees();
        let mut stream = Vec::new();
        diff(Some(&old), &new, &mut stream, options).unwrap();
        stream
    }
}

fn entries(stream: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(stream, ReadOptions::default());
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn names(stream: &[u8]) -> Vec<String> {
    entries(stream).into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect()
}

fn tree(root: &Path) {
    for name in ["a", "a/below", "a-b", "gone/inside", "same"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["a/file", "a/below/deep", "a-b/file", "gone/inside/file", "same/file", "top", "to-folder"] {
        fs::write(root.join(name), name).unwrap();
    }
    symlink("top", root.join("link")).unwrap();
}

#[test]
fn a_folder_with_a_change_is_changed_before_it() {
    let pair = Pair::new(tree);
    let new = pair.new_tree();
    fs::write(new.join("a/below/deep"), "longer than before").unwrap();
    fs::write(new.join("a/added"), "").unwrap();
    fs::remove_file(new.join("a-b/file")).unwrap();
    fs::remove_dir_all(new.join("gone")).unwrap();
    fs::remove_file(new.join("to-folder")).unwrap();
    fs::create_dir(new.join("to-folder")).unwrap();
    fs::write(new.join("to-folder/new"), "").unwrap();
    assert_eq!(
        pair.docker(),
        [
            "C /a",
            "C /a-b",
            "D /a-b/file",
            "A /a/added",
            "C /a/below",
            "C /a/below/deep",
            "D /gone",
            "C /to-folder",
            "A /to-folder/new",
        ]
    );
}

#[test]
fn a_folder_that_became_a_file_is_one_change() {
    let pair = Pair::new(tree);
    fs::remove_dir_all(pair.new_tree().join("gone")).unwrap();
    fs::write(pair.new_tree().join("gone"), "").unwrap();
    assert_eq!(pair.docker(), ["C /gone"]);
}

#[test]
fn an_added_folder_is_added_with_all_that_is_in_it() {
    let pair = Pair::new(tree);
    fs::create_dir_all(pair.new_tree().join("same/x/y")).unwrap();
    assert_eq!(pair.docker(), ["C /same", "A /same/x", "A /same/x/y"]);
}

#[test]
fn without_a_parent_everything_is_added() {
    let pair = Pair::new(tree);
    let (_, new) = pair.trees();
    let mut lines = Vec::new();
    changes(None, &new, &CompareOptions::docker(), |change| {
        lines.push(change.path.to_str().unwrap().to_owned());
        assert_eq!(change.to_string().chars().next(), Some('A'));
        Ok(())
    })
    .unwrap();
    let mut sorted = lines.clone();
    sorted.sort();
    assert_eq!(lines, sorted, "sorted by whole paths");
    assert_eq!(lines.len(), read(&pair.new_tree()).len() - 1, "the root is not told of");
}

#[test]
fn what_docker_looks_at() {
    let changed = |change: &dyn Fn(&Path)| {
        let pair = Pair::new(|root| {
            tree(root);
            set_mtime(&root.join("top"), 1_000_000_000, 5);
            set_mtime(&root.join("same/file"), 1_000_000_000, 0);
        });
        change(&pair.new_tree());
        pair.docker()
    };
    let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(changed(&|root| mode(root.join("top"), 0o640)), ["C /top"]);
    assert_eq!(changed(&|root| mode(root.join("a/below"), 0o700)), ["C /a", "C /a/below"]);
    assert_eq!(changed(&|root| set_mtime(&root.join("top"), 1_000_000_001, 5)), ["C /top"]);
    assert_eq!(changed(&|root| set_mtime(&root.join("top"), 1_000_000_000, 6)), ["C /top"]);
    if is_root() {
        assert_eq!(
            changed(&|root| std::os::unix::fs::lchown(root.join("link"), Some(1), None).unwrap()),
            ["C /link"]
        );
        assert_eq!(
            changed(&|root| assert!(set_xattr(&root.join("top"), "security.capability", &capability(1)))),
            ["C /top"]
        );
    }
    // Where one side has no nanoseconds they do not count; nor do times of folders, other attributes, links and, with size and time, contents.
    let nothing: [&dyn Fn(&Path); 6] = [
        &|root| set_mtime(&root.join("top"), 1_000_000_000, 0),
        &|root| set_mtime(&root.join("same/file"), 1_000_000_000, 7),
        &|root| set_mtime(&root.join("same"), 1, 1),
        &|root| assert!(set_xattr(&root.join("top"), "user.a", b"1")),
        &|root| {
            fs::hard_link(root.join("top"), root.join("top2"))
                .and_then(|()| fs::remove_file(root.join("top2")))
                .unwrap()
        },
        &|root| {
            let file = fs::OpenOptions::new().write(true).open(root.join("top")).unwrap();
            file.write_all_at(b"TOP", 0).unwrap();
            set_mtime(&root.join("top"), 1_000_000_000, 5);
        },
    ];
    for (index, change) in nothing.iter().enumerate() {
        assert_eq!(changed(*change), [""; 0], "{index}");
    }
}

/// What Docker's rules leave out, the full ones see.
#[test]
fn what_docker_misses() {
    let changed = |change: &dyn Fn(&Path)| {
        let pair = Pair::new(|root| {
            tree(root);
            set_mtime(&root.join("top"), 1_000_000_000, 5);
        });
        change(&pair.new_tree());
        assert_eq!(pair.docker(), [""; 0]);
        pair.full()
    };
    assert_eq!(changed(&|root| set_mtime(&root.join("top"), 1_000_000_000, 0)), ["C /top"]);
    assert_eq!(changed(&|root| set_mtime(&root.join("same"), 1, 1)), ["C /same"]);
    assert_eq!(changed(&|root| assert!(set_xattr(&root.join("top"), "user.a", b"1"))), ["C /top"]);
    let contents = |root: &Path| {
        let file = fs::OpenOptions::new().write(true).open(root.join("top")).unwrap();
        file.write_all_at(b"TOP", 0).unwrap();
        set_mtime(&root.join("top"), 1_000_000_000, 5);
    };
    assert_eq!(changed(&contents), ["C /top"]);
    let pair = Pair::new(|root| {
        tree(root);
        set_mtime(&root.join("top"), 1_000_000_000, 5);
    });
    contents(&pair.new_tree());
    let trusting = CompareOptions { contents: false, ..CompareOptions::default() };
    assert_eq!(pair.changes(&trusting), [""; 0]);
}

#[test]
fn the_stream_is_dockers() {
    let pair = Pair::new(tree);
    let new = pair.new_tree();
    fs::write(new.join("a/added"), "x").unwrap();
    fs::hard_link(new.join("a/added"), new.join("a/linked")).unwrap();
    set_mtime(&new.join("a/added"), 1_000_000_000, 999_999_999);
    assert!(set_xattr(&new.join("a/added"), "user.a", b"1"));
    fs::remove_file(new.join("top")).unwrap();
    std::os::unix::net::UnixListener::bind(new.join("socket")).unwrap();
    fs::write(new.join(".wh.made"), "").unwrap();
    let stream = pair.stream(&DiffOptions::docker(Timestamp::at(77)));
    assert_eq!(names(&stream), [".wh.made", "a/", "a/added", "a/linked", ".wh.top"]);
    let entries = entries(&stream);
    assert_eq!((entries[2].mtime, entries[2].xattrs.len()), (Timestamp::at(1_000_000_000), 0));
    assert_eq!((entries[3].kind, entries[3].link.as_slice()), (EntryKind::HardLink, &b"a/added"[..]));
    let deleted = &entries[4];
    assert_eq!((deleted.kind, deleted.mode, deleted.uid, deleted.size), (EntryKind::Regular, 0, 0, 0));
    assert_eq!(deleted.mtime, Timestamp::at(77));
    // Entries without fractions, attributes and long names need no extended headers.
    assert!(!stream.windows(10).any(|part| part == b"PaxHeaders"));
}

#[test]
fn sizes_are_dockers() {
    let pair = Pair::new(tree);
    let new = pair.new_tree();
    fs::write(new.join("a/added"), [0; 1000]).unwrap();
    fs::hard_link(new.join("a/added"), new.join("a/linked")).unwrap();
    fs::write(new.join("top"), [0; 50]).unwrap();
    symlink("12345", new.join("new-link")).unwrap();
    fs::remove_file(new.join("same/file")).unwrap();
    let (old_tree, new_tree) = pair.trees();
    assert_eq!(diff_size(Some(&old_tree), &new_tree, &CompareOptions::docker()).unwrap(), 1000 + 50 + 5);
    let all: u64 = ["a/file", "a/below/deep", "a-b/file", "gone/inside/file", "to-folder"]
        .iter()
        .map(|name| name.len() as u64)
        .sum();
    assert_eq!(diff_size(None, &new_tree, &CompareOptions::docker()).unwrap(), 1055 + all + 3);
}

/// The generic suite's case: a base, files rewritten, a file and a folder deleted; the diff applied to the base is the upper layer, and the
/// size that apply tells is the one that the diff has.
#[test]
fn a_diff_applies_to_its_base() {
    let content = |seed: usize, number: usize| format!("{seed}-{number}-").repeat(10);
    let pair = Pair::new(|root| {
        fs::create_dir_all(root.join("var/lib/deep")).unwrap();
        fs::write(root.join("to-delete"), "x").unwrap();
        for number in 0..120 {
            let folder = root.join(format!("directory-{}", number / 100));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("file-{number}")), content(3, number)).unwrap();
            fs::set_permissions(folder.join(format!("file-{number}")), fs::Permissions::from_mode(0o755))
                .unwrap();
        }
    });
    let new = pair.new_tree();
    for number in 0..120 {
        fs::write(new.join(format!("directory-{}/file-{number}", number / 100)), content(66, number))
            .unwrap();
    }
    fs::remove_file(new.join("to-delete")).unwrap();
    fs::remove_dir_all(new.join("var/lib")).unwrap();
    let stream = pair.stream(&DiffOptions::docker(Timestamp::at(0)));
    let (old_tree, new_tree) = pair.trees();
    let size = diff_size(Some(&old_tree), &new_tree, &CompareOptions::docker()).unwrap();
    let done = apply(&old_tree, &stream[..], &ApplyOptions::default()).unwrap();
    assert_eq!(done.size, size);
    assert_eq!(pair.docker(), [""; 0]);
}
