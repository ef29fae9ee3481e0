//! One graph's way from Podman to thinlayer and back, on loop files and on a pool of LVM's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use suites::engine::{Engine, kill_container};
use suites::tree::{Tree, image_tar};

use crate::disk::{Disk, SIZE};
use crate::engine::Podman;
use crate::fixture::{Root, options};
use crate::found::{Leak, records, rows};

/// A row that names another program's version.
const LIBRARY: &str = "Library Version";

/// The graph, and what is known of it from Podman alone.
pub(crate) struct Graph {
    pub(crate) podman: Podman,
    pub(crate) root: Root,
    /// Layers and what Podman exported of them.
    trees: BTreeMap<String, Tree>,
    one: String,
    long: String,
    /// The process of the container that runs.
    pub(crate) running: u32,
    /// "Data Space Used" when there was nothing but the base.
    empty: String,
}

/// A pool on loop files, which Podman makes only if it is told that this is a test.
pub(crate) fn on_loop_files() -> Result<()> {
    let podman = Podman::new([vec!["test=true".to_owned()], options("xfs")].concat())?;
    let root = Root::with(&podman.home(), Vec::new())?;
    let (graph, leak) = Graph::made_by_podman(podman, root)?;
    graph.first_hand_over(leak).context("thinlayer on the graph")?;
    graph.back_to_podman().context("Podman has it back")?;
    graph.everything_goes().context("at the end")?;
    graph.root.stop_and_check()?;
    ensure!(graph.root.devices_in_pool()? == 1, "the pool holds {} devices", graph.root.devices_in_pool()?);
    Ok(())
}

/// The pool that Podman makes on a device, which is its default: LVM's.
pub(crate) fn on_lvm() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    // Without `dm.mountopt` Podman mounts also ext4 with `nouuid`, which ext4 refuses.
    let options = [&disk.option(), "dm.basesize=320M", "dm.fs=ext4", "dm.mountopt=noatime"];
    let podman = Podman::new(options.map(str::to_owned).to_vec())?;
    // What Podman stored of its set-up is all that thinlayer is told.
    let root = Root::with(&podman.home(), Vec::new())?;
    let (graph, leak) = Graph::made_by_podman(podman, root)?;
    graph.first_hand_over(leak).context("thinlayer on the graph")?;
    graph.back_to_podman().context("Podman has it back")?;
    graph.everything_goes().context("at the end")?;
    graph.root.quiet(&["stop"])?;
    let active = harness::run("dmsetup", ["ls"])?.stdout_text();
    ensure!(!active.contains("container-"), "left active: {active}");
    // The pool was moved on by both, and LVM takes it as it is (I8).
    crate::disk::deactivate()?;
    harness::run("vgchange", ["--activate", "y", "storage"])?;
    ensure!(harness::run("dmsetup", ["ls"])?.stdout_text().contains("storage-thinpool"), "no pool");
    crate::disk::deactivate()?;
    harness::run("lvchange", ["--activate", "y", "--yes", "storage/thinpool_tmeta"])?;
    let metadata = "/dev/mapper/storage-thinpool_tmeta";
    harness::run("thin_check", [metadata])?;
    let left = harness::run("thin_ls", ["--no-headers", metadata])?.stdout_text();
    ensure!(left.lines().count() == 1, "the pool holds more than the base: {left}");
    Ok(())
}

impl Graph {
    /// Two images, a container that ran, one that runs, one that never ran, and one that is removed while something is in it.
    pub(crate) fn made_by_podman(podman: Podman, root: Root) -> Result<(Self, Leak)> {
        let tar = image_tar(&scratch_dir()?)?;
        let empty = podman.rows()?["Data Space Used"].clone();
        podman.run(&["import".as_ref(), tar.as_os_str(), "lower".as_ref()])?;
        let one = podman.container(&["run"], "lower", "echo one > /made; cat /etc/hello")?;
        podman.run(&["commit", &one, "upper"])?;
        let plain = podman.container(&["create"], "upper", "true")?;
        let long = podman.container(&["run", "-d"], "upper", "echo long > /made; exec sleep 900")?;
        let busy = podman.container(&["run", "-d"], "upper", "exec sleep 900")?;
        let running = podman.pid(&long)?;
        let mut trees = BTreeMap::new();
        for container in [&one, &plain, &long] {
            trees.insert(podman.layer_of("containers", container)?, podman.export(container)?);
        }
        let leak = Leak::into(&root.path.join("mnt").join(podman.layer_of("containers", &busy)?))?;
        podman.run(&["kill", &busy])?;
        podman.run(&["rm", &busy])?;
        Ok((Self { podman, root, trees, one, long, running, empty }, leak))
    }

    /// A container runs, and a removed layer is still open.
    fn first_hand_over(&self, leak: Leak) -> Result<()> {
        let (root, podman) = (&self.root, &self.podman);
        let layers = podman.all_layers()?;
        ensure!(root.ids()? == layers, "ls: {:?}, and Podman knows {layers:?}", root.ids()?);
        let theirs = podman.rows()?;
        let ours: BTreeMap<String, String> = rows(root)?.into_iter().collect();
        ensure!(ours["Deferred Deleted Device Count"] == "1", "nothing is pending: {ours:?}");
        // The container that runs may write at any moment, and Podman asked itself in between.
        for (key, theirs) in
            theirs.iter().filter(|(key, _)| !key.contains("Space Used") && !key.contains("Space Available"))
        {
            let ours = ours.get(key).with_context(|| format!("no row {key}"))?;
            let unnamed = theirs.is_empty() && key.ends_with(" file");
            ensure!(
                ours == theirs || key == LIBRARY || unnamed,
                "{key}: Podman says {theirs:?}, thinlayer {ours:?}"
            );
        }
        let long = podman.layer_of("containers", &self.long)?;
        let said = root.refused(&["rm", &long], 5)?;
        ensure!(said.contains(&*long), "the layer is not named: {said}");
        leak.end()?;

        // What a crash leaves: the mount stays.
        kill_container(self.running)?;
        let mounted = root.json(&["inspect", &long])?;
        let path = mounted["mounted_at"].as_str().with_context(|| format!("it is not mounted: {mounted}"))?;
        self.trees[&long]
            .same(&Tree::read(Path::new(path))?, "Podman's export and the killed container's layer")?;
        root.quiet(&["umount", &long])?;
        self.all_trees_are_whole()?;
        root.check()?;
        let records = records(&root.path)?;
        ensure!(records.len() == layers.len() + 1, "the removed layer's record is still there: {records:?}");
        let upper = podman.layer_of("images", &self.image("upper")?)?;
        root.quiet(&["create", "--parent", &upper, "ours"])?;
        root.quiet(&["create", "gone"])?;
        let tree = PathBuf::from(root.run(&["mount", "ours"])?.trim_end());
        fs::write(tree.join("made-by"), "thinlayer")?;
        root.quiet(&["umount", "ours"])?;
        root.quiet(&["rm", "gone"])?;
        root.check()?;
        root.quiet(&["stop"])
    }

    /// Every layer holds what Podman exported of it.
    pub(crate) fn all_trees_are_whole(&self) -> Result<()> {
        self.trees.iter().try_for_each(|(id, expected)| {
            self.mounted(id, |tree| expected.same(tree, &format!("Podman's export and layer {id}")))
        })
    }

    /// An image's id, out of Podman's list.
    fn image(&self, name: &str) -> Result<String> {
        let path = self.podman.graph.join("devicemapper-images/images.json");
        let list: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(path)?)?;
        let named = |image: &&serde_json::Value| {
            image["names"].as_array().is_some_and(|names| {
                names.iter().any(|one| one.as_str().is_some_and(|one| one.contains(&format!("/{name}"))))
            })
        };
        let found = list.iter().find(named).and_then(|image| image["id"].as_str());
        Ok(found.with_context(|| format!("no image {name} in {list:?}"))?.to_owned())
    }

    fn mounted(&self, id: &str, look: impl FnOnce(&Tree) -> Result<()>) -> Result<()> {
        let tree = PathBuf::from(self.root.run(&["mount", id])?.trim_end());
        let looked = Tree::read(&tree).and_then(|tree| look(&tree));
        self.root.quiet(&["umount", id])?;
        looked
    }

    /// Its containers run, its images are whole.
    pub(crate) fn back_to_podman(&self) -> Result<()> {
        let podman = &self.podman;
        let said = podman.run(&["start", "-a", &self.one])?;
        ensure!(said == "hello", "the container says {said:?}");
        let again = podman.container(&["create"], "upper", "true")?;
        let exported = podman.export(&again)?;
        // The last in the list of trees that nothing was written to.
        let plain = self.trees.values().find(|tree| tree.text("made").as_deref() == Some("one\n"));
        let files = ["etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "run", "dev", "proc", "sys"];
        plain
            .context("no tree")?
            .without(&files)
            .same(&exported.without(&files), "containers before and after")?;
        podman.run(&["rm", &again])?;
        Ok(())
    }

    /// `podman rm` and `podman rmi` work, and nothing is left but what is thinlayer's, which goes then.
    fn everything_goes(&self) -> Result<()> {
        let (podman, root) = (&self.podman, &self.root);
        podman.run(&["rm", "-a", "-f", "-t", "0"])?;
        podman.run(&["rmi", "-a", "-f"])?;
        let theirs = podman.rows()?;
        let ours: BTreeMap<String, String> = rows(root)?.into_iter().collect();
        for (key, theirs) in &theirs {
            let ours = ours.get(key).with_context(|| format!("no row {key}"))?;
            let unnamed = theirs.is_empty() && key.ends_with(" file");
            ensure!(
                ours == theirs || key == LIBRARY || unnamed,
                "{key}: Podman says {theirs:?}, thinlayer {ours:?}"
            );
        }
        let left = root.ids()?;
        ensure!(left.iter().eq(["ours"]), "left over: {left:?}");
        self.mounted("ours", |tree| {
            ensure!(tree.text("made-by").as_deref() == Some("thinlayer"), "our layer changed");
            ensure!(tree.text("made").as_deref() == Some("one\n"), "the image below our layer changed");
            Ok(())
        })?;
        root.quiet(&["rm", "ours"])?;
        let used: BTreeMap<String, String> = rows(root)?.into_iter().collect();
        ensure!(
            used["Data Space Used"] == self.empty,
            "the empty graph used {}, and now it is {}",
            self.empty,
            used["Data Space Used"]
        );
        root.check()?;
        ensure!(records(&root.path)? == ["base"], "records: {:?}", records(&root.path)?);
        Ok(())
    }
}
