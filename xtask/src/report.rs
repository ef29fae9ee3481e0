//! What a person sees of a run, and the JUnit file that CI systems read.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use harness::protocol::Outcome;

use crate::results::{Sink, TestResult};

/// Passed, failed and skipped tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Count {
    pub(crate) fn of(results: &[TestResult]) -> Self {
        let count = |outcome| results.iter().filter(|result| result.outcome == outcome).count();
        Self { passed: count(Outcome::Pass), failed: count(Outcome::Fail), skipped: count(Outcome::Skip) }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A line per test as it ends. Several VMs print at the same time, so each line names its own.
#[derive(Debug)]
pub(crate) struct TestLines {
    pub(crate) vm: String,
}

impl Sink for TestLines {
    fn output(&mut self, _: bool, text: &str) {
        print!("{text}");
    }

    fn file(&mut self, path: &str, _: &str) -> Result<()> {
        bail!("the guest sent a file, {path}, that nobody asked for")
    }

    fn ready(&mut self, release: &str) {
        println!("     {}: booted {release}", self.vm);
    }

    fn start(&mut self, _: &str, _: &str) {}

    fn power_cut(&mut self, phase: &str) {
        println!("     {}: power cut, then: {phase}", self.vm);
    }

    fn emulator_crash(&mut self, console: &str) {
        let oops: Vec<&str> =
            console.lines().filter(|line| line.contains("int3: ") || line.contains("RIP: 0010:")).collect();
        println!("     {}: the emulator crashed the guest, and it boots again: {}", self.vm, oops.join("; "));
    }

    fn result(&mut self, result: &TestResult) {
        // In one go, or two VMs' failures would mix.
        let mut stdout = std::io::stdout().lock();
        let _shown = stdout.write_all(describe(&self.vm, result).as_bytes()).and_then(|()| stdout.flush());
    }
}

/// Lines of a red test's output on the terminal; the JUnit file has more.
const SHOWN: usize = 80;

fn describe(vm: &str, result: &TestResult) -> String {
    let word = match result.outcome {
        Outcome::Pass => "ok  ",
        Outcome::Fail => "FAIL",
        Outcome::Skip => "SKIP",
    };
    let seconds = std::time::Duration::from_millis(result.millis).as_secs_f64();
    let mut text = format!("{word} {vm} {}: {} ({seconds:.1} s)\n", result.suite, result.test);
    if let Some(reason) = &result.reason {
        text.push_str(&indent("     | ", reason));
    }
    if result.outcome == Outcome::Fail && !result.output.is_empty() {
        let lines: Vec<&str> = result.output.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN)..];
        text.push_str("     its output ended with");
        if shown.len() < lines.len() {
            let _written =
                write!(text, " ({} lines more are in target/vm/results)", lines.len() - shown.len());
        }
        text.push('\n');
        text.push_str(&indent("     | ", &shown.join("\n")));
    }
    text
}

fn indent(prefix: &str, text: &str) -> String {
    text.lines().fold(String::new(), |mut indented, line| {
        let _written = writeln!(indented, "{prefix}{line}");
        indented
    })
}

/// A command's output, as it comes, to where it belongs; its files into a folder.
#[derive(Debug)]
pub(crate) struct Passthrough {
    pub(crate) files: PathBuf,
}

impl Sink for Passthrough {
    fn output(&mut self, stderr: bool, text: &str) {
        // Whoever reads this may have gone (`| head`); the command's exit code still counts.
        let _shown = if stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut stdout = std::io::stdout();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }

    fn file(&mut self, path: &str, text: &str) -> Result<()> {
        let relative = std::path::Path::new(path);
        if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            bail!("the guest sent a file with a path that leads elsewhere: {path}");
        }
        let file = self.files.join(relative);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("xtask: {}", file.display());
        Ok(())
    }

    fn ready(&mut self, _: &str) {}

    fn start(&mut self, _: &str, _: &str) {}

    fn power_cut(&mut self, _: &str) {}

    fn emulator_crash(&mut self, _: &str) {
        eprintln!("xtask: the emulator crashed the guest, and it boots again");
    }

    fn result(&mut self, _: &TestResult) {}
}

/// The results as JUnit XML.
pub(crate) fn junit(configuration: &str, results: &[TestResult]) -> String {
    let count = Count::of(results);
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        escape(configuration),
        results.len(),
        count.failed,
        count.skipped
    );
    for result in results {
        let seconds = std::time::Duration::from_millis(result.millis).as_secs_f64();
        let _written = write!(
            xml,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"",
            escape(&result.suite),
            escape(&result.test)
        );
        let reason = escape(result.reason.as_deref().unwrap_or_default());
        let _written = match result.outcome {
            Outcome::Pass => writeln!(xml, "/>"),
            Outcome::Skip => writeln!(xml, "><skipped message=\"{reason}\"/></testcase>"),
            Outcome::Fail => writeln!(
                xml,
                "><failure message=\"{reason}\">{}</failure></testcase>",
                escape(&result.output)
            ),
        };
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// XML 1.0 has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> TestResult {
        TestResult {
            suite: "dm".to_owned(),
            test: "a \"name\"".to_owned(),
            outcome: Outcome::Fail,
            reason: Some("1 < 2".to_owned()),
            millis: 1500,
            output: "line\u{7}\nline".to_owned(),
        }
    }

    #[test]
    fn the_count_reads_as_promised() {
        let count = Count::of(&[failed(), TestResult { outcome: Outcome::Pass, ..failed() }]);
        assert_eq!(count.to_string(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_failure_shows_reason_and_output() {
        let text = describe("6.1-udev", &failed());
        assert_eq!(
            text,
            "FAIL 6.1-udev dm: a \"name\" (1.5 s)\n     | 1 < 2\n     its output ended with\n     | line\u{7}\n     | line\n"
        );
    }

    #[test]
    fn xml_is_escaped() {
        let xml = junit("6.1-udev", &[failed()]);
        assert!(xml.contains("tests=\"1\" failures=\"1\" skipped=\"0\""), "{xml}");
        assert!(xml.contains("name=\"a &quot;name&quot;\" time=\"1.500\""), "{xml}");
        assert!(xml.contains("message=\"1 &lt; 2\">line\u{fffd}&#10;line</failure>"), "{xml}");
    }
}
