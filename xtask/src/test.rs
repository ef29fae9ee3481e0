//! `cargo xtask test` and `soak`: all tests, on the host and in the VM.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::Set;
use harness::protocol::{Outcome, PlannedTest, SuiteDescription, TestDescription, Work};

use crate::command;
use crate::guest::Configuration;
use crate::install::{self, Need};
use crate::kernel::Line;
use crate::qemu::{Accel, Init};
use crate::report::{Count, TestLines, junit};
use crate::results::{Ledger, TestResult};
use crate::session::{Session, results_folder};
use crate::suites::{self, Program, Wanted};

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only on this kernel; may be given twice. Then every suite that can run there does.
    #[arg(long, value_enum)]
    kernel: Vec<Line>,
    /// Only without udev in the guest.
    #[arg(long, conflicts_with = "init")]
    no_udev: bool,
    /// Only with this process 1 in the guest.
    #[arg(long, value_enum)]
    init: Option<Init>,
    /// Every suite on every combination of kernel and udev where it can run.
    #[arg(long, conflicts_with_all = ["kernel", "no_udev", "init"])]
    matrix: bool,
    /// How guest code is executed; without this, by KVM if a trial boot proves it.
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Only tests whose names contain this; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// Only this suite, in the VM; may be given more than once.
    #[arg(long)]
    suite: Vec<String>,
    /// Keeps the scratch disk, for `cargo xtask vm --keep`.
    #[arg(long)]
    keep: bool,
    /// How many configurations run at the same time, each in a VM of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only the tests that run here.
    #[arg(long, conflicts_with = "vm_only")]
    host_only: bool,
    /// Only the tests that run in the VM.
    #[arg(long)]
    vm_only: bool,
    /// Seconds that one boot of the VM may take at most.
    #[arg(long, default_value_t = 5400)]
    vm_deadline: u64,
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

/// Programs whose answers the tests on this machine compare with.
const ORACLES: &[Need] = &[
    Need { present: || install::program("bsdtar"), package: "libarchive-tools" },
    Need { present: || install::program("gzip"), package: "gzip" },
    Need { present: || install::program("python3"), package: "python3" },
    Need { present: || install::program("tar"), package: "tar" },
    Need { present: || install::program("zstd"), package: "zstd" },
];

/// The unprivileged tests, all of them even if some are red.
fn host(arguments: &Arguments, red: &mut Vec<String>) -> Result<Count> {
    install::ensure(ORACLES)?;
    let mut cargo = command::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    // What runs in the VM only.
    cargo.args(["--exclude", "suites", "--exclude", "benches", "--exclude", "codegen"]);
    if !arguments.filter.is_empty() {
        cargo.arg("--").args(&arguments.filter);
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
    let work: Vec<(Configuration, Vec<PlannedTest>)> = configurations(arguments)
        .into_iter()
        .map(|configuration| {
            let tests = plan(&described, &configuration, arguments, factor);
            (configuration, tests)
        })
        .filter(|(_, tests)| !tests.is_empty())
        .collect();
    if work.is_empty() {
        return Ok(());
    }
    let jobs = arguments.jobs.clamp(1, work.len());
    let session = Session::open(&built, arguments.accel, arguments.keep, jobs)?;
    let queue = Mutex::new(VecDeque::from(work));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((configuration, tests)) = next() {
                    let ran = one_vm(&session, configuration, tests, extra, arguments.vm_deadline);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((configuration, ran));
                }
            });
        }
    });
    let mut broken = Vec::new();
    for (configuration, (results, ran)) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let name = configuration.name();
        total.add(Count::of(&results));
        for result in &results {
            match result.outcome {
                Outcome::Pass => {}
                Outcome::Fail => red.push(format!("{name}: {}: {}", result.suite, result.test)),
                Outcome::Skip => red.push(format!("{name}: {}: {} (skipped)", result.suite, result.test)),
            }
        }
        if let Err(error) = ran {
            broken.push(format!("in the VM {name}: {error:#}"));
        }
    }
    if broken.is_empty() { Ok(()) } else { bail!(broken.join("\n")) }
}

/// Runs the tests of one configuration: their results, and whether these are all.
fn one_vm(
    session: &Session,
    configuration: Configuration,
    tests: Vec<PlannedTest>,
    extra: &[(String, String)],
    limit: u64,
) -> (Vec<TestResult>, Result<()>) {
    let name = configuration.name();
    println!("== VM {name}: {} tests", tests.len());
    let planned = tests.len();
    let deadline = deadline(&tests, limit);
    let mut ledger = Ledger::new(tests, Box::new(TestLines { vm: name.clone() }));
    let ran = session.guest(configuration).and_then(|mut guest| {
        guest.run(&|ledger| Work::Tests { tests: ledger.waiting() }, extra, &mut ledger, deadline)
    });
    let results = ledger.results();
    let file = results_folder().join(format!("{name}.xml"));
    let written =
        fs::write(&file, junit(&name, &results)).with_context(|| format!("cannot write {}", file.display()));
    let complete = ran.and(written).and_then(|()| {
        if results.len() == planned {
            Ok(())
        } else {
            bail!("{planned} tests were planned, and there are {} results", results.len())
        }
    });
    (results, complete)
}

/// A boot may take what its tests may take together, up to a limit.
fn deadline(tests: &[PlannedTest], limit: u64) -> Duration {
    let together: u64 = tests.iter().map(|test| test.deadline + 30).sum();
    Duration::from_secs((together + 300).min(limit))
}

fn configurations(arguments: &Arguments) -> Vec<Configuration> {
    let agent = |kernel, udev| Configuration { kernel, udev, init: Init::Agent };
    let systemd = |kernel| Configuration { kernel, udev: true, init: Init::Systemd };
    let (v6_1, v6_12) = (Line::V6_1, Line::V6_12);
    if arguments.matrix {
        return vec![
            agent(v6_1, true),
            agent(v6_12, true),
            agent(v6_1, false),
            agent(v6_12, false),
            systemd(v6_1),
            systemd(v6_12),
        ];
    }
    if !explicit(arguments) {
        return vec![agent(v6_1, true), agent(v6_12, true), agent(v6_1, false), systemd(v6_1)];
    }
    let kernels = if arguments.kernel.is_empty() { vec![v6_1] } else { arguments.kernel.clone() };
    kernels
        .into_iter()
        .map(|kernel| match arguments.init {
            Some(Init::Systemd) => systemd(kernel),
            _ => agent(kernel, !arguments.no_udev),
        })
        .collect()
}

/// Whether the person chose the configuration.
fn explicit(arguments: &Arguments) -> bool {
    !arguments.kernel.is_empty() || arguments.no_udev || arguments.init.is_some()
}

fn plan(
    described: &[SuiteDescription],
    configuration: &Configuration,
    arguments: &Arguments,
    factor: u64,
) -> Vec<PlannedTest> {
    let anywhere = arguments.matrix || explicit(arguments);
    let wanted = |name: &str| {
        arguments.filter.is_empty() || arguments.filter.iter().any(|filter| name.contains(filter.as_str()))
    };
    described
        .iter()
        .filter(|suite| suite.set != Set::OnRequest || arguments.suite.contains(&suite.suite))
        .filter(|suite| suite_belongs(suite.set, configuration, anywhere, arguments.init.is_some()))
        .flat_map(|suite| {
            suite
                .tests
                .iter()
                .filter(|test| test_belongs(test, configuration))
                .filter(|test| !test.thorough || arguments.matrix || arguments.suite.contains(&suite.suite))
                .filter(move |test| wanted(&format!("{}: {}", suite.suite, test.test)))
                .map(|test| PlannedTest {
                    suite: suite.suite.clone(),
                    test: test.test.clone(),
                    deadline: test.deadline.saturating_mul(factor),
                    phase: None,
                })
        })
        .collect()
}

/// `anywhere`: wherever it can run, not only where a plain run has it. `any_init`: the person named process 1.
fn suite_belongs(set: Set, configuration: &Configuration, anywhere: bool, any_init: bool) -> bool {
    let systemd = configuration.init == Init::Systemd;
    let main = configuration.kernel == Line::V6_1 && configuration.udev;
    match set {
        Set::Systemd => systemd,
        _ if systemd && !any_init => false,
        Set::Everywhere => true,
        Set::Main | Set::OnRequest => anywhere || main,
        Set::NeedsUdev => configuration.udev && (anywhere || main),
    }
}

fn test_belongs(test: &TestDescription, configuration: &Configuration) -> bool {
    let udev = if configuration.udev { !test.needs_no_udev } else { !test.needs_udev };
    udev && test.only_kernel.as_deref().is_none_or(|only| only == configuration.kernel.name())
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

    fn where_it_runs(set: Set, arguments: &Arguments) -> Vec<String> {
        let anywhere = arguments.matrix || explicit(arguments);
        configurations(arguments)
            .into_iter()
            .filter(|configuration| suite_belongs(set, configuration, anywhere, arguments.init.is_some()))
            .map(|configuration| configuration.name())
            .collect()
    }

    #[test]
    fn suites_run_where_the_design_says() {
        let plain = Arguments::default();
        assert_eq!(where_it_runs(Set::Everywhere, &plain), ["6.1-udev", "6.12-udev", "6.1-no-udev"]);
        assert_eq!(where_it_runs(Set::Main, &plain), ["6.1-udev"]);
        assert_eq!(where_it_runs(Set::NeedsUdev, &plain), ["6.1-udev"]);
        assert_eq!(where_it_runs(Set::Systemd, &plain), ["6.1-systemd"]);
        let matrix = Arguments { matrix: true, ..Arguments::default() };
        assert_eq!(
            where_it_runs(Set::Main, &matrix),
            ["6.1-udev", "6.12-udev", "6.1-no-udev", "6.12-no-udev"]
        );
        assert_eq!(where_it_runs(Set::NeedsUdev, &matrix), ["6.1-udev", "6.12-udev"]);
        assert_eq!(where_it_runs(Set::Systemd, &matrix), ["6.1-systemd", "6.12-systemd"]);
        let newer = Arguments { kernel: vec![Line::V6_12], ..Arguments::default() };
        assert_eq!(where_it_runs(Set::Main, &newer), ["6.12-udev"]);
        let systemd = Arguments { init: Some(Init::Systemd), ..Arguments::default() };
        assert_eq!(where_it_runs(Set::Main, &systemd), ["6.1-systemd"]);
    }

    #[test]
    fn a_test_that_needs_udev_is_no_part_of_a_guest_without() {
        let with = Configuration { kernel: Line::V6_1, udev: true, init: Init::Agent };
        let without = Configuration { udev: false, ..with };
        let test = TestDescription {
            test: String::new(),
            deadline: 1,
            needs_udev: true,
            needs_no_udev: false,
            only_kernel: None,
            thorough: false,
        };
        assert!(test_belongs(&test, &with) && !test_belongs(&test, &without));
        let newer = TestDescription { needs_udev: false, only_kernel: Some("6.12".to_owned()), ..test };
        assert!(!test_belongs(&newer, &with));
    }
}
