//! Direct-lvm from an empty disk, killed wherever it can be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::disk::{Disk, SIZE, portrait, uuid};
use crate::dying::{CHANGING, Death, killed};
use crate::root::{folder, open, small};

/// A root that is set up without anything in its way, and what the pool then is.
fn reference(disk: &Disk) -> Result<String> {
    let root = folder("reference")?;
    let driver = open(&root, &small(&[disk.option()]))?;
    ensure!(
        driver.notices.iter().any(|notice| notice.contains("made pool docker/thinpool")),
        "the start said {:?}",
        driver.notices
    );
    let config = fs::read_to_string(root.join("setup-config.json"))?;
    let expected = format!(
        r#"{{"Device":"{}","ThinpPercent":0,"ThinpMetaPercent":0,"AutoExtendPercent":0,"AutoExtendThreshold":0}}"#,
        disk.node.display()
    );
    ensure!(config == expected, "setup-config.json is {config}");
    ensure!(!root.join("devicemapper").exists(), "loop files were made beside the pool");
    ensure!(!root.join("thinlayer/direct-lvm.json").exists(), "the journal is still there");
    let portrait = portrait()?;
    for part in [
        "docker-thinpool",
        "524288B",
        "activation{\nthin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=20\n}",
    ] {
        ensure!(portrait.contains(part), "{part:?} is not in\n{portrait}");
    }
    let table = harness::run("dmsetup", ["table", "docker-thinpool"])?.stdout_text();
    ensure!(table.ends_with(" 1024 0 1 skip_block_zeroing"), "the table is {table}");
    driver.stop()?;
    disk.wipe()?;
    Ok(portrait)
}

/// The set-up is run once more on what a killed one left.
fn finish(disk: &Disk, root: &Path, reference: &str, case: &str) -> Result<()> {
    // What was made must not be made again.
    let (volume, group) = (uuid("pvs", "pv_uuid")?, uuid("vgs", "vg_uuid")?);
    let driver =
        open(root, &small(&[disk.option()])).with_context(|| format!("{case}: the second run failed"))?;
    ensure!(
        driver.notices.iter().any(|notice| notice.contains("finished making pool")),
        "{case}: the start said {:?}",
        driver.notices
    );
    let now = portrait()?;
    ensure!(now == reference, "{case}: the pool is\n{now}\nand without a kill\n{reference}");
    for (kind, before, after) in [
        ("physical volume", volume, uuid("pvs", "pv_uuid")?),
        ("volume group", group, uuid("vgs", "vg_uuid")?),
    ] {
        ensure!(before.is_none() || before == after, "{case}: the {kind} {before:?} is {after:?} now");
    }
    ensure!(!root.join("thinlayer/direct-lvm.json").exists(), "{case}: the journal is still there");
    driver.layer("layer", case)?;
    ensure!(driver.content("layer")? == case, "{case}: the layer holds something else");
    driver.stop()?;
    disk.wipe()
}

/// Each process does one step more than the one before and is killed: every step is the last one once, and is gone on from.
pub(crate) fn killed_after_each_step() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    let reference = reference(&disk)?;
    let root = folder("root")?;
    let mut ids = (None, None);
    for program in CHANGING {
        killed(&root, &disk, Death::After(0)).with_context(|| format!("at {program}"))?;
        let journal = fs::read_to_string(root.join("thinlayer/direct-lvm.json"))
            .with_context(|| format!("no journal after {program}"))?;
        ensure!(journal.contains(&disk.node.display().to_string()), "the journal is {journal}");
        ensure!(!root.join("setup-config.json").exists(), "{program}: the configuration is stored already");
        // What was made is not made again.
        let now = (uuid("pvs", "pv_uuid")?, uuid("vgs", "vg_uuid")?);
        for (before, now) in [(&ids.0, &now.0), (&ids.1, &now.1)] {
            ensure!(before.is_none() || before == now, "after {program} {before:?} is {now:?}");
        }
        ids = now;
    }
    ensure!(ids.0.is_some() && ids.1.is_some(), "the steps made nothing: {ids:?}");
    finish(&disk, &root, &reference, "killed after each step")
}

/// Each process ends in the first program that it runs, which goes on beside the next process.
pub(crate) fn killed_inside() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    let reference = reference(&disk)?;
    let root = folder("inside")?;
    for delay in [60, 60, 60, 60, 400, 60] {
        // Where the last one's program came to its end meanwhile, this one begins with the next.
        killed(&root, &disk, Death::Inside(0, delay))?;
    }
    finish(&disk, &root, &reference, "killed inside of each")?;

    // LVM's program dies too, early and late.
    let root = folder("both")?;
    // A process goes on where the last one was: with the same program, if that came to nothing.
    for delay in [100, 100, 150, 300, 150, 300, 500, 1100, 1500, 200] {
        if !root.join("setup-config.json").exists() {
            let _or_done = killed(&root, &disk, Death::Both(0, delay));
        }
    }
    ensure!(
        !root.join("setup-config.json").exists(),
        "it was finished in spite of all, so the test shows nothing"
    );
    finish(&disk, &root, &reference, "LVM killed in each")
}

/// C5: without the options, with others, and with those of another kind of pool.
pub(crate) fn stored_wins() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    let root = folder("root")?;
    let driver = open(&root, &small(&[disk.option()]))?;
    driver.layer("kept", "kept")?;
    driver.stop()?;

    let driver = open(&root, &small(&[]))?;
    ensure!(
        driver.driver.status()?.pool_name == "docker-thinpool",
        "the pool is {}",
        driver.driver.status()?.pool_name
    );
    ensure!(
        driver.notices.iter().any(|notice| notice.contains("setup-config.json")),
        "the start said {:?}",
        driver.notices
    );
    ensure!(driver.content("kept")? == "kept", "the layer is gone");
    driver.stop()?;
    ensure!(!root.join("devicemapper").exists(), "a loop pool was begun");

    let before = portrait()?;
    let other = "dm.directlvm_device=/dev/other".to_owned();
    let percent = ["dm.thinp_percent=90".to_owned(), "dm.thinp_metapercent=2".to_owned(), disk.option()];
    for (options, parts) in [
        (vec![other], ["/dev/other".to_owned(), disk.node.display().to_string()]),
        (percent.to_vec(), ["thinp_percent=90".to_owned(), disk.node.display().to_string()]),
        (
            vec!["dm.thinpooldev=other".to_owned()],
            ["thin pool other".to_owned(), "docker-thinpool".to_owned()],
        ),
        (
            vec!["dm.datadev=/dev/sdx".to_owned()],
            ["dm.datadev=/dev/sdx".to_owned(), "docker-thinpool".to_owned()],
        ),
    ] {
        let error = open(&root, &small(&options)).err().context("other options were taken")?;
        let error = format!("{error:#}");
        ensure!(parts.iter().all(|part| error.contains(part)), "{options:?}: {error}");
        ensure!(error.contains("nothing was changed"), "{error}");
    }
    ensure!(portrait()? == before && !root.join("devicemapper").exists(), "something was changed");

    // By another path of the same device, by the pool's name, and after it was deactivated.
    let link = folder("link")?;
    std::os::unix::fs::symlink(&disk.node, &link)?;
    crate::disk::deactivate()?;
    for option in
        [format!("dm.directlvm_device={}", link.display()), "dm.thinpooldev=docker-thinpool".to_owned()]
    {
        let driver = open(&root, &small(&[option]))?;
        ensure!(driver.content("kept")? == "kept", "the layer is gone");
        driver.stop()?;
    }
    // A pool that was named is not activated, but it is said how.
    crate::disk::deactivate()?;
    let error = open(&root, &small(&["dm.thinpooldev=docker-thinpool".to_owned()])).err();
    let error = format!("{:#}", error.context("a pool that is not active was opened")?);
    ensure!(error.contains("lvchange --activate y docker/thinpool"), "{error}");
    Ok(())
}
