//! Long steps on standard error: a bar on a terminal, one line after a while elsewhere.

use crate::failure::one_line;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thinlayer_graphdriver::{Event, Progress};

/// A step that lasts longer is worth a line where there is no terminal.
const WORTH_A_LINE: Duration = Duration::from_secs(2);
/// How often a bar moves.
const TICK: Duration = Duration::from_millis(120);

/// The progress for this run: bars that share the terminal with the log, or lines in the log.
pub(crate) fn progress(bars: Option<&MultiProgress>) -> Arc<dyn Progress> {
    match bars {
        Some(bars) => Arc::new(Bars { bars: bars.clone(), steps: Mutex::default() }),
        None => Arc::new(Lines::default()),
    }
}

/// Bars on a terminal, one for each step under way.
#[derive(Debug)]
struct Bars {
    bars: MultiProgress,
    steps: Mutex<Vec<(String, ProgressBar)>>,
}

impl Bars {
    /// The bar of a step, made if it has none yet.
    fn bar(&self, what: &str) -> ProgressBar {
        let mut steps = self.steps.lock();
        if let Some((_, bar)) = steps.iter().find(|(step, _)| step == what) {
            return bar.clone();
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(one_line(what));
        bar.enable_steady_tick(TICK);
        steps.push((what.to_owned(), bar.clone()));
        bar
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { what } | Event::Alive { what, .. } => drop(self.bar(what)),
            Event::Amount { what, done, total } => {
                let bar = self.bar(what);
                if bar.length() != Some(total) {
                    if let Ok(style) = ProgressStyle::with_template(
                        "{spinner} {msg} {wide_bar} {bytes}/{total_bytes} ({elapsed})",
                    ) {
                        bar.set_style(style);
                    }
                    bar.set_length(total);
                }
                bar.set_position(done);
            }
            Event::Finished { what } => {
                let mut steps = self.steps.lock();
                if let Some(at) = steps.iter().position(|(step, _)| step == what) {
                    let (_, bar) = steps.remove(at);
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
            }
        }
    }
}

/// Lines in the log, at level info.
#[derive(Debug, Default)]
struct Lines {
    steps: Mutex<Vec<Step>>,
}

#[derive(Debug)]
struct Step {
    what: String,
    began: Instant,
    said: bool,
}

impl Lines {
    /// What is to be said about an event now, if anything.
    fn line(&self, event: &Event<'_>, now: Instant) -> Option<String> {
        let mut steps = self.steps.lock();
        match *event {
            Event::Started { what } => {
                steps.push(Step { what: what.to_owned(), began: now, said: false });
                None
            }
            Event::Alive { what, .. } | Event::Amount { what, .. } => {
                let step = steps.iter_mut().find(|step| step.what == what)?;
                let due = !step.said && now.duration_since(step.began) >= WORTH_A_LINE;
                step.said |= due;
                due.then(|| format!("{what} goes on"))
            }
            Event::Finished { what } => {
                let at = steps.iter().position(|step| step.what == what)?;
                let took = now.duration_since(steps.remove(at).began);
                (took >= WORTH_A_LINE).then(|| format!("{what} took {:.1} s", took.as_secs_f64()))
            }
        }
    }
}

impl Progress for Lines {
    fn event(&self, event: Event<'_>) {
        if let Some(line) = self.line(&event, Instant::now()) {
            tracing::info!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io::Result;

    /// Keeps what is written to it.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        fn wait_for(&self, text: &str) {
            let end = Instant::now() + Duration::from_secs(20);
            while !self.0.lock().contains(text) {
                assert!(Instant::now() < end, "{text:?} is not in {:?}", self.0.lock());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> Result<()> {
            self.0.lock().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> Result<()> {
            self.0.lock().push_str("<clear>");
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_long_step_is_worth_a_line_when_it_lasts_and_one_when_it_ends() {
        let lines = Lines::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let alive = Event::Alive { what: "mkfs", elapsed: Duration::ZERO };
        assert_eq!(lines.line(&Event::Started { what: "mkfs" }, begin), None);
        assert_eq!(lines.line(&alive, at(1)), None);
        assert_eq!(lines.line(&alive, at(2)).as_deref(), Some("mkfs goes on"));
        assert_eq!(lines.line(&Event::Amount { what: "mkfs", done: 1, total: 2 }, at(3)), None);
        assert_eq!(lines.line(&Event::Finished { what: "mkfs" }, at(4)).as_deref(), Some("mkfs took 4.0 s"));
        assert_eq!(lines.line(&Event::Started { what: "quick" }, begin), None);
        assert_eq!(lines.line(&Event::Finished { what: "quick" }, at(1)), None);
        assert_eq!(lines.line(&Event::Finished { what: "unheard of" }, at(1)), None);
    }

    #[test]
    fn a_terminal_shows_what_goes_on_and_is_clean_afterwards() {
        let terminal = Paper::default();
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(
            Box::new(terminal.clone()),
            250,
        ));
        let progress = progress(Some(&bars));
        let what = "making ext4 on the base";
        progress.event(Event::Started { what });
        terminal.wait_for(what);
        progress.event(Event::Amount { what, done: 1 << 20, total: 4 << 20 });
        terminal.wait_for("1.00 MiB/4.00 MiB");
        progress.event(Event::Finished { what });
        let text = terminal.0.lock().clone();
        let (_, after) = text.rsplit_once(what).unwrap();
        assert!(after.contains("<clear>"), "{text}");
        // A step that ended is forgotten; the same may come again.
        progress.event(Event::Finished { what });
    }
}
