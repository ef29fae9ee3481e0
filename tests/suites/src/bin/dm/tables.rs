//! Tables, statuses, what a table stands on, and messages.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{LoopFile, Test, test};
use thinlayer_dm::{
    Access, Control, DeviceGuard, DeviceMapper, DeviceNumber, Flush, Kind, Recorder, Sectors, Slot, Suspend,
    Target, activate,
};

use crate::{PATIENCE, dmsetup, info, lines, make, name, refused, target, zero};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("tables and statuses are those that dmsetup shows", oracle),
        test("a table waits in the inactive slot, and is taken or dropped", inactive),
        test("deps are the devices below", deps),
        test("a read-only table refuses writers", read_only),
        test("thousands of targets come back whole", many_targets).deadline(Duration::from_secs(240)),
        test("a status of a thin pool, with and without a flush", thin_pool),
        test("a message's answer comes back, also a long one", messages).deadline(Duration::from_secs(240)),
        test("refused tables and messages are told by kind", refusals),
        test("each call is one ioctl", one_ioctl),
    ]
}

fn number_of(path: &std::path::Path) -> Result<DeviceNumber> {
    Ok(DeviceNumber::from_stat(path.metadata().with_context(|| path.display().to_string())?.rdev()))
}

fn oracle() -> Result<()> {
    let dm = Control::open()?;
    let disk = LoopFile::new("disk", 8 << 20)?;
    let below = number_of(disk.device())?;
    let table = [
        target(0, 2048, "linear", format!("{below} 0")),
        target(2048, 1024, "zero", ""),
        target(3072, 8, "error", ""),
        target(3080, 4096, "linear", format!("{below} 4096")),
    ];
    let device = name("oracle")?;
    let guard = activate(&dm, &device, None, &table, Access::ReadWrite)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    let (now, back) = dm.table((&device).into(), Slot::Live)?;
    ensure!(back == table, "we read back {back:?}");
    ensure!(now.target_count == 4 && now.live_table, "{now:?}");
    let shown = dmsetup(["table", device.as_str()])?;
    ensure!(shown == lines(&back), "dmsetup shows\n{shown}\nwe\n{}", lines(&back));
    for flush in [Flush::No, Flush::Yes] {
        let (_, status) = dm.status((&device).into(), flush)?;
        let shown = dmsetup(["status", device.as_str()])?;
        ensure!(shown == lines(&status), "dmsetup shows\n{shown}\nwe\n{}", lines(&status));
    }
    guard.close()?;
    Ok(())
}

fn inactive() -> Result<()> {
    let dm = Control::open()?;
    let device = name("inactive")?;
    let guard = make(&dm, &device)?;
    let on = (&device).into();
    let (now, none) = dm.table(on, Slot::Inactive)?;
    ensure!(!now.inactive_table && none.is_empty(), "{now:?} {none:?}");

    ensure!(dm.load(on, &zero(4096), Access::ReadWrite)?.inactive_table);
    let (now, waiting) = dm.table(on, Slot::Inactive)?;
    ensure!(now.inactive_table && waiting == zero(4096), "{now:?} {waiting:?}");
    ensure!(dmsetup(["table", "--inactive", device.as_str()])? == lines(&waiting));
    ensure!(dm.table(on, Slot::Live)?.1 == zero(2048), "the live table changed at load");

    ensure!(!dm.clear(on)?.inactive_table);
    ensure!(dm.table(on, Slot::Inactive)?.1.is_empty());
    ensure!(!dm.clear(on)?.inactive_table, "clearing nothing");

    dm.load(on, &zero(4096), Access::ReadWrite)?;
    dm.resume(on, Suspend::default())?;
    ensure!(dm.table(on, Slot::Live)?.1 == zero(4096), "the resume did not take the table");
    guard.close()?;
    Ok(())
}

fn deps() -> Result<()> {
    let dm = Control::open()?;
    let (one, two) = (LoopFile::new("one", 1 << 20)?, LoopFile::new("two", 1 << 20)?);
    let below = [number_of(one.device())?, number_of(two.device())?];
    let table: Vec<Target> = [(0, below[0]), (8, below[1]), (16, below[0])]
        .map(|(start, number)| target(start, 8, "linear", format!("{number} {start}")))
        .into();
    let device = name("deps")?;
    let guard = activate(&dm, &device, None, &table, Access::ReadWrite)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    let mut found = dm.deps((&device).into())?;
    found.sort();
    let mut expected = below;
    expected.sort();
    ensure!(found == expected, "{found:?}, not {expected:?}");
    let shown = dmsetup(["deps", device.as_str()])?;
    for number in found {
        let pair = format!("({}, {})", number.major, number.minor);
        ensure!(shown.contains(&pair), "dmsetup shows {shown}");
    }
    guard.close()?;

    let empty = DeviceGuard::create(&dm, &device, None)?;
    ensure!(dm.deps((&device).into())?.is_empty(), "a device without a table stands on nothing");
    empty.close()?;
    Ok(())
}

fn read_only() -> Result<()> {
    let dm = Control::open()?;
    let device = name("read-only")?;
    let guard = activate(&dm, &device, None, &zero(8), Access::ReadOnly)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    ensure!(info(&dm, &device)?.read_only);
    let node = dm.node(&device, guard.number())?;
    OpenOptions::new().read(true).open(&node)?;
    let node_text = node.to_str().context("not UTF-8")?;
    ensure!(harness::run("blockdev", ["--getro", node_text])?.stdout_text() == "1");
    // Some kernels refuse the open, others the write.
    let written = OpenOptions::new().write(true).open(&node).and_then(|mut file| file.write_all(&[1; 512]));
    ensure!(written.is_err(), "a writer got in");
    guard.close()?;
    Ok(())
}

fn many_targets() -> Result<()> {
    let dm = Control::open()?;
    let disk = LoopFile::new("disk", 8 << 20)?;
    let below = number_of(disk.device())?;
    // Alternating, so that no two could be one.
    let table: Vec<Target> = (0..3000)
        .map(|index| {
            if index % 2 == 0 {
                target(index * 8, 8, "linear", format!("{below} {}", index % 1024 * 8))
            } else {
                target(index * 8, 8, "zero", "")
            }
        })
        .collect();
    let device = name("many-targets")?;
    let guard = activate(&dm, &device, None, &table, Access::ReadWrite)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    let (now, back) = dm.table((&device).into(), Slot::Live)?;
    ensure!(now.target_count == 3000 && back == table, "{} targets came back", back.len());
    ensure!(dmsetup(["table", device.as_str()])? == lines(&back), "dmsetup shows another table");
    ensure!(dm.status((&device).into(), Flush::No)?.1.len() == 3000);
    guard.close()?;
    Ok(())
}

fn thin_pool() -> Result<()> {
    let dm = Control::open()?;
    let (data, metadata) = (LoopFile::new("data", 64 << 20)?, LoopFile::new("metadata", 4 << 20)?);
    let params = format!(
        "{} {} 128 100 1 skip_block_zeroing",
        number_of(metadata.device())?,
        number_of(data.device())?
    );
    let device = name("pool")?;
    let table = [target(0, (64 << 20) / 512, "thin-pool", params)];
    let guard = activate(&dm, &device, None, &table, Access::ReadWrite)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    let on = (&device).into();
    // The target ends its line with a blank.
    let back = dm.table(on, Slot::Live)?.1;
    ensure!(lines(&back) == lines(&table), "{back:?}");
    ensure!(dm.message(on, Sectors(0), "create_thin 1")?.1.is_none(), "thin-pool messages answer nothing");
    refused("a taken thin id", dm.message(on, Sectors(0), "create_thin 1"), Kind::Exists)?;
    refused("an origin that is not there", dm.message(on, Sectors(0), "create_snap 2 7"), Kind::NotFound)?;
    refused("an unknown thin id", dm.message(on, Sectors(0), "delete 9"), Kind::NotFound)?;
    refused("a thin id of 25 bits", dm.message(on, Sectors(0), "create_thin 16777216"), Kind::Invalid)?;
    refused("a wrong transaction id", dm.message(on, Sectors(0), "set_transaction_id 5 6"), Kind::Invalid)?;
    dm.message(on, Sectors(0), "set_transaction_id 0 1")?;
    for flush in [Flush::No, Flush::Yes] {
        let (_, status) = dm.status(on, flush)?;
        ensure!(status.len() == 1 && status[0].params.starts_with("1 "), "{status:?}");
        ensure!(dmsetup(["status", "--noflush", device.as_str()])? == lines(&status));
    }
    guard.close()?;
    Ok(())
}

fn messages() -> Result<()> {
    let dm = Control::open()?;
    let device = name("messages")?;
    let guard = make(&dm, &device)?;
    let on = (&device).into();
    // Statistics are the kernel's own messages, which every device understands.
    let first = dm.message(on, Sectors(0), "@stats_create - 1")?.1.context("no answer with a region's id")?;
    ensure!(first.trim().parse::<u32>().is_ok(), "{first:?} is no id");
    ensure!(dm.message(on, Sectors(0), &format!("@stats_delete {}", first.trim()))?.1.is_none());

    let program = "p".repeat(300);
    for _ in 0..80 {
        dm.message(on, Sectors(0), &format!("@stats_create 0+8 8 {program}"))?;
    }
    let list = dm.message(on, Sectors(0), "@stats_list")?.1.context("no list")?;
    ensure!(
        list.lines().count() == 80 && list.len() > 20_000,
        "{} bytes, {} lines",
        list.len(),
        list.lines().count()
    );
    ensure!(list.trim_end() == dmsetup(["message", device.as_str(), "0", "@stats_list"])?);
    guard.close()?;
    Ok(())
}

fn refusals() -> Result<()> {
    let dm = Control::open()?;
    let device = name("refusals")?;
    let guard = DeviceGuard::create(&dm, &device, None)?;
    let on = (&device).into();
    let load = |table: &[Target]| dm.load(on, table, Access::ReadWrite);
    refused("an unknown target", load(&[target(0, 8, "tlt-none", "")]), Kind::Invalid)?;
    refused("bad parameters", load(&[target(0, 8, "linear", "one-word")]), Kind::Invalid)?;
    refused(
        "a hole between targets",
        load(&[target(0, 8, "zero", ""), target(16, 8, "zero", "")]),
        Kind::Invalid,
    )?;
    refused("an empty table", load(&[]), Kind::Invalid)?;
    ensure!(!info(&dm, &device)?.inactive_table, "a refused table is there");
    ensure!(!dm.resume(on, Suspend::default())?.live_table, "a resume without a table changes nothing");

    let disk = LoopFile::new("disk", 1 << 20)?;
    let claimed = OpenOptions::new().read(true).write(true).custom_flags(O_EXCL).open(disk.device())?;
    let table = [target(0, 8, "linear", format!("{} 0", number_of(disk.device())?))];
    refused("a table on a claimed device", load(&table), Kind::Busy)?;
    drop(claimed);
    load(&table)?;
    dm.resume(on, Suspend::default())?;
    harness::wait_for_udev()?;
    refused("a message that linear does not know", dm.message(on, Sectors(0), "hello"), Kind::Invalid)?;
    refused("a message behind the end", dm.message(on, Sectors(1 << 30), "hello"), Kind::Invalid)?;
    guard.with_patience(PATIENCE).close()?;
    Ok(())
}

/// On every architecture that the VM has.
const O_EXCL: i32 = 0o200;

/// As `strace` counts them in this very process, against what the recorder says.
fn one_ioctl() -> Result<()> {
    if std::env::var_os("TLT_TRACED").is_some() {
        let dm = Recorder::new(Control::open()?);
        let device = name("counted")?;
        let guard = activate(&dm, &device, None, &zero(8), Access::ReadWrite)?.with_patience(Duration::ZERO);
        let on = (&device).into();
        dm.node(&device, guard.number())?;
        dm.status(on, Flush::No)?;
        dm.table(on, Slot::Live)?;
        dm.suspend(on, Suspend::default())?;
        dm.resume(on, Suspend::default())?;
        dm.devices()?;
        // Twelve with the handshake and the removal, if udev does not have it open just then.
        guard.keep();
        println!("COUNTED {}", dm.ioctls() + 1);
        return Ok(());
    }
    let me = std::env::current_exe()?;
    let me = me.to_str().context("a path that is not UTF-8")?;
    let arguments =
        ["-f", "-e", "trace=ioctl", "-E", "TLT_TRACED=1", me, "--run-one", "each call is one ioctl"];
    let traced = harness::run("strace", arguments)?;
    let counted = traced.stdout_text();
    let counted =
        counted.lines().find_map(|line| line.strip_prefix("COUNTED ")).context("nothing counted")?;
    let trace = traced.stderr_text();
    let seen = trace.lines().filter(|line| line.contains("ioctl(") && line.contains("DM_")).count();
    ensure!(
        seen.to_string() == counted,
        "strace saw {seen}, the recorder and the handshake are {counted}:\n{trace}"
    );
    let dm = Control::open()?;
    let device = name("counted")?;
    let number = info(&dm, &device)?.number;
    crate::remove(&dm, (&device).into())?;
    dm.forget_node(&device, number)?;
    Ok(())
}
