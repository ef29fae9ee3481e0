//! Many commands at once, stopped ones and killed ones.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::{Output, eventually};
use serde_json::Value;

use crate::disk::{Frozen, small_disk};
use crate::fixture::{PATIENCE, Root, Running, options};

fn ten(root: &Root) -> Result<()> {
    let ids: Vec<String> = (0..10).map(|n| format!("layer-{n}")).collect();
    let mut running: Vec<Running> =
        // An emulated machine may need more than the ten seconds that a command waits by itself.
        ids.iter().map(|id| root.start(&["--wait", "90", "create", id])).collect::<Result<_>>()?;
    for create in &mut running {
        let output = create.output()?;
        ensure!(output.status.success() && output.stdout.is_empty(), "a create failed: {output:?}");
    }
    ensure!(root.ids()? == ids.into_iter().collect::<BTreeSet<_>>(), "ls shows {:?}", root.ids()?);
    root.check()
}

pub(crate) fn ten_creates() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    ten(&root)?;
    root.stop_and_check()
}

pub(crate) fn ten_creates_through_serve() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    ten(&root)?;
    serve.terminate()?;
    root.stop_and_check()
}

/// Who holds the root's lock by its own account.
fn holder(root: &Root) -> Option<u64> {
    let text = std::fs::read(root.path.join("thinlayer/lock")).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["pid"].as_u64()
}

/// What is being done to the pool, by the store's own account.
fn intent(root: &Root) -> Result<String> {
    Ok(std::fs::read_to_string(root.path.join("metadata/transaction-metadata"))?)
}

fn within<T>(limit: Duration, what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let result = run()?;
    ensure!(begin.elapsed() < limit, "{what} took {:?}", begin.elapsed());
    Ok(result)
}

/// Stops a create in its middle: the intent names the layer, so the root is open and the pool's lock was taken. False if it was through
/// already. Larger than its parent, it mounts and grows, so there is time; looked at without a pause, as it is soon over all the same.
fn stopped_on_the_way(root: &Root, create: &mut Running, id: &str) -> Result<bool> {
    let begin = Instant::now();
    let named = format!("\"{id}\"");
    while !intent(root)?.contains(&named) {
        ensure!(begin.elapsed() < PATIENCE && !create.ended()?, "create never began: {}", intent(root)?);
    }
    if create.ended()? {
        return Ok(false);
    }
    create.signal("STOP")?;
    Ok(!create.ended()?)
}

pub(crate) fn ls_beside_a_stopped_create() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    let mut made = BTreeSet::from(["a".to_owned()]);
    let (mut create, id) = loop {
        let id = format!("b{}", made.len());
        let mut create = root.start(&["create", "--parent", "a", "--size", "1G", &id])?;
        if stopped_on_the_way(&root, &mut create, &id)? {
            break (create, id);
        }
        // A busy machine can let the whole of create run before it lets this program send anything.
        ensure!(create.output()?.status.success() && made.insert(id), "create failed");
        ensure!(made.len() < 6, "create was too quick every time");
    };
    made.insert(id);
    ensure!(holder(&root) == Some(u64::from(create.pid())), "{:?} owns the root", holder(&root));

    let limit = Duration::from_secs(5);
    ensure!(within(limit, "ls", || root.ids())?.contains("a"), "ls does not show the layer");
    within(limit, "tree", || root.run(&["tree"]))?;
    within(limit, "inspect", || root.run(&["inspect", "a"]))?;
    within(limit, "exists", || root.run(&["exists", "a"]))?;
    // The pool is up, so its state can be told too.
    within(limit, "status", || root.run(&["status"]))?;
    let said = root.refused(&["create", "c", "--wait", "1"], 5)?;
    ensure!(said.contains(&format!("thinlayer create (pid {})", create.pid())), "{said}");

    create.signal("CONT")?;
    let output = create.output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(root.ids()? == made, "ls shows {:?}", root.ids()?);
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn ls_beside_a_stopped_serve() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    root.quiet(&["create", "a"])?;
    serve.running.signal("STOP")?;
    let limit = Duration::from_secs(5);
    ensure!(within(limit, "ls", || root.ids())?.contains("a"), "ls does not show the layer");
    within(limit, "status", || root.run(&["status", "--wait", "0.5"]))?;
    let said = root.refused(&["create", "b", "--wait", "1"], 5)?;
    ensure!(said.contains(&format!("thinlayer serve (pid {})", serve.running.pid())), "{said}");
    serve.running.signal("CONT")?;
    root.quiet(&["create", "c"])?;
    serve.terminate()?;
    // What the stopped serve was asked for and nobody waited for any more may be there or not, but whole.
    let mut ids = root.ids()?;
    ids.remove("b");
    ensure!(ids.iter().eq(["a", "c"]), "ls shows {ids:?}");
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn killed_creates() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    for round in 0..7_u64 {
        let id = format!("layer-{round}");
        let mut create = root.start(&["create", "--parent", "a", "--size", "400M", &id])?;
        std::thread::sleep(Duration::from_millis(25 * round));
        let output = create.end_with("KILL")?;
        // The next command settles what the killed one left; the layer is there whole, or not at all.
        let next = format!("next-{round}");
        root.quiet(&["create", &next])?;
        ensure!(root.ids()?.contains(&next), "{next} is not there");
        root.check()?;
        if root.ids()?.contains(&id) {
            let tree = root.run(&["mount", &id])?;
            ensure!(std::path::Path::new(tree.trim_end()).is_dir(), "{tree} is no folder");
            root.quiet(&["umount", &id])?;
        } else {
            ensure!(!output.status.success(), "{id} was acknowledged and is not there");
            root.quiet(&["create", "--parent", "a", "--size", "400M", &id])?;
        }
    }
    root.check()?;
    let layers = root.ids()?.len();
    root.stop_and_check()?;
    ensure!(
        root.devices_in_pool()? == layers + 1,
        "{} devices for {layers} layers and the base",
        root.devices_in_pool()?
    );
    Ok(())
}

/// The signal that comes between two layers leaves the rest, and the code says so.
pub(crate) fn terminated_rm() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let ids = layers(30);
    // A busy machine can let the whole of rm run before it lets this program send anything: such a round shows nothing, and is made again.
    for _round in 0..5 {
        for id in &ids {
            root.quiet(&["create", id])?;
        }
        let mut rm = root.start(&removal_of(&ids))?;
        let first = root.path.join("metadata").join(&ids[0]);
        while first.exists() {
            // Its record goes before it ends, so only a record that is there after the end is a fault.
            ensure!(!rm.ended()? || !first.exists(), "rm has ended and removed nothing");
            std::thread::yield_now();
        }
        let output = rm.end_with("TERM")?;
        if output.status.success() && root.ids()?.is_empty() {
            continue;
        }
        told_rightly(&root, &ids, &output)?;
        return goes_on_after(&root);
    }
    bail!("rm was over before the signal each time");
}

/// The same of `serve`, whose client gets the signal. The disk stands still while it comes, so that it comes to the first layer for certain.
pub(crate) fn terminated_rm_through_serve() -> Result<()> {
    let (disk, _device) = small_disk(512 << 20)?;
    let root = Root::with(&disk.0.join("root"), options("ext4"))?;
    let mut serve = root.serve()?;
    let ids = layers(5);
    for id in &ids {
        root.quiet(&["create", id])?;
    }
    let frozen = Frozen::new(&disk.0)?;
    let mut rm = root.start(&removal_of(&ids))?;
    eventually("serve to wait for the disk", PATIENCE, || serve.running.waits_for_a_disk())?;
    rm.signal("TERM")?;
    // Far longer than it takes the client to hear of the signal and to tell the server.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(!rm.ended()?, "rm has not waited for the layer under way");
    drop(frozen);
    let output = rm.output()?;

    let left = told_rightly(&root, &ids, &output)?;
    ensure!(left.iter().eq(&ids[1..]), "not the first alone is removed, {left:?} are left: {output:?}");
    serve.terminate()?;
    goes_on_after(&root)
}

fn layers(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("layer-{n:02}")).collect()
}

fn removal_of(ids: &[String]) -> Vec<String> {
    std::iter::once("rm".to_owned()).chain(ids.iter().cloned()).collect()
}

/// The code says that a signal came, and every layer that is left is named. What is left.
fn told_rightly(root: &Root, ids: &[String], output: &Output) -> Result<BTreeSet<String>> {
    let left = root.ids()?;
    let said = output.stderr_text();
    ensure!(output.status.code() == Some(143), "{output:?}");
    ensure!(!left.is_empty(), "the signal kept nothing: {output:?}");
    for id in ids {
        ensure!(
            left.contains(id) == said.contains(id),
            "{id} is told wrongly, {left:?} are left: {output:?}"
        );
    }
    ensure!(!said.contains("panicked"), "{said}");
    Ok(left)
}

/// The root is whole and at work, and nothing is in the pool that is no layer.
fn goes_on_after(root: &Root) -> Result<()> {
    root.quiet(&["create", "after"])?;
    root.check()?;
    let layers = root.ids()?.len();
    root.stop_and_check()?;
    ensure!(
        root.devices_in_pool()? == layers + 1,
        "{} devices for {layers} layers and the base",
        root.devices_in_pool()?
    );
    Ok(())
}
