//! Full disks, power cuts, killed owners, damaged and foreign roots: a clear error or a clean recovery, and nothing lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::LoopFile;
use thinlayer_graphdriver::{Condition, CreateRequest, Deadlines, Kind, LayerId, PutBack, Unmount};

use crate::fixture::{Fixture, options, thin_check};

/// A small ext4 that a root is on.
struct SmallDisk {
    folder: PathBuf,
    _device: LoopFile,
}

impl SmallDisk {
    fn new(bytes: u64) -> Result<Self> {
        let device = LoopFile::new("small-disk", bytes)?;
        harness::run("mkfs.ext4", [Path::new("-q"), device.device()])?;
        let folder = harness::scratch_dir()?.join("small");
        fs::create_dir_all(&folder)?;
        harness::run("mount", [device.device(), folder.as_path()])?;
        Ok(Self { folder, _device: device })
    }

    /// Takes all room but this much.
    fn fill(&self, but: u64) -> Result<PathBuf> {
        let path = self.folder.join("filler");
        let of = format!("of={}", path.display());
        let full = harness::try_run("dd", ["if=/dev/zero", &of, "bs=1M", "conv=fsync"])?;
        ensure!(!full.status.success(), "the small disk took everything");
        let size = fs::metadata(&path)?.len().saturating_sub(but);
        fs::OpenOptions::new().write(true).open(&path)?.set_len(size)?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = harness::try_run("umount", [&self.folder]);
    }
}

fn small_options(filesystem: &str) -> Vec<String> {
    let mut options = options(filesystem);
    options.retain(|option| !option.starts_with("dm.loop"));
    options.push("dm.loopdatasize=2G".into());
    options.push("dm.loopmetadatasize=16M".into());
    options
}

/// A sparse data file and a host without room: writers get errors, the pool stays whole, removal works, and it goes on.
pub(crate) fn the_host_fills_up(filesystem: &str) -> Result<()> {
    let disk = SmallDisk::new(512 << 20)?;
    let root = disk.folder.join("root");
    let mut fixture = Fixture::at(&root, small_options(filesystem))?;
    let kept = fixture.layer("kept", None)?;
    fixture.within(&kept, |tree| Ok(fs::write(tree.join("file"), "kept")?))?;
    let victim = fixture.layer("victim", Some("kept"))?;
    let tree = fixture.get(&victim, None)?;
    let filler = disk.fill(8 << 20)?;
    let of = format!("of={}", tree.join("large").display());
    let written = harness::try_run("dd", ["if=/dev/urandom", &of, "bs=1M", "count=100", "conv=fsync"])?;
    ensure!(!written.status.success(), "100 MiB were acknowledged on a host with 8 MiB of room");
    // What cannot be written out keeps nobody from giving the layer up.
    fixture.put(&victim, Unmount::Lazy)?;
    harness::eventually("the victim's device goes", Duration::from_secs(60), || {
        let name = fixture.metadata(&victim)?.device_name;
        let there = harness::try_run("dmsetup", ["info", &name])?.status.success();
        Ok(if there { Err("it is open".to_owned()) } else { Ok(()) })
    })?;
    // The last bytes, too.
    let last = disk.folder.join("last");
    let _ = harness::try_run("dd", ["if=/dev/zero", &format!("of={}", last.display()), "bs=4k"])?;
    fixture.remove(&victim).context("removal on a full disk")?;
    ensure!(!fixture.exists(&victim), "the victim is still there");
    fixture.work_off().context("giving back blocks on a full disk")?;
    let status = fixture.status()?;
    ensure!(
        matches!(status.condition, Condition::Good | Condition::LowHost),
        "the pool has trouble: {:?}",
        status.trouble
    );
    fs::remove_file(&filler)?;
    fs::remove_file(&last)?;
    fixture.within(&kept, |tree| {
        ensure!(fs::read(tree.join("file"))? == b"kept", "another layer was harmed");
        Ok(())
    })?;
    let next = fixture.layer("next", Some("kept"))?;
    fixture.within(&next, |tree| {
        let of = format!("of={}", tree.join("large").display());
        harness::run("dd", ["if=/dev/urandom", &of, "bs=1M", "count=50", "conv=fsync"])?;
        Ok(())
    })?;
    fixture.work_off()?;
    let report = fixture.check()?;
    ensure!(report.findings.is_empty(), "check found {:#?}", report.findings);
    fixture.stop()?;
    thin_check(&root)
}

/// What was acknowledged is there after a power cut, and what was removed is not.
pub(crate) fn the_power_is_cut(filesystem: &str) -> Result<()> {
    match harness::phase().as_str() {
        "start" => {
            let fixture = Fixture::new(filesystem)?;
            for n in 0..4 {
                let id = fixture.layer(&format!("layer-{n}"), None)?;
                fixture.within(&id, |tree| Ok(fs::write(tree.join("file"), format!("layer {n}"))?))?;
            }
            fixture.remove(&LayerId::given("layer-2")?)?;
            let used = LayerId::given("layer-3")?;
            let tree = fixture.get(&used, None)?;
            fs::write(tree.join("synced"), "synced")?;
            fs::File::open(tree.join("synced"))?.sync_all()?;
            harness::power_cut("look")
        }
        "look" => {
            let fixture = Fixture::new(filesystem)?;
            let ids: Vec<String> = fixture.layers()?.iter().map(|layer| layer.id.to_string()).collect();
            ensure!(ids == ["layer-0", "layer-1", "layer-3"], "the layers are {ids:?}");
            for n in [0, 1, 3] {
                fixture.within(&LayerId::given(&format!("layer-{n}"))?, |tree| {
                    let content = fs::read_to_string(tree.join("file"))?;
                    ensure!(content == format!("layer {n}"), "layer {n} holds {content:?}");
                    ensure!(n != 3 || fs::read(tree.join("synced"))? == b"synced", "what was synced is gone");
                    Ok(())
                })?;
            }
            fixture.finish()
        }
        other => bail!("no phase {other}"),
    }
}

/// One bad record is set aside; the rest works. Stray files, folders and left-overs of writes do not matter.
pub(crate) fn damage_in_the_store_is_set_aside(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    for name in ["good", "bad"] {
        fixture.layer(name, None)?;
    }
    fixture.close();
    let metadata = fixture.root.join("metadata");
    fs::write(metadata.join("bad"), "{\"device_id\":")?;
    fs::write(metadata.join(".tmp123"), "left over")?;
    fs::create_dir(metadata.join("folder"))?;
    fixture.open()?;
    ensure!(
        fixture.notices.iter().any(|notice| notice.contains("bad")),
        "the start said {:?}",
        fixture.notices
    );
    let bad = LayerId::found("bad")?;
    let error = fixture.get(&bad, None).err().context("a damaged layer was mounted")?;
    ensure!(error.kind() == Kind::NeedsCheck && error.to_string().contains("quarantine"), "{error}");
    fixture.within(&LayerId::found("good")?, |tree| Ok(fs::write(tree.join("file"), "works")?))?;
    let set_aside = fs::read_dir(fixture.root.join("thinlayer/quarantine"))?.count();
    ensure!(set_aside == 1, "{set_aside} files are set aside");
    let report = fixture.check()?;
    ensure!(
        report.findings.iter().any(|finding| finding.kind == "damaged-record"),
        "check found {:?}",
        report.findings
    );
    fixture.remove(&LayerId::found("good")?)?;
    fixture.work_off()?;
    fixture.stop()?;
    thin_check(&fixture.root)
}

/// A root whose files are gone, or are another root's, is refused, and nothing is made or changed.
pub(crate) fn lost_and_foreign_pools_are_refused(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    fixture.layer("kept", None)?;
    fixture.stop()?;
    let folder = fixture.root.join("devicemapper");
    let away = fixture.root.join("away");
    for (lost, words) in
        [(vec!["data"], "data"), (vec!["metadata"], "metadata"), (vec!["data", "metadata"], "missing")]
    {
        fs::create_dir_all(&away)?;
        for name in &lost {
            fs::rename(folder.join(name), away.join(name))?;
        }
        let error = fixture.open().err().context("a root without its files was opened")?.to_string();
        ensure!(error.contains(words) && error.contains("no new one was made"), "without {lost:?}: {error}");
        for name in &lost {
            ensure!(!folder.join(name).exists(), "a new {name} was made");
            fs::rename(away.join(name), folder.join(name))?;
        }
    }
    // The pool of another root in place of this one's.
    let mut other = Fixture::with("other", fixture.options.clone())?;
    other.stop()?;
    for name in ["data", "metadata"] {
        fs::rename(folder.join(name), away.join(name))?;
        fs::rename(other.root.join("devicemapper").join(name), folder.join(name))?;
    }
    let error = fixture.open().err().context("another root's pool was taken")?.to_string();
    ensure!(error.contains("pool") && (error.contains("root") || error.contains("transaction")), "{error}");
    ensure!(
        harness::run("dmsetup", ["ls"])?.stdout_text().contains("No devices"),
        "the refused pool is still up"
    );
    for name in ["data", "metadata"] {
        fs::rename(folder.join(name), other.root.join("devicemapper").join(name))?;
        fs::rename(away.join(name), folder.join(name))?;
    }
    fixture.open()?;
    ensure!(fixture.exists(&LayerId::found("kept")?), "the layer is gone");
    fixture.finish()
}

/// A pool that is given by name: taken when empty, refused when it is somebody's; never removed.
pub(crate) fn a_given_pool_is_used_and_left(filesystem: &str) -> Result<()> {
    let data = LoopFile::new("pool-data", 2 << 30)?;
    let metadata = LoopFile::new("pool-metadata", 32 << 20)?;
    let (data_node, metadata_node) =
        (data.device().display().to_string(), metadata.device().display().to_string());
    let table = format!(
        "0 {} thin-pool {metadata_node} {data_node} 128 32768 1 skip_block_zeroing",
        (2_u64 << 30) / 512
    );
    harness::run("dmsetup", ["create", "tlt-given", "--table", &table])?;
    let given = vec![
        "dm.thinpooldev=/dev/mapper/tlt-given".to_owned(),
        format!("dm.fs={filesystem}"),
        "dm.basesize=300M".to_owned(),
    ];
    let mut fixture = Fixture::with("first", given.clone())?;
    let id = fixture.layer("layer", None)?;
    fixture.within(&id, |tree| Ok(fs::write(tree.join("file"), "here")?))?;
    ensure!(!fixture.root.join("devicemapper").exists(), "loop files were made beside a given pool");
    fixture.stop()?;
    ensure!(
        harness::try_run("dmsetup", ["info", "tlt-given"])?.status.success(),
        "stop removed a pool that is not ours"
    );
    let error = Fixture::with("second", given).err().context("a used pool was taken")?.to_string();
    ensure!(error.contains("tlt-given") && error.contains("another root"), "{error}");
    fixture.open()?;
    fixture.remove(&id)?;
    fixture.work_off()?;
    fixture.stop()?;
    harness::run("dmsetup", ["remove", "--retry", "tlt-given"])?;
    harness::run("thin_check", [metadata.device()])?;
    Ok(())
}

/// Devices given for data and metadata: refused while somebody needs them, used otherwise.
pub(crate) fn given_devices_are_checked_and_used(filesystem: &str) -> Result<()> {
    let data = LoopFile::new("given-data", 2 << 30)?;
    let metadata = LoopFile::new("given-metadata", 32 << 20)?;
    let given = |data: &Path, metadata: &Path| {
        vec![
            format!("dm.datadev={}", data.display()),
            format!("dm.metadatadev={}", metadata.display()),
            format!("dm.fs={filesystem}"),
            "dm.basesize=300M".to_owned(),
        ]
    };
    harness::run("mkfs.ext4", [Path::new("-q"), data.device()])?;
    let error = Fixture::with("refused", given(data.device(), metadata.device()))
        .err()
        .context("a file system was overwritten")?;
    ensure!(error.to_string().contains("ext4"), "{error}");
    harness::run("wipefs", [Path::new("--all"), data.device()])?;
    let mut fixture = Fixture::with("given", given(data.device(), metadata.device()))?;
    let id = fixture.layer("layer", None)?;
    fixture.within(&id, |tree| Ok(fs::write(tree.join("file"), "here")?))?;
    fixture.close();
    fixture.open()?;
    fixture.within(&id, |tree| {
        ensure!(fs::read(tree.join("file"))? == b"here", "the file is gone");
        Ok(())
    })?;
    fixture.stop()?;
    fixture.open()?;
    fixture.remove(&id)?;
    fixture.work_off()?;
    fixture.stop()?;
    harness::run("thin_check", [metadata.device()])?;
    Ok(())
}

/// A second loop device on the data file would make two pools share it: refused before anything is loaded.
pub(crate) fn a_shared_backing_file_is_refused(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    fixture.stop()?;
    let file = fixture.root.join("devicemapper/data").display().to_string();
    let shown = harness::run("losetup", ["--find", "--show", &file])?.stdout_text();
    let error = fixture.open().err();
    harness::run("losetup", ["--detach", &shown])?;
    let error = error.context("a file that another loop device holds was used")?.to_string();
    ensure!(error.contains(&shown), "{error}");
    fixture.open()?;
    fixture.finish()
}

/// The base grows where `dm.basesize` asks for it, and does not shrink.
pub(crate) fn the_base_grows(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::with("base", small_options(filesystem))?;
    let old = fixture.layer("old", None)?;
    fixture.stop()?;
    let with_base = |fixture: &Fixture, size: &str| {
        let mut options: Vec<String> =
            fixture.options.iter().filter(|item| !item.starts_with("dm.basesize")).cloned().collect();
        options.push(format!("dm.basesize={size}"));
        options
    };
    fixture.options = with_base(&fixture, "100M");
    let error = fixture.open().err().context("the base shrank")?.to_string();
    ensure!(error.contains("cannot shrink"), "{error}");
    fixture.options = with_base(&fixture, "500M");
    fixture.open()?;
    let new = fixture.layer("new", None)?;
    let room = |id: &LayerId| {
        fixture.within(id, |tree| {
            let text = harness::run("stat", ["-f", "-c", "%b %S", &tree.to_string_lossy()])?.stdout_text();
            let mut words = text.split_whitespace().map(str::parse::<u64>);
            Ok(words.next().context("stat")?? * words.next().context("stat")??)
        })
    };
    let (old_room, new_room) = (room(&old)?, room(&new)?);
    ensure!(old_room < 320 << 20 && new_room > 400 << 20, "old has {old_room} bytes, new {new_room}");
    fixture.resize(&old, thinlayer_graphdriver::Bytes(400 << 20))?;
    ensure!(room(&old)? > 320 << 20, "resize did not grow the file system");
    // Also while it is mounted.
    fixture.get(&old, None)?;
    fixture.resize(&old, thinlayer_graphdriver::Bytes(500 << 20))?;
    fixture.put(&old, Unmount::Now)?;
    ensure!(room(&old)? > 400 << 20, "resize did not grow the mounted file system");
    fixture.remove(&old)?;
    fixture.remove(&new)?;
    fixture.finish()
}

/// While a pool is suspended, whoever needs it waits in the kernel, where nobody can end it.
pub(crate) fn a_silent_pool_holds_nobody_for_ever(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    fixture.close();
    let short = Duration::from_secs(2);
    fixture.deadlines = Deadlines { layer: short, unmount: short, suspend: short, ..Deadlines::default() };
    fixture.open()?;
    let (written, parent) = (fixture.layer("written", None)?, fixture.layer("parent", None)?);
    let other = fixture.layer("other", None)?;
    for id in [&written, &parent, &other] {
        fs::write(fixture.get(id, None)?.join("file"), vec![1; 1 << 20])?;
    }
    let pool = fixture.status()?.pool_name;
    harness::run("dmsetup", ["suspend", "--nolockfs", "--noflush", &pool])?;
    let start = Instant::now();
    let refused = |outcome: thinlayer_graphdriver::Result<()>, words: &[&str]| {
        let Err(error) = outcome else { bail!("no error, and {words:?} was expected") };
        let text = error.to_string();
        ensure!(error.kind() == Kind::Busy && words.iter().all(|word| text.contains(word)), "{text}");
        Ok(())
    };
    let tried = (|| {
        // What was written must go to the device first.
        refused(fixture.put(&written, Unmount::Now).map(drop), &["layer written", "umount of", "within 2s"])?;
        let on_parent = CreateRequest::on(parent.clone());
        let child = LayerId::given("child")?;
        let device = fixture.metadata(&parent)?.device_name;
        refused(
            fixture.create(&child, &on_parent),
            &["layer child", &format!("suspend of device {device}")],
        )?;
        refused(fixture.get(&written, None).map(drop), &["layer written", "another operation on it"])?;
        ensure!(!fixture.exists(&child), "there is a layer without a device");
        // Others go on.
        fixture.get(&other, None)?;
        ensure!(fixture.put(&other, Unmount::Now)? == PutBack::StillUsed(1), "a use was not counted");
        ensure!(fixture.exists(&written) && fixture.layers()?.len() == 3, "{:?}", fixture.layers()?);
        fixture.status()?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(40), "it took {took:?}");
        Ok(())
    })();
    harness::run("dmsetup", ["resume", &pool])?;
    tried?;
    // What hung comes back, and undoes what nobody waits for any more.
    harness::eventually("the layers are free again", Duration::from_secs(30), || {
        Ok(fixture.put(&written, Unmount::Now).map(drop).map_err(|error| error.to_string()))
    })?;
    fixture.layer("child", Some("parent"))?;
    fixture.within(&written, |tree| {
        ensure!(fs::read(tree.join("file"))? == vec![1; 1 << 20], "lost");
        Ok(())
    })?;
    for id in [&parent, &other] {
        fixture.put(id, Unmount::Now)?;
    }
    fixture.finish()
}
