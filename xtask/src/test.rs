//! `cargo xtask test` and `soak`: all tests, on the host and in the VM.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::num::NonZero;
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::protocol::{Outcome, PlannedTest, Work};

use crate::command;
use crate::kernel::Line;
use crate::plan::{self, Part};
use crate::qemu::{Accel, Init};
use crate::report::{Count, TestLines, junit};
use crate::results::{Ledger, TestResult};
use crate::session::{Session, results_folder};
use crate::suites::{self, Program, Wanted};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only on this kernel; may be given twice. Then every suite that can run there does.
    #[arg(long, value_enum)]
    pub(crate) kernel: Vec<Line>,
    /// Only without udev in the guest.
    #[arg(long, conflicts_with = "init")]
    pub(crate) no_udev: bool,
    /// Only with this process 1 in the guest.
    #[arg(long, value_enum)]
    pub(crate) init: Option<Init>,
    /// Every suite on every combination of kernel and udev where it can run.
    #[arg(long, conflicts_with_all = ["kernel", "no_udev", "init"])]
    pub(crate) matrix: bool,
    /// How guest code is executed; without this, by KVM if a trial boot proves it.
    #[arg(long, value_enum)]
    pub(crate) accel: Option<Accel>,
    /// Only tests whose names contain this.
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Only this suite, in the VM; may be given more than once.
    #[arg(long)]
    pub(crate) suite: Vec<String>,
    /// Keeps the scratch disk, for `cargo xtask vm --keep`.
    #[arg(long)]
    pub(crate) keep: bool,
    /// How many VMs run at the same time; without this, as many as there are processors.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Only the tests that run here.
    #[arg(long, conflicts_with = "vm_only")]
    pub(crate) host_only: bool,
    /// Only the tests that run in the VM.
    #[arg(long)]
    pub(crate) vm_only: bool,
    /// Seconds that one boot of the VM may take at most.
    #[arg(long, default_value_t = 5400)]
    pub(crate) vm_deadline: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SoakArguments {
    /// How many rounds each test that can soak goes.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    #[command(flatten)]
    tests: Arguments,
}

/// A soak's rounds take the longer for it.
const SOAK_FACTOR: u64 = 60;

pub(crate) fn soak(arguments: &SoakArguments) -> Result<ExitCode> {
    let extra = [("THINLAYER_SOAK_ROUNDS".to_owned(), arguments.rounds.to_string())];
    let mut tests = arguments.tests.clone();
    tests.vm_only = true;
    tests.vm_deadline = tests.vm_deadline.max(24 * 3600);
    all(&tests, &extra, SOAK_FACTOR)
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    all(arguments, &[], 1)
}

fn all(arguments: &Arguments, extra: &[(String, String)], factor: u64) -> Result<ExitCode> {
    let start = Instant::now();
    let mut total = Count::default();
    let mut red = Vec::new();
    if !arguments.vm_only && arguments.suite.is_empty() {
        println!("== tests on this machine");
        total.add(host(arguments, &mut red)?);
    }
    let mut broken = None;
    if !arguments.host_only
        && let Err(error) = in_vm(arguments, extra, factor, &mut total, &mut red)
    {
        eprintln!("xtask: {error:#}");
        broken = Some(error);
    }
    println!("\n== {} s", start.elapsed().as_secs());
    for name in &red {
        println!("red: {name}");
    }
    if broken.is_some() {
        println!("the runner is broken: results are missing");
    }
    println!("{total}");
    if broken.is_some() {
        return Ok(ExitCode::from(crate::BROKEN));
    }
    if total.passed + total.failed + total.skipped == 0 {
        eprintln!("xtask: no test matches");
        return Ok(ExitCode::from(crate::USAGE));
    }
    Ok(if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The unprivileged tests, all of them even if some are red.
fn host(arguments: &Arguments, red: &mut Vec<String>) -> Result<Count> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    // What runs in the VM only.
    cargo.args(["--exclude", "suites", "--exclude", "benches", "--exclude", "codegen"]);
    if let Some(filter) = &arguments.filter {
        cargo.args(["--", filter]);
    }
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(of_one) = libtest_result(&line) {
            count.add(of_one);
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            red.push(name.to_owned());
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
        red.push("the tests on this machine do not build, or one of them died".to_owned());
    }
    Ok(count)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn libtest_result(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut count = Count::default();
    for part in counts.split("; ") {
        let (number, word) = part.split_once(' ')?;
        match word {
            "passed" => count.passed = number.parse().ok()?,
            "failed" => count.failed = number.parse().ok()?,
            "ignored" => count.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(count)
}

fn in_vm(
    arguments: &Arguments,
    extra: &[(String, String)],
    factor: u64,
    total: &mut Count,
    red: &mut Vec<String>,
) -> Result<()> {
    let names = suites::suite_names()?;
    if let Some(unknown) = arguments.suite.iter().find(|name| !names.contains(name)) {
        bail!("there is no suite {unknown}; there are: {}", names.join(", "));
    }
    let (wanted, program) = if arguments.suite.is_empty() {
        (names, Program::Needed)
    } else {
        (arguments.suite.clone(), Program::Welcome)
    };
    let built = suites::build(&Wanted { suites: wanted, program, ..Wanted::default() })?;
    let described = suites::describe(&built)?;
    let processors = arguments.jobs.unwrap_or_else(processors).max(1);
    let work = plan::all(&described, arguments, factor, processors);
    if work.is_empty() {
        return Ok(());
    }
    let jobs = processors.min(work.len());
    let session = Session::open(&built, arguments.accel, arguments.keep, jobs)?;
    // The last run's, which may have had other parts.
    let _old = fs::remove_dir_all(results_folder());
    let queue = Mutex::new(VecDeque::from(work));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(part) = next() {
                    let ran = one_vm(&session, &part, extra, arguments.vm_deadline);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((part, ran));
                }
            });
        }
    });
    let mut broken = Vec::new();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(part, _)| part.number);
    let mut by_configuration: Vec<(String, Vec<TestResult>)> = Vec::new();
    for (part, (results, ran)) in done {
        total.add(Count::of(&results));
        let name = part.configuration.name();
        for result in &results {
            match result.outcome {
                Outcome::Pass => {}
                Outcome::Fail => red.push(format!("{name}: {}: {}", result.suite, result.test)),
                Outcome::Skip => red.push(format!("{name}: {}: {} (skipped)", result.suite, result.test)),
            }
        }
        if let Err(error) = ran {
            broken.push(format!("in the VM {}: {error:#}", part.name));
        }
        match by_configuration.last_mut() {
            Some((last, all)) if *last == name => all.extend(results),
            _ => by_configuration.push((name, results)),
        }
    }
    for (name, results) in by_configuration {
        let file = results_folder().join(format!("{name}.xml"));
        fs::write(&file, junit(&name, &results))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if broken.is_empty() { Ok(()) } else { bail!(broken.join("\n")) }
}

/// Runs the tests of one VM: their results, and whether these are all.
fn one_vm(
    session: &Session,
    part: &Part,
    extra: &[(String, String)],
    limit: u64,
) -> (Vec<TestResult>, Result<()>) {
    println!("== VM {}: {} tests", part.name, part.tests.len());
    let deadline = deadline(&part.tests, limit);
    let mut ledger = Ledger::new(part.tests.clone(), Box::new(TestLines { vm: part.name.clone() }));
    let ran = session.guest(part.configuration, &part.name).and_then(|mut guest| {
        guest.run(&|ledger| Work::Tests { tests: ledger.waiting() }, extra, &mut ledger, deadline)
    });
    let results = ledger.results();
    let complete = ran.and_then(|_| {
        if results.len() == part.tests.len() {
            Ok(())
        } else {
            bail!("{} tests were planned, and there are {} results", part.tests.len(), results.len())
        }
    });
    (results, complete)
}

/// A boot may take what its tests may take together, up to a limit.
fn deadline(tests: &[PlannedTest], limit: u64) -> Duration {
    let together: u64 = tests.iter().map(|test| test.deadline + 30).sum();
    Duration::from_secs((together + 300).min(limit))
}

/// An emulated VM's tests, which run one after the other, keep about one processor busy.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(libtest_result(line), Some(Count { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(libtest_result("test a::b ... ok"), None);
    }
}
