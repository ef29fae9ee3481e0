//! One graph's way from dockerd to thinlayer and back, twice, on one file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;

use suites::dockerd::Docker;
use suites::engine::Engine;
use suites::tree::{Tree, image_tar};

use crate::fixture::{Root, options};
use crate::found::{Found, Leak, records, row, rows, same_rows, transaction_id};
use crate::refusals;

/// What Docker puts over an image, into a container's init layer.
pub(crate) const INIT_FILES: [&str; 7] =
    [".dockerenv", "dev", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc"];
/// A row that names another program's version.
const LIBRARY: &str = "Library Version";
/// Runs until it is killed. Its root folder gets a mode of its own.
const LONG: &str = "echo long > /made; chmod 750 /; exec sleep 900";

/// The graph, and what is known of it from Docker alone.
struct Graph {
    docker: Docker,
    root: Root,
    /// The layers of the lower and of the upper image.
    lower: String,
    upper: String,
    /// A container that never ran, and its export.
    plain: String,
    plain_tree: Tree,
    /// A container that ran to its end.
    one: String,
    /// A container that ran when it was exported, and was killed later.
    long: String,
    long_tree: Tree,
    /// "Data Space Used" when there was nothing but the base.
    empty: String,
    /// How many removed layers were pending when dockerd ended.
    pending: String,
}

pub(crate) fn there_and_back(filesystem: &str) -> Result<()> {
    let (mut graph, leak) = Graph::made_by_docker(filesystem)?;
    graph.first_hand_over(leak).context("thinlayer on the graph, the first time")?;
    let container = graph.docker_has_it_back().context("dockerd has it back")?;
    graph.killed(container).context("dockerd was killed")?;
    if filesystem == "xfs" {
        refusals::second_loop_device(&graph.root).context("a second loop device")?;
        refusals::foreign_pool_of_this_name(&graph.root).context("a foreign pool of this root's name")?;
        refusals::pool_of_another_root(&graph.root).context("another root's pool")?;
    }
    graph.everything_goes().context("at the end")
}

impl Graph {
    /// Two images, a container that ran, one that runs a while, one that never ran, and one that is removed while something is in it.
    fn made_by_docker(filesystem: &str) -> Result<(Self, Leak)> {
        let tar = image_tar(&scratch_dir()?)?;
        let mut docker = Docker::new(options(filesystem))?;
        docker.start()?;
        // No option: a root is opened as it is found.
        let root = Root::with(&docker.home(), Vec::new())?;
        let empty = row(&docker.rows()?, "Data Space Used")?.to_owned();
        docker.run(&["import".as_ref(), tar.as_os_str(), "lower".as_ref()])?;
        let one = docker.container(&["run"], "lower", "echo one > /made; cat /etc/hello")?;
        docker.run(&["commit", &one, "upper"])?;
        let long = docker.container(&["run", "-d"], "upper", LONG)?;
        let busy = docker.container(&["run", "-d"], "upper", "exec sleep 900")?;
        let plain = docker.container(&["create"], "upper", "true")?;
        let plain_tree = docker.export(&plain)?;
        let long_tree = docker.export(&long)?;
        refusals::running_dockerd(&root).context("a running dockerd")?;
        docker.run(&["kill", &long])?;

        let leak = Leak::into(&root.path.join("mnt").join(docker.layers_of(&busy)?.0))?;
        docker.run(&["rm", "-f", &busy])?;
        // dockerd's worker tries the pending deletion every 30 seconds, and each try moves the pool's transaction id.
        let pool = row(&docker.rows()?, "Pool Name")?.to_owned();
        let before = transaction_id(&pool)?;
        let said = docker.rows()?;
        docker.stop()?;
        let tried = transaction_id(&pool)? != before;

        let ours = rows(&root)?;
        // The container's layer is. Its init layer too, if something still had that open when Docker came to it.
        let pending = row(&ours, "Deferred Deleted Device Count")?.to_owned();
        ensure!(["1", "2"].contains(&pending.as_str()), "{pending} are pending: {ours:?}");
        let moving =
            [LIBRARY, "Metadata Space Used", "Metadata Space Available", "Deferred Deleted Device Count"];
        same_rows(&said, &ours, if tried { &moving } else { &[LIBRARY] })
            .context("status after dockerd's end, with the pool still there")?;

        let (upper, lower) = docker.image_layers()?;
        let one_of = |mut layers: Vec<String>| {
            ensure!(layers.len() == 1, "not one layer but {layers:?}");
            layers.pop().context("no layer")
        };
        let (upper, lower) = (one_of(upper)?, one_of(lower)?);
        let graph =
            Self { docker, root, lower, upper, plain, plain_tree, one, long, long_tree, empty, pending };
        Ok((graph, leak))
    }

    /// dockerd has ended, and its pool stays because of the leak.
    fn first_hand_over(&mut self, leak: Leak) -> Result<()> {
        let root = &self.root;
        let layers = self.docker.all_layers()?;
        ensure!(root.ids()? == layers, "ls: {:?}, and Docker knows {layers:?}", root.ids()?);
        let text = root.run(&["check"])?;
        ensure!(
            text.lines().count() == 1
                && text.contains(&format!("({} of removed layers", self.pending))
                && text.ends_with(": all agree\n"),
            "check finds more than the pending deletion: {text}"
        );
        leak.end()?;
        self.whole().context("each layer against what Docker exported")?;
        root.check()?;
        ensure!(records(&root.path)?.len() == layers.len() + 1, "the removed layer's record is still there");

        root.quiet(&["create", "--parent", &self.upper, "ours"])?;
        root.quiet(&["create", "gone"])?;
        let tree = PathBuf::from(root.run(&["mount", "ours"])?.trim_end());
        fs::write(tree.join("made-by"), "thinlayer")?;
        root.quiet(&["umount", "ours"])?;
        root.quiet(&["rm", "gone"])?;
        root.check()?;
        root.stop_and_check()?;
        ensure!(
            root.devices_in_pool()? == layers.len() + 2,
            "the pool holds more than base, layers and ours"
        );
        Ok(())
    }

    /// Every layer that Docker knows is what Docker exported, and is unmounted again.
    fn whole(&self) -> Result<()> {
        let image = self.plain_tree.without(&INIT_FILES).without(&["sys"]);
        let lower = image.without(&["made"]);
        let (plain, plain_init) = self.docker.layers_of(&self.plain)?;
        let (one, one_init) = self.docker.layers_of(&self.one)?;
        let (long, long_init) = self.docker.layers_of(&self.long)?;
        let exact =
            [(plain, &self.plain_tree), (plain_init, &self.plain_tree), (long.clone(), &self.long_tree)];
        // Docker's own files in an init layer have the time of its making.
        let bare = [
            (&self.upper, &image),
            (&self.lower, &lower),
            (&one_init, &lower),
            (&one, &image),
            (&long_init, &image),
        ];
        let seen = exact.len() + bare.len();
        for (id, expected) in exact {
            self.mounted(&id, |tree| expected.same(tree, &format!("Docker's export and layer {id}")))?;
        }
        for (id, expected) in bare {
            self.mounted(id, |tree| {
                expected
                    .same(&tree.without(&INIT_FILES).without(&["sys"]), &format!("the image and layer {id}"))
            })?;
        }
        ensure!(seen == self.docker.all_layers()?.len(), "only {seen} layers were looked at");
        // No export holds the top folder itself.
        let tree = PathBuf::from(self.root.run(&["mount", &long])?.trim_end());
        let mode = fs::metadata(&tree)?.permissions().mode() & 0o7777;
        self.root.quiet(&["umount", &long])?;
        ensure!(mode == 0o750, "the container gave its root folder mode 750, and it has {mode:o}");
        Ok(())
    }

    fn mounted(&self, id: &str, look: impl FnOnce(&Tree) -> Result<()>) -> Result<()> {
        let tree = PathBuf::from(self.root.run(&["mount", id])?.trim_end());
        let looked = Tree::read(&tree).and_then(|tree| look(&tree));
        self.root.quiet(&["umount", id])?;
        looked
    }

    /// Its containers run, its images are whole. One runs when this returns: its process.
    fn docker_has_it_back(&mut self) -> Result<u32> {
        let docker = &mut self.docker;
        docker.start()?;
        let said = docker.run(&["start", "-a", &self.one])?;
        ensure!(said == "hello", "the container says {said:?}");
        let again = docker.container(&["create"], "upper", "true")?;
        let exported = docker.export(&again)?.without(&INIT_FILES);
        self.plain_tree.without(&INIT_FILES).same(&exported, "containers of the image before and after")?;
        docker.run(&["rm", &again])?;
        docker.run(&["start", &self.long])?;
        let said = docker.run(&["exec", &self.long, "/bin/cat", "/made"])?;
        ensure!(said == "long", "the container's file holds {said:?}");
        docker.pid(&self.long)
    }

    /// dockerd is killed while a container runs, and then everything.
    fn killed(&mut self, container: u32) -> Result<()> {
        let layers = self.docker.all_layers()?;
        let long = self.docker.layers_of(&self.long)?.0;
        self.docker.kill_dockerd()?;
        let root = &self.root;
        // The layer is in use: nothing takes it away, and nothing of the graph is lost.
        let said = root.refused(&["rm", &long], 5)?;
        ensure!(said.contains(&*long), "the layer is not named: {said}");
        let ids = root.ids()?;
        ensure!(ids.len() == layers.len() + 1 && layers.is_subset(&ids), "ls: {ids:?}");
        let inside = PathBuf::from(format!("/proc/{container}/root/made"));
        ensure!(fs::read_to_string(&inside)? == "long\n", "the container's file changed");
        root.check().context("with the container running")?;
        let before = Found::at(&root.path)?;
        ensure!(!before.is_at_rest(), "the pool is gone while a container runs");

        self.docker.kill_all(container)?;
        let root = &self.root;
        root.check().context("after all were killed")?;
        let mounted = root.json(&["inspect", &long])?;
        let path = mounted["mounted_at"]
            .as_str()
            .with_context(|| format!("it is not mounted: {mounted}"))?
            .to_owned();
        let tree = Tree::read(Path::new(&path))?;
        ensure!(tree.text("made").as_deref() == Some("long\n"), "the killed container's file changed");
        root.quiet(&["umount", &long])?;
        self.whole_again(&long)?;
        self.root.stop_and_check()
    }

    /// What was written before the kill and synced by the unmount is there.
    fn whole_again(&self, long: &str) -> Result<()> {
        let expected = self.long_tree.without(&INIT_FILES).without(&["sys"]);
        self.mounted(long, |tree| {
            expected.without(&["made"]).same(
                &tree.without(&INIT_FILES).without(&["sys", "made"]),
                "the killed container's layer before and after",
            )
        })
    }

    /// `docker rm` and `docker rmi` work, and nothing is left but what is thinlayer's, which goes then.
    fn everything_goes(mut self) -> Result<()> {
        let docker = &mut self.docker;
        docker.start()?;
        docker.run(&["rm", "-f", &self.one, &self.long, &self.plain])?;
        docker.run(&["rmi", "upper", "lower"])?;
        let said = docker.rows()?;
        docker.stop()?;
        let root = &self.root;
        ensure!(Found::at(&root.path)?.is_at_rest(), "dockerd did not take its pool down");
        same_rows(&said, &rows(root)?, &[LIBRARY])
            .context("status after dockerd's end, with the pool gone")?;
        let left = root.ids()?;
        ensure!(left.iter().eq(["ours"]), "left over: {left:?}");
        self.mounted("ours", |tree| {
            ensure!(tree.text("made-by").as_deref() == Some("thinlayer"), "our layer changed");
            self.plain_tree.without(&INIT_FILES).without(&["sys"]).same(
                &tree.without(&INIT_FILES).without(&["sys", "made-by"]),
                "the image and our layer on it",
            )
        })?;
        root.quiet(&["rm", "ours"])?;
        let used = rows(root)?;
        ensure!(
            row(&used, "Data Space Used")? == self.empty,
            "the empty graph used {}, and now it is {}",
            self.empty,
            row(&used, "Data Space Used")?
        );
        root.check()?;
        root.stop_and_check()?;
        ensure!(records(&root.path)? == ["base"], "records: {:?}", records(&root.path)?);
        ensure!(root.devices_in_pool()? == 1, "the pool holds {} devices", root.devices_in_pool()?);
        Ok(())
    }
}
