//! Podman killed in the middle of what it does, and thinlayer on the graph that it leaves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use suites::engine::{Engine, kill_container};

use crate::engine::Podman;
use crate::fixture::{Root, options};
use crate::found::records;
use crate::story::Graph;

/// How often it is killed while it makes a container, and while it removes one.
const ROUNDS: u32 = 4;

/// A graph on loop files, whose Podman is killed at moments spread over what it does.
pub(crate) fn at_any_moment(filesystem: &str) -> Result<()> {
    let mut of_podman = [vec!["test=true".to_owned()], options(filesystem)].concat();
    // Without it Podman mounts also ext4 with `nouuid`, which ext4 refuses.
    of_podman.push("dm.mountopt=noatime".into());
    let podman = Podman::new(of_podman)?;
    let root = Root::with(&podman.home(), Vec::new())?;
    let (graph, leak) = Graph::made_by_podman(podman, root)?;
    leak.end()?;
    kill_container(graph.running)?;
    graph.podman.settle()?;

    let create = ["create", "--network", "none", "upper", "true"];
    let begin = Instant::now();
    let first = graph.podman.run(&create)?;
    let making = begin.elapsed();
    let begin = Instant::now();
    graph.podman.run(&["rm", &first])?;
    let removing = begin.elapsed();
    for round in 0..ROUNDS {
        let moment = |takes: Duration| takes * (2 * round + 1) / (2 * ROUNDS);
        cut_off(&graph, &create, moment(making)).with_context(|| format!("create, round {round}"))?;
        let victim = graph.podman.run(&create)?;
        cut_off(&graph, &["rm", &victim], moment(removing)).with_context(|| format!("rm, round {round}"))?;
    }

    graph.all_trees_are_whole()?;
    graph.root.quiet(&["stop"])?;
    graph.back_to_podman().context("Podman has it back")?;
    everything_goes(&graph)
}

/// Kills a command of Podman's after this time. thinlayer then finds all layers that were whole, and puts in order what was not.
fn cut_off(graph: &Graph, words: &[&str], after: Duration) -> Result<()> {
    let before = graph.podman.all_layers()?;
    let mut command = graph.podman.command()?;
    let command = command.args(words).process_group(0);
    let null = || Stdio::null();
    let mut running = command.stdin(null()).stdout(null()).stderr(null()).spawn()?;
    std::thread::sleep(after);
    running.kill()?;
    let ended = running.wait()?;
    graph.podman.settle()?;

    let root = &graph.root;
    let known = graph.podman.all_layers()?;
    let found = root.ids()?;
    println!(
        "{} after {after:?}: {ended}; Podman knows {}, thinlayer {}",
        words[0],
        known.len(),
        found.len()
    );
    // What a removal had begun with may be gone; all else that was there is there.
    let lost: Vec<_> = before.intersection(&known).filter(|id| !found.contains(*id)).collect();
    ensure!(lost.is_empty() || words[0] == "rm" && lost.len() == 1, "lost: {lost:?}");
    for id in mounted(root)? {
        root.quiet(&["umount", &id])?;
    }
    println!("{}", root.try_run(&["check", "--repair"])?.stdout_text());
    root.check()?;
    root.quiet(&["stop"])
}

/// The layers that are mounted.
fn mounted(root: &Root) -> Result<BTreeSet<String>> {
    let place = root.path.join("mnt");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let names = places.filter_map(|path| std::path::Path::new(path).strip_prefix(&place).ok());
    Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Podman removes all that it knows; what its own crashes made it forget, thinlayer removes.
fn everything_goes(graph: &Graph) -> Result<()> {
    let (podman, root) = (&graph.podman, &graph.root);
    podman.run(&["rm", "-a", "-f", "-t", "0"])?;
    podman.run(&["rmi", "-a", "-f"])?;
    let known = podman.all_layers()?;
    ensure!(known.is_empty(), "Podman still knows {known:?}");
    for id in root.ids()? {
        println!("forgotten by Podman: {id}");
        root.quiet(&["rm", &id])?;
    }
    // What Podman left to be deleted later, as something had it open, the next command that opens the root deletes.
    root.quiet(&["create", "last"])?;
    root.quiet(&["rm", "last"])?;
    root.check()?;
    ensure!(records(&root.path)? == ["base"], "records: {:?}", records(&root.path)?);
    root.stop_and_check()?;
    ensure!(root.devices_in_pool()? == 1, "the pool holds {} devices", root.devices_in_pool()?);
    ensure!(
        !scratch_dir()?.join("graph/devicemapper/thinlayer/quarantine").exists(),
        "records were set aside"
    );
    Ok(())
}
