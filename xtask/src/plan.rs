//! Which tests run in which VMs.

use harness::Set;
use harness::protocol::{PlannedTest, SuiteDescription, TestDescription};

use crate::guest::Configuration;
use crate::kernel::Line;
use crate::qemu::Init;
use crate::test::Arguments;

/// What one VM runs: the tests of a configuration, or a part of them.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its place among all parts.
    pub(crate) number: usize,
    /// The configuration's name, with a number if it has several parts.
    pub(crate) name: String,
    pub(crate) configuration: Configuration,
    pub(crate) tests: Vec<PlannedTest>,
}

/// Fewer tests than this are not worth a boot of their own.
const SMALL: usize = 40;

/// Everything to run, in parts that keep so many processors busy until the end.
pub(crate) fn all(
    described: &[SuiteDescription],
    arguments: &Arguments,
    factor: u64,
    processors: usize,
) -> Vec<Part> {
    let work: Vec<(Configuration, Vec<PlannedTest>)> = configurations(arguments)
        .into_iter()
        .map(|configuration| (configuration, planned(described, &configuration, arguments, factor)))
        .collect();
    let total: usize = work.iter().map(|(_, tests)| tests.len()).sum();
    // A kept disk is looked at by a person, who wants to find one.
    let size =
        if processors == 1 || arguments.keep { usize::MAX } else { (total / processors / 3).max(SMALL) };
    let mut parts = Vec::new();
    for (configuration, tests) in work {
        let count = tests.len().div_ceil(size).max(1);
        let even = tests.len().div_ceil(count).max(1);
        for (index, chunk) in tests.chunks(even).enumerate() {
            let name = configuration.name();
            parts.push(Part {
                number: parts.len(),
                name: if count == 1 { name } else { format!("{name}-{}", index + 1) },
                configuration,
                tests: chunk.to_vec(),
            });
        }
    }
    parts
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

fn planned(
    described: &[SuiteDescription],
    configuration: &Configuration,
    arguments: &Arguments,
    factor: u64,
) -> Vec<PlannedTest> {
    let anywhere = arguments.matrix || explicit(arguments);
    let filter = arguments.filter.as_deref().unwrap_or_default();
    described
        .iter()
        .filter(|suite| suite.set != Set::OnRequest || arguments.suite.contains(&suite.suite))
        .filter(|suite| suite_belongs(suite.set, configuration, anywhere, arguments.init.is_some()))
        .flat_map(|suite| {
            suite
                .tests
                .iter()
                .filter(|test| test_belongs(test, configuration))
                .filter(move |test| format!("{}: {}", suite.suite, test.test).contains(filter))
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
        };
        assert!(test_belongs(&test, &with) && !test_belongs(&test, &without));
        let newer = TestDescription { needs_udev: false, only_kernel: Some("6.12".to_owned()), ..test };
        assert!(!test_belongs(&newer, &with));
    }

    #[test]
    fn parts_keep_all_processors_busy() {
        let tests = |count: usize| -> Vec<TestDescription> {
            let test = TestDescription {
                test: String::new(),
                deadline: 1,
                needs_udev: false,
                needs_no_udev: false,
                only_kernel: None,
            };
            vec![test; count]
        };
        let suite =
            |count| SuiteDescription { suite: "s".to_owned(), set: Set::Everywhere, tests: tests(count) };
        let sizes = |count, processors| -> Vec<(String, usize)> {
            all(&[suite(count)], &Arguments::default(), 1, processors)
                .into_iter()
                .map(|part| (part.name, part.tests.len()))
                .collect()
        };
        let whole = ["6.1-udev", "6.12-udev", "6.1-no-udev"].map(str::to_owned);
        assert_eq!(sizes(30, 2), whole.clone().map(|name| (name, 30)));
        assert_eq!(sizes(300, 1), whole.map(|name| (name, 300)));
        let parts = sizes(300, 2);
        assert_eq!(parts.len(), 6);
        assert_eq!(parts[0], ("6.1-udev-1".to_owned(), 150));
        assert_eq!(parts.iter().map(|(_, count)| count).sum::<usize>(), 900);
    }
}
