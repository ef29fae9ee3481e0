//! Events through poll.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Control, DeviceMapper, DmName};

use crate::{info, make, name};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a wait ends at an event, and the list says whose", event),
        test("a wait without events ends at its deadline", deadline),
        test("an event between two waits is not lost", between),
        test("two watchers both see an event", two_watchers),
    ]
}

fn event_nr(dm: &Control, device: &DmName) -> Result<u32> {
    let listed = dm.devices()?.into_iter().find(|listed| &listed.name == device).context("not listed")?;
    listed.event_nr.context("no event number")
}

/// Other devices may have events while udev works on them: the list tells.
fn wait_for_change(
    dm: &Control,
    events: &mut dyn thinlayer_dm::Events,
    device: &DmName,
    before: u32,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while event_nr(dm, device)? == before {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(events.wait(left)?, "no event within 20 s");
    }
    Ok(())
}

fn event() -> Result<()> {
    let dm = Control::open()?;
    let (device, renamed) = (name("event")?, name("event-renamed")?);
    let guard = make(&dm, &device)?;
    let before = event_nr(&dm, &device)?;
    let mut events = dm.events()?;
    std::thread::scope(|scope| -> Result<()> {
        let actor = scope.spawn(|| -> Result<()> {
            std::thread::sleep(Duration::from_millis(300));
            // A rename of a device with a table is an event of it.
            dm.rename(&device, &renamed)?;
            Ok(())
        });
        let began = Instant::now();
        ensure!(events.wait(Duration::from_secs(20))?, "no event within 20 s");
        ensure!(began.elapsed() >= Duration::from_millis(250), "it ended before the event");
        actor.join().map_err(|_| anyhow::anyhow!("the actor panicked"))??;
        wait_for_change(&dm, events.as_mut(), &renamed, before)
    })?;
    let number = guard.keep().number;
    harness::wait_for_udev()?;
    crate::remove(&dm, number.into())?;
    dm.forget_node(&renamed, number)?;
    Ok(())
}

fn deadline() -> Result<()> {
    let dm = Control::open()?;
    let mut events = dm.events()?;
    // Whatever was under way is over after a while.
    while events.wait(Duration::from_millis(200))? {}
    let began = Instant::now();
    ensure!(!events.wait(Duration::from_millis(400))?, "an event out of nothing");
    let took = began.elapsed();
    ensure!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "it took {took:?}");
    Ok(())
}

fn between() -> Result<()> {
    let dm = Control::open()?;
    let (device, renamed) = (name("between")?, name("between-2")?);
    let guard = make(&dm, &device)?;
    let mut events = dm.events()?;
    while events.wait(Duration::from_millis(200))? {}
    let before = info(&dm, &device)?.event_nr;
    dm.rename(&device, &renamed)?;
    dm.rename(&renamed, &device)?;
    ensure!(events.wait(Duration::ZERO)?, "events that came before the wait are lost");
    ensure!(event_nr(&dm, &device)? != before);
    harness::wait_for_udev()?;
    guard.close()?;
    ensure!(events.wait(Duration::from_secs(20))?, "the removal is no event");
    Ok(())
}

fn two_watchers() -> Result<()> {
    let dm = Control::open()?;
    let device = name("two-watchers")?;
    let guard = make(&dm, &device)?;
    let (mut one, mut two) = (dm.events()?, dm.events()?);
    guard.close()?;
    ensure!(one.wait(Duration::from_secs(20))?, "the first watcher saw nothing");
    ensure!(two.wait(Duration::from_secs(20))?, "the second watcher saw nothing");
    Ok(())
}
