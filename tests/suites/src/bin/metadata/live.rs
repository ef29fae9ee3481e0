//! The metadata of an active pool, through its metadata snapshot, which is always released again.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use harness::{Test, test};
use thinlayer_dm::{Bytes, Control, DmName};
use thinlayer_thin::metadata::{Abandoned, Metadata, ReadAt};
use thinlayer_thin::{Error, Kind, MetaBlocks, Pool};

use crate::oracle::{Dump, agree};
use crate::rig::{Rig, activate, deactivate, fill, id, touch};

/// Names the pool and the device of whose metadata this program is to be the holder that is killed.
pub(crate) const HOLD: &str = "TLT_HOLD";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("an active pool is read through a metadata snapshot, which is gone afterwards", live),
        test("what a killed reader held is released by who noted it, and nobody else's", killed),
    ]
}

/// The word in the status line that stands for the metadata snapshot.
fn held() -> Result<String> {
    let line = harness::run("dmsetup", ["status", "--noflush", "tlt-pool"])?.stdout_text();
    line.split_whitespace().nth(6).map(str::to_owned).context(line)
}

/// Fails as a disk does.
#[derive(Debug)]
struct Broken;

impl ReadAt for Broken {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
        Err(std::io::Error::other("a broken disk"))
    }

    fn size(&self) -> std::io::Result<Bytes> {
        Ok(Bytes(8 << 20))
    }
}

fn live() -> Result<()> {
    let rig = Rig::new()?;
    let pool = rig.create()?;
    let device = rig.metadata.device();
    fill(&pool)?;
    let writer = activate(&pool, 2)?;
    touch(writer.node(), 2000..2100)?;
    ensure!(held()? == "-");
    for round in 0..3_u32 {
        let metadata = pool.hold_metadata(device)?;
        ensure!(held()? == metadata.root().0.to_string());
        ensure!(metadata.is_snapshot());
        // What happens now is not in it: neither writes nor devices.
        let before = metadata.details(id(2)?)?.mapped;
        let start = 2100 + 100 * u64::from(round);
        touch(writer.node(), start..start + 100)?;
        pool.create_thin(id(100 + round)?)?;
        let dump = agree(&metadata, device, true)?;
        ensure!(!dump.devices.contains_key(&(100 + round)) && metadata.details(id(100 + round)?).is_err());
        ensure!(metadata.details(id(2)?)?.mapped == before);
        let report = metadata.check();
        ensure!(report.is_sound() && !report.counts_compared && report.devices > 20, "{report:?}");
        let error = pool.hold_metadata(device).err().context("two hold it")?;
        ensure!(error.kind() == Kind::Busy, "{error}");
        ensure!(held()? != "-", "the second try released the first one's");
        // Given back, or dropped.
        if round == 0 {
            metadata.release()?;
        } else {
            drop(metadata);
        }
        ensure!(held()? == "-");
        let next = pool.hold_metadata(device)?;
        ensure!(next.details(id(2)?)?.mapped.0 == before.0 + 100, "round {round}: what is read is old");
        drop(next);
    }

    // An error at any step leaves nothing behind.
    let error = pool.hold_metadata_of(Broken, "broken", |_| Ok(())).err().context("a broken disk serves")?;
    ensure!(error.to_string().contains("a broken disk"), "{error}");
    ensure!(held()? == "-");
    let zeros = vec![0_u8; 8 << 20];
    let error = pool.hold_metadata_of(zeros, "zeros", |_| Ok(())).err().context("zeros serve")?;
    ensure!(matches!(error, Error::Metadata(_)), "{error}");
    ensure!(held()? == "-");
    let refuse = |_| Err(Error::from(Metadata::of(Vec::new(), "note").expect_err("no metadata")));
    ensure!(pool.hold_metadata_of(vec![0_u8; 8 << 20], "zeros", refuse).is_err());
    ensure!(held()? == "-");
    ensure!(pool.hold_metadata(std::path::Path::new("/dev/absent")).is_err());
    ensure!(held()? == "-");

    deactivate(&pool, &writer)?;
    rig.remove(&pool)?;
    harness::run("thin_check", [device])?;
    let metadata = Metadata::open(device)?;
    agree(&metadata, device, false)?;
    ensure!(metadata.check().is_sound(), "{:?}", metadata.check());
    Ok(())
}

/// The part of the reader that is killed.
pub(crate) fn hold_until_killed(device: &OsStr) -> ExitCode {
    let hold = || -> Result<()> {
        let pool = Pool::open(Arc::new(Control::open()?), &DmName::new("tlt-pool")?)?.context("no pool")?;
        let held = pool.hold_metadata(device.as_ref())?;
        println!("{}", held.root().0);
        std::thread::sleep(std::time::Duration::from_secs(600));
        Ok(())
    };
    if let Err(error) = hold() {
        println!("{error:#}");
    }
    ExitCode::FAILURE
}

fn killed() -> Result<()> {
    let rig = Rig::new()?;
    let pool = rig.create()?;
    let device = rig.metadata.device();
    pool.create_thin(id(1)?)?;
    let mut reader =
        Command::new(std::env::current_exe()?).env(HOLD, device).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(reader.stdout.take().context("no output")?).read_line(&mut line)?;
    reader.kill()?;
    reader.wait()?;
    let root = MetaBlocks(line.trim().parse().with_context(|| line.clone())?);
    ensure!(held()? == root.0.to_string(), "the status shows {}", held()?);
    match pool.hold_metadata(device) {
        Err(error) if error.kind() == Kind::Busy => {}
        other => bail!("{other:?}"),
    }
    // The tools can still read it, and so can we.
    ensure!(Dump::of(device, true)?.devices.len() == 1);
    ensure!(Metadata::open_held(device)?.devices().count() == 1);
    let another = MetaBlocks(root.0 + 1);
    ensure!(pool.release_abandoned(another)? == Abandoned::Another(root));
    ensure!(held()? == root.0.to_string(), "somebody else's was released");
    ensure!(pool.release_abandoned(root)? == Abandoned::Released);
    ensure!(held()? == "-");
    ensure!(pool.release_abandoned(root)? == Abandoned::Absent);

    // A pool that goes down with a metadata snapshot has it afterwards.
    pool.reserve_metadata_snap()?;
    rig.remove(&pool)?;
    let metadata = Metadata::open(device)?;
    ensure!(metadata.superblock().held_root.is_some());
    let report = metadata.check();
    ensure!(report.is_sound() && report.counts_compared, "{report:?}");
    let pool = rig.create()?;
    ensure!(held()? != "-");
    pool.release_metadata_snap()?;
    rig.remove(&pool)?;
    harness::run("thin_check", [device]).map(drop)
}
