//! Pools whose metadata cannot be written, cannot be read, or needs a check.

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{DeviceMapper, DeviceNumber, DmName};
use thinlayer_thin::{Health, Kind, Message, Mode, PoolState, PoolTable, Trouble};

use crate::rig::{
    Rig, activate, deactivate, dmsetup, enlarge, figures, fill, id, number, peek, refused, remove, sectors,
    thin,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a commit that fails sets needs_check, and the error names the tools", failing_commit),
        test("metadata that cannot be read fails the pool, and the error says so", unreadable),
        test(
            "a pool that needs a check is loaded read-only, does not grow, and is mended by thin_check",
            needs_check,
        ),
    ]
}

const CLEAR: [&str; 3] = ["thin_check", "thin_repair", "lvconvert --repair"];

/// A device over the metadata whose table can be swapped for one that fails.
struct Fragile {
    sectors: u64,
    below: String,
    name: DmName,
    number: DeviceNumber,
}

impl Fragile {
    fn new(rig: &Rig) -> Result<Self> {
        let (sectors, below) = ((8 << 20) / 512, number(rig.metadata.device())?.to_string());
        let name = crate::rig::name("fragile")?;
        let line = format!("0 {sectors} linear {below} 0");
        harness::run("dmsetup", ["create", name.as_str(), "--table", &line])?;
        harness::wait_for_udev()?;
        let number = rig.dm.info((&name).into())?.context("dmsetup made no device")?.number;
        Ok(Self { sectors, below, name, number })
    }

    fn line(&self, target: &str, tail: &str) -> String {
        match target {
            "error" => format!("0 {} error", self.sectors),
            target => format!("0 {} {target} {}{tail}", self.sectors, self.below),
        }
    }

    fn becomes(&self, line: &str) -> Result<()> {
        harness::run("dmsetup", ["suspend", "--nolockfs", "--noflush", "tlt-fragile"])?;
        harness::run("dmsetup", ["load", "tlt-fragile", "--table", line])?;
        harness::run("dmsetup", ["resume", "tlt-fragile"])?;
        Ok(())
    }

    fn mend(&self) -> Result<()> {
        self.becomes(&self.line("linear", " 0"))
    }

    /// What is below is in use by this device, so that `thin_check` has to look through it.
    fn check(&self, rig: &Rig) -> Result<()> {
        let node = rig.dm.node(&self.name, self.number)?;
        harness::run("thin_check", [node]).map(drop)
    }

    /// The table of a pool with its metadata on this.
    fn table(&self, rig: &Rig) -> PoolTable {
        PoolTable { metadata: self.number.into(), ..rig.table.clone() }
    }

    fn close(&self, rig: &Rig) -> Result<()> {
        harness::run("dmsetup", ["remove", "--retry", self.name.as_str()])?;
        Ok(rig.dm.forget_node(&self.name, self.number)?)
    }
}

fn failing_commit() -> Result<()> {
    let rig = Rig::usual()?;
    let fragile = Fragile::new(&rig)?;
    let pool = rig.create_as(&fragile.table(&rig))?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 4, 6)?;

    fragile.becomes(&fragile.line("flakey", " 0 0 3600 1 error_writes"))?;
    let (_, before) = pool.status_and_info(thinlayer_dm::Flush::No)?;
    // The message itself may succeed: its commit is in its answer only as an event.
    let sent = pool.message(&Message::CreateThin(id(2)?));
    ensure!(sent.as_ref().is_err() || sent.as_ref().ok() != Some(&before.event_nr), "no event: {sent:?}");
    println!("a message whose commit fails: {sent:?}; {}", pool.status(thinlayer_dm::Flush::No)?);
    let error = pool.ensure_writable();
    refused("a look", error, Kind::NeedsCheck, &CLEAR)?;
    refused("the next message", pool.create_thin(id(3)?), Kind::NeedsCheck, &CLEAR)?;
    refused("a probe", pool.probe(id(3)?), Kind::NeedsCheck, &CLEAR)?;
    let status = pool.status(thinlayer_dm::Flush::No)?;
    let status = status.running().with_context(|| format!("{status:?}"))?.clone();
    ensure!(status.mode == Some(Mode::ReadOnly) && status.needs_check == Some(true), "{status}");
    ensure!(peek(device.node(), 3)? == 6, "what is there can still be read");

    fragile.mend()?;
    deactivate(&pool, &device)?;
    remove(&pool)?;
    // What was committed before is whole.
    fragile.check(&rig)?;
    let pool = rig.create_as(&fragile.table(&rig))?;
    let device = activate(&pool, 1, sectors(8))?;
    ensure!(peek(device.node(), 3)? == 6);
    deactivate(&pool, &device)?;
    remove(&pool)?;
    fragile.close(&rig)
}

fn unreadable() -> Result<()> {
    let rig = Rig::usual()?;
    let fragile = Fragile::new(&rig)?;
    let pool = rig.create_as(&fragile.table(&rig))?;
    pool.create_thin(id(1)?)?;
    fragile.becomes(&fragile.line("error", ""))?;
    println!("a message without metadata: {:?}", pool.create_thin(id(2)?));
    let state = pool.status(thinlayer_dm::Flush::No)?;
    println!("then: {state}");
    ensure!(state == PoolState::Fail && state.health() == Health::Trouble(Trouble::Failed), "{state}");
    ensure!(dmsetup(["status", "--noflush", rig.name.as_str()])?.ends_with("thin-pool Fail"));
    refused("a message", pool.create_thin(id(3)?), Kind::Failed, &["tlt-pool", "has failed it"])?;
    refused("a look", pool.ensure_writable(), Kind::Failed, &["take it down"])?;
    refused("growing", pool.grow_metadata(), Kind::Failed, &["grow the metadata of pool tlt-pool"])?;
    let name = crate::rig::name("thin-1")?;
    let active = pool.activate(&name, id(1)?, sectors(8), thinlayer_dm::Access::ReadWrite);
    refused("activating", active, Kind::Failed, &["activate tlt-thin-1 from pool tlt-pool"])?;
    fragile.mend()?;
    remove(&pool)?;
    fragile.check(&rig)?;
    fragile.close(&rig)
}

fn needs_check() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 4, 6)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)?;

    // The mark, as a kernel leaves it on the disk.
    let metadata = rig.metadata.device().to_string_lossy().into_owned();
    let dump = rig.dump()?;
    ensure!(dump.contains("flags=\"0\""), "{dump}");
    let xml = harness::scratch_dir()?.join("marked.xml");
    std::fs::write(&xml, dump.replace("flags=\"0\"", "flags=\"1\""))?;
    harness::run("thin_restore", ["-i", &xml.to_string_lossy(), "-o", &metadata])?;

    let pool = rig.create()?;
    let status = figures(&pool)?;
    ensure!(status.mode == Some(Mode::ReadOnly) && status.needs_check == Some(true), "{status}");
    refused("a look", pool.ensure_writable(), Kind::NeedsCheck, &CLEAR)?;
    refused("a message", pool.create_thin(id(2)?), Kind::NeedsCheck, &CLEAR)?;
    enlarge(&rig.data, 96 << 20)?;
    enlarge(&rig.metadata, 12 << 20)?;
    refused("growing the data", pool.grow_data(sectors(96)), Kind::NeedsCheck, &CLEAR)?;
    refused("growing the metadata", pool.grow_metadata(), Kind::NeedsCheck, &CLEAR)?;
    let device = activate(&pool, 1, sectors(8))?;
    ensure!(peek(device.node(), 3)? == 6, "what is there can still be read");
    deactivate(&pool, &device)?;
    remove(&pool)?;

    harness::run("thin_check", ["--clear-needs-check-flag", &metadata])?;
    let pool = rig.create()?;
    pool.ensure_writable()?;
    pool.create_thin(id(2)?)?;
    rig.close(&pool)
}
