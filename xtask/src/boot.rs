//! One boot of the VM, from the plan to its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::protocol::Plan;

use crate::qemu::Machine;
use crate::results::{Ledger, Step};

/// The guest sends something every five seconds.
const SILENCE: Duration = Duration::from_secs(90);
/// From QEMU's start to the first word: an emulated machine on a busy host takes a minute.
const FIRST_WORD: Duration = Duration::from_secs(240);
/// The guest's own watchdog dumps blocked tasks this long before the host gives up.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(20);

/// Why a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As the last step says.
    Step(Step),
    /// QEMU ended by itself before the guest was done: a panic, or worse.
    Died,
    /// Nothing came for this long.
    Silent(Duration),
    /// The whole boot took longer than this.
    Late(Duration),
}

/// Writes the plan onto its disk: JSON, filled up to whole sectors.
pub(crate) fn write_plan(plan: &Plan, file: &Path) -> Result<()> {
    let mut bytes = serde_json::to_vec(plan)?;
    bytes.resize((bytes.len() + 1).next_multiple_of(4096), 0);
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// Starts the machine and feeds what it reports into the ledger, until it or the guest is done or a deadline
/// has passed. QEMU is gone when this returns.
pub(crate) fn boot(machine: &Machine<'_>, ledger: &mut Ledger, deadline: Duration) -> Result<End> {
    let mut qemu = Running(machine.start()?);
    let stdout = qemu.0.stdout.take().context("QEMU has no standard output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    ledger.new_boot();
    let start = Instant::now();
    let mut last = start;
    loop {
        let patience = if last == start { FIRST_WORD } else { SILENCE };
        let wait = (start + deadline).min(last + patience).saturating_duration_since(Instant::now());
        match lines.recv_timeout(wait) {
            Ok(line) => {
                last = Instant::now();
                let step = ledger.feed(&line)?;
                if step == Step::GoOn {
                    continue;
                }
                if matches!(step, Step::Done | Step::Exit(_)) {
                    qemu.wait(Duration::from_secs(20));
                }
                return Ok(End::Step(step));
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Died),
            Err(RecvTimeoutError::Timeout) if start.elapsed() >= deadline => return Ok(End::Late(deadline)),
            Err(RecvTimeoutError::Timeout) => return Ok(End::Silent(patience)),
        }
    }
}

/// Kills QEMU when it goes out of scope: that is also how the power is cut.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn wait(&mut self, patience: Duration) {
        let start = Instant::now();
        while start.elapsed() < patience {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What the console says about how the guest died, if it panicked, and the console's last lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Console {
    /// The kernel's own words.
    pub(crate) panic: Option<String>,
    /// The end of it.
    pub(crate) tail: String,
    /// The guest died of a breakpoint that nobody has set.
    ///
    /// A kernel that patches its own code puts a breakpoint there for a moment. QEMU's translator, with a thread for each processor, sometimes runs
    /// an old translation with that breakpoint when the kernel has forgotten it. On real processors, KVM's too, that does not happen.
    pub(crate) stray_breakpoint: bool,
}

impl Console {
    /// Of what was written after `from`.
    pub(crate) fn read(file: &Path, from: u64) -> Self {
        let bytes = fs::read(file).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        Self::of(&String::from_utf8_lossy(&bytes[from..]))
    }

    pub(crate) fn of(text: &str) -> Self {
        let panic = text
            .lines()
            .find_map(|line| line.split_once("Kernel panic - not syncing: "))
            .map(|(_, words)| words.trim().to_owned());
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(80)..].join("\n");
        let stray_breakpoint =
            panic.is_some() && [" Oops: int3: ", "] int3: 0000 "].iter().any(|words| text.contains(words));
        Self { panic, tail, stray_breakpoint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_on_the_console() {
        let text = "[    1.0] booting\r\n[   12.5] Kernel panic - not syncing: hung_task: blocked tasks\r\n[ 12.6] CPU: 0\n";
        let console = Console::of(text);
        assert_eq!(console.panic.as_deref(), Some("hung_task: blocked tasks"));
        assert!(console.tail.ends_with("CPU: 0"));
        assert!(!console.stray_breakpoint);
        assert_eq!(Console::of("all is well\n").panic, None);
        let text = "[  262.5] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n[  262.6] Kernel panic - not syncing: Fatal exception\n";
        assert!(Console::of(text).stray_breakpoint);
    }

    #[test]
    fn a_missing_console_is_an_empty_one() {
        assert_eq!(Console::read(Path::new("/nonexistent/console"), 10), Console::of(""));
    }
}
