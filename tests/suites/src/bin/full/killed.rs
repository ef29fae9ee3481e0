//! `serve` is killed while the pool grows.

use std::fs::{self, OpenOptions};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brim::{pool_name, status, total};
use crate::fixture::Root;
use crate::host::{MIB, dmsetup};
use crate::writers::{Writers, nobody_hangs, verify};

fn options() -> Vec<String> {
    ["dm.loopmetadatasize=8M", "dm.basesize=320M", "dm.fs=ext4"].map(str::to_owned).to_vec()
}

pub(crate) fn in_growth() -> Result<()> {
    let path = harness::scratch_dir()?.join("root");
    {
        // Only the first start is told a size: later ones keep what is there.
        let root = Root::with(&path, [options(), vec!["dm.loopdatasize=64M".into()]].concat())?;
        root.quiet(&["create", "w0"])?;
        std::mem::forget(root);
    }
    let root = Root::with(&path, options())?;
    let data = path.join("devicemapper/data");
    let tree = std::path::PathBuf::from(root.run(&["mount", "w0"])?.trim_end());
    let trees = [tree];
    let mut acknowledged = 0;
    let mut cut_short = 0;
    for round in 0..4 {
        let mut serve = root.serve()?;
        let length = fs::metadata(&data)?.len();
        let writers = Writers::start(&trees, acknowledged, 200);
        let end = Instant::now() + Duration::from_secs(60);
        // The file's new length is the first thing that a growth shows. A little later is another place.
        while fs::metadata(&data)?.len() == length {
            ensure!(Instant::now() < end, "the pool does not grow: {}", status(&root)?);
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(3 * round));
        serve.kill()?;
        writers.stop();
        let table = dmsetup("table", &pool_name(&root)?)?;
        let pool_length: u64 = table.split(' ').nth(1).context("no length")?.parse()?;
        if pool_length * 512 < fs::metadata(&data)?.len() {
            cut_short += 1;
        }
        // The next owner completes it; a writer that waits for room gets it then.
        root.quiet(&["create", &format!("after-{round}")])?;
        let written = writers.join(Duration::from_secs(100))?;
        println!("round {round}: {written:?}; {table}");
        ensure!(written[0].error.is_none(), "{written:?}");
        acknowledged = written[0].acknowledged;
        let now = total(&status(&root)?, "data")?;
        ensure!(now == fs::metadata(&data)?.len() / 65536 * 65536, "the pool has {now}");
        verify(&trees, &[acknowledged])?;
    }
    println!("{cut_short} of 4 growths were cut short");

    // The two places in between, made by hand: only the file is larger, and file and loop device are.
    for refresh in [false, true] {
        let length = fs::metadata(&data)?.len() + 16 * MIB;
        OpenOptions::new().write(true).open(&data)?.set_len(length)?;
        if refresh {
            let held = harness::run(
                "losetup",
                ["--noheadings", "--output", "NAME", "--associated", data.to_str().context("no UTF-8")?],
            )?
            .stdout_text();
            harness::run("losetup", ["--set-capacity", held.trim()])?;
        }
        let before = total(&status(&root)?, "data")?;
        root.quiet(&["create", &format!("by-hand-{refresh}")])?;
        let now = total(&status(&root)?, "data")?;
        ensure!(now >= before + 16 * MIB - 65536, "from {before} to {now}");
    }
    nobody_hangs()?;
    root.quiet(&["umount", "w0"])?;
    root.check()?;
    root.stop_and_check()?;
    let tree = std::path::PathBuf::from(root.run(&["mount", "w0"])?.trim_end());
    verify(&[tree], &[acknowledged])?;
    root.quiet(&["umount", "w0"])?;
    root.stop_and_check()
}
