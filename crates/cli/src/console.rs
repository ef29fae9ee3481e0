//! Standard output and standard error: answers go to the one, all else to the other.

use crate::args::LogLevel;
use crate::failure::{Failure, one_line};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Prints an answer. A reader that has gone away (`ls | head`) is no failure.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::other(format!(
            "cannot write to standard output: {error}; the command was carried out all the same"
        ))),
        _ => Ok(()),
    }
}

/// Prints to standard error, whether it is there or not.
pub(crate) fn complain(text: &str) {
    // Where standard error is gone there is nobody left to tell.
    let _told = writeln!(std::io::stderr().lock(), "{text}");
}

/// The bars of long steps, if standard error is a terminal.
pub(crate) fn bars() -> Option<MultiProgress> {
    std::io::stderr().is_terminal().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Sends the log to standard error, between the bars.
pub(crate) fn start_log(level: LogLevel, bars: Option<MultiProgress>) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_ansi(false)
        .event_format(OneLine)
        .with_writer(Stderr { bars })
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        complain("thinlayer: warning: there is a log already");
    }
}

/// `thinlayer: warning: text key=value`, on one line.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "thinlayer: {level}: {}", one_line(&text))
    }
}

#[derive(Clone)]
struct Stderr {
    bars: Option<MultiProgress>,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        match &self.bars {
            Some(bars) => bars.suspend(|| std::io::stderr().lock().write(text)),
            None => std::io::stderr().lock().write(text),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}
