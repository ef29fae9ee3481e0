//! The main job, on real input: a Debian root file system through a container's whole life, told as a story.
//!
//! Run by `cargo xtask demo`. Ends with exit code 1 if any step was not as it should be.

mod story;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use story::{Story, must, quietly};

const ROOT: &str = "/scratch/demo/root";
const CONFIG: &str = "/scratch/demo/config.toml";
const BUNDLE: &str = "/scratch/demo/bundle";
/// A real Debian, made from Debian's packages when the VM's image was built.
const DEBIAN: &str = "/thinlayer/debian-rootfs.tar";
/// How many layers the owner is removing when it is killed.
const CROWD: usize = 30;

fn main() -> ExitCode {
    let mut story = Story::begin("thinlayer: a container's life in a thin pool");
    match tell(&mut story) {
        Ok(()) => {
            story.end("Every step was as it should be.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\n  ✗ {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &mut Story) -> Result<()> {
    prepare(story)?;
    unpack(story)?;
    layers(story)?;
    container(story)?;
    commit(story)?;
    kill_the_owner(story)?;
    savings(story)?;
    clean_up(story)
}

/// The program's arguments with the demo's root and configuration.
fn with_root<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    ["--config", CONFIG].iter().chain(arguments).copied().collect()
}

fn prepare(story: &mut Story) -> Result<()> {
    story.chapter("A machine with device-mapper");
    story.tell(
        "The machine that builds this project has no device-mapper. This one is a virtual machine made of Debian's
         packages, and it has. The program finds its root and its options in a configuration file.",
    );
    story.run("uname", &["-sr"])?;
    // A demo that was killed in this machine before leaves its root.
    fs::create_dir_all(ROOT)?;
    fs::write(
        CONFIG,
        format!(
            "root = \"{ROOT}\"\nstorage-opts = [\n  \"dm.fs=ext4\",\n  \"dm.basesize=2G\",\n  \"dm.loopdatasize=8G\",\n  \
             \"dm.loopmetadatasize=64M\",\n]\n"
        ),
    )?;
    story.run("cat", &[CONFIG])?;
    story.run("thinlayer", &["--version"])?;
    Ok(())
}

fn unpack(story: &mut Story) -> Result<()> {
    story.chapter("A Debian becomes a layer");
    story.tell(
        "The first `create` makes everything: two files, two loop devices, a thin pool on them, a base file system,
         and a layer that starts as a copy of the base.",
    );
    story.run("thinlayer", &with_root(&["create", "debian"]))?;
    story.run("dmsetup", &["ls", "--tree"])?;
    story.tell("`mount` prints where the layer's tree is. A real Debian is unpacked into it.");
    let tree = mount(story, "debian")?;
    story.run("tar", &["-C", &tree.to_string_lossy(), "-xpf", DEBIAN, "--numeric-owner"])?;
    story.run("ls", &[&tree])?;
    story.run("thinlayer", &with_root(&["umount", "debian"]))?;
    Ok(())
}

fn mount(story: &Story, layer: &str) -> Result<PathBuf> {
    let printed = story.run("thinlayer", &with_root(&["mount", layer]))?;
    let tree = PathBuf::from(printed.trim_end());
    ensure!(tree.is_absolute() && tree.is_dir(), "mount printed {printed:?}, which is no folder");
    Ok(tree)
}

fn layers(story: &mut Story) -> Result<()> {
    story.chapter("Two containers on one Debian");
    story.tell(
        "Each gets a layer of its own: a snapshot, made in a moment, that shares all blocks with its parent.",
    );
    let before = data_used()?;
    for layer in ["web", "db"] {
        story.run("thinlayer", &with_root(&["create", "--parent", "debian", layer]))?;
    }
    let grown = data_used()? - before;
    story.proven(&format!("two more Debians, and {} of new data", human(grown)));
    ensure!(grown < 1 << 20, "snapshots took {grown} bytes");
    Ok(())
}

fn container(story: &mut Story) -> Result<()> {
    story.chapter("A command of that Debian runs in a container");
    let web = mount(story, "web")?;
    story.tell(
        "runc starts a shell of the layer's Debian, in namespaces of its own, with the layer as its root.",
    );
    let script = "cat /etc/debian_version; dpkg --list | tail -n +6 | wc -l; hostname; echo 'hello from web' > /srv/greeting; sync";
    let printed = run_container(story, &web, script)?;
    ensure!(
        printed.lines().any(|line| line.trim() == "web"),
        "the container did not have a hostname of its own"
    );
    let written = fs::read_to_string(web.join("srv/greeting")).context("the container wrote nothing")?;
    ensure!(written == "hello from web\n", "the container wrote {written:?}");
    story.proven("the container's file is in its layer");
    story.tell("Its sibling does not see it.");
    let db = mount(story, "db")?;
    ensure!(!db.join("srv/greeting").exists(), "the sibling sees the container's file");
    story.run("ls", &["-A", &db.join("srv").to_string_lossy()])?;
    story.proven("db has no /srv/greeting");
    story.tell("A layer in use is not removed by mistake.");
    story.fails(5, "thinlayer", &with_root(&["rm", "db"]))?;
    story.run("thinlayer", &with_root(&["umount", "db"]))?;
    story.run("thinlayer", &with_root(&["umount", "web"]))?;
    Ok(())
}

/// Runs a shell script in a container on this tree, and gives back what it printed.
fn run_container(story: &Story, tree: &Path, script: &str) -> Result<String> {
    fs::create_dir_all(BUNDLE)?;
    let config = format!("{BUNDLE}/config.json");
    let _ = fs::remove_file(&config);
    must("runc", &["spec", "--bundle", BUNDLE])?;
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["root"] = serde_json::json!({ "path": tree, "readonly": false });
    spec["hostname"] = "web".into();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", script]);
    fs::write(&config, serde_json::to_vec_pretty(&spec)?)?;
    story.run("runc", &["run", "--bundle", BUNDLE, "demo-web"])
}

fn commit(story: &mut Story) -> Result<()> {
    story.chapter("The change is kept as a new layer");
    story.tell("A snapshot of the container's layer is a new image layer, and others can start from it.");
    story.run("thinlayer", &with_root(&["create", "--parent", "web", "web-v2"]))?;
    story.run("thinlayer", &with_root(&["create", "--parent", "web-v2", "web-next"]))?;
    let tree = mount(story, "web-next")?;
    story.run("cat", &[tree.join("srv/greeting")])?;
    story.run("thinlayer", &with_root(&["umount", "web-next"]))?;
    story.proven("a layer on top of the committed one has the change");
    story.run("thinlayer", &with_root(&["tree"]))?;
    Ok(())
}

fn kill_the_owner(story: &mut Story) -> Result<()> {
    story.chapter("The owner is killed while it works");
    story.tell(&format!("`serve` owns the root, and other commands work through it. It gets {CROWD} layers to make and to remove."));
    let mut server = serve(story)?;
    let names: Vec<String> = (1..=CROWD).map(|n| format!("crowd-{n:02}")).collect();
    for name in &names {
        must("thinlayer", &with_root(&["create", "--parent", "debian", name]))?;
    }
    println!("    $ thinlayer create --parent debian crowd-01   … crowd-{CROWD:02}");
    let mut arguments = with_root(&["rm"]);
    arguments.extend(names.iter().map(String::as_str));
    println!("    $ thinlayer rm crowd-01 … crowd-{CROWD:02} &");
    let mut removal =
        Command::new("thinlayer").args(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Let it get to the middle. The records are counted here: a command that lists them takes longer than some removals.
    wait_until("some layers are removed", Duration::from_secs(60), || Ok(crowd_records()? <= CROWD * 3 / 4))?;
    println!("    $ kill -KILL {}   # the owner", server.id());
    server.kill()?;
    server.wait()?;
    removal.wait()?;
    let left = crowd()?;
    ensure!((1..CROWD).contains(&left), "it was not in the middle: {left} of {CROWD} are left");
    story
        .tell(&format!("It is gone, without a word. {left} of the {CROWD} layers had not been removed yet."));
    story
        .tell("The next command takes the root over, finishes or undoes what was under way, and carries on.");
    story.run("thinlayer", &with_root(&["create", "--parent", "debian", "crowd-after"]))?;
    let names: Vec<String> = layer_ids()?.into_iter().filter(|id| id.starts_with("crowd-")).collect();
    let mut arguments = with_root(&["rm"]);
    arguments.extend(names.iter().map(String::as_str));
    must("thinlayer", &arguments)?;
    println!("    $ thinlayer rm … # the {left} that were left, and the new one");
    story.run("thinlayer", &with_root(&["check"]))?;
    ensure!(crowd()? == 0, "some of the crowd are still there");
    ensure!(
        layer_ids()? == ["db", "debian", "web", "web-next", "web-v2"],
        "the other layers are {:?}",
        layer_ids()?
    );
    story.proven("all twenty are gone, all others are there, and store, pool and kernel agree");
    Ok(())
}

/// Starts `serve` and waits until it answers.
fn serve(story: &Story) -> Result<Child> {
    println!("    $ thinlayer serve &");
    let server = Command::new("thinlayer").args(with_root(&["serve"])).stdin(Stdio::null()).spawn()?;
    let lock = Path::new(ROOT).join("thinlayer/lock");
    wait_until("serve owns the root", Duration::from_secs(60), || {
        let text = fs::read_to_string(&lock).unwrap_or_default();
        Ok(serde_json::from_str::<Value>(&text).is_ok_and(|holder| {
            holder["pid"].as_u64() == Some(server.id().into())
                && holder["socket"].as_str().is_some_and(|path| Path::new(path).exists())
        }))
    })?;
    story.fails(5, "thinlayer", &with_root(&["--wait", "1", "serve"]))?;
    Ok(server)
}

fn wait_until(what: &str, deadline: Duration, done: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// How many of the crowd have a record.
fn crowd_records() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("metadata"))? {
        count += usize::from(entry?.file_name().to_string_lossy().starts_with("crowd-"));
    }
    Ok(count)
}

fn layer_ids() -> Result<Vec<String>> {
    let layers: Vec<Value> = serde_json::from_str(&must("thinlayer", &with_root(&["--json", "ls"]))?)?;
    Ok(layers.iter().filter_map(|layer| layer["id"].as_str().map(str::to_owned)).collect())
}

fn crowd() -> Result<usize> {
    Ok(layer_ids()?.iter().filter(|id| id.starts_with("crowd-")).count())
}

fn savings(story: &mut Story) -> Result<()> {
    story.chapter("What sharing saves");
    story.run("thinlayer", &with_root(&["status"]))?;
    story.run("thinlayer", &with_root(&["tree"]))?;
    let mut alone = 0;
    let layers = layer_ids()?;
    for layer in &layers {
        let tree = must("thinlayer", &with_root(&["mount", layer]))?;
        let used = must("du", &["-s", "-B1", tree.trim_end()])?;
        alone += used.split_whitespace().next().context("du printed nothing")?.parse::<u64>()?;
        must("thinlayer", &with_root(&["umount", layer]))?;
    }
    let shared = data_used()?;
    story.proven(&format!(
        "{} layers that show {} take {} in the pool: {:.1} times less",
        layers.len(),
        human(alone),
        human(shared),
        alone as f64 / shared as f64
    ));
    ensure!(shared < alone / 2, "sharing saved too little");
    Ok(())
}

/// Bytes of data in use in the pool.
fn data_used() -> Result<u64> {
    let table = must("dmsetup", &["status", "--target", "thin-pool"])?;
    let used =
        table.split_whitespace().nth(6).and_then(|word| word.split_once('/')).context("no pool is active")?.0;
    Ok(used.parse::<u64>()? * 65536)
}

fn human(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn clean_up(story: &mut Story) -> Result<()> {
    story.chapter("Everything goes");
    let layers = layer_ids()?;
    let mut arguments = with_root(&["rm"]);
    arguments.extend(layers.iter().map(String::as_str));
    story.run("thinlayer", &arguments)?;
    story.run("thinlayer", &with_root(&["ls"]))?;
    story.run("thinlayer", &with_root(&["stop"]))?;
    let devices = must("dmsetup", &["ls"])?;
    ensure!(devices.contains("No devices found"), "devices are left: {devices}");
    let (_, loops) = quietly("losetup", &["--all"])?;
    ensure!(loops.is_empty(), "loop devices are left: {loops}");
    story.proven("no device, no loop device and no mount is left");
    story.run("thin_check", &[format!("{ROOT}/devicemapper/metadata")])?;
    let ids = must("thin_ls", &["--no-headers", "-o", "DEV", &format!("{ROOT}/devicemapper/metadata")])?;
    ensure!(ids.split_whitespace().count() == 1, "the pool should hold the base alone, and holds {ids}");
    story.proven("the pool is whole, and holds the empty base alone");
    Ok(())
}
