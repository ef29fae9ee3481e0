//! Suites and tests: how they are declared, described to the host, and run.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, Serialize};

use crate::protocol::{Report, SuiteDescription, TestDescription};

/// What a test has if it does not ask for more.
const DEADLINE: Duration = Duration::from_secs(120);

/// Where a suite belongs. `cargo xtask test --matrix` runs it in every place where it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// In every run: kernel 6.1 with and without udev, and kernel 6.12 with udev.
    Everywhere,
    /// In a plain run on kernel 6.1 with udev only.
    Main,
    /// Like [`Set::Main`], and never without udev, since something it uses needs udev.
    NeedsUdev,
    /// Where systemd is process 1: kernel 6.1 with udev in a plain run.
    Systemd,
    /// Nowhere, unless `--suite` names it: for what is red on purpose.
    OnRequest,
}

/// One test: its name, its function and what it asks for.
pub struct Test {
    name: String,
    run: Box<dyn Fn() -> Result<()> + Send + 'static>,
    deadline: Duration,
    needs_udev: bool,
    needs_no_udev: bool,
    only_kernel: Option<String>,
    thorough: bool,
}

/// A test by name. The name is a sentence about what holds: "a removed device is gone from the list".
pub fn test(name: impl Into<String>, run: impl Fn() -> Result<()> + Send + 'static) -> Test {
    Test {
        name: name.into(),
        run: Box::new(run),
        deadline: DEADLINE,
        needs_udev: false,
        needs_no_udev: false,
        only_kernel: None,
        thorough: false,
    }
}

impl Test {
    /// Asks for more (or less) than the usual 120 seconds.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The test belongs only where udev runs; elsewhere it is not part of the suite, which is no skip.
    #[must_use]
    pub fn needs_udev(mut self) -> Self {
        self.needs_udev = true;
        self
    }

    /// The test belongs only where udev does not run.
    #[must_use]
    pub fn needs_no_udev(mut self) -> Self {
        self.needs_no_udev = true;
        self
    }

    /// The test belongs only to this kernel line, such as `6.12`.
    #[must_use]
    pub fn only_kernel(mut self, kernel: impl Into<String>) -> Self {
        self.only_kernel = Some(kernel.into());
        self
    }

    /// The test takes long, and what it shows is shown in the small by a shorter one: it belongs to `--matrix`, and to a run that names its suite.
    #[must_use]
    pub fn thorough(mut self) -> Self {
        self.thorough = true;
        self
    }

    fn describe(&self) -> TestDescription {
        TestDescription {
            test: self.name.clone(),
            deadline: self.deadline.as_secs(),
            needs_udev: self.needs_udev,
            needs_no_udev: self.needs_no_udev,
            only_kernel: self.only_kernel.clone(),
            thorough: self.thorough,
        }
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Test").field(&self.describe()).finish()
    }
}

/// A named list of tests and where it belongs.
#[derive(Debug)]
pub struct Suite {
    name: String,
    set: Set,
    tests: Vec<Test>,
}

/// A suite. Its name must be its program's, that is, the file's under `tests/suites/src/bin/`.
pub fn suite(name: impl Into<String>, set: Set, tests: Vec<Test>) -> Suite {
    Suite { name: name.into(), set, tests }
}

impl Suite {
    /// The body of the suite's `main`.
    ///
    /// Understands what cargo's own test programs understand (a filter, `--exact`, `--list`, ...), `--filter`
    /// as another way to write the filter, and for the runner `--describe` and `--run-one NAME`.
    pub fn main(self) -> ExitCode {
        let words: Vec<String> = std::env::args().collect();
        match words.get(1).map(String::as_str) {
            Some("--describe") => self.print_description(),
            Some("--run-one") => match words.get(2) {
                Some(name) => self.run_one(name),
                None => usage("--run-one needs the name of a test"),
            },
            _ => self.run_by_hand(words),
        }
    }

    fn print_description(&self) -> ExitCode {
        let description = SuiteDescription {
            suite: self.name.clone(),
            set: self.set,
            tests: self.tests.iter().map(Test::describe).collect(),
        };
        match serde_json::to_string(&description) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => usage(&format!("cannot describe the suite: {error}")),
        }
    }

    fn run_one(&self, name: &str) -> ExitCode {
        let Some(test) = self.tests.iter().find(|test| test.name == name) else {
            return usage(&format!("the suite {} has no test {name:?}", self.name));
        };
        let Err(error) = (test.run)() else { return ExitCode::SUCCESS };
        if let Some(Skip(reason)) = error.downcast_ref() {
            crate::phase::report(&Report::Skip { reason: reason.clone() });
            return ExitCode::from(SKIPPED);
        }
        crate::phase::report(&Report::Fail { reason: format!("{error:?}") });
        ExitCode::from(FAILED)
    }

    fn run_by_hand(self, words: Vec<String>) -> ExitCode {
        // One after the other: tests share the kernel's devices.
        let mut arguments = Arguments::from_iter(
            words
                .into_iter()
                .filter(|word| word != "--filter")
                .map(|word| word.strip_prefix("--filter=").map(str::to_owned).unwrap_or(word)),
        );
        arguments.test_threads = Some(1);
        let trials = self.tests.into_iter().map(|test| {
            Trial::test(test.name, move || {
                (test.run)().map_err(|error| match error.downcast_ref() {
                    Some(Skip(reason)) => Failed::from(format!("skipped: {reason}")),
                    None => Failed::from(format!("{error:?}")),
                })
            })
        });
        libtest_mimic::run(&arguments, trials.collect()).exit_code()
    }
}

/// Exit codes of `--run-one`, besides 0.
pub(crate) const FAILED: u8 = 1;
pub(crate) const SKIPPED: u8 = 77;

fn usage(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}

#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the test as skipped: `return Err(harness::skip("why"))`.
///
/// In the VM a skip makes the run fail: what a configuration cannot have, its suites and tests say by [`Set`],
/// [`Test::needs_udev`] and [`Test::only_kernel`], and then they are not part of it.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_told_apart_from_a_failure() {
        let error = skip("no xfs here");
        assert!(error.downcast_ref::<Skip>().is_some());
        assert!(anyhow::anyhow!("skipped: not really").downcast_ref::<Skip>().is_none());
    }

    #[test]
    fn what_a_test_asks_for_is_described() {
        let test = test("a", || Ok(())).deadline(Duration::from_secs(300)).needs_udev().only_kernel("6.12");
        let described = test.describe();
        assert_eq!(described.deadline, 300);
        assert!(described.needs_udev && !described.needs_no_udev);
        assert_eq!(described.only_kernel.as_deref(), Some("6.12"));
    }
}
