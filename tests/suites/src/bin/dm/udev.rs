//! udev cookies: nothing waits longer than it may, and no semaphore stays.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Test, test};
use thinlayer_dm::{
    Access, Control, DeviceGuard, DeviceMapper, Kind, Removal, Removed, Suspend, UdevFlags, cookies,
    reclaim_cookies, udev_runs,
};

use crate::{PATIENCE, dmsetup, name, refused, target, zero};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("udev is there or not, as the machine says", runs),
        test("when a synced call returns udev's work is done", synced).needs_udev(),
        test("one cookie counts several calls", several).needs_udev(),
        test("a call that makes no event does not wait", no_event).needs_udev(),
        test("a udev that does not answer ends at the deadline", stalled).needs_udev(),
        test("a failing call leaves no semaphore", failing).needs_udev(),
        test("flags without a cookie reach udev's rules", flags).needs_udev(),
        test("cookies of dmsetup are listed and reclaimed", reclaim).needs_udev(),
        test("without udev nothing waits", without_udev).needs_no_udev(),
    ]
}

const NO_FLAGS: UdevFlags = UdevFlags::empty();

/// Keys and ids of all semaphores, whoever made them.
fn semaphores() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/sysvipc/sem")?;
    Ok(text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect())
}

/// Runs, and looks at the semaphores before and after.
fn leaves_no_semaphore(act: impl FnOnce(&Control) -> Result<()>) -> Result<()> {
    let dm = Control::open()?;
    harness::wait_for_udev()?;
    let before = semaphores()?;
    let result = act(&dm);
    let after = semaphores()?;
    result?;
    ensure!(before == after, "semaphores before {before:?}, after {after:?}");
    Ok(())
}

fn has_link(device: &thinlayer_dm::DmName) -> bool {
    Path::new("/dev/mapper").join(device.as_str()).symlink_metadata().is_ok()
}

/// A device with a loaded table, one resume away from its first uevent.
fn loaded<'a>(dm: &'a Control, device: &thinlayer_dm::DmName) -> Result<DeviceGuard<&'a Control>> {
    let guard = DeviceGuard::create(dm, device, None)?.with_patience(PATIENCE);
    dm.load(device.into(), &zero(2048), Access::ReadWrite)?;
    Ok(guard)
}

fn runs() -> Result<()> {
    ensure!(udev_runs() == harness::udev_runs(), "we say {}", udev_runs());
    Ok(())
}

fn synced() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let (device, renamed) = (name("synced")?, name("synced-renamed")?);
        let guard = loaded(dm, &device)?;
        let info = dm.resume_synced((&device).into(), Suspend::default(), NO_FLAGS, PATIENCE)?;
        ensure!(info.live_table, "{info:?}");
        ensure!(has_link(&device), "udev's link is not there yet");
        ensure!(dm.rename_synced(&device, &renamed, NO_FLAGS, PATIENCE)?.name == renamed);
        ensure!(has_link(&renamed) && !has_link(&device), "udev did not follow the rename");
        let removed = dm.remove_synced((&renamed).into(), Removal::Now, NO_FLAGS, PATIENCE)?;
        ensure!(removed == Removed::Gone && !has_link(&renamed), "{removed:?}");
        guard.keep();
        Ok(())
    })
}

fn several() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let names = [name("several-1")?, name("several-2")?, name("several-3")?];
        let guards = names.iter().map(|device| loaded(dm, device)).collect::<Result<Vec<_>>>()?;
        dm.with_udev_cookie(PATIENCE, |cookie| {
            for device in &names {
                cookie.resume(device.into(), Suspend::default(), NO_FLAGS)?;
            }
            Ok(())
        })?;
        for device in &names {
            ensure!(has_link(device), "{device} has no link");
        }
        for guard in guards {
            guard.close()?;
        }
        Ok(())
    })
}

fn no_event() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let device = name("no-event")?;
        let guard = loaded(dm, &device)?;
        dm.resume_synced((&device).into(), Suspend::default(), NO_FLAGS, PATIENCE)?;
        let open = fs::File::open(dm.node(&device, guard.number())?)?;
        let began = Instant::now();
        let patience = Duration::from_secs(60);
        // Resumed already; scheduled only; not there: none of them makes a uevent.
        dm.resume_synced((&device).into(), Suspend::default(), NO_FLAGS, patience)?;
        let removed = dm.remove_synced((&device).into(), Removal::Deferred, NO_FLAGS, patience)?;
        ensure!(removed == Removed::Scheduled, "{removed:?}");
        let absent = dm.remove_synced((&name("never-was")?).into(), Removal::Now, NO_FLAGS, patience)?;
        ensure!(absent == Removed::Absent, "{absent:?}");
        ensure!(began.elapsed() < Duration::from_secs(20), "it waited {:?}", began.elapsed());
        dm.cancel_deferred_removal((&device).into())?;
        drop(open);
        guard.close()?;
        Ok(())
    })
}

fn stalled() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let device = name("stalled")?;
        let guard = loaded(dm, &device)?;
        harness::run("udevadm", ["control", "--stop-exec-queue"])?;
        let began = Instant::now();
        let patience = Duration::from_millis(700);
        // A cookie that somebody waits for is not to be reclaimed, however old.
        let reclaimer = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            reclaim_cookies(Duration::ZERO)
        });
        let result = dm.resume_synced((&device).into(), Suspend::default(), NO_FLAGS, patience);
        let took = began.elapsed();
        let reclaimed = reclaimer.join();
        let left = semaphores();
        harness::run("udevadm", ["control", "--start-exec-queue"])?;
        refused("a udev that stands still", result, Kind::Deadline)?;
        let reclaimed = reclaimed.map_err(|_| anyhow::anyhow!("the reclaimer panicked"))??;
        ensure!(reclaimed.is_empty(), "{reclaimed:?} were taken while somebody waited");
        ensure!(took >= patience && took < Duration::from_secs(20), "it took {took:?}");
        ensure!(left?.is_empty(), "a semaphore was there while udev stood still");
        // The call itself was done.
        ensure!(dm.info((&device).into())?.is_some_and(|info| info.live_table));
        harness::wait_for_udev()?;
        guard.close()?;
        Ok(())
    })
}

fn failing() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let gone = name("never-was")?;
        let synced = dm.resume_synced((&gone).into(), Suspend::default(), NO_FLAGS, PATIENCE);
        refused("resuming what is not there", synced, Kind::NotFound)?;
        let device = name("failing")?;
        let guard = loaded(dm, &device)?;
        let result = dm.with_udev_cookie(PATIENCE, |cookie| {
            cookie.resume((&device).into(), Suspend::default(), NO_FLAGS)?;
            cookie.rename(&gone, &device, NO_FLAGS)
        });
        // EBUSY, since the new name is taken: the kernel looks at that first.
        refused("a second call that fails", result, Kind::Exists)?;
        harness::wait_for_udev()?;
        guard.close()?;
        Ok(())
    })
}

fn flags() -> Result<()> {
    let dm = Control::open()?.with_udev_flags(UdevFlags::DISABLE_DM_RULES);
    let device = name("flags")?;
    let guard = loaded(&dm, &device)?;
    dm.resume((&device).into(), Suspend::default())?;
    harness::wait_for_udev()?;
    ensure!(!has_link(&device), "udev made a link in spite of the flag");
    // And the other way round, so that the test can fail.
    let plain = Control::open()?;
    plain.load((&device).into(), &[target(0, 8, "error", "")], Access::ReadWrite)?;
    plain.resume((&device).into(), Suspend::default())?;
    harness::wait_for_udev()?;
    let linked = has_link(&device);
    guard.close()?;
    harness::wait_for_udev()?;
    if !linked {
        // The rules remember the flags of a device for events without a cookie; a new device has none.
        let guard = loaded(&plain, &device)?;
        plain.resume((&device).into(), Suspend::default())?;
        harness::wait_for_udev()?;
        ensure!(has_link(&device), "udev makes no link at all");
        guard.close()?;
    }
    Ok(())
}

fn reclaim() -> Result<()> {
    let shown = dmsetup(["udevcreatecookie"])?;
    let key = u32::from_str_radix(shown.trim().trim_start_matches("0x"), 16).context("no cookie")?;
    let find = || -> Result<_> { Ok(cookies()?.into_iter().find(|cookie| cookie.key == key)) };
    let Some(listed) = find()? else { bail!("{shown} is not in {:?}", cookies()?) };
    ensure!(reclaim_cookies(Duration::from_secs(3600))?.is_empty(), "a young cookie was taken");
    let reclaimed = reclaim_cookies(Duration::ZERO)?;
    ensure!(reclaimed.contains(&listed), "{listed:?} is not in {reclaimed:?}");
    ensure!(find()?.is_none(), "it is still there");
    let left = dmsetup(["udevcookies"])?;
    ensure!(!left.contains(shown.trim()), "dmsetup still lists it: {left}");
    Ok(())
}

fn without_udev() -> Result<()> {
    leaves_no_semaphore(|dm| {
        let device = name("no-udev")?;
        let guard = loaded(dm, &device)?;
        let began = Instant::now();
        dm.resume_synced((&device).into(), Suspend::default(), NO_FLAGS, Duration::from_secs(60))?;
        let removed = dm.remove_synced((&device).into(), Removal::Now, NO_FLAGS, Duration::from_secs(60))?;
        ensure!(removed == Removed::Gone, "{removed:?}");
        ensure!(began.elapsed() < Duration::from_secs(20), "it waited");
        guard.keep();
        Ok(())
    })
}
