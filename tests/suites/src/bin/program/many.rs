//! Many commands at once, stopped ones and killed ones.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::fixture::{PATIENCE, Root, Running};

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

pub(crate) fn ls_beside_a_stopped_create() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    // Larger than its parent: it mounts and grows, and is surely not through when it is stopped.
    let mut create = root.start(&["create", "--parent", "a", "--size", "1G", "b"])?;
    // In the middle: the intent names the layer, so the root is open and the pool's lock was taken. Looked at without a pause, as it is soon over.
    let begin = Instant::now();
    while !intent(&root)?.contains("\"b\"") {
        ensure!(begin.elapsed() < PATIENCE && !create.ended()?, "create never began: {}", intent(&root)?);
    }
    create.signal("STOP")?;
    ensure!(!create.ended()?, "create was too quick");
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
    ensure!(root.ids()?.iter().eq(["a", "b"]), "ls shows {:?}", root.ids()?);
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

/// The signal that comes between two layers leaves the rest, and the code says so, with `serve` as without.
pub(crate) fn terminated_rm(served: bool) -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = if served { Some(root.serve()?) } else { None };
    // Enough that removing them takes longer than sending a signal.
    let ids: Vec<String> = (0..30).map(|n| format!("layer-{n:02}")).collect();
    for id in &ids {
        root.quiet(&["create", id])?;
    }
    let mut words = vec!["rm".to_owned()];
    words.extend(ids.iter().cloned());
    let mut rm = root.start(&words)?;
    let first = root.path.join("metadata").join(&ids[0]);
    while first.exists() {
        ensure!(!rm.ended()?, "rm has ended and removed nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = rm.end_with("TERM")?;
    let left: BTreeSet<String> = root.ids()?;
    let said = output.stderr_text();
    ensure!(output.status.code() == Some(143), "{output:?}");
    ensure!(!left.is_empty(), "the signal kept nothing: {output:?}");
    for id in &ids {
        ensure!(
            left.contains(id) == said.contains(id),
            "{id} is told wrongly, {left:?} are left: {output:?}"
        );
    }
    if let Some(serve) = &mut serve {
        serve.terminate()?;
    }
    ensure!(!said.contains("panicked"), "{said}");
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
