//! `thinlayer pool grow`.

use std::fs::OpenOptions;

use anyhow::{Context, Result, ensure};
use harness::LoopFile;

use crate::brim::{status, total};
use crate::fixture::Root;
use crate::host::MIB;

pub(crate) fn loop_files() -> Result<()> {
    let options = ["dm.loopdatasize=96M", "dm.loopmetadatasize=8M", "dm.basesize=64M", "dm.fs=ext4"];
    let root = Root::with(&harness::scratch_dir()?.join("root"), options.map(str::to_owned).to_vec())?;
    root.quiet(&["create", "a"])?;
    root.run(&["mount", "a"])?;
    for (through_serve, data, metadata) in [(false, 160, 8), (true, 224, 12)] {
        let mut serve = if through_serve { Some(root.serve()?) } else { None };
        if through_serve {
            root.quiet(&["pool", "grow", "--data", &format!("{data}M"), "--metadata", "+4M"])?;
        } else {
            let answer = root.json(&["pool", "grow", "--data", "+64M"])?;
            ensure!(
                answer["data"]["from"] == 96 * MIB
                    && answer["data"]["to"] == 160 * MIB
                    && answer["metadata"]["from"] == answer["metadata"]["to"],
                "{answer}"
            );
        }
        let now = status(&root)?;
        ensure!(total(&now, "data")? == data * MIB && total(&now, "metadata")? == metadata * MIB, "{now}");
        let said = root.refused(&["pool", "grow", "--data", "64M"], 2)?;
        ensure!(said.contains("cannot shrink") && said.contains("+SIZE"), "{said}");
        for nonsense in ["10Q", "+0", "-1G"] {
            root.refused(&["pool", "grow", &format!("--data={nonsense}")], 2)?;
        }
        // Nothing to do is no failure.
        root.quiet(&["pool", "grow", "--data", "+0k"]).err().context("+0 was taken")?;
        root.quiet(&["pool", "grow"])?;
        if let Some(serve) = &mut serve {
            serve.terminate()?;
        }
    }
    // More than the host can hold: done, and said.
    let output = root.try_run(&["pool", "grow", "--data", "1P"])?;
    ensure!(
        (output.status.success() && output.stderr_text().contains("writers get errors"))
            || output.status.code() == Some(6),
        "{output:?}"
    );
    let too_much = root.refused(&["pool", "grow", "--metadata", "15G", "--wait", "1"], 6);
    println!("15 GiB of metadata: {too_much:?}");
    root.quiet(&["umount", "a"])?;
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn given_devices() -> Result<()> {
    let data = LoopFile::new("given-data", 96 * MIB)?;
    let metadata = LoopFile::new("given-metadata", 8 * MIB)?;
    let node = |file: &LoopFile| file.device().display().to_string();
    let options = vec![
        format!("dm.datadev={}", node(&data)),
        format!("dm.metadatadev={}", node(&metadata)),
        "dm.basesize=64M".to_owned(),
        "dm.fs=ext4".to_owned(),
    ];
    let root = Root::with(&harness::scratch_dir()?.join("root"), options)?;
    root.quiet(&["create", "a"])?;
    let said = root.refused(&["pool", "grow", "--data", "+64M"], 2)?;
    ensure!(said.contains("enlarge it") && said.contains(&node(&data)), "{said}");
    root.quiet(&["pool", "grow"])?;
    ensure!(total(&status(&root)?, "data")? == 96 * MIB);
    for (file, bytes) in [(&data, 160 * MIB), (&metadata, 16 * MIB)] {
        OpenOptions::new().write(true).open(file.file())?.set_len(bytes)?;
        harness::run("losetup", ["--set-capacity", &node(file)])?;
    }
    let answer = root.json(&["pool", "grow"])?;
    ensure!(
        answer["data"]["from"] == 96 * MIB
            && answer["data"]["to"] == 160 * MIB
            && answer["metadata"]["from"] == 8 * MIB
            && answer["metadata"]["to"] == 16 * MIB,
        "{answer}"
    );
    let now = status(&root)?;
    ensure!(
        now["growth"]["data"]["possible"] == false
            && now["growth"]["metadata_reserve"] == 0
            && now["condition"] == "good",
        "{now}"
    );
    root.check()?;
    root.quiet(&["stop"])?;
    harness::run("thin_check", [metadata.device()])?;
    drop(root);
    Ok(())
}

pub(crate) fn somebody_elses() -> Result<()> {
    let data = LoopFile::new("pool-data", 300 * MIB)?;
    let metadata = LoopFile::new("pool-metadata", 8 * MIB)?;
    let table = format!(
        "0 {} thin-pool {} {} 128 100 1 skip_block_zeroing",
        300 * MIB / 512,
        metadata.device().display(),
        data.device().display()
    );
    harness::run("dmsetup", ["create", "tlt-theirs", "--table", &table])?;
    let options = ["dm.thinpooldev=tlt-theirs", "dm.basesize=64M", "dm.fs=ext4"];
    let root = Root::with(&harness::scratch_dir()?.join("root"), options.map(str::to_owned).to_vec())?;
    root.quiet(&["create", "a"])?;
    let said = root.refused(&["pool", "grow", "--data", "+1G"], 8)?;
    ensure!(said.contains("tlt-theirs") && said.contains("the tool that made it"), "{said}");
    let shown = crate::host::dmsetup("table", "tlt-theirs")?;
    ensure!(shown.ends_with("128 100 1 skip_block_zeroing"), "its table was changed: {shown}");
    root.quiet(&["stop"])?;
    harness::run("dmsetup", ["remove", "--retry", "tlt-theirs"])?;
    drop(root);
    Ok(())
}
