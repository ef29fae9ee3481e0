//! `check` and `check --repair`: each disagreement is made with the real tools, found, and mended where that is safe.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thinlayer_thin::MetaBlocks;
use thinlayer_thin::metadata::BlockKind;
use thinlayer_thin::metadata::writer::seal;

use crate::fixture::Root;

/// A root with the layers `a`, `b` on it and `c`, each with a file; the pool is active.
pub(crate) fn made(name: &str) -> Result<Root> {
    let root = Root::new(name, "ext4")?;
    root.quiet(&["create", "a"])?;
    write(&root, "a")?;
    root.quiet(&["create", "--parent", "a", "b"])?;
    write(&root, "b")?;
    root.quiet(&["create", "c"])?;
    Ok(root)
}

fn write(root: &Root, id: &str) -> Result<()> {
    let tree = root.run(&["mount", id])?;
    fs::write(Path::new(tree.trim_end()).join("file"), vec![1; 1 << 20])?;
    root.quiet(&["umount", id])
}

pub(crate) fn dmsetup(words: &[&str]) -> Result<String> {
    Ok(harness::run("dmsetup", words)?.stdout_text())
}

/// The report; the exit code is as the findings say.
pub(crate) fn report(root: &Root, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = ["--json", "check"].into_iter().chain(words.iter().copied()).collect();
    let output = root.try_run(&words)?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let found = !list(&report, "findings")?.is_empty();
    ensure!(output.status.code() == Some(i32::from(found)), "{output:?}");
    Ok(report)
}

fn list<'a>(report: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    report[key].as_array().with_context(|| report.to_string())
}

/// Kinds and subjects of what was found.
fn found(report: &Value) -> Result<BTreeSet<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = list(report, "findings")?.iter();
    Ok(findings.map(|finding| (text(&finding["kind"]), text(&finding["subject"]))).collect())
}

pub(crate) fn expect(report: &Value, expected: &[(&str, &str)]) -> Result<()> {
    let expected: BTreeSet<(String, String)> =
        expected.iter().map(|(kind, subject)| ((*kind).to_owned(), (*subject).to_owned())).collect();
    let found = found(report)?;
    ensure!(found == expected, "found {found:#?}\nexpected {expected:#?}\n{report:#}");
    Ok(())
}

/// Nothing is found, and the pool's metadata was read, in this way.
pub(crate) fn clean(root: &Root, metadata: &str) -> Result<Value> {
    let report = report(root, &[])?;
    expect(&report, &[])?;
    ensure!(report["metadata"] == metadata, "{report:#}");
    Ok(report)
}

pub(crate) fn pool(root: &Root) -> Result<String> {
    let status = root.json(&["status"])?;
    Ok(status["pool_name"].as_str().context("no pool name")?.to_owned())
}

pub(crate) fn layer(root: &Root, id: &str, key: &str) -> Result<String> {
    let facts = root.json(&["inspect", id])?;
    Ok(facts[key].as_str().map_or_else(|| facts[key].to_string(), str::to_owned))
}

/// The metadata snapshot in the pool's status.
fn held(pool: &str) -> Result<String> {
    let line = dmsetup(&["status", "--noflush", pool])?;
    line.split_whitespace().nth(6).map(str::to_owned).context(line)
}

fn losetup(file: &Path) -> Result<String> {
    let file = file.to_str().context("no UTF-8")?;
    Ok(harness::run("losetup", ["--find", "--show", file])?.stdout_text())
}

fn metadata_file(root: &Root) -> PathBuf {
    root.path.join("devicemapper/metadata")
}

pub(crate) fn outcomes(report: &Value, outcome: &str, at_least: usize) -> Result<()> {
    let repairs = list(report, "repairs")?;
    ensure!(
        repairs.len() >= at_least && repairs.iter().all(|repair| repair["outcome"] == outcome),
        "{report:#}"
    );
    Ok(())
}

pub(crate) fn active() -> Result<()> {
    let root = made("root")?;
    let pool = pool(&root)?;
    let report_before = clean(&root, "snapshot")?;
    ensure!(report_before["looked_at"]["thin_devices"] == 4, "{report_before:#}");
    ensure!(held(&pool)? == "-");

    // Devices nobody knows, a device that is gone, a folder, idle devices, a second loop device.
    dmsetup(&["message", &pool, "0", "create_thin 4000"])?;
    dmsetup(&["message", &pool, "0", &format!("delete {}", layer(&root, "c", "device_id")?)])?;
    let ghost_folder = root.path.join("mnt/ghost");
    fs::create_dir(&ghost_folder)?;
    let sectors = layer(&root, "b", "size")?.parse::<u64>()? / 512;
    let idle = layer(&root, "b", "device_name")?;
    // By its number: without udev the pool has no node.
    let words = ["info", "--columns", "--noheadings", "--separator", ":", "-o", "major,minor", &pool];
    let number = dmsetup(&words)?;
    let table = |id: &str| format!("0 {sectors} thin {} {id}", number.trim());
    dmsetup(&["create", &idle, "--table", &table(&layer(&root, "b", "device_id")?)])?;
    let ghost = format!("{}-ghost", idle.strip_suffix("-b").context("a device's name")?);
    dmsetup(&["create", &ghost, "--table", &table(&layer(&root, "a", "device_id")?)])?;
    let data = root.path.join("devicemapper/data");
    let second = losetup(&data)?;
    harness::wait_for_udev()?;

    let folder = ghost_folder.display().to_string();
    let expected = [
        ("orphan-thin-device", "thin device 4000"),
        ("missing-thin-device", "c"),
        ("stray-folder", &*folder),
        ("idle-device", &*idle),
        ("orphan-device", &*ghost),
        ("leaked-loop", &*second),
    ];
    expect(&report(&root, &[])?, &expected)?;
    ensure!(held(&pool)? == "-");
    let planned = report(&root, &["--repair", "--dry-run"])?;
    expect(&planned, &expected)?;
    outcomes(&planned, "planned", expected.len())?;
    expect(&report(&root, &[])?, &expected).context("a dry run changed something")?;
    let said = root.try_run(&["check", "--repair", "--dry-run"])?.stdout_text();
    ensure!(said.matches("would mend: ").count() == expected.len(), "{said}");

    let mended = report(&root, &["--repair"])?;
    expect(&mended, &[])?;
    outcomes(&mended, "done", expected.len())?;
    ensure!(held(&pool)? == "-");
    // What nobody named may be somebody's: it is a layer now.
    ensure!(root.ids()?.iter().eq(["a", "b", "recovered-4000"]));
    root.quiet(&["rm", "recovered-4000"])?;
    let after = clean(&root, "snapshot")?;
    ensure!(after["looked_at"]["thin_devices"] == 3 && after["looked_at"]["records"] == 3, "{after:#}");
    ensure!(!ghost_folder.exists() && !dmsetup(&["ls"])?.contains("ghost"));
    let loops = harness::run("losetup", ["--list", "--noheadings", "--output", "NAME"])?.stdout_text();
    ensure!(!loops.lines().any(|line| line.trim() == second), "{loops}");
    // Moved away, not lost; the id is free.
    let aside = root.path.join("thinlayer/quarantine/without-device/c.1");
    ensure!(fs::read_to_string(&aside)?.contains("device_id"), "{}", aside.display());
    ensure!(root.ids()?.iter().eq(["a", "b"]));
    root.quiet(&["create", "c"])?;
    // A device that somebody has open is not taken away.
    dmsetup(&["create", &ghost, "--table", &table(&layer(&root, "a", "device_id")?)])?;
    dmsetup(&["mknodes", &ghost])?;
    let open = fs::File::open(format!("/dev/mapper/{ghost}"))?;
    harness::wait_for_udev()?;
    expect(&report(&root, &["--repair"])?, &[("orphan-device", &*ghost)])?;
    ensure!(dmsetup(&["ls"])?.contains("ghost"));
    drop(open);
    expect(&report(&root, &["--repair"])?, &[])?;
    for id in ["a", "b"] {
        let tree = root.run(&["mount", id])?;
        ensure!(fs::read(Path::new(tree.trim_end()).join("file"))? == vec![1; 1 << 20]);
        root.quiet(&["umount", id])?;
    }
    root.stop_and_check()?;
    ensure!(root.devices_in_pool()? == 4);
    Ok(())
}

pub(crate) fn at_rest() -> Result<()> {
    let root = made("root")?;
    let name = pool(&root)?;
    dmsetup(&["message", &name, "0", "create_thin 4001"])?;
    root.stop_and_check()?;
    let before = fs::read(metadata_file(&root))?;
    let orphan = ("orphan-thin-device", "thin device 4001");
    expect(&report(&root, &[])?, &[orphan])?;

    // What records can say wrongly, one after the other.
    let record = |id: &str| root.path.join("metadata").join(id);
    let edited = |id: &str, edit: &dyn Fn(&mut Value), kind: &str| -> Result<()> {
        let text = fs::read(record(id))?;
        let mut value: Value = serde_json::from_slice(&text)?;
        edit(&mut value);
        fs::write(record(id), value.to_string())?;
        let report = report(&root, &[])?;
        fs::write(record(id), text)?;
        let kinds: BTreeSet<String> = found(&report)?.into_iter().map(|(kind, _)| kind).collect();
        ensure!(kinds.contains(kind), "{kind} is not in {report:#}");
        let finding = list(&report, "findings")?.iter().find(|finding| finding["kind"] == kind);
        ensure!(
            finding.is_some_and(|finding| finding["mend"].is_null()),
            "{kind} would be mended: {report:#}"
        );
        Ok(())
    };
    edited("b", &|record| record["size"] = (1 << 20).into(), "mapped-beyond-size")?;
    edited("b", &|record| record["transaction_id"] = 1.into(), "wrong-transaction")?;
    edited("a", &|record| record["transaction_id"] = 4.into(), "wrong-transaction")?;
    edited("b", &|record| record["transaction_id"] = 999.into(), "future-record")?;
    let text = fs::read(record("a"))?;
    fs::write(record("twin"), &text)?;
    let twins = report(&root, &[])?;
    ensure!(found(&twins)?.iter().any(|(kind, _)| kind == "duplicate-device-id"), "{twins:#}");
    fs::remove_file(record("twin"))?;
    // An old copy of the root's records: what the pool has more is not to be deleted.
    let transaction = record("transaction-metadata");
    let text = fs::read(&transaction)?;
    fs::write(&transaction, r#"{"open_transaction_id":2,"device_hash":"","device_id":0}"#)?;
    let old = report(&root, &["--repair", "--dry-run"])?;
    ensure!(found(&old)?.iter().any(|(kind, _)| kind == "transaction-id"), "{old:#}");
    ensure!(list(&old, "repairs")?.is_empty(), "{old:#}");
    fs::write(&transaction, text)?;

    // A record whose device is gone, and loop devices that somebody left.
    let mut lost: Value = serde_json::from_slice(&fs::read(record("c"))?)?;
    lost["device_id"] = 4002.into();
    fs::write(record("lost"), lost.to_string())?;
    let folder = root.path.join("mnt/ghost");
    fs::create_dir_all(&folder)?;
    let folder = folder.display().to_string();
    let loops = [losetup(&metadata_file(&root))?, losetup(&root.path.join("devicemapper/data"))?];
    let expected = [
        orphan,
        ("missing-thin-device", "lost"),
        ("stray-folder", &*folder),
        ("leaked-loop", &*loops[0]),
        ("leaked-loop", &*loops[1]),
    ];
    expect(&report(&root, &[])?, &expected)?;
    let planned = report(&root, &["--repair", "--dry-run"])?;
    outcomes(&planned, "planned", expected.len())?;
    expect(&report(&root, &["--read-only"])?, &expected)?;
    // Nothing was woken, and nothing written.
    ensure!(dmsetup(&["ls"])? == "No devices found");
    ensure!(fs::read(metadata_file(&root))? == before, "the metadata changed");

    let mended = report(&root, &["--repair"])?;
    expect(&mended, &[])?;
    outcomes(&mended, "done", expected.len())?;
    root.stop_and_check()?;
    let after = clean(&root, "offline")?;
    ensure!(after["looked_at"]["thin_devices"] == 5, "{after:#}");
    ensure!(root.ids()?.contains("recovered-4001"));
    ensure!(root.path.join("thinlayer/quarantine/without-device/lost.1").is_file());
    ensure!(dmsetup(&["ls"])? == "No devices found");
    root.thin_check()?;

    // An operation that a kill interrupted is told, and settled.
    let next = fs::read_to_string(&transaction)?;
    let id: Value = serde_json::from_str(next.trim_end())?;
    let open = id["open_transaction_id"].as_u64().context("no id")? + 1;
    fs::write(
        &transaction,
        format!(r#"{{"open_transaction_id":{open},"device_hash":"gone","device_id":4003}}"#),
    )?;
    expect(&report(&root, &[])?, &[("open-transaction", "gone")])?;
    expect(&report(&root, &["--repair"])?, &[])?;
    root.stop_and_check()
}

pub(crate) fn damage() -> Result<()> {
    let root = made("root")?;
    root.stop_and_check()?;
    clean(&root, "offline")?;
    let path = metadata_file(&root);
    let whole = fs::read(&path)?;
    let number = |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(whole[at..at + 8].try_into()?)) };
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let refused = |kind: &str, words: &[&str]| -> Result<()> {
        let damaged = fs::read(&path)?;
        for arguments in [&[][..], &["--repair"]] {
            let report = report(&root, arguments)?;
            let finding = list(&report, "findings")?.iter().find(|finding| finding["kind"] == kind);
            let text = finding.with_context(|| format!("no {kind} in {report:#}"))?["text"].to_string();
            for word in words {
                ensure!(text.contains(word), "{word:?} is not in {text}");
            }
            ensure!(list(&report, "repairs")?.is_empty(), "{report:#}");
        }
        ensure!(fs::read(&path)? == damaged, "a repair wrote to damaged metadata");
        ensure!(dmsetup(&["ls"])? == "No devices found");
        Ok(())
    };
    let shown = path.display().to_string();
    let check_it = format!("`thin_check {shown}`");
    let repair_it = format!("`thin_repair --input {shown} --output {shown}.new`");

    // A byte of the tree of devices.
    let details = number(328)? * 4096;
    let at = usize::try_from(details)? + 40;
    file.write_all_at(&[whole[at] ^ 0x10], at as u64)?;
    ensure!(root.thin_check().is_err(), "thin_check takes a changed byte at {at}");
    refused(
        "metadata-damage",
        &["checksum", &format!("metadata block {}", details / 4096), &check_it, &repair_it],
    )?;
    file.write_all_at(&whole, 0)?;
    clean(&root, "offline")?;

    // Counts of the first data blocks that are in use. (Debian's thin_check does not count data blocks.)
    let index = usize::try_from(number(80)?)?;
    let bitmap = number(index * 4096 + 32 + 8 * 168)?;
    let mut image = whole.clone();
    let counts = usize::try_from(bitmap)? * 4096 + 16;
    let used = whole[counts..].iter().position(|byte| *byte != 0).context("no block is in use")?;
    image[counts + used] = 0;
    seal(&mut image, MetaBlocks(bitmap), BlockKind::Bitmap);
    file.write_all_at(&image, 0)?;
    refused("metadata-damage", &["data blocks ", "given away while in use", &check_it])?;

    // Counts that are too high lose room, and no more. The higher bit comes first: four blocks with one owner each get two.
    let bitmap_at = usize::try_from(bitmap)? * 4096;
    let single = whole[counts..bitmap_at + 4096].iter().position(|byte| *byte == 0b1010_1010);
    let mut image = whole.clone();
    image[counts + single.context("no four blocks with one owner each")?] = 0b0101_0101;
    seal(&mut image, MetaBlocks(bitmap), BlockKind::Bitmap);
    file.write_all_at(&image, 0)?;
    let leaking = report(&root, &[])?;
    let finding = list(&leaking, "findings")?.first().with_context(|| format!("{leaking:#}"))?;
    ensure!(finding["kind"] == "metadata-leak" && finding["mend"].is_null(), "{leaking:#}");
    ensure!(finding["text"].as_str().is_some_and(|text| text.contains(&check_it)), "{leaking:#}");

    // The kernel's own mark.
    let mut image = whole.clone();
    image[4] |= 1;
    seal(&mut image, MetaBlocks(0), BlockKind::Superblock);
    file.write_all_at(&image, 0)?;
    refused("needs-check", &["--clear-needs-check-flag", &check_it])?;
    harness::run("thin_check", [Path::new("--clear-needs-check-flag"), &path])?;
    clean(&root, "offline")?;

    // Another file in its place, and none.
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    refused("no-pool", &["empty"])?;
    file.write_all_at(&whole, 0)?;
    let away = path.with_extension("away");
    fs::rename(&path, &away)?;
    let report = report(&root, &["--repair"])?;
    expect(&report, &[("missing-file", &shown)])?;
    ensure!(!path.exists());
    fs::rename(&away, &path)?;
    clean(&root, "offline")?;
    root.quiet(&["create", "d"])?;
    root.stop_and_check()
}

/// The pool is up, and what the kernel has not read yet is damaged below it.
pub(crate) fn damaged_while_active() -> Result<()> {
    let root = made("root")?;
    let pool = pool(&root)?;
    clean(&root, "snapshot")?;
    let path = metadata_file(&root);
    let image = fs::read(&path)?;
    let number = |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(image[at..at + 8].try_into()?)) };
    // The root of all mappings, which only a new mapping writes again.
    let at = number(320)? * 4096 + 40;
    let byte = image[usize::try_from(at)?];
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[byte ^ 0x10], at)?;
    for words in [&[][..], &["--repair"]] {
        let report = report(&root, words)?;
        let finding = list(&report, "findings")?.first().with_context(|| format!("{report:#}"))?;
        ensure!(finding["kind"] == "metadata-damage" && finding["mend"].is_null(), "{report:#}");
        ensure!(finding["text"].as_str().is_some_and(|text| text.contains("thin_check")), "{report:#}");
        ensure!(list(&report, "repairs")?.is_empty(), "{report:#}");
        ensure!(held(&pool)? == "-", "the metadata snapshot is left");
    }
    file.write_all_at(&[byte], at)?;
    clean(&root, "snapshot")?;
    root.stop_and_check()
}

pub(crate) fn killed() -> Result<()> {
    let root = made("root")?;
    let pool = pool(&root)?;
    clean(&root, "snapshot")?;
    // Killed in the middle of reading.
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:signal=KILL:when=3"]);
    let check = root.command(&["check"])?;
    command.arg(check.get_program()).args(check.get_args());
    let output = command.output()?;
    ensure!(!output.status.success());
    let root_block = held(&pool)?;
    ensure!(root_block != "-", "it was not killed while it held the snapshot: {output:?}");
    let stale = report(&root, &[])?;
    expect(&stale, &[("stale-metadata-snapshot", &*pool)])?;
    ensure!(stale["metadata"].is_null() && held(&pool)? == root_block, "{stale:#}");
    let mended = report(&root, &["--repair"])?;
    expect(&mended, &[])?;
    ensure!(mended["metadata"] == "snapshot" && held(&pool)? == "-", "{mended:#}");
    clean(&root, "snapshot")?;

    // Somebody else's stays.
    dmsetup(&["message", &pool, "0", "reserve_metadata_snap"])?;
    let foreign = held(&pool)?;
    for words in [&[][..], &["--repair"]] {
        let report = report(&root, words)?;
        expect(&report, &[("foreign-metadata-snapshot", &*pool)])?;
        let text = report["findings"][0]["text"].to_string();
        ensure!(text.contains(&format!("dmsetup message {pool} 0 release_metadata_snap")), "{text}");
        ensure!(held(&pool)? == foreign);
    }
    dmsetup(&["message", &pool, "0", "release_metadata_snap"])?;
    clean(&root, "snapshot")?;
    root.stop_and_check()
}

pub(crate) fn serving() -> Result<()> {
    let root = made("root")?;
    // Removed while something has it open: the blocks go later, and that is as it should be.
    let tree = root.run(&["mount", "c"])?;
    let name = layer(&root, "c", "device_name")?;
    let open = fs::File::open(format!("/dev/mapper/{name}"))?;
    root.quiet(&["umount", "c"])?;
    root.quiet(&["rm", "c"])?;
    ensure!(!Path::new(tree.trim_end()).exists());
    let waiting = clean(&root, "snapshot")?;
    ensure!(waiting["deferred"] == 1, "{waiting:#}");
    let text = root.run(&["check"])?;
    ensure!(text.contains("(1 of removed layers") && text.contains(": all agree"), "{text}");
    let planned = report(&root, &["--repair", "--dry-run"])?;
    outcomes(&planned, "planned", 1)?;
    drop(open);
    let mended = report(&root, &["--repair"])?;
    outcomes(&mended, "done", 1)?;
    ensure!(mended["deferred"] == 0 && mended["looked_at"]["thin_devices"] == 3, "{mended:#}");

    let mut serve = root.serve()?;
    let pool = pool(&root)?;
    clean(&root, "snapshot")?;
    let tree = root.run(&["mount", "a"])?;
    let mount_point = Path::new(tree.trim_end()).parent().context("no mount point")?.to_owned();
    harness::run("umount", [&mount_point])?;
    dmsetup(&["message", &pool, "0", "create_thin 4000"])?;
    let folder = root.path.join("mnt/ghost");
    fs::create_dir(&folder)?;
    let name = layer(&root, "a", "device_name")?;
    let folder = folder.display().to_string();
    let expected = [
        ("lost-mount", "a"),
        ("idle-device", &*name),
        ("orphan-thin-device", "thin device 4000"),
        ("stray-folder", &*folder),
    ];
    expect(&report(&root, &[])?, &expected)?;
    outcomes(&report(&root, &["--repair", "--dry-run"])?, "planned", expected.len())?;
    let mended = report(&root, &["--repair"])?;
    expect(&mended, &[])?;
    outcomes(&mended, "done", expected.len())?;
    clean(&root, "snapshot")?;
    ensure!(held(&pool)? == "-");
    // Beside other work.
    let mut others = Vec::new();
    for id in ["x", "y", "z"] {
        others.push(root.start(&["create", id])?);
        clean(&root, "snapshot")?;
    }
    for other in &mut others {
        ensure!(other.output()?.status.success());
    }
    root.quiet(&["stop"])?;
    let at_rest = clean(&root, "offline")?;
    ensure!(at_rest["looked_at"]["records"] == 7, "{at_rest:#}");
    ensure!(dmsetup(&["ls"])? == "No devices found", "a check woke the pool");
    // A repair of a root at rest goes the same way through `serve` as alone.
    let data = root.path.join("devicemapper/data");
    let left = losetup(&data)?;
    expect(&report(&root, &["--repair"])?, &[])?;
    let loops = harness::run("losetup", ["--list", "--noheadings", "--output", "NAME"])?.stdout_text();
    ensure!(loops.lines().filter(|line| line.trim() == left).count() <= 1, "{loops}");
    root.quiet(&["stop"])?;
    serve.terminate()?;
    root.at_rest()
}
