//! What the guest's agent and the host say to each other.
//!
//! The host writes one [`Plan`] onto a small disk before it boots the VM. The guest answers on a serial port
//! of its own, one JSON [`Line`] per line; nothing else writes there, so kernel messages cannot garble it.

use serde::{Deserialize, Serialize};

/// Version of this protocol; a guest built from other sources is refused by name.
pub const VERSION: u32 = 1;

/// What the guest is to do in one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`] of who wrote it.
    pub version: u32,
    /// The kernel line, for the tests' environment.
    pub kernel: String,
    /// Whether udev is to run.
    pub udev: bool,
    /// More environment for tests and commands.
    pub environment: Vec<(String, String)>,
    /// The work itself.
    pub work: Work,
    /// Seconds after boot at which the guest dumps its blocked tasks, just before the host gives up.
    pub deadline: u64,
}

/// The work of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Run these tests one after the other.
    Tests {
        /// In this order.
        tests: Vec<PlannedTest>,
    },
    /// Run one command and pass on its output and exit code.
    Command {
        /// Program and arguments; searched on the path and below the folder of test programs.
        words: Vec<String>,
    },
    /// A shell on the console.
    Shell {
        /// Rows of the person's terminal.
        rows: u16,
        /// Columns of the person's terminal.
        columns: u16,
        /// The person's kind of terminal.
        term: String,
    },
}

/// One test to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTest {
    /// The suite, which is also its program's name.
    pub suite: String,
    /// The test's name within the suite.
    pub test: String,
    /// Seconds it may take.
    pub deadline: u64,
    /// The phase to go on with after a power cut.
    pub phase: Option<String>,
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 0 in each boot: a gap means that lines were lost.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What the guest reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The agent has read its plan and set the guest up.
    Ready {
        /// [`VERSION`] of the agent.
        version: u32,
        /// `uname -r`.
        release: String,
    },
    /// The next tests are of this suite.
    SuiteStart {
        /// The suite.
        suite: String,
        /// How many of its tests follow.
        tests: usize,
    },
    /// A test's process starts.
    TestStart {
        /// The suite.
        suite: String,
        /// The test.
        test: String,
    },
    /// A test has ended and what it left behind is gone.
    TestEnd {
        /// The suite.
        suite: String,
        /// The test.
        test: String,
        /// How it ended.
        outcome: Outcome,
        /// Why it failed or was skipped.
        reason: Option<String>,
        /// How long it took.
        millis: u64,
        /// The end of what it printed.
        output: String,
    },
    /// The running test wants the power cut now, to go on with this phase after the next boot.
    PowerCut {
        /// The suite.
        suite: String,
        /// The test.
        test: String,
        /// The phase to go on with.
        phase: String,
    },
    /// The running test cannot be killed, or what it left cannot be removed: only a new boot helps.
    Wedged {
        /// The suite.
        suite: String,
        /// The test.
        test: String,
        /// What does not go away.
        reason: String,
        /// The end of what the test printed.
        output: String,
    },
    /// Output of a command.
    Output {
        /// Whether it belongs on standard error.
        stderr: bool,
        /// As much as there was; bytes that are not UTF-8 are replaced.
        text: String,
    },
    /// A file that a command left in the results folder.
    File {
        /// Its path below that folder.
        path: String,
        /// What is in it.
        text: String,
    },
    /// The command or the shell has ended.
    Exit {
        /// Its exit code; 128 and the signal's number if a signal ended it.
        code: u8,
    },
    /// Sent every few seconds: the guest is alive.
    Beat,
    /// The guest cannot do its work.
    Broken {
        /// What went wrong.
        reason: String,
    },
    /// All planned tests were run; nothing follows.
    Done {
        /// Tests that passed in this boot.
        passed: usize,
        /// Tests that failed in this boot.
        failed: usize,
        /// Tests that were skipped in this boot.
        skipped: usize,
    },
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should.
    Pass,
    /// Not as it should.
    Fail,
    /// It did not run, with a reason.
    Skip,
}

/// What a test's process tells the agent while it runs, one datagram each on the socket [`REPORT`] names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// Cut the power now.
    PowerCut {
        /// The phase to go on with.
        phase: String,
    },
    /// The test did not run.
    Skip {
        /// Why.
        reason: String,
    },
    /// The test failed.
    Fail {
        /// Why.
        reason: String,
    },
}

/// Environment variable of a test's process: the socket that takes its [`Report`]s.
pub const REPORT: &str = "THINLAYER_REPORT";

/// What a suite's program prints when it is asked to `--describe` itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteDescription {
    /// The suite's name.
    pub suite: String,
    /// Where it belongs.
    pub set: crate::Set,
    /// Its tests, in order.
    pub tests: Vec<TestDescription>,
}

/// One test of a [`SuiteDescription`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestDescription {
    /// The test's name.
    pub test: String,
    /// Seconds it may take.
    pub deadline: u64,
    /// Whether it belongs only where udev runs.
    pub needs_udev: bool,
    /// Whether it belongs only where udev does not run.
    pub needs_no_udev: bool,
    /// The one kernel line it belongs to.
    pub only_kernel: Option<String>,
    /// Whether it belongs only to `--matrix` and to runs that name its suite.
    pub thorough: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_flat_object() {
        let line =
            Line { seq: 7, event: Event::TestStart { suite: "dm".to_owned(), test: "creates".to_owned() } };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(text, r#"{"seq":7,"event":"test-start","suite":"dm","test":"creates"}"#);
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn output_with_newlines_stays_on_one_line() {
        let line = Line { seq: 0, event: Event::Output { stderr: false, text: "a\nb\n".to_owned() } };
        assert!(!serde_json::to_string(&line).unwrap().contains('\n'));
    }
}
