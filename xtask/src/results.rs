//! What the guest has reported so far, and what follows from it.

use std::collections::VecDeque;

use anyhow::Result;
use harness::protocol::{Event, Line, Outcome, PlannedTest, VERSION};

use crate::boot::{Console, End};

/// One test's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestResult {
    pub(crate) suite: String,
    pub(crate) test: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<String>,
    pub(crate) millis: u64,
    pub(crate) output: String,
}

/// What the host does after a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads the next line.
    GoOn,
    /// Is done with this boot: all planned tests have run.
    Done,
    /// Is done with this boot: the command ended.
    Exit(u8),
    /// Cuts the power and boots again.
    PowerCut,
    /// The running test cannot be ended: boots again and goes on behind it.
    Wedged,
    /// Gives up: the guest cannot do its work.
    Broken(String),
}

/// What is left to do after a boot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Finished,
    /// Another boot, for the rest.
    BootAgain,
    /// The runner is broken, for this reason.
    Broken(String),
}

/// Where what comes out of commands, tests and files goes.
pub(crate) trait Sink: Send {
    /// A command's output.
    fn output(&mut self, stderr: bool, text: &str);
    /// A file from the guest's folder of results.
    fn file(&mut self, path: &str, text: &str) -> Result<()>;
    /// The guest is up.
    fn ready(&mut self, release: &str);
    /// A test starts.
    fn start(&mut self, suite: &str, test: &str);
    /// A test asked for the power to be cut.
    fn power_cut(&mut self, phase: &str);
    /// The emulator crashed the guest; another boot goes on where this one was.
    fn emulator_crash(&mut self, console: &str);
    /// A test has ended.
    fn result(&mut self, result: &TestResult);
}

/// A guest that crashes again and again is not worth booting for ever.
const CRASHES: usize = 6;
/// So many crashes of the emulator's making are forgiven in one configuration.
const EMULATOR_CRASHES: usize = 3;

/// The planned tests and how far they are.
pub(crate) struct Ledger {
    waiting: VecDeque<PlannedTest>,
    running: bool,
    ready: bool,
    results: Vec<TestResult>,
    ended_in_this_boot: usize,
    next_seq: u64,
    crashes: usize,
    emulator_crashes: usize,
    sink: Box<dyn Sink>,
}

impl Ledger {
    pub(crate) fn new(tests: Vec<PlannedTest>, sink: Box<dyn Sink>) -> Self {
        Self {
            waiting: tests.into(),
            running: false,
            ready: false,
            results: Vec::new(),
            ended_in_this_boot: 0,
            next_seq: 0,
            crashes: 0,
            emulator_crashes: 0,
            sink,
        }
    }

    /// The tests that have no result yet.
    pub(crate) fn waiting(&self) -> Vec<PlannedTest> {
        self.waiting.iter().cloned().collect()
    }

    pub(crate) fn results(self) -> Vec<TestResult> {
        self.results
    }

    /// Whether any boot so far came up.
    pub(crate) fn was_ready(&self) -> bool {
        self.ready
    }

    /// A new boot counts its lines from 0 again.
    pub(crate) fn new_boot(&mut self) {
        self.next_seq = 0;
        self.running = false;
        self.ended_in_this_boot = 0;
    }

    /// Takes one line from the guest.
    pub(crate) fn feed(&mut self, line: &[u8]) -> Result<Step> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if text.is_empty() {
            return Ok(Step::GoOn);
        }
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            return Ok(Step::Broken(format!("a line from the guest is no result: {text}")));
        };
        if line.seq != self.next_seq {
            return Ok(Step::Broken(format!("results {} to {} were lost", self.next_seq, line.seq)));
        }
        self.next_seq += 1;
        self.take(line.event)
    }

    fn take(&mut self, event: Event) -> Result<Step> {
        match event {
            Event::Ready { version, .. } if version != VERSION => {
                return Ok(Step::Broken(format!(
                    "the guest speaks version {version}, this program {VERSION}"
                )));
            }
            Event::Ready { release, .. } => {
                self.ready = true;
                self.sink.ready(&release);
            }
            Event::SuiteStart { .. } | Event::Beat => {}
            Event::TestStart { suite, test } => {
                if let Err(step) = self.expect(&suite, &test) {
                    return Ok(step);
                }
                self.running = true;
                self.sink.start(&suite, &test);
            }
            Event::TestEnd { suite, test, outcome, reason, millis, output } => {
                if let Err(step) = self.expect(&suite, &test) {
                    return Ok(step);
                }
                self.ended_in_this_boot += 1;
                self.end(TestResult { suite, test, outcome, reason, millis, output });
            }
            Event::PowerCut { suite, test, phase } => {
                if let Err(step) = self.expect(&suite, &test) {
                    return Ok(step);
                }
                self.sink.power_cut(&phase);
                if let Some(first) = self.waiting.front_mut() {
                    first.phase = Some(phase);
                }
                return Ok(Step::PowerCut);
            }
            Event::Wedged { suite, test, reason, output } => {
                if let Err(step) = self.expect(&suite, &test) {
                    return Ok(step);
                }
                let reason = Some(format!("wedged: {reason}"));
                self.end(TestResult { suite, test, outcome: Outcome::Fail, reason, millis: 0, output });
                return Ok(Step::Wedged);
            }
            Event::Output { stderr, text } => self.sink.output(stderr, &text),
            Event::File { path, text } => self.sink.file(&path, &text)?,
            Event::Exit { code } => return Ok(Step::Exit(code)),
            Event::Broken { reason } => return Ok(Step::Broken(reason)),
            Event::Done { passed, failed, skipped } => {
                let told = passed + failed + skipped;
                if told != self.ended_in_this_boot || !self.waiting.is_empty() {
                    return Ok(Step::Broken(format!(
                        "the guest says that it ran {told} tests; results came for {}, and {} are missing",
                        self.ended_in_this_boot,
                        self.waiting.len()
                    )));
                }
                return Ok(Step::Done);
            }
        }
        Ok(Step::GoOn)
    }

    /// Tests come in the planned order.
    fn expect(&self, suite: &str, test: &str) -> Result<(), Step> {
        match self.waiting.front() {
            Some(first) if first.suite == suite && first.test == test => Ok(()),
            _ => Err(Step::Broken(format!("a result of {suite}: {test}, which was not its turn"))),
        }
    }

    fn end(&mut self, result: TestResult) {
        self.running = false;
        self.waiting.pop_front();
        self.sink.result(&result);
        self.results.push(result);
    }

    /// Draws the conclusion from how a boot ended.
    pub(crate) fn conclude(&mut self, end: End, console: &Console) -> Next {
        // What a test wrote before a power cut cannot be made again: such a test is red.
        let from_the_start = self.waiting.front().is_some_and(|test| test.phase.is_none());
        if end == End::Died
            && console.stray_breakpoint
            && from_the_start
            && self.emulator_crashes < EMULATOR_CRASHES
        {
            self.emulator_crashes += 1;
            self.sink.emulator_crash(&console.tail);
            return Next::BootAgain;
        }
        let why = match end {
            End::Step(Step::Done | Step::Exit(_)) => return Next::Finished,
            End::Step(Step::Broken(reason)) => return Next::Broken(reason),
            End::Step(Step::PowerCut) => return Next::BootAgain,
            End::Step(Step::Wedged) => return self.after_crash(),
            End::Step(Step::GoOn) | End::Died => match &console.panic {
                Some(panic) => format!("the guest's kernel panicked: {panic}"),
                None => "the VM ended before the guest was done".to_owned(),
            },
            End::Silent(time) => format!("the guest said nothing for {} s", time.as_secs()),
            End::Late(time) => format!("the VM took longer than its {} s", time.as_secs()),
        };
        let Some(test) = self.waiting.front().filter(|_| self.running).cloned() else {
            return Next::Broken(format!(
                "{why}, and no test was running\nend of the console:\n{}",
                console.tail
            ));
        };
        self.end(TestResult {
            suite: test.suite,
            test: test.test,
            outcome: Outcome::Fail,
            reason: Some(why),
            millis: 0,
            output: format!("end of the console:\n{}\n", console.tail),
        });
        self.after_crash()
    }

    fn after_crash(&mut self) -> Next {
        self.crashes += 1;
        if self.waiting.is_empty() {
            Next::Finished
        } else if self.crashes >= CRASHES {
            Next::Broken(format!(
                "the guest was lost {} times; {} tests were not run",
                self.crashes,
                self.waiting.len()
            ))
        } else {
            Next::BootAgain
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ledger")
            .field("waiting", &self.waiting)
            .field("results", &self.results)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Nowhere;

    impl Sink for Nowhere {
        fn output(&mut self, _: bool, _: &str) {}
        fn file(&mut self, _: &str, _: &str) -> Result<()> {
            Ok(())
        }
        fn ready(&mut self, _: &str) {}
        fn start(&mut self, _: &str, _: &str) {}
        fn power_cut(&mut self, _: &str) {}
        fn emulator_crash(&mut self, _: &str) {}
        fn result(&mut self, _: &TestResult) {}
    }

    fn ledger(tests: &[&str]) -> Ledger {
        let planned = |test: &&str| PlannedTest {
            suite: "s".to_owned(),
            test: (*test).to_owned(),
            deadline: 1,
            phase: None,
        };
        let mut ledger = Ledger::new(tests.iter().map(planned).collect(), Box::new(Nowhere));
        ledger.new_boot();
        ledger
    }

    /// Feeds events with the right numbers and returns the last step.
    fn feed(ledger: &mut Ledger, events: &[&str]) -> Step {
        let mut step = Step::GoOn;
        for event in events {
            let line = format!(r#"{{"seq":{},{}"#, ledger.next_seq, &event[1..]);
            step = ledger.feed(line.as_bytes()).unwrap();
        }
        step
    }

    const READY: &str = r#"{"event":"ready","version":1,"release":"6.1.0"}"#;
    const START_A: &str = r#"{"event":"test-start","suite":"s","test":"a"}"#;
    const PASS_A: &str = r#"{"event":"test-end","suite":"s","test":"a","outcome":"pass","reason":null,"millis":5,"output":""}"#;
    const DONE_1: &str = r#"{"event":"done","passed":1,"failed":0,"skipped":0}"#;

    fn quiet() -> Console {
        Console::of("")
    }

    #[test]
    fn a_whole_run() {
        let mut ledger = ledger(&["a"]);
        let step = feed(&mut ledger, &[READY, START_A, r#"{"event":"beat"}"#, PASS_A, DONE_1]);
        assert_eq!(step, Step::Done);
        assert_eq!(ledger.conclude(End::Step(step), &quiet()), Next::Finished);
        assert_eq!(ledger.results()[0].outcome, Outcome::Pass);
    }

    #[test]
    fn a_stream_that_ends_early_is_a_broken_runner() {
        let mut ledger = ledger(&["a", "b"]);
        feed(&mut ledger, &[READY, START_A, PASS_A]);
        let Next::Broken(reason) = ledger.conclude(End::Died, &Console::of("last words")) else { panic!() };
        assert!(
            reason.contains("ended before the guest was done") && reason.contains("last words"),
            "{reason}"
        );
        assert_eq!(ledger.results().len(), 1);
    }

    #[test]
    fn a_truncated_line_is_a_broken_runner() {
        let mut ledger = ledger(&["a"]);
        feed(&mut ledger, &[READY]);
        let Step::Broken(reason) = ledger.feed(br#"{"seq":1,"event":"test-st"#).unwrap() else { panic!() };
        assert!(reason.contains("is no result"), "{reason}");
    }

    #[test]
    fn a_lost_line_is_a_broken_runner() {
        let mut ledger = ledger(&["a"]);
        feed(&mut ledger, &[READY]);
        let Step::Broken(reason) = ledger.feed(br#"{"seq":3,"event":"beat"}"#).unwrap() else { panic!() };
        assert!(reason.contains("results 1 to 3 were lost"), "{reason}");
    }

    #[test]
    fn a_count_that_does_not_agree_is_a_broken_runner() {
        let mut ledger = ledger(&["a", "b"]);
        let step = feed(&mut ledger, &[READY, START_A, PASS_A, DONE_1]);
        assert!(matches!(&step, Step::Broken(reason) if reason.contains("1 are missing")), "{step:?}");
    }

    #[test]
    fn a_panic_during_a_test_is_that_tests_failure() {
        let mut ledger = ledger(&["a", "b"]);
        feed(&mut ledger, &[READY, START_A]);
        let console = Console::of("[1] Kernel panic - not syncing: Fatal exception\n");
        assert_eq!(ledger.conclude(End::Died, &console), Next::BootAgain);
        assert_eq!(ledger.waiting().len(), 1);
        let result = &ledger.results()[0];
        assert_eq!(result.outcome, Outcome::Fail);
        assert_eq!(result.reason.as_deref(), Some("the guest's kernel panicked: Fatal exception"));
    }

    #[test]
    fn the_emulators_crash_is_no_tests_failure() {
        let text =
            "[1] Oops: int3: 0000 [#1]\n[1] Kernel panic - not syncing: Fatal exception in interrupt\n";
        let console = Console { stray_breakpoint: true, ..Console::of(text) };
        let mut ledger = ledger(&["a", "b"]);
        for _ in 0..EMULATOR_CRASHES {
            ledger.new_boot();
            feed(&mut ledger, &[READY, START_A]);
            assert_eq!(ledger.conclude(End::Died, &console), Next::BootAgain);
            assert_eq!(ledger.waiting().len(), 2);
        }
        // Not for ever, and not where a test cannot begin anew.
        ledger.new_boot();
        feed(&mut ledger, &[READY, START_A]);
        assert_eq!(ledger.conclude(End::Died, &console), Next::BootAgain);
        assert_eq!(ledger.results()[0].outcome, Outcome::Fail);
        let mut ledger = self::ledger(&["a"]);
        let cut = r#"{"event":"power-cut","suite":"s","test":"a","phase":"two"}"#;
        let step = feed(&mut ledger, &[READY, START_A, cut]);
        ledger.conclude(End::Step(step), &quiet());
        ledger.new_boot();
        feed(&mut ledger, &[READY, START_A]);
        ledger.conclude(End::Died, &console);
        assert_eq!(ledger.results()[0].outcome, Outcome::Fail);
    }

    #[test]
    fn a_panic_while_booting_is_a_broken_runner() {
        let mut ledger = ledger(&["a"]);
        let console = Console::of("Kernel panic - not syncing: VFS: Unable to mount root fs\n");
        let Next::Broken(reason) = ledger.conclude(End::Died, &console) else { panic!() };
        assert!(
            reason.contains("Unable to mount root fs") && reason.contains("no test was running"),
            "{reason}"
        );
    }

    #[test]
    fn a_hung_guest_fails_the_running_test_and_goes_on() {
        let mut ledger = ledger(&["a", "b"]);
        feed(&mut ledger, &[READY, START_A]);
        assert_eq!(ledger.conclude(End::Silent(Duration::from_secs(90)), &quiet()), Next::BootAgain);
        assert_eq!(ledger.waiting()[0].test, "b");
        assert_eq!(ledger.results()[0].reason.as_deref(), Some("the guest said nothing for 90 s"));
    }

    #[test]
    fn a_guest_that_is_lost_again_and_again_is_given_up() {
        let names: Vec<String> = (0..CRASHES + 1).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut ledger = ledger(&names);
        let mut next = Next::BootAgain;
        for name in &names[..CRASHES] {
            assert_eq!(next, Next::BootAgain);
            ledger.new_boot();
            let start = format!(r#"{{"event":"test-start","suite":"s","test":"{name}"}}"#);
            feed(&mut ledger, &[READY, &start]);
            next = ledger.conclude(End::Late(Duration::from_secs(1)), &quiet());
        }
        assert!(matches!(next, Next::Broken(_)), "{next:?}");
    }

    #[test]
    fn a_power_cut_runs_the_same_test_again_in_its_phase() {
        let mut ledger = ledger(&["a"]);
        let cut = r#"{"event":"power-cut","suite":"s","test":"a","phase":"two"}"#;
        let step = feed(&mut ledger, &[READY, START_A, cut]);
        assert_eq!(step, Step::PowerCut);
        assert_eq!(ledger.conclude(End::Step(step), &quiet()), Next::BootAgain);
        assert_eq!(ledger.waiting()[0].phase.as_deref(), Some("two"));
        ledger.new_boot();
        assert_eq!(feed(&mut ledger, &[READY, START_A, PASS_A, DONE_1]), Step::Done);
    }

    #[test]
    fn a_wedged_test_has_failed_and_the_rest_goes_on() {
        let mut ledger = ledger(&["a", "b"]);
        let wedged = r#"{"event":"wedged","suite":"s","test":"a","reason":"process 7","output":"x"}"#;
        let step = feed(&mut ledger, &[READY, START_A, wedged]);
        assert_eq!(ledger.conclude(End::Step(step), &quiet()), Next::BootAgain);
        assert_eq!(ledger.waiting()[0].test, "b");
        assert_eq!(ledger.results()[0].outcome, Outcome::Fail);
    }

    #[test]
    fn a_guest_of_another_version_is_refused() {
        let mut ledger = ledger(&["a"]);
        let step = feed(&mut ledger, &[r#"{"event":"ready","version":99,"release":"x"}"#]);
        assert!(matches!(step, Step::Broken(_)));
    }
}
