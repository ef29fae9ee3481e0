//! `serve`: the owner of a root.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::eventually;
use serde_json::Value;

use crate::fixture::{PATIENCE, Root};

/// The control socket, as the lock names it.
fn socket(root: &Root) -> Result<PathBuf> {
    let lock: Value = serde_json::from_slice(&std::fs::read(root.path.join("thinlayer/lock"))?)?;
    Ok(PathBuf::from(lock["socket"].as_str().context("the lock names no socket")?))
}

pub(crate) fn second_serve() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut first = root.serve()?;
    let said = root.refused(&["serve"], 5)?;
    ensure!(said.contains(&format!("thinlayer serve (pid {})", first.running.pid())), "{said}");
    root.quiet(&["create", "x"])?;
    let mode = |path: &Path| -> Result<u32> { Ok(std::fs::metadata(path)?.permissions().mode() & 0o777) };
    let socket = socket(&root)?;
    let folder = socket.parent().context("the socket is in no folder")?;
    ensure!(mode(&socket)? == 0o600 && mode(folder)? == 0o700, "others may come in");
    first.terminate()?;
    ensure!(!socket.exists(), "the socket is still there");
    root.stop_and_check()
}

pub(crate) fn ends_well() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    root.quiet(&["create", "a"])?;
    let tree = root.run(&["mount", "a"])?;
    // Growing takes long enough to be under way when the signal comes.
    let mut create = root.start(&["create", "--parent", "a", "--size", "1G", "b"])?;
    std::thread::sleep(Duration::from_millis(30));
    serve.terminate()?;
    serve.notify.wait_for("STOPPING=1")?;
    let output = create.output()?;
    ensure!(output.status.success(), "the create under way failed: {output:?}");
    ensure!(Path::new(tree.trim_end()).exists(), "the mount is gone");
    ensure!(root.ids()?.iter().eq(["a", "b"]), "ls shows {:?}", root.ids()?);
    root.quiet(&["umount", "a"])?;
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn second_signal() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    root.quiet(&["create", "a"])?;
    // A client that says nothing is waited for at the end; it was taken if one after it is answered.
    let _idle = UnixStream::connect(socket(&root)?)?;
    root.quiet(&["create", "b"])?;
    serve.running.signal("INT")?;
    serve.notify.wait_for("STOPPING=1")?;
    let begin = Instant::now();
    let output = serve.running.end_with("TERM")?;
    ensure!(output.status.signal() == Some(15), "it ended otherwise: {output:?}");
    ensure!(begin.elapsed() < Duration::from_secs(3), "it took {:?}", begin.elapsed());
    root.quiet(&["create", "c"])?;
    root.check()?;
    root.stop_and_check()
}

/// The lock of a root is new, and the disk so full that its text could not be written.
pub(crate) fn lock_without_text() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    root.quiet(&["create", "a"])?;
    std::fs::File::options().write(true).open(root.path.join("thinlayer/lock"))?.set_len(0)?;
    root.quiet(&["create", "--parent", "a", "b"])?;
    root.quiet(&["rm", "a"])?;
    let said = root.refused(&["serve"], 5)?;
    ensure!(said.contains(&format!("thinlayer serve (pid {})", serve.running.pid())), "{said}");
    // Nobody listens on the socket that a killed one left.
    serve.kill()?;
    root.quiet(&["create", "c"])?;
    ensure!(root.ids()?.iter().eq(["b", "c"]), "ls shows {:?}", root.ids()?);
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn stop_and_go_on() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    root.quiet(&["create", "a"])?;
    root.run(&["mount", "a"])?;
    root.stop_and_check()?;
    ensure!(root.json(&["stop"])?["was_active"] == false, "there was something to stop");
    ensure!(!serve.running.ended()?, "serve has ended");
    root.quiet(&["create", "b"])?;
    let tree = root.run(&["mount", "b"])?;
    // A layer in use stays, and so does the pool; then serve goes on.
    let file = std::fs::File::create(Path::new(tree.trim_end()).join("open"))?;
    root.refused(&["stop"], 5)?;
    drop(file);
    root.quiet(&["create", "c"])?;
    root.quiet(&["stop"])?;
    serve.terminate()?;
    root.at_rest()?;
    ensure!(root.ids()?.iter().eq(["a", "b", "c"]), "ls shows {:?}", root.ids()?);
    Ok(())
}

pub(crate) fn other_options() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve_with(&["--storage-opt", "dm.min_free_space=5%"])?;
    root.quiet(&["create", "a", "--storage-opt", "dm.min_free_space=5%"])?;
    root.quiet(&["create", "b", "--storage-opt", "dm.basesize=327680k", "--storage-opt", "dm.fs=ext4"])?;
    let said = root.refused(&["create", "c", "--storage-opt", "dm.min_free_space=7%"], 2)?;
    ensure!(said.contains("dm.min_free_space=5%") && said.contains("dm.min_free_space=7%"), "{said}");
    let said = root.refused(&["create", "c", "--storage-opt", "dm.blkdiscard=false"], 2)?;
    ensure!(said.contains("no dm.blkdiscard"), "{said}");
    serve.terminate()?;
    root.stop_and_check()
}

pub(crate) fn garbage() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    let mut serve = root.serve()?;
    let socket = socket(&root)?;
    let say = |bytes: &[u8]| -> Result<String> {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The server may have heard enough before all is written.
        let _written = stream.write_all(bytes);
        let mut said = String::new();
        let _read = stream.read_to_string(&mut said);
        Ok(said)
    };
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xff\xfe\n", b"{}\n", &[b'['; 3 << 20]] {
        let said = say(bytes)?;
        ensure!(said.contains("\"failed\""), "it says {said:?}");
    }
    let said = say(b"{\"version\":2,\"request\":{\"command\":\"stop\"}}\n")?;
    ensure!(said.contains("version 2") && said.contains("version 1"), "it says {said:?}");
    let said = say(b"{\"version\":1,\"request\":{\"command\":\"rm\",\"ids\":[\"../../etc\"]}}\n")?;
    ensure!(said.contains("\"usage\""), "it says {said:?}");
    // Connections that say nothing, and one that hears nothing.
    let idle: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket)).collect::<std::io::Result<_>>()?;
    root.quiet(&["create", "x"])?;
    root.check()?;
    drop(idle);
    serve.terminate()?;
    root.stop_and_check()
}

pub(crate) fn use_counts_survive() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    let mut serve = root.serve()?;
    let tree = root.run(&["mount", "a"])?;
    root.run(&["mount", "a"])?;
    serve.terminate()?;
    let uses = || -> Result<Value> { Ok(root.json(&["inspect", "a"])?["uses"].clone()) };
    ensure!(uses()? == 2, "{} uses after SIGTERM", uses()?);

    let mut serve = root.serve()?;
    root.run(&["mount", "a"])?;
    serve.kill()?;
    ensure!(uses()? == 3, "{} uses after SIGKILL", uses()?);
    // The socket that the killed one left does not disturb the next commands, nor the next serve.
    root.quiet(&["umount", "a"])?;
    let mut serve = root.serve()?;
    root.quiet(&["umount", "a"])?;
    ensure!(Path::new(tree.trim_end()).exists(), "unmounted although it is in use");
    root.quiet(&["umount", "a"])?;
    ensure!(!Path::new(tree.trim_end()).exists(), "still mounted");
    serve.terminate()?;
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn killed_while_removing() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "keep"])?;
    let mut serve = root.serve()?;
    let ids: Vec<String> = (0..20).map(|n| format!("layer-{n}")).collect();
    for id in &ids {
        root.quiet(&["create", "--parent", "keep", id])?;
    }
    for id in &ids[..4] {
        let tree = root.run(&["mount", id])?;
        std::fs::write(Path::new(tree.trim_end()).join("data"), vec![7; 8 << 20])?;
        root.quiet(&["umount", id])?;
    }
    let mut rm = vec!["rm".to_owned()];
    rm.extend(ids);
    let mut client = root.start(&rm)?;
    // Killed while it removes: some are gone, perhaps some are on their way, perhaps some are still there.
    eventually("the first layers to go", PATIENCE, || {
        let left = root.ids()?.len();
        Ok(if left < 19 { Ok(()) } else { Err(format!("{left} are there")) })
    })?;
    serve.kill()?;
    let told = client.output()?;
    let left: Vec<String> = root.ids()?.into_iter().filter(|id| id != "keep").collect();
    // What was acknowledged is done; what was not may be done or not.
    ensure!(!told.status.success() || left.is_empty(), "{} are left, and rm said {told:?}", left.len());

    // The next command carries on with what was begun; what was not begun is asked for again.
    let mut rm = vec!["rm".to_owned()];
    rm.extend(left.iter().cloned());
    if left.is_empty() {
        root.quiet(&["create", "after"])?;
    } else {
        root.quiet(&rm)?;
        root.quiet(&["create", "after"])?;
    }
    ensure!(root.ids()?.iter().eq(["after", "keep"]), "ls shows {:?}", root.ids()?);
    let status = root.json(&["status"])?;
    ensure!(status["deferred"] == 0 && status["layers"] == 2, "{status}");
    root.check()?;
    let active = harness::run("dmsetup", ["ls", "--target", "thin"])?.stdout_text();
    ensure!(!active.contains("layer-"), "still active: {active}");
    root.stop_and_check()?;
    // The base, `keep` and `after`.
    ensure!(root.devices_in_pool()? == 3, "{} devices are in the pool", root.devices_in_pool()?);
    Ok(())
}
