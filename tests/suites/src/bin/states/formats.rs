//! Directories of every version of Docker's driver: legacy files, missing keys, left-overs, other sizes, damage.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::docker::{DEVICE_SET, TRANSACTION, as_docker_leaves_it, record};
use crate::fixture::{Root, contents, small_root, unchanged};

/// A root in Docker's words with `a` and `b` on `a`.
fn docker_root(name: &str, filesystem: &str) -> Result<Root> {
    let root = small_root(name, filesystem)?;
    root.layer("a", None)?;
    root.layer("b", Some("a"))?;
    root.stop()?;
    as_docker_leaves_it(&root)?;
    Ok(root)
}

/// All layers are there and work, new ones can be made and removed, and nothing is left over.
fn works(root: &Root) -> Result<()> {
    for (id, of) in [("a", "a"), ("b", "a"), ("b", "b")] {
        root.holds(id, of)?;
    }
    root.layer("fresh", Some("b"))?;
    root.holds("fresh", "a")?;
    root.run(&["rm", "fresh"])?;
    root.check()?;
    root.stop()?;
    ensure!(root.thin_ids()?.len() == 3, "base, a and b are not alone: {:?}", root.thin_ids()?);
    Ok(())
}

fn device_set(root: &Root) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(root.record(DEVICE_SET))?)?)
}

/// The UUID of the base's file system is found again and written down.
fn knows_its_base(root: &Root, uuid: &str, filesystem: &str) -> Result<()> {
    let set = device_set(root)?;
    ensure!(set["BaseDeviceUUID"] == uuid, "{set} has not {uuid}");
    ensure!(set["BaseDeviceFilesystem"] == filesystem, "{set} has not {filesystem}");
    Ok(())
}

pub(crate) fn old_formats(filesystem: &str) -> Result<()> {
    let root = docker_root("root", filesystem)?;
    let set = device_set(&root)?;
    let uuid = set["BaseDeviceUUID"].as_str().context("no UUID")?.to_owned();

    // Before 1.8 there was no UUID, before 1.10 no type, before 1.9 no `deleted`.
    for keys in [json!({"next_device_id": 3}), json!({"next_device_id": 3, "BaseDeviceUUID": uuid})] {
        fs::write(root.record(DEVICE_SET), keys.to_string())?;
        for id in ["base", "a", "b"] {
            let mut old = record(&root, id)?;
            old.as_object_mut().context("no object")?.remove("deleted");
            fs::write(root.record(id), old.to_string())?;
        }
        works(&root)?;
        knows_its_base(&root, &uuid, filesystem)?;
        as_docker_leaves_it(&root)?;
    }

    // 1.0: one file for all.
    let mut devices = serde_json::Map::new();
    for (key, id) in [("", "base"), ("a", "a"), ("b", "b")] {
        let mut old = record(&root, id)?;
        old.as_object_mut().context("no object")?.remove("deleted");
        devices.insert(key.into(), old);
        fs::remove_file(root.record(id))?;
    }
    for name in [DEVICE_SET, TRANSACTION] {
        fs::remove_file(root.record(name))?;
    }
    let legacy = root.path.join("devicemapper/json");
    fs::write(&legacy, json!({"Devices": devices}).to_string())?;
    // Looking changes nothing.
    let before = contents(&root.path)?;
    ensure!(root.list()? == ["a", "b"], "ls shows {:?}", root.list()?);
    unchanged(&before, &contents(&root.path)?)?;
    works(&root)?;
    ensure!(!legacy.exists() && root.path.join("devicemapper/json.migrated").exists(), "not migrated");
    knows_its_base(&root, &uuid, filesystem)
}

/// Left-over temporary files, a removed layer whose device waits, and one damaged record among many.
pub(crate) fn left_overs() -> Result<()> {
    let root = docker_root("root", "ext4")?;
    for n in 0..12 {
        root.run(&["create", "--parent", "b", &format!("many-{n:02}")])?;
    }
    root.stop()?;
    as_docker_leaves_it(&root)?;
    for (name, content) in [(".tmp123456789", "{\"device_id\":7,"), (".tmp987", "")] {
        fs::write(root.record(name), content)?;
    }
    let mut gone = record(&root, "many-00")?;
    gone["deleted"] = json!(true);
    fs::write(root.record("many-00"), gone.to_string())?;
    let gone = gone["device_id"].as_u64().context("no id")?;
    fs::write(root.record("many-05"), "{\"device_id\":12,\"si")?;
    // The same thin device in two records: neither may delete it.
    let twin = record(&root, "many-07")?;
    fs::write(root.record("many-08"), twin.to_string())?;

    root.layer("fresh", Some("a"))?;
    let said = root.refused(&["mount", "many-05"], 7)?;
    ensure!(said.contains("quarantine"), "{said}");
    root.refused(&["mount", "many-00"], 3)?;
    root.refused(&["rm", "many-08"], 7)?;
    for (id, of) in [("a", "a"), ("many-01", "b"), ("many-07", "b"), ("many-11", "a"), ("fresh", "fresh")] {
        root.holds(id, of)?;
    }
    for name in [".tmp123456789", ".tmp987"] {
        ensure!(root.record(name).exists(), "{name} was Docker's, and is gone");
    }
    let report = root.try_run(&["check"])?;
    let said = report.stdout_text();
    ensure!(said.contains("damaged-record") && said.contains("duplicate-device-id"), "{said}");
    root.stop()?;
    let left = root.thin_ids()?;
    ensure!(!left.contains(&gone), "the removed layer's device {gone} is still there: {left:?}");
    ensure!(left.contains(&twin["device_id"].as_u64().context("no id")?), "a twin was deleted: {left:?}");
    Ok(())
}

/// The size of a mounted file system, in MiB.
fn size_of(tree: &str) -> Result<u64> {
    let said = harness::run("df", ["--output=size", "--block-size=1M", tree])?.stdout_text();
    Ok(said.lines().last().context("df says nothing")?.trim().parse()?)
}

/// The size of a layer's file system, in MiB.
fn room(root: &Root, id: &str) -> Result<u64> {
    let size = size_of(&root.line(&["mount", id])?);
    root.run(&["umount", id])?;
    size
}

/// Sizes: a base that has to grow, layers of other sizes, and what may not shrink.
pub(crate) fn sizes(filesystem: &str) -> Result<()> {
    let (before, after, layer) = if filesystem == "xfs" { (300_u64, 340_u64, 380_u64) } else { (48, 64, 80) };
    let root = docker_root("root", filesystem)?;
    let plain = room(&root, "a")?;
    ensure!(plain <= before, "{plain}");
    let larger = Root::with(&root.path, {
        let mut options = root.options.clone();
        options.retain(|item| !item.starts_with("dm.basesize"));
        options.push(format!("dm.basesize={after}M"));
        options
    })?;
    // The pool is up with the smaller base; the next start has a larger one.
    root.stop()?;
    larger.layer("fresh", None)?;
    ensure!(root.number("base", "size")? == after << 20, "the base was not grown");
    let grown = room(&larger, "fresh")?;
    ensure!(grown > plain && grown <= after, "{grown} is no size between {plain} and {after}");
    ensure!(room(&larger, "a")? == plain, "an old layer has grown");
    // A layer of its own size, and its child.
    larger.run(&["create", "--parent", "b", "--size", &format!("{layer}M"), "big"])?;
    larger.run(&["create", "--parent", "big", "child"])?;
    let big = room(&larger, "child")?;
    ensure!(big > grown && big <= layer, "{big} is no size between {grown} and {layer}");
    larger.stop()?;
    as_docker_leaves_it(&root)?;
    ensure!(room(&larger, "child")? == big, "the size was lost with what Docker does not keep");
    // Nothing shrinks.
    let said = larger.refused(&["resize", "big", "20M"], 2)?;
    ensure!(said.contains("smaller"), "{said}");
    larger.refused(&["create", "--parent", "big", "--size", "20M", "small"], 2)?;
    larger.stop()?;
    let said = root.refused(&["create", "more"], 2)?;
    ensure!(said.contains("cannot shrink"), "{said}");
    // A mounted layer grows online.
    let tree = larger.line(&["mount", "a"])?;
    larger.run(&["resize", "a", &format!("{layer}M")])?;
    let size = size_of(&tree)?;
    larger.run(&["umount", "a"])?;
    ensure!(size > plain, "{size} is not more than {plain}");
    larger.holds("a", "a")?;
    larger.check()?;
    larger.stop()
}

/// Docker wrote the larger size down before it grew the file system, and failed: it never tries again (C25).
pub(crate) fn growth_that_docker_failed(filesystem: &str) -> Result<()> {
    let (before, after) = if filesystem == "xfs" { (300_u64, 380_u64) } else { (48, 80) };
    let root = docker_root("root", filesystem)?;
    for id in ["base", "b"] {
        let mut larger = record(&root, id)?;
        larger["size"] = json!(after << 20);
        fs::write(root.record(id), larger.to_string())?;
    }
    let mut options = root.options.clone();
    options.retain(|item| !item.starts_with("dm.basesize"));
    let found = Root::with(&root.path, options)?;
    ensure!(room(&found, "b")? > before, "layer b was not grown to its device");
    ensure!(room(&found, "a")? <= before, "layer a has grown");
    found.layer("fresh", None)?;
    ensure!(room(&found, "fresh")? > before, "the base was not grown to its device");
    found.holds("b", "a")?;
    found.check()?;
    found.stop()?;
    ensure!(Path::new(&found.path).exists(), "the root is gone");
    Ok(())
}
