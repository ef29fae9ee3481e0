//! A root's whole life.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::fixture::Root;

/// By hand, in text.
pub(crate) fn in_text(filesystem: &str) -> Result<()> {
    let root = Root::new("life", filesystem)?;
    text(&root, filesystem)?;
    root.stop_and_check()
}

/// The same through `serve`: the same words lead to the same answers.
pub(crate) fn in_text_through_serve() -> Result<()> {
    let root = Root::new("life", "ext4")?;
    let mut serve = root.serve()?;
    text(&root, "ext4")?;
    ensure!(!serve.running.ended()?, "serve has ended");
    serve.terminate()?;
    root.stop_and_check()
}

fn text(root: &Root, filesystem: &str) -> Result<()> {
    root.quiet(&["create", "base1"])?;
    root.refused(&["create", "base1"], 4)?;
    root.refused(&["create", "x", "--parent", "nobody"], 3)?;

    let path = root.run(&["mount", "base1"])?;
    let tree = path.strip_suffix('\n').context("no line's end")?;
    ensure!(tree == root.path.join("mnt/base1/rootfs").to_string_lossy(), "the path is {tree}");
    fs::write(Path::new(tree).join("file"), "one")?;
    ensure!(root.run(&["mount", "base1"])? == path, "another path at the second use");
    root.quiet(&["umount", "base1"])?;
    ensure!(Path::new(tree).join("file").exists(), "unmounted although it is in use");
    ensure!(root.run(&["ls"])?.contains(tree), "ls does not show the mount");
    root.refused(&["rm", "base1"], 5)?;
    root.quiet(&["umount", "base1"])?;
    ensure!(!Path::new(tree).exists(), "still mounted");

    root.quiet(&["create", "--parent", "base1", "web"])?;
    root.quiet(&["create", "db", "--parent", "base1", "--size", "400M"])?;
    let web = root.run(&["mount", "web"])?;
    let web = Path::new(web.trim_end());
    ensure!(fs::read_to_string(web.join("file"))? == "one", "the parent's file is not there");
    fs::write(web.join("file"), "two")?;
    root.quiet(&["umount", "--all", "web"])?;
    let base = root.run(&["mount", "base1"])?;
    ensure!(fs::read_to_string(Path::new(base.trim_end()).join("file"))? == "one", "the parent has changed");
    root.quiet(&["umount", "base1"])?;

    let drawn = root.run(&["tree"])?;
    ensure!(
        drawn.starts_with("base1 (") && drawn.contains("├── db (419.4MB)\n└── web ("),
        "the tree is\n{drawn}"
    );
    let listed = root.run(&["ls"])?;
    ensure!(listed.starts_with("ID     PARENT  SIZE") && listed.lines().count() == 4, "ls:\n{listed}");
    ensure!(listed.lines().skip(1).all(|line| line.contains(filesystem)), "ls:\n{listed}");
    let facts = root.run(&["inspect", "web"])?;
    ensure!(facts.contains("Parent: base1\n") && facts.contains("DeviceName: docker-"), "inspect:\n{facts}");
    ensure!(root.run(&["exists", "web"])?.is_empty(), "exists says something");
    let absent = root.try_run(&["exists", "nobody"])?;
    ensure!(absent.status.code() == Some(1) && absent.stderr.is_empty(), "{absent:?}");

    root.quiet(&["resize", "web", "512M"])?;
    root.refused(&["resize", "web", "400M"], 2)?;
    root.refused(&["resize", "nobody", "400M"], 3)?;
    let web = root.run(&["mount", "web"])?;
    let size = harness::run("df", ["--output=size", "-B1M", web.trim_end()])?.stdout_text();
    let size: u64 = size.lines().last().unwrap_or_default().trim().parse()?;
    ensure!(size > 400, "the file system has {size} MiB");
    root.quiet(&["umount", "web"])?;

    let status = root.run(&["status"])?;
    ensure!(status.starts_with("Pool Name: docker-"), "status:\n{status}");
    ensure!(status.contains(&format!("\nBacking Filesystem: {filesystem}\n")), "status:\n{status}");
    root.check()?;

    root.refused(&["rm", "nobody"], 3)?;
    let output = root.try_run(&["rm", "nobody", "web", "nobody2", "db"])?;
    ensure!(output.status.code() == Some(3) && output.stdout.is_empty(), "{output:?}");
    let said = output.stderr_text();
    ensure!(said.lines().count() == 2 && said.contains("nobody") && said.contains("nobody2"), "{said}");
    ensure!(root.ids()?.iter().eq(["base1"]), "ls shows {:?}", root.ids()?);
    // The id is free at once, whatever happens to the blocks.
    root.quiet(&["create", "web"])?;
    root.quiet(&["rm", "web", "base1"])?;
    root.check_soon()
}

/// By hand, in JSON.
pub(crate) fn in_json(filesystem: &str) -> Result<()> {
    let root = Root::new("life", filesystem)?;
    json_life(&root, filesystem)?;
    root.at_rest()
}

/// The same through `serve`.
pub(crate) fn in_json_through_serve(filesystem: &str) -> Result<()> {
    let root = Root::new("life", filesystem)?;
    let mut serve = root.serve()?;
    json_life(&root, filesystem)?;
    serve.terminate()?;
    root.at_rest()
}

/// The keys that `docs/json.md` shows in a section are those of the real value.
fn as_documented(section: &str, value: &Value) -> Result<()> {
    let page = include_str!("../../../../../docs/json.md");
    let (_, rest) =
        page.split_once(&format!("\n## {section}\n")).with_context(|| format!("no section {section}"))?;
    let (_, rest) = rest.split_once("```json\n").context("no example")?;
    let example: Value = serde_json::from_str(rest.split("```").next().unwrap_or_default())?;
    let first = |value: &Value| {
        value.as_array().map_or(value.clone(), |values| values.first().cloned().unwrap_or_default())
    };
    let keys = |value: &Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
    let (documented, real) = (keys(&first(&example)), keys(&first(value)));
    ensure!(documented.is_some() && documented == real, "{section}: {real:?}, documented are {documented:?}");
    Ok(())
}

fn json_life(root: &Root, filesystem: &str) -> Result<()> {
    let made = root.json(&["create", "base1"])?;
    as_documented("inspect", &made)?;
    ensure!(
        made["id"] == "base1" && made["parent_state"] == "none" && made["filesystem"] == filesystem,
        "{made}"
    );
    let made = root.json(&["create", "--parent", "base1", "web"])?;
    ensure!(made["parent"] == "base1" && made["size"] == 320 << 20, "{made}");
    ensure!(root.json(&["inspect", "web"])? == made, "inspect differs from create");

    let mounted = root.json(&["mount", "web"])?;
    as_documented("mount", &mounted)?;
    let path = root.path.join("mnt/web/rootfs");
    ensure!(mounted == json!({ "id": "web", "path": path, "uses": 1 }), "{mounted}");
    ensure!(root.json(&["mount", "web"])?["uses"] == 2, "uses are not counted");
    let layers = root.json(&["ls"])?;
    as_documented("ls", &layers)?;
    ensure!(layers[1]["mounted_at"] == json!(path) && layers[1]["uses"] == 2, "{layers}");
    let tree = root.json(&["tree"])?;
    as_documented("tree", &tree)?;
    ensure!(tree[1]["mounted"] == true && tree[1]["depth"] == 1, "{tree}");

    let given_back = root.json(&["umount", "web"])?;
    as_documented("umount", &given_back)?;
    ensure!(given_back == json!({ "id": "web", "result": "still-used", "uses": 1 }), "{given_back}");
    ensure!(root.json(&["umount", "web"])?["result"] == "unmounted", "not unmounted");
    ensure!(root.json(&["umount", "web"])?["result"] == "not-mounted", "unmounted twice");

    let grown = root.json(&["resize", "web", "400M"])?;
    ensure!(grown["size"] == 400 << 20 && grown["DeviceSize"] == "419430400", "{grown}");
    let status = root.json(&["status"])?;
    as_documented("status", &status)?;
    ensure!(
        status["layers"] == 2 && status["trouble"].is_null() && status["loop_backed"] == true,
        "{status}"
    );
    ensure!(status["rows"][0][0] == "Pool Name" && status["rows"][0][1] == status["pool_name"], "{status}");
    let report = root.json(&["check"])?;
    ensure!(report["findings"] == json!([]) && report["looked_at"]["records"] == 3, "{report}");
    as_documented("exists", &root.json(&["exists", "web"])?)?;

    let output = root.try_run(&["--json", "rm", "nobody", "web"])?;
    let said = output.stderr_text();
    let object: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    ensure!(output.status.code() == Some(3) && output.stdout.is_empty(), "{output:?}");
    ensure!(object["error"]["kind"] == "not-found" && object["failures"][0]["id"] == "nobody", "{object}");
    ensure!(object["removed"][0]["id"] == "web", "{object}");
    let removed = root.json(&["rm", "base1"])?;
    as_documented("rm", &removed)?;
    let stopped = root.json(&["stop"])?;
    as_documented("stop", &stopped)?;
    ensure!(stopped == json!({ "was_active": true, "notices": [] }), "{stopped}");
    Ok(())
}

impl Root {
    /// Store, pool and kernel agree, at the latest when the worker of a `serve` has done its work.
    pub(crate) fn check_soon(&self) -> Result<()> {
        harness::eventually("check to find nothing", crate::fixture::PATIENCE, || {
            let output = self.try_run(&["--json", "check"])?;
            let report: Value = serde_json::from_slice(&output.stdout)?;
            let done = output.status.success() && report["deferred"] == 0;
            Ok(if done { Ok(()) } else { Err(format!("{output:?}")) })
        })
    }
}

/// What the package shows as its example works as it stands.
pub(crate) fn example() -> Result<()> {
    let script = include_str!("../../../../../crates/cli/examples/life.sh");
    let file = harness::scratch_dir()?.join("life.sh");
    fs::write(&file, script)?;
    let root = Root::new("example", "ext4")?;
    let output = harness::run("sh", [file.as_os_str(), root.path.as_os_str()])?;
    let said = output.stdout_text();
    ensure!(said.contains("\nfrom the image\n") && said.contains("├── one ("), "it says\n{said}");
    root.at_rest()
}
