//! How much memory the owner of a root with many layers takes: a process with an open driver, and `thinlayer serve`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thinlayer_graphdriver::{CreateRequest, LayerId, Unmount};

use crate::parties::{Clocks, Opened};
use crate::say;
use crate::table::{Table, short};

/// The most that the owner may take, in MiB.
pub(crate) const GOAL: f64 = 20.0;

/// Small, so that many layers are made soon: memory depends on how many there are, not on what is in them.
const OPTIONS: [&str; 5] =
    ["dm.basesize=16M", "dm.loopdatasize=1G", "dm.loopmetadatasize=64M", "dm.fs=ext4", "dm.blkdiscard=false"];
const READY: &str = "ready";
/// For `serve` to come up and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One process's memory, in MiB.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) who: &'static str,
    /// The most that it ever had in memory (`VmHWM`).
    pub(crate) peak: f64,
    /// What it has in memory now (`Rss` of `smaps_rollup`, which is exact).
    pub(crate) resident: f64,
    /// The same, where what it shares with others counts by its share (`Pss`).
    pub(crate) proportional: f64,
}

impl Usage {
    fn of(who: &'static str, pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self {
            who,
            peak: field(&status, "VmHWM:")?,
            resident: field(&rollup, "Rss:")?,
            proportional: field(&rollup, "Pss:")?,
        })
    }

    pub(crate) fn holds(&self) -> bool {
        self.peak.max(self.resident) < GOAL
    }
}

/// A field of /proc that is in kB, in MiB.
fn field(text: &str, name: &str) -> Result<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .with_context(|| format!("the kernel does not tell {name}"))?;
    Ok(value.trim().parse::<f64>()? / 1024.0)
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) layers: u32,
    pub(crate) usages: Vec<Usage>,
    /// How long a create took while the layers were made, in ms: the whole time by the count.
    create_ms: f64,
}

impl Memory {
    pub(crate) fn text(&self) -> String {
        let title = format!("Memory of the owner of a root with {} layers, MiB", self.layers);
        let mut table = Table::new(title, &["process", "peak (VmHWM)", "resident (Rss)", "Pss"]);
        for usage in &self.usages {
            let figures = [usage.peak, usage.resident, usage.proportional].map(short);
            table.row([usage.who.to_owned()].into_iter().chain(figures));
        }
        table.text() + &format!("  (making the layers took {:.1} ms each)\n", self.create_ms)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let usage = |usage: &Usage| {
            serde_json::json!({
                "process": usage.who, "peak_mib": usage.peak, "resident_mib": usage.resident, "pss_mib": usage.proportional,
            })
        };
        serde_json::json!({
            "layers": self.layers,
            "create_ms": self.create_ms,
            "usages": self.usages.iter().map(usage).collect::<Vec<_>>(),
        })
    }
}

/// Makes the layers in a process of its own, measures that, then `serve` on the same root.
pub(crate) fn measure(root: &Path, layers: u32) -> Result<Memory> {
    say(&format!("a root with {layers} layers"));
    std::fs::create_dir_all(root)?;
    let start = Instant::now();
    let driver = driver(root, layers)?;
    let create_ms = start.elapsed().as_secs_f64() * 1e3 / f64::from(layers.max(1));
    let serve = serve(root, layers)?;
    thinlayer(root, &["stop"])?;
    Ok(Memory { layers, usages: vec![driver, serve], create_ms })
}

/// A child that is killed if it is dropped alive.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, but after a failure.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

fn driver(root: &Path, layers: u32) -> Result<Usage> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("--own").arg(root).arg("--layers").arg(layers.to_string());
    let mut child = Running(child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line.trim() == READY, "the process that makes the layers failed");
    let usage = Usage::of("driver (library), which made them", child.0.id())?;
    drop(child.0.stdin.take());
    let status = child.0.wait()?;
    ensure!(status.success(), "the process that made the layers ended with {status}");
    Ok(usage)
}

/// What the child does: see [`driver`].
pub(crate) fn own(root: &Path, layers: u32) -> Result<()> {
    let opened = Opened::open(root, &OPTIONS.map(str::to_owned), Clocks::No)?;
    opened.make_parent()?;
    let mut last = None;
    for number in 1..layers {
        let id = LayerId::given(&format!("layer-{number}"))?;
        let request = match &last {
            // Chains of ten, as images have.
            Some(parent) if number % 10 != 0 => CreateRequest::on(LayerId::clone(parent)),
            _ => CreateRequest::empty(),
        };
        opened.driver.create(&id, &request)?;
        last = Some(id);
    }
    if let Some(id) = &last {
        opened.driver.get(id, None)?;
        opened.driver.put(id, Unmount::Now)?;
    }
    let count = opened.driver.layers()?.len();
    ensure!(count == layers as usize, "{count} layers in place of {layers}");
    opened.driver.status()?;
    println!("{READY}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Pool and layers stay, for the next owner.
    Ok(())
}

fn command(root: &Path) -> Command {
    let mut command = Command::new("thinlayer");
    command.arg("--root").arg(root);
    for option in OPTIONS {
        command.args(["--storage-opt", option]);
    }
    command
}

fn thinlayer(root: &Path, words: &[&str]) -> Result<String> {
    let output = command(root).args(words).stdin(Stdio::null()).output().context("cannot start thinlayer")?;
    if !output.status.success() {
        bail!("thinlayer {words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `serve` on the root, after some commands have gone through it.
fn serve(root: &Path, layers: u32) -> Result<Usage> {
    let mut child =
        Running(command(root).arg("serve").stdin(Stdio::null()).spawn().context("cannot start thinlayer")?);
    let pid = child.0.id();
    let lock = root.join("thinlayer/lock");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.0.try_wait()? {
            bail!("thinlayer serve ended with {status}");
        }
        // It owns the root from when its name stands in the lock, and answers soon after.
        if std::fs::read_to_string(&lock).is_ok_and(|text| text.contains(&format!("\"pid\":{pid}"))) {
            break;
        }
        ensure!(Instant::now() < end, "thinlayer serve does not own the root after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for words in [
        &["--wait", "60", "create", "--parent", "layer-1", "last"][..],
        &["mount", "last"],
        &["umount", "last"],
        &["rm", "last"],
        &["status"],
        &["check"],
    ] {
        thinlayer(root, words)?;
    }
    let listed: serde_json::Value = serde_json::from_str(&thinlayer(root, &["--json", "ls"])?)?;
    let count = listed.as_array().map_or(0, Vec::len);
    ensure!(count == layers as usize, "{count} layers are listed in place of {layers}");
    ensure!(child.0.try_wait()?.is_none(), "thinlayer serve has ended by itself");
    let usage = Usage::of("thinlayer serve, after some commands", pid)?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    let end = Instant::now() + PATIENCE;
    while child.0.try_wait()?.is_none() {
        ensure!(Instant::now() < end, "thinlayer serve does not end after SIGTERM");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_in_mebibytes() {
        let text = "Name:\tbench\nVmHWM:\t    2048 kB\nVmRSS:\t    1536 kB\n";
        assert!((field(text, "VmHWM:").unwrap() - 2.0).abs() < 1e-9);
        assert!((field(text, "VmRSS:").unwrap() - 1.5).abs() < 1e-9);
        assert!(field(text, "VmSwap:").is_err());
    }
}
