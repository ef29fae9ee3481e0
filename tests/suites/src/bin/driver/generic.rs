//! The generic driver cases of section 7.2 of the specification (all but diff, apply and changes).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{Bytes, CreateRequest, LayerId, Removed, Unmount};

use crate::fixture::Fixture;

/// What is in a tree besides `lost+found`, sorted.
fn entries(tree: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(tree)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "lost+found" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn create_empty(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let id = fixture.layer("empty", None)?;
    ensure!(fixture.exists(&id), "it does not exist");
    fixture.within(&id, |tree| {
        let meta = fs::metadata(tree)?;
        ensure!(meta.mode() & 0o7777 == 0o755, "mode {:o}", meta.mode());
        ensure!((meta.uid(), meta.gid()) == (0, 0), "owner {}:{}", meta.uid(), meta.gid());
        ensure!(entries(tree)?.is_empty(), "it holds {:?}", entries(tree)?);
        Ok(())
    })?;
    fixture.remove(&id)?;
    ensure!(!fixture.exists(&id), "it exists after its removal");
    fixture.finish()
}

fn fill_base(tree: &Path) -> Result<()> {
    let folder = tree.join("a subdir");
    fs::create_dir(&folder)?;
    chown(&folder, Some(1), Some(2))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1705))?;
    let file = tree.join("a file");
    fs::write(&file, "Some data")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4222))?;
    Ok(())
}

fn verify_base(tree: &Path) -> Result<()> {
    let folder = fs::metadata(tree.join("a subdir"))?;
    ensure!(folder.is_dir() && folder.mode() & 0o7777 == 0o1705, "a subdir has mode {:o}", folder.mode());
    ensure!((folder.uid(), folder.gid()) == (1, 2), "a subdir belongs to {}:{}", folder.uid(), folder.gid());
    let file = fs::metadata(tree.join("a file"))?;
    ensure!(file.is_file() && file.mode() & 0o7777 == 0o4222, "a file has mode {:o}", file.mode());
    ensure!((file.uid(), file.gid()) == (0, 0), "a file belongs to {}:{}", file.uid(), file.gid());
    ensure!(fs::read(tree.join("a file"))? == b"Some data", "a file has other data");
    ensure!(entries(tree)? == ["a file", "a subdir"], "the tree holds {:?}", entries(tree)?);
    Ok(())
}

pub(crate) fn create_base(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let base = fixture.layer("Base", None)?;
    fixture.within(&base, fill_base)?;
    fixture.within(&base, verify_base)?;
    fixture.remove(&base)?;
    fixture.finish()
}

pub(crate) fn create_snap(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let base = fixture.layer("Base", None)?;
    fixture.within(&base, fill_base)?;
    let snap = fixture.layer("Snap", Some("Base"))?;
    fixture.within(&snap, verify_base)?;
    fixture.remove(&snap)?;
    fixture.remove(&base)?;
    fixture.finish()
}

/// A base with one file, and layers that each write three.
pub(crate) fn deep_layer_read(filesystem: &str, depth: usize) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let base = fixture.layer("deep-base", None)?;
    fixture.within(&base, |tree| Ok(fs::write(tree.join("testfile.txt"), "the base's")?))?;
    let mut parent = "deep-base".to_owned();
    for n in 1..=depth {
        let name = format!("deep-{n}");
        let id = fixture.layer(&name, Some(&parent))?;
        fixture.within(&id, |tree| {
            fs::write(tree.join("top-id"), &name)?;
            let folder = tree.join(format!("layer-{n}"));
            fs::create_dir(&folder)?;
            fs::write(folder.join("layer-id"), &name)?;
            Ok(fs::write(folder.join("parent-id"), &parent)?)
        })?;
        parent = name;
    }
    let top = LayerId::found(&parent)?;
    fixture.within(&top, |tree| {
        ensure!(fs::read(tree.join("testfile.txt"))? == b"the base's", "the base's file changed");
        ensure!(fs::read_to_string(tree.join("top-id"))? == parent, "top-id is another layer's");
        let mut expected = "deep-base".to_owned();
        for n in 1..=depth {
            let folder = tree.join(format!("layer-{n}"));
            ensure!(
                fs::read_to_string(folder.join("parent-id"))? == expected,
                "layer {n} has another parent"
            );
            expected = fs::read_to_string(folder.join("layer-id"))?;
        }
        ensure!(expected == parent, "the chain ends at {expected}");
        Ok(())
    })?;
    for layer in fixture.layers()? {
        ensure!(fixture.remove(&layer.id)? != Removed::Absent, "{} was absent", layer.id);
    }
    fixture.finish()
}

/// A layer larger than its parent takes as much as its size says, and no more.
pub(crate) fn set_quota(filesystem: &str) -> Result<()> {
    let mut options = crate::fixture::options(filesystem);
    options.retain(|option| !option.starts_with("dm.loopdatasize"));
    options.push("dm.loopdatasize=2G".into());
    let fixture = Fixture::with("quota", options)?;
    fixture.layer("Base", None)?;
    let id = LayerId::given("large")?;
    fixture.create(&id, &CreateRequest::on(LayerId::found("Base")?).size(Bytes(500 << 20)))?;
    let too_small = fixture
        .create(&LayerId::given("small")?, &CreateRequest::on(LayerId::found("Base")?).size(Bytes(50 << 20)));
    let error = too_small.err().context("a layer smaller than its parent was made")?;
    ensure!(error.to_string().contains("Container size cannot be smaller than 314.6MB"), "{error}");
    fixture.within(&id, |tree| {
        let zeros = |name: &str, mib: u64| {
            let of = format!("of={}", tree.join(name).display());
            harness::try_run("dd", ["if=/dev/zero", &of, "bs=1M", &format!("count={mib}"), "conv=fsync"])
        };
        let fits = zeros("fits", 350)?;
        ensure!(fits.status.success(), "350 MiB do not fit: {}", fits.stderr_text());
        let over = zeros("over", 200)?;
        ensure!(!over.status.success(), "550 MiB fit on 500");
        ensure!(over.stderr_text().contains("No space left"), "dd says: {}", over.stderr_text());
        Ok(())
    })?;
    ensure!(fixture.inspect(&id)?.size == Bytes(500 << 20), "inspect shows another size");
    fixture.remove(&id)?;
    fixture.remove(&LayerId::found("Base")?)?;
    fixture.finish()
}

/// Get counts, put counts back; the mount goes with the last.
pub(crate) fn reference_counts(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    let id = fixture.layer("counted", None)?;
    let tree = fixture.get(&id, None)?;
    ensure!(fixture.get(&id, None)? == tree, "a second get gives another path");
    fs::write(tree.join("file"), "kept")?;
    // A killed process leaves mounts and counts behind.
    fixture.close();
    fixture.open()?;
    ensure!(fixture.inspect(&id)?.uses == 2, "{} uses after a restart", fixture.inspect(&id)?.uses);
    let busy = fixture.remove(&id).err().context("a mounted layer was removed")?;
    ensure!(busy.kind() == thinlayer_graphdriver::Kind::Busy, "{busy}");
    fixture.put(&id, Unmount::Now)?;
    ensure!(tree.join("file").exists(), "the first put unmounted it");
    fixture.put(&id, Unmount::Now)?;
    ensure!(!tree.exists() && !tree.parent().context("no parent")?.exists(), "the mount point stays");
    fixture.within(&id, |tree| {
        ensure!(fs::read(tree.join("file"))? == b"kept", "the file is gone");
        Ok(())
    })?;
    fixture.remove(&id)?;
    fixture.finish()
}
