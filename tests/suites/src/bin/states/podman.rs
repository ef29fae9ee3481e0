//! Roots of containers/storage (Podman, Buildah): other names of devices, another lock. And `adopt`, which only tells.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;

use crate::docker::{TRANSACTION, as_docker_leaves_it, record};
use crate::fixture::{Root, contents, options, unchanged};

/// A root in the surroundings that containers/storage makes.
fn storage() -> Result<Root> {
    let storage = scratch_dir()?.join("storage");
    for folder in ["devicemapper-layers", "devicemapper-images", "devicemapper-containers"] {
        fs::create_dir_all(storage.join(folder))?;
    }
    fs::write(storage.join("devicemapper-layers/layers.json"), "[]")?;
    fs::write(storage.join("storage.lock"), "")?;
    Root::with(&storage.join("devicemapper"), options("ext4"))
}

fn devices() -> Result<String> {
    Ok(harness::run("dmsetup", ["ls"])?.stdout_text())
}

pub(crate) fn names_and_lock() -> Result<()> {
    let root = storage()?;
    root.layer("a", None)?;
    root.run(&["mount", "a"])?;
    let prefix = root.prefix("container")?;
    let seen = devices()?;
    for name in [format!("{prefix}-pool"), format!("{prefix}-a")] {
        ensure!(seen.contains(&name), "{name} is not in: {seen}");
    }
    root.run(&["umount", "a"])?;
    // Away from its surroundings it keeps its names, as it says itself whose it is.
    fs::rename(root.path.with_file_name("storage.lock"), root.path.with_file_name("away"))?;
    fs::rename(root.path.with_file_name("devicemapper-layers"), root.path.with_file_name("layers-away"))?;
    root.holds("a", "a")?;
    ensure!(devices()?.contains(&format!("{prefix}-pool")), "the pool has another name: {}", devices()?);
    fs::rename(root.path.with_file_name("away"), root.path.with_file_name("storage.lock"))?;

    // Podman locks by fcntl, as Python's lockf does.
    let lock = root.path.with_file_name("storage.lock");
    let script = format!(
        "import fcntl,sys,time\nf=open('{}','r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(600)",
        lock.display()
    );
    let mut podman = std::process::Command::new("python3")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let mut line = String::new();
    let stdout = podman.stdout.take().context("no pipe")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let start = Instant::now();
    let outcome = root.refused(&["--wait", "1", "create", "b"], 5);
    let adopt = root.try_run(&["adopt"]);
    podman.kill()?;
    podman.wait()?;
    let said = outcome?;
    ensure!(said.contains("storage.lock") && said.contains("Podman"), "{said}");
    let adopt = adopt?;
    ensure!(adopt.status.code() == Some(1) && adopt.stdout_text().contains("storage.lock"), "{adopt:?}");
    ensure!(start.elapsed() < Duration::from_secs(30), "it waited for {:?}", start.elapsed());
    root.layer("b", Some("a"))?;
    root.check()?;
    root.run(&["stop"])?;
    ensure!(!devices()?.contains(&prefix), "after stop: {}", devices()?);
    harness::run("thin_check", [root.path.join("devicemapper/metadata")]).map(drop)
}

/// `adopt` tells all that a start would do, and does nothing of it before `--yes`.
pub(crate) fn adopting() -> Result<()> {
    let data = scratch_dir()?.join("docker");
    fs::create_dir_all(&data)?;
    let root = Root::with(&data.join("devicemapper"), options("ext4"))?;
    for id in ["a", "b", "c", "d"] {
        root.layer(id, None)?;
    }
    root.stop()?;
    as_docker_leaves_it(&root)?;
    let mut gone = record(&root, "c")?;
    gone["deleted"] = serde_json::json!(true);
    fs::write(root.record("c"), gone.to_string())?;
    fs::write(root.record("d"), "{")?;
    let open = fs::read_to_string(root.record(TRANSACTION))?;
    let victim = root.number("b", "device_id")?;
    let open: serde_json::Value = serde_json::from_str(&open)?;
    let id = open["open_transaction_id"].as_u64().context("no id")? + 1;
    fs::write(
        root.record(TRANSACTION),
        format!(r#"{{"open_transaction_id":{id},"device_hash":"b","device_id":{victim}}}"#),
    )?;

    fs::create_dir(data.join("volumes"))?;
    fs::write(data.join("volumes/metadata.db"), "")?;
    let before = contents(&data)?;
    // As dockerd holds it.
    let docker = fs::File::options().read(true).write(true).open(data.join("volumes/metadata.db"))?;
    docker.lock()?;
    let output = root.try_run(&["adopt"])?;
    drop(docker);
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = output.stdout_text();
    ensure!(said.contains("a running dockerd holds") && !said.contains("--yes"), "{said}");
    let found = root.json(&["adopt", "--from", data.to_str().context("no UTF-8")?])?;
    unchanged(&before, &contents(&data)?)?;
    ensure!(!devices()?.contains(&root.prefix("docker")?), "adopt brought the pool up");
    ensure!(found["layers"] == 2 && found["deferred"] == 1 && found["damaged"] == 1, "{found}");
    ensure!(found["family"] == "docker" && found["known"] == false && found["adopted"] == false, "{found}");
    let changes = found["changes"].to_string();
    for part in [
        "layer b was interrupted",
        "quarantine",
        "blocks are given back",
        "pool.json",
        "thinlayer/metadata-reserve gets 4194304",
    ] {
        ensure!(changes.contains(part), "{part} is not in {changes}");
    }
    ensure!(root.run(&["adopt"])?.contains("--yes"), "the text does not say how to go on");
    unchanged(&before, &contents(&data)?)?;
    // What cannot be opened is said, and the exit code is 1.
    let other = Root::with(&root.path, vec!["dm.thinpooldev=no-such-pool".into()])?;
    let output = other.try_run(&["adopt"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(output.stdout_text().contains("cannot be opened"), "{output:?}");
    unchanged(&before, &contents(&data)?)?;

    let reserve = root.path.join("thinlayer/metadata-reserve");
    ensure!(!reserve.exists(), "a reserve before --yes");
    let done = root.json(&["adopt", "--yes"])?;
    ensure!(fs::metadata(&reserve)?.len() == 4 << 20, "another reserve than was told");
    ensure!(done["adopted"] == true, "{done}");
    ensure!(root.list()? == ["a"], "ls shows {:?}", root.list()?);
    root.holds("a", "a")?;
    let again = root.json(&["adopt"])?;
    ensure!(again["known"] == true && again["pool_active"] == true, "{again}");
    root.stop()?;
    // Base, a, and d, whose record nobody can read.
    ensure!(root.thin_ids()?.len() == 3, "{:?}", root.thin_ids()?);
    ensure!(Path::new(&root.path.join("thinlayer/pool.json")).exists(), "nothing was remembered");
    Ok(())
}
