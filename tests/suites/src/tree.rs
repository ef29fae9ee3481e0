//! Trees of files: one to make an image of, and the comparison of a layer's tree with what its engine says of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// What a container needs to run a line of shell, out of the guest's own Debian.
const PROGRAMS: [&str; 5] = ["dash", "cat", "chmod", "sleep", "true"];
const LIBRARIES: [&str; 2] =
    ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"];

/// A small tree that programs run in, with one of everything that a file system can hold, packed as a tar.
///
/// # Errors
/// If it cannot be made.
pub fn image_tar(folder: &Path) -> Result<PathBuf> {
    let top = folder.join("image");
    for made in ["usr/bin", "usr/lib/x86_64-linux-gnu", "etc", "proc", "sys", "dev", "tmp", "odd"] {
        fs::create_dir_all(top.join(made))?;
    }
    for program in PROGRAMS {
        fs::copy(Path::new("/usr/bin").join(program), top.join("usr/bin").join(program))?;
    }
    for library in LIBRARIES {
        fs::copy(Path::new("/").join(library), top.join(library))?;
    }
    symlink("dash", top.join("usr/bin/sh"))?;
    symlink("usr/lib/x86_64-linux-gnu", top.join("lib64"))?;
    symlink("usr/bin", top.join("bin"))?;
    fs::write(top.join("etc/hello"), "hello\n")?;
    fs::write(top.join("odd/with a blank and ü"), "text")?;
    fs::write(top.join("odd/first name"), "one file, two names")?;
    fs::hard_link(top.join("odd/first name"), top.join("odd/second name"))?;
    symlink("/no/such/place", top.join("odd/nowhere"))?;
    fs::write(top.join("odd/set-uid"), "x")?;
    nix::unistd::chown(&top.join("odd/set-uid"), Some(1234.into()), Some(4321.into()))?;
    fs::set_permissions(top.join("odd/set-uid"), fs::Permissions::from_mode(0o4751))?;
    fs::set_permissions(top.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    nix::unistd::mkfifo(&top.join("odd/pipe"), nix::sys::stat::Mode::from_bits_truncate(0o622))?;
    fs::write(top.join("odd/capable"), "x")?;
    harness::run("setcap", [OsStr::new("cap_net_raw+ep"), top.join("odd/capable").as_os_str()])?;
    // Larger than a block of the pool.
    fs::write(top.join("odd/large"), (0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
    let tar = folder.join("image.tar");
    let words = ["--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"];
    let mut words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    words.extend([top.as_os_str(), OsStr::new("-cf"), tar.as_os_str(), OsStr::new(".")]);
    harness::run("tar", words)?;
    Ok(tar)
}

/// Unpacks what an engine exported.
pub fn unpack(tar: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let mut words: Vec<&OsStr> =
        ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-xpf"]
            .map(OsStr::new)
            .to_vec();
    words.extend([tar.as_os_str(), OsStr::new("-C"), into.as_os_str()]);
    harness::run("tar", words).map(drop)
}

/// What is in a tree, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    seconds: i64,
    content: Vec<u8>,
    capabilities: String,
}

impl Tree {
    /// Reads a tree, without its top folder itself, which no export holds.
    pub fn read(top: &Path) -> Result<Self> {
        let mut found = Self::default();
        found.walk(top, top).with_context(|| format!("cannot read the tree {}", top.display()))?;
        ensure!(!found.0.is_empty(), "nothing is in {}", top.display());
        let capabilities = harness::run("getcap", [OsStr::new("-r"), top.as_os_str()])?.stdout_text();
        for line in capabilities.lines() {
            let (path, names) = line.rsplit_once(' ').context("getcap says something else")?;
            let path = Path::new(path).strip_prefix(top)?;
            found.0.get_mut(path).context("getcap names a strange file")?.capabilities = names.to_owned();
        }
        Ok(found)
    }

    fn walk(&mut self, top: &Path, folder: &Path) -> Result<()> {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            let facts = fs::symlink_metadata(&path)?;
            let kind = facts.file_type();
            let content = if kind.is_file() {
                fs::read(&path)?
            } else if kind.is_symlink() {
                fs::read_link(&path)?.into_os_string().into_encoded_bytes()
            } else if kind.is_char_device() || kind.is_block_device() {
                facts.rdev().to_string().into_bytes()
            } else {
                Vec::new()
            };
            let entry = Entry {
                mode: facts.mode(),
                owner: (facts.uid(), facts.gid()),
                // The number of a folder's links differs between file systems, and its time with every name in it.
                links: if kind.is_dir() { 0 } else { facts.nlink() },
                seconds: if kind.is_dir() { 0 } else { facts.mtime() },
                content,
                capabilities: String::new(),
            };
            self.0.insert(path.strip_prefix(top)?.to_owned(), entry);
            if kind.is_dir() {
                self.walk(top, &path)?;
            }
        }
        Ok(())
    }

    /// Without these names and what is below them.
    pub fn without(&self, names: &[&str]) -> Self {
        let left = self.0.iter().filter(|(path, _)| !names.iter().any(|name| path.starts_with(name)));
        Self(left.map(|(path, entry)| (path.clone(), entry.clone())).collect())
    }

    /// The text of one file.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.0.get(Path::new(name))?.content).into_owned())
    }

    /// Both are the same, or an error that names what is not.
    pub fn same(&self, other: &Self, what: &str) -> Result<()> {
        let mut differences = Vec::new();
        for path in self.0.keys().chain(other.0.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (ours, theirs) = (self.0.get(path), other.0.get(path));
            if ours != theirs {
                differences.push(format!("{}: {} / {}", path.display(), show(ours), show(theirs)));
            }
        }
        if !differences.is_empty() {
            bail!("{what} differ:\n{}", differences.join("\n"));
        }
        Ok(())
    }
}

fn show(entry: Option<&Entry>) -> String {
    entry.map_or_else(
        || "not there".into(),
        |entry| {
            format!(
                "mode {:o}, owner {:?}, {} links, time {}, {} bytes, {:?}",
                entry.mode,
                entry.owner,
                entry.links,
                entry.seconds,
                entry.content.len(),
                entry.capabilities
            )
        },
    )
}
