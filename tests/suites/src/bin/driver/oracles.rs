//! What the driver says of pool, devices and loops, against `dmsetup`, `losetup`, `blkid` and `thin_ls`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{Bytes, LayerId, Unmount};

use crate::fixture::Fixture;

fn row<'a>(rows: &'a [(String, String)], key: &str) -> Result<&'a str> {
    rows.iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
        .with_context(|| format!("no row {key}"))
}

/// The rows and their order are Docker's; the figures are `dmsetup`'s.
pub(crate) fn status_agrees_with_dmsetup(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let status = fixture.status()?;
    let keys: Vec<&str> = status.rows.iter().map(|(key, _)| key.as_str()).collect();
    let expected = [
        "Pool Name",
        "Pool Blocksize",
        "Base Device Size",
        "Backing Filesystem",
        "Udev Sync Supported",
        "Data file",
        "Metadata file",
        "Data loop file",
        "Metadata loop file",
        "Data Space Used",
        "Data Space Total",
        "Data Space Available",
        "Metadata Space Used",
        "Metadata Space Total",
        "Metadata Space Available",
        "Thin Pool Minimum Free Space",
        "Deferred Removal Enabled",
        "Deferred Deletion Enabled",
        "Deferred Deleted Device Count",
        "Library Version",
    ];
    ensure!(keys == expected, "the rows are {keys:?}");
    for (key, value) in [
        ("Pool Blocksize", "65.54kB"),
        ("Base Device Size", "314.6MB"),
        ("Backing Filesystem", filesystem),
        ("Udev Sync Supported", "true"),
        ("Data Space Total", "314.6MB"),
        ("Metadata Space Total", "209.7MB"),
        ("Thin Pool Minimum Free Space", "31.46MB"),
        ("Deferred Removal Enabled", "true"),
        ("Deferred Deletion Enabled", "true"),
        ("Deferred Deleted Device Count", "0"),
    ] {
        ensure!(row(&status.rows, key)? == value, "{key} is {}", row(&status.rows, key)?);
    }
    let pool = row(&status.rows, "Pool Name")?;
    let line = harness::run("dmsetup", ["status", "--noflush", pool])?.stdout_text();
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.get(3) == Some(&status.transaction_id.to_string().as_str()), "{line}: transaction id");
    let metadata = format!("{}/{}", status.metadata_used.0 / 4096, status.metadata_total.0 / 4096);
    ensure!(words.get(4) == Some(&metadata.as_str()), "{line}: metadata is {metadata}");
    let data = format!("{}/{}", status.data_used.0 / 65536, status.data_total.0 / 65536);
    ensure!(words.get(5) == Some(&data.as_str()), "{line}: data is {data}");
    let table = harness::run("dmsetup", ["table", pool])?.stdout_text();
    let words: Vec<&str> = table.split_whitespace().collect();
    // 300 MiB are 4800 blocks; the kernel tells when a fifth is left.
    ensure!(words.get(5..) == Some(&["128", "960", "1", "skip_block_zeroing"][..]), "the table is {table}");
    for (side, index) in [("Data", 4), ("Metadata", 3)] {
        let node = row(&status.rows, &format!("{side} file"))?;
        let file = row(&status.rows, &format!("{side} loop file"))?;
        let shown = harness::run(
            "losetup",
            ["--noheadings", "--raw", "--output", "MAJ:MIN,BACK-FILE,AUTOCLEAR", node],
        )?;
        // losetup pads the number, and raw output escapes the padding.
        let shown = shown.stdout_text().replace("\\x20", " ");
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = format!("{} {file} 1", words.get(index).context("a short table")?);
        ensure!(shown == expected, "losetup says {shown}, not {expected}");
    }
    fixture.finish()
}

/// A layer's device: its table, its number, its node, its file system's UUID.
pub(crate) fn devices_agree_with_dmsetup(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let id = fixture.layer("seen", None)?;
    let metadata = fixture.metadata(&id)?;
    ensure!(metadata.device_size == Bytes(300 << 20), "the size is {}", metadata.device_size);
    fixture.get(&id, None)?;
    let table = harness::run("dmsetup", ["table", &metadata.device_name])?.stdout_text();
    let pool = harness::run(
        "dmsetup",
        ["info", "-c", "--noheadings", "-o", "major,minor", &fixture.status()?.pool_name],
    )?;
    let expected = format!("0 {} thin {} {}", 300 << 11, pool.stdout_text(), metadata.device_id);
    ensure!(table == expected, "dmsetup says {table}, not {expected}");
    let node = format!("/dev/mapper/{}", metadata.device_name);
    let set = fs::read_to_string(fixture.root.join("metadata/deviceset-metadata"))?;
    let uuid = harness::run("blkid", ["-p", "-s", "UUID", "-o", "value", &node])?.stdout_text();
    ensure!(set.contains(&format!("\"BaseDeviceUUID\":\"{uuid}\"")), "{set} does not hold {uuid}");
    let record = fs::read_to_string(fixture.root.join("metadata/seen"))?;
    let docker = format!(
        r#"{{"device_id":{},"size":{},"transaction_id":{},"initialized":false,"deleted":false,"thinlayer":{{"#,
        metadata.device_id,
        300 << 20,
        fixture.inspect(&id)?.transaction_id
    );
    ensure!(record.starts_with(&docker), "the record is {record}");
    fixture.put(&id, Unmount::Now)?;
    harness::eventually("the device goes", std::time::Duration::from_secs(20), || {
        let gone = !harness::try_run("dmsetup", ["info", &metadata.device_name])?.status.success();
        Ok(if gone && !std::path::Path::new(&node).exists() { Ok(()) } else { Err("it is there".to_owned()) })
    })?;
    fixture.finish()
}

/// The thin ids in the pool are those of the records.
pub(crate) fn the_pool_holds_what_the_records_name(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    for n in 0..5 {
        fixture.layer(&format!("layer-{n}"), None)?;
    }
    fixture.remove(&LayerId::given("layer-1")?)?;
    fixture.remove(&LayerId::given("layer-3")?)?;
    fixture.work_off()?;
    let mut expected: BTreeSet<u32> = fixture.layers()?.iter().map(|layer| layer.device_id).collect();
    let base: serde_json::Value = serde_json::from_slice(&fs::read(fixture.root.join("metadata/base"))?)?;
    expected.insert(u32::try_from(base["device_id"].as_u64().context("no device_id")?)?);
    fixture.stop()?;
    let metadata = fixture.root.join("devicemapper/metadata").display().to_string();
    let listed = harness::run("thin_ls", ["--no-headers", "-o", "DEV", &metadata])?.stdout_text();
    let found: BTreeSet<u32> = listed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(found == expected, "the pool has {found:?}, the records name {expected:?}");
    fixture.open()?;
    fixture.finish()
}
