//! Running tests: each in a process and a control group of its own, with a deadline, and nothing left afterwards.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::protocol::{Event, Outcome, Plan, PlannedTest, REPORT, Report};
use harness::sweep::{self, Inventory};

use crate::channel::Channel;
use crate::group::{self, Group};
use crate::kernel_log::{KernelLog, dump_blocked_tasks};
use crate::run::environment;

/// How much of a test's output is kept: its end.
const TAIL: usize = 24 * 1024;
/// How long what a test left may need to go by itself, such as a deferred removal or udev's own probe.
const GRACE: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(30);
/// All of the cleaning up after a test, which can itself block.
const CLEAN_UP: Duration = Duration::from_secs(60);
const SOCKET: &str = "/run/thinlayer-agent.socket";
/// What the agent itself sends to [`SOCKET`] when the test's process has ended.
const ENDED: &[u8] = b"ended";

pub(crate) fn run(channel: &Channel, plan: &Plan, tests: &[PlannedTest]) -> Result<()> {
    let mut runner = Runner {
        channel,
        plan,
        before: Inventory::take()?,
        log: KernelLog::from_here()?,
        socket: UnixDatagram::bind(SOCKET).context("cannot make the agent's socket")?,
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut suite = None;
    for test in tests {
        if suite != Some(&test.suite) {
            suite = Some(&test.suite);
            let tests = tests.iter().filter(|other| other.suite == test.suite).count();
            channel.send(Event::SuiteStart { suite: test.suite.clone(), tests });
        }
        match runner.test(test) {
            Outcome::Pass => passed += 1,
            Outcome::Fail => failed += 1,
            Outcome::Skip => skipped += 1,
        }
    }
    channel.send(Event::Done { passed, failed, skipped });
    Ok(())
}

struct Runner<'a> {
    channel: &'a Channel,
    plan: &'a Plan,
    before: Inventory,
    log: KernelLog,
    socket: UnixDatagram,
}

/// How a test's process ended.
enum Ending {
    Exited(ExitStatus),
    Late,
}

impl Runner<'_> {
    fn test(&mut self, test: &PlannedTest) -> Outcome {
        self.channel.send(Event::TestStart { suite: test.suite.clone(), test: test.test.clone() });
        self.log.take(0);
        let start = Instant::now();
        let tail = Tail::default();
        let (outcome, reason) = match self.attempt(test, &tail) {
            Ok(verdict) => verdict,
            Err(error) => (Outcome::Fail, Some(format!("{error:#}"))),
        };
        self.channel.send(Event::TestEnd {
            suite: test.suite.clone(),
            test: test.test.clone(),
            outcome,
            reason,
            millis: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            output: if outcome == Outcome::Pass { String::new() } else { tail.text() },
        });
        outcome
    }

    fn attempt(&mut self, test: &PlannedTest, tail: &Tail) -> Result<(Outcome, Option<String>)> {
        let scratch = Path::new("/scratch").join(&test.suite);
        if test.phase.is_none() {
            empty(&scratch)?;
        }
        let group = Group::new("test")?;
        let (ending, said) = self.process(test, &group, &scratch, tail)?;
        let (mut outcome, mut reason) = verdict(&ending, said, test.deadline);

        if matches!(ending, Ending::Late) {
            dump_blocked_tasks();
            for process in group.processes() {
                tail.line(&format!("process {} ({}) {}", process.pid, process.state, process.command));
                tail.line(process.stack.trim_end());
            }
        }
        if outcome == Outcome::Pass
            && let Some(left) = self.left_behind(&group)?
        {
            outcome = Outcome::Fail;
            reason = Some(format!("the test passed, but left behind: {left}"));
        }
        if outcome == Outcome::Fail {
            for line in self.log.take(150) {
                tail.line(&format!("kernel: {line}"));
            }
        }
        if let Err(error) = self.clean_up(group) {
            let first = reason.map(|reason| format!("{reason}; ")).unwrap_or_default();
            self.wedged(test, format!("{first}{error:#}"), tail);
        }
        if outcome == Outcome::Pass {
            // Gives the room back; what a red test wrote stays until its suite's next test, to be looked at.
            empty(&scratch)?;
        }
        Ok((outcome, reason))
    }

    /// Starts the test's process and waits for its end or the deadline.
    fn process(
        &self,
        test: &PlannedTest,
        group: &Group,
        scratch: &Path,
        tail: &Tail,
    ) -> Result<(Ending, Option<Report>)> {
        let program = PathBuf::from("/thinlayer/payload/suites").join(&test.suite);
        let mut command = group.command(&program);
        environment(&mut command, self.plan, scratch);
        command.env(REPORT, SOCKET).arg("--run-one").arg(&test.test);
        if let Some(phase) = &test.phase {
            command.env("THINLAYER_PHASE", phase);
        }
        let (mut output, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        drop(command);
        let kept = tail.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                kept.push(&buffer[..length]);
            }
        });
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let status = child.wait();
            let _nobody_waits = sender.send(status);
            // Behind whatever the test itself reported, so that no report is missed.
            if let Ok(socket) = UnixDatagram::unbound() {
                let _nobody_waits = socket.send_to(ENDED, SOCKET);
            }
        });

        let limit = Instant::now() + Duration::from_secs(test.deadline);
        let mut said = None;
        let mut datagram = vec![0; 64 * 1024];
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((Ending::Late, said));
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut datagram) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error).context("cannot read from the agent's socket"),
            };
            if &datagram[..length] == ENDED {
                // An earlier test that could not be waited for may end now; only this one's sender counts.
                if let Ok(status) = ended.try_recv() {
                    return Ok((Ending::Exited(status.context("cannot wait for the test")?), said));
                }
                continue;
            }
            match serde_json::from_slice(&datagram[..length]) {
                Ok(Report::PowerCut { phase }) => {
                    self.channel.send(Event::PowerCut {
                        suite: test.suite.clone(),
                        test: test.test.clone(),
                        phase,
                    });
                    self.channel.drain();
                }
                Ok(report) => said = Some(report),
                Err(error) => tail.line(&format!("agent: a report that cannot be read: {error}")),
            }
        }
    }

    /// What is there that was not there before the test, once it had time to go.
    fn left_behind(&self, group: &Group) -> Result<Option<String>> {
        let start = Instant::now();
        loop {
            let left = Inventory::take()?.without(&self.before);
            let processes = group.processes();
            if left.is_empty() && processes.is_empty() {
                return Ok(None);
            }
            if start.elapsed() >= GRACE {
                let mut text = left.describe();
                for process in processes {
                    let comma = if text.is_empty() { "" } else { ", " };
                    text.push_str(&format!("{comma}process {} ({})", process.pid, process.command));
                }
                return Ok(Some(text));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends all processes of a test and removes what it left.
    fn clean_up(&self, group: Group) -> Result<()> {
        let before = self.before.clone();
        in_time(CLEAN_UP, move || {
            if !group.kill(Duration::from_secs(5)).is_empty() {
                // Blocked in the kernel, perhaps by a suspended device: the sweep resumes and removes those.
                let _incomplete = sweep::back_to(&before, Duration::from_secs(1));
                if let Some(process) = group.kill(Duration::from_secs(15)).first() {
                    bail!("process {} ({}) cannot be killed", process.pid, process.command);
                }
            }
            drop(group);
            group::sweep_foreign();
            sweep::back_to(&before, SWEEP)
        })
    }

    /// Only a new boot helps: tells the host, which ends this one.
    fn wedged(&self, test: &PlannedTest, reason: String, tail: &Tail) -> ! {
        dump_blocked_tasks();
        self.channel.send(Event::Wedged {
            suite: test.suite.clone(),
            test: test.test.clone(),
            reason,
            output: tail.text(),
        });
        self.channel.drain();
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

/// Runs something that may block in the kernel for ever, and leaves it behind if it does.
fn in_time(deadline: Duration, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _nobody_waits = sender.send(work());
    });
    match done.recv_timeout(deadline) {
        Ok(result) => result,
        Err(_) => bail!("cleaning up after it blocks for more than {} s", deadline.as_secs()),
    }
}

fn verdict(ending: &Ending, said: Option<Report>, deadline: u64) -> (Outcome, Option<String>) {
    let status = match ending {
        Ending::Late => return (Outcome::Fail, Some(format!("took longer than its {deadline} s"))),
        Ending::Exited(status) => status,
    };
    match said {
        Some(Report::Skip { reason }) => return (Outcome::Skip, Some(reason)),
        Some(Report::Fail { reason }) => return (Outcome::Fail, Some(reason)),
        Some(Report::PowerCut { .. }) | None => {}
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => (Outcome::Pass, None),
        (Some(101), _) => (Outcome::Fail, Some("panicked".to_owned())),
        (Some(code), _) => (Outcome::Fail, Some(format!("ended with exit code {code}"))),
        (None, signal) => (Outcome::Fail, Some(format!("ended by signal {}", signal.unwrap_or_default()))),
    }
}

fn empty(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot empty {}", folder.display())),
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The end of what a test printed.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(TAIL);
        kept.drain(..excess);
    }

    fn line(&self, line: &str) {
        self.push(format!("{line}\n").as_bytes());
    }

    fn text(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_output_is_kept() {
        let tail = Tail::default();
        tail.push(&vec![b'a'; TAIL]);
        tail.line("end");
        assert_eq!(tail.text().len(), TAIL);
        assert!(tail.text().ends_with("aend\n"));
    }

    #[test]
    fn verdicts() {
        let exited = |code: i32| Ending::Exited(ExitStatus::from_raw(code << 8));
        assert_eq!(verdict(&exited(0), None, 1), (Outcome::Pass, None));
        assert_eq!(verdict(&exited(101), None, 1).1.as_deref(), Some("panicked"));
        let skip = Report::Skip { reason: "why".to_owned() };
        assert_eq!(verdict(&exited(77), Some(skip), 1), (Outcome::Skip, Some("why".to_owned())));
        assert_eq!(
            verdict(&Ending::Exited(ExitStatus::from_raw(9)), None, 1).1.as_deref(),
            Some("ended by signal 9")
        );
        assert_eq!(
            verdict(&Ending::Late, None, 5),
            (Outcome::Fail, Some("took longer than its 5 s".to_owned()))
        );
    }
}
