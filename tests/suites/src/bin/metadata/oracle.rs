//! What the tools say of a pool's metadata, and whether the reader says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use thinlayer_thin::metadata::{Metadata, Side};

use crate::rig::id;

/// A device as `thin_dump` shows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dumped {
    mapped: u64,
    transaction: u64,
    created: u64,
    snapshotted: u64,
    /// Block, data block, clock.
    pub(crate) mappings: BTreeMap<u64, (u64, u64)>,
}

pub(crate) struct Dump {
    pub(crate) transaction: u64,
    time: u64,
    pub(crate) devices: BTreeMap<u32, Dumped>,
}

/// The number of an attribute.
fn attribute(line: &str, name: &str) -> Result<u64> {
    let (_, rest) =
        line.split_once(&format!(" {name}=\"")).with_context(|| format!("no {name} in {line}"))?;
    let (number, _) = rest.split_once('"').context("no closing quote")?;
    number.parse().with_context(|| line.to_owned())
}

impl Dump {
    pub(crate) fn of(device: &Path, snapshot: bool) -> Result<Self> {
        let device = device.to_str().context("path")?;
        let arguments = if snapshot { vec!["--metadata-snap", device] } else { vec![device] };
        let text = harness::run("thin_dump", arguments)?.stdout_text();
        let mut dump = Self { transaction: 0, time: 0, devices: BTreeMap::new() };
        let mut current = None;
        for line in text.lines().map(str::trim) {
            if line.starts_with("<superblock") {
                (dump.transaction, dump.time) = (attribute(line, "transaction")?, attribute(line, "time")?);
            } else if line.starts_with("<device") {
                let number = u32::try_from(attribute(line, "dev_id")?)?;
                let device = Dumped {
                    mapped: attribute(line, "mapped_blocks")?,
                    transaction: attribute(line, "transaction")?,
                    created: attribute(line, "creation_time")?,
                    snapshotted: attribute(line, "snap_time")?,
                    mappings: BTreeMap::new(),
                };
                dump.devices.insert(number, device);
                current = Some(number);
            } else if line.contains("_mapping ") {
                let (start, data, len) = if line.starts_with("<range_mapping") {
                    (
                        attribute(line, "origin_begin")?,
                        attribute(line, "data_begin")?,
                        attribute(line, "length")?,
                    )
                } else {
                    (attribute(line, "origin_block")?, attribute(line, "data_block")?, 1)
                };
                let time = attribute(line, "time")?;
                let number = current.context("a mapping before a device")?;
                let device = dump.devices.get_mut(&number).context("no device")?;
                device.mappings.extend((0..len).map(|block| (start + block, (data + block, time))));
            }
        }
        Ok(dump)
    }
}

/// The reader says what `thin_dump` and `thin_ls` say.
pub(crate) fn agree(metadata: &Metadata, device: &Path, snapshot: bool) -> Result<Dump> {
    let dump = Dump::of(device, snapshot)?;
    let superblock = metadata.superblock();
    ensure!((superblock.transaction_id.0, u64::from(superblock.time)) == (dump.transaction, dump.time));
    let mut read = BTreeMap::new();
    for details in metadata.devices() {
        let details = details?;
        let mut mappings = BTreeMap::new();
        for run in metadata.runs(details.id)? {
            let run = run?;
            mappings.extend((0..run.len).map(|at| (run.start + at, (run.data + at, u64::from(run.time)))));
        }
        let highest = metadata.highest_mapped(details.id)?;
        ensure!(highest == mappings.keys().next_back().copied(), "{highest:?}");
        let device = Dumped {
            mapped: details.mapped.0,
            transaction: details.transaction_id.0,
            created: details.created.into(),
            snapshotted: details.snapshotted.into(),
            mappings,
        };
        read.insert(details.id.get(), device);
    }
    ensure!(read == dump.devices, "read {read:?}\ndumped {:?}", dump.devices);
    usage(metadata, device, snapshot)?;
    Ok(dump)
}

/// All fields of `thin_ls` that are numbers.
fn usage(metadata: &Metadata, device: &Path, snapshot: bool) -> Result<()> {
    const FIELDS: &str = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS,MAPPED_SECTORS,EXCLUSIVE_SECTORS,SHARED_SECTORS,\
         MAPPED_BYTES,EXCLUSIVE_BYTES,SHARED_BYTES,TRANSACTION,CREATE_TIME,SNAP_TIME";
    let device = device.to_str().context("path")?;
    let mut arguments = vec!["--no-headers", "--format", FIELDS];
    arguments.extend(snapshot.then_some("--metadata-snap"));
    arguments.push(device);
    let listed = harness::run("thin_ls", arguments)?.stdout_text();
    let listed: Vec<String> =
        listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let block = superblock_sectors(metadata);
    let ours: Vec<String> = metadata
        .usage()?
        .iter()
        .map(|usage| {
            let details = usage.details;
            let blocks = [details.mapped.0, usage.exclusive.0, usage.shared.0];
            let mut fields = vec![u64::from(details.id.get())];
            fields.extend(
                [1, block, block * 512].into_iter().flat_map(|unit| blocks.map(|count| count * unit)),
            );
            fields.extend([details.transaction_id.0, details.created.into(), details.snapshotted.into()]);
            fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        })
        .collect();
    ensure!(ours == listed, "ours: {ours:#?}\nthin_ls: {listed:#?}");
    Ok(())
}

fn superblock_sectors(metadata: &Metadata) -> u64 {
    metadata.superblock().block_size.sectors().0
}

/// What differs between two devices, by what `thin_dump` and by what `thin_delta` says of them.
pub(crate) fn differences_agree(
    metadata: &Metadata,
    device: &Path,
    dump: &Dump,
    left: u32,
    right: u32,
) -> Result<()> {
    let mut read: BTreeMap<u64, &str> = BTreeMap::new();
    for difference in metadata.differences(id(left)?, id(right)?)? {
        let difference = difference?;
        let word = match difference.side {
            Side::Left => "left_only",
            Side::Right => "right_only",
            Side::Both => "different",
        };
        read.extend((difference.start..difference.start + difference.len).map(|block| (block, word)));
    }
    let (on_left, on_right) = (&dump.devices[&left].mappings, &dump.devices[&right].mappings);
    let blocks: BTreeSet<u64> = on_left.keys().chain(on_right.keys()).copied().collect();
    let dumped: BTreeMap<u64, &str> = blocks
        .into_iter()
        .filter_map(|block| match (on_left.get(&block), on_right.get(&block)) {
            (Some((left, _)), Some((right, _))) => (left != right).then_some((block, "different")),
            (Some(_), None) => Some((block, "left_only")),
            _ => Some((block, "right_only")),
        })
        .collect();
    ensure!(read == dumped, "{left} and {right}: read {read:?}\ndumped {dumped:?}");

    let device = device.to_str().context("path")?;
    let (first, second) = (left.to_string(), right.to_string());
    let text = harness::run("thin_delta", ["--thin1", &first, "--thin2", &second, device])?.stdout_text();
    let mut told = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        for word in ["left_only", "right_only", "different"] {
            if line.starts_with(&format!("<{word} ")) {
                let (begin, length) = (attribute(line, "begin")?, attribute(line, "length")?);
                told.extend((begin..begin + length).map(|block| (block, word)));
            }
        }
    }
    if read != told {
        bail!("{left} and {right}: read {read:?}\nthin_delta {text}");
    }
    Ok(())
}
