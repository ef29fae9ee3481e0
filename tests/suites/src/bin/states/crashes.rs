//! What a crash of Docker's driver leaves: each row of the recovery table, in its own words, on a real pool.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use serde_json::json;

use crate::docker::{HandPool, TRANSACTION, as_docker_leaves_it, docker_record, record};
use crate::fixture::{Root, small_root};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Reached {
    Intent,
    Message,
    Record,
    Complete,
}

const ALL: [Reached; 4] = [Reached::Intent, Reached::Message, Reached::Record, Reached::Complete];

/// A root in Docker's words with `a`, `b` on `a`, and `victim` on `b`, and copies of it.
struct Prepared {
    root: Root,
    /// Where the copies go.
    place: PathBuf,
}

impl Prepared {
    fn new() -> Result<Self> {
        let root = small_root("prepared", "ext4")?;
        root.layer("a", None)?;
        root.layer("b", Some("a"))?;
        root.layer("victim", Some("b"))?;
        root.stop()?;
        as_docker_leaves_it(&root)?;
        Ok(Self { root, place: scratch_dir()?.join("copy") })
    }

    fn copy(&self) -> Result<Root> {
        if self.place.exists() {
            fs::remove_dir_all(&self.place)?;
        }
        let words = [Path::new("-a"), Path::new("--sparse=always"), &self.root.path, &self.place];
        harness::run("cp", words)?;
        Root::with(&self.place, self.root.options.clone())
    }
}

fn open_transaction(root: &Root, id: u64, layer: &str, device_id: u64) -> Result<()> {
    let text = format!(r#"{{"open_transaction_id":{id},"device_hash":"{layer}","device_id":{device_id}}}"#);
    Ok(fs::write(root.record(TRANSACTION), text)?)
}

/// The others are as they were, ids are not mixed up, and in the pool are exactly these layers and the base.
fn settled(root: &Root, layers: &[&str]) -> Result<()> {
    ensure!(root.list()? == layers, "ls shows {:?}, not {layers:?}", root.list()?);
    // The freed id is soon handed out again, and must be nobody else's (C1).
    for id in ["next-1", "next-2"] {
        root.layer(id, Some("a"))?;
    }
    for (id, of) in [("a", "a"), ("b", "b"), ("next-1", "next-1"), ("next-2", "next-2")] {
        root.holds(id, of)?;
    }
    root.check()?;
    root.stop()?;
    let mut recorded = vec![root.number("base", "device_id")?];
    for id in root.list()? {
        recorded.push(root.number(&id, "device_id")?);
    }
    recorded.sort_unstable();
    let mut there = root.thin_ids()?;
    there.sort_unstable();
    ensure!(there == recorded, "the pool has {there:?}, the records name {recorded:?}");
    Ok(())
}

pub(crate) fn interrupted_creates() -> Result<()> {
    let prepared = Prepared::new()?;
    for reached in ALL {
        let root = prepared.copy()?;
        let new = 9;
        let pool = HandPool::up(&root)?;
        let before = pool.transaction_id()?;
        open_transaction(&root, before + 1, "new", new)?;
        if reached >= Reached::Message {
            pool.message(&format!("create_snap {new} {}", root.number("b", "device_id")?))?;
        }
        if reached >= Reached::Record {
            let size = root.number("b", "size")?;
            fs::write(root.record("new"), docker_record(new, size, before + 1, false))?;
        }
        if reached >= Reached::Complete {
            pool.message(&format!("set_transaction_id {before} {}", before + 1))?;
        }
        drop(pool);
        let said = root.said(&["--log-level", "info", "mount", "a"])?;
        root.run(&["umount", "a"])?;
        let complete = reached == Reached::Complete;
        ensure!(
            complete != said.contains("was interrupted"),
            "{reached:?}: what was done is not what was said: {said}"
        );
        let layers: &[&str] = if complete { &["a", "b", "new", "victim"] } else { &["a", "b", "victim"] };
        settled(&root, layers).with_context(|| format!("create, crash after {reached:?}"))?;
    }
    Ok(())
}

pub(crate) fn interrupted_deletes() -> Result<()> {
    let prepared = Prepared::new()?;
    for reached in ALL {
        let root = prepared.copy()?;
        let victim = root.number("victim", "device_id")?;
        let pool = HandPool::up(&root)?;
        let before = pool.transaction_id()?;
        open_transaction(&root, before + 1, "victim", victim)?;
        if reached >= Reached::Message {
            pool.message(&format!("delete {victim}"))?;
        }
        if reached >= Reached::Record {
            fs::remove_file(root.record("victim"))?;
        }
        if reached >= Reached::Complete {
            pool.message(&format!("set_transaction_id {before} {}", before + 1))?;
        }
        drop(pool);
        root.run(&["mount", "a"])?;
        root.run(&["umount", "a"])?;
        settled(&root, &["a", "b"]).with_context(|| format!("delete, crash after {reached:?}"))?;
    }
    Ok(())
}

/// The rows where the device is in use: nothing leaks, and it goes when it is closed (C2).
pub(crate) fn interrupted_deferred_deletes() -> Result<()> {
    let prepared = Prepared::new()?;
    for marked in [false, true] {
        let root = prepared.copy()?;
        let victim = root.number("victim", "device_id")?;
        let size = root.number("victim", "size")?;
        let pool = HandPool::up(&root)?;
        let before = pool.transaction_id()?;
        let name = format!("{}-victim", root.prefix("docker")?);
        let node = pool.activate(&name, size, victim)?;
        let leaked = scratch_dir()?.join("leaked");
        fs::create_dir_all(&leaked)?;
        harness::run("mount", [&node, &leaked])?;
        open_transaction(&root, before + 1, "victim", victim)?;
        if marked {
            let mut deleted = record(&root, "victim")?;
            deleted["deleted"] = json!(true);
            fs::write(root.record("victim"), deleted.to_string())?;
        }
        pool.leave()?;
        let outcome = (|| {
            root.holds("a", "a")?;
            ensure!(root.list()? == ["a", "b"], "ls shows {:?}", root.list()?);
            let status = root.json(&["status"])?;
            ensure!(
                status["rows"].to_string().contains(r#"["Deferred Deleted Device Count","1"]"#),
                "the device is forgotten while it is in use: {status}"
            );
            // Its user goes on.
            fs::write(leaked.join("still"), "writing")?;
            Ok(())
        })();
        harness::run("umount", [&leaked])?;
        outcome.with_context(|| format!("marked: {marked}"))?;
        settled(&root, &["a", "b"]).with_context(|| format!("marked: {marked}"))?;
    }
    Ok(())
}

/// A pool that was moved on by somebody else, and one that is older than the files.
pub(crate) fn other_counters() -> Result<()> {
    let prepared = Prepared::new()?;
    let root = prepared.copy()?;
    let pool = HandPool::up(&root)?;
    let before = pool.transaction_id()?;
    pool.message(&format!("set_transaction_id {before} {}", before + 5))?;
    drop(pool);
    let said = root.said(&["mount", "a"])?;
    ensure!(said.contains(&format!("{}", before + 5)), "nothing is said of it: {said}");
    root.run(&["umount", "a"])?;
    settled(&root, &["a", "b", "victim"])?;

    let root = prepared.copy()?;
    open_transaction(&root, before + 7, "victim", root.number("victim", "device_id")?)?;
    let said = root.refused(&["mount", "a"], 7)?;
    ensure!(said.contains("older") || said.contains(&format!("{}", before + 7)), "{said}");
    ensure!(root.list()? == ["a", "b", "victim"], "ls shows {:?}", root.list()?);
    Ok(())
}
