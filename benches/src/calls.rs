//! Where the driver's time goes: each call of a step, in order, and what it takes.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cycle::{Contender, Step, Turn};
use crate::latency::settle;
use crate::parties::{Opened, Parties};
use crate::samples::Samples;
use crate::table::{Table, short};
use crate::timed::TimedCall;

/// Cycles that are looked at, after one that pays for what is remembered later.
const CYCLES: u32 = 12;

/// A call at one place of a step.
#[derive(Clone, Debug)]
struct Line {
    what: String,
    times: Samples,
}

/// A step and its calls. Where a cycle had other calls than the first one that counts, it is left out.
#[derive(Clone, Debug)]
struct Dissected {
    name: &'static str,
    lines: Vec<Line>,
    whole: Samples,
    /// What no call accounts for: the driver's own work, threads, waits.
    rest: Samples,
    left_out: usize,
}

impl Dissected {
    fn add(&mut self, calls: &[TimedCall], whole: Duration) {
        if self.whole.len() == 0 {
            self.lines =
                calls.iter().map(|c| Line { what: c.what.clone(), times: Samples::default() }).collect();
        }
        if !self.lines.iter().map(|line| &line.what).eq(calls.iter().map(|call| &call.what)) {
            self.left_out += 1;
            return;
        }
        for (line, call) in self.lines.iter_mut().zip(calls) {
            line.times.push(call.took);
        }
        self.whole.push(whole);
        self.rest.push(whole.saturating_sub(calls.iter().map(|call| call.took).sum()));
    }
}

/// The calls of one side's cycles.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    side: &'static str,
    steps: Vec<Dissected>,
}

/// Both settings of the driver, opened so that their calls are timed.
pub(crate) fn measure(parties: &Parties) -> Result<Vec<Calls>> {
    [("driver", &parties.plain), ("driver, discarding", &parties.discarding)]
        .into_iter()
        .map(|(name, side)| dissect(name, side))
        .collect()
}

fn dissect(name: &'static str, side: &Opened) -> Result<Calls> {
    let dissected = |name| Dissected {
        name,
        lines: Vec::new(),
        whole: Samples::default(),
        rest: Samples::default(),
        left_out: 0,
    };
    let mut steps: Vec<Dissected> = Step::ALL.iter().map(|step| dissected(step.name())).collect();
    let mut afterwards = dissected("afterwards");
    for number in 0..=CYCLES {
        settle()?;
        for (step, dissected) in Step::ALL.into_iter().zip(&mut steps) {
            side.take_calls();
            let start = Instant::now();
            side.step(step, Turn { client: 0, number })?;
            let took = start.elapsed();
            if number > 0 {
                dissected.add(&side.take_calls(), took);
            }
        }
        side.take_calls();
        let start = Instant::now();
        let worked = side.work_off()?;
        let took = start.elapsed();
        if number > 0 && worked {
            afterwards.add(&side.take_calls(), took);
        }
    }
    steps.extend((afterwards.whole.len() > 0).then_some(afterwards));
    Ok(Calls { side: name, steps })
}

impl Calls {
    pub(crate) fn text(&self) -> String {
        let title = format!("Where the time goes: {}, medians of {CYCLES} cycles, ms", self.side);
        let mut table = Table::new(title, &["step", "call", "ms"]);
        for step in &self.steps {
            table.row([step.name.to_owned(), String::new(), short(step.whole.median())]);
            for line in &step.lines {
                table.row([String::new(), line.what.clone(), format!("{:.2}", line.times.median())]);
            }
            let rest = match step.left_out {
                0 => "rest".to_owned(),
                count => format!("rest ({count} cycles with other calls left out)"),
            };
            table.row([String::new(), rest, format!("{:.2}", step.rest.median())]);
        }
        table.text()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let line = |line: &Line| serde_json::json!({ "call": line.what, "ms": line.times.median() });
        let step = |step: &Dissected| {
            serde_json::json!({
                "step": step.name,
                "ms": step.whole.median(),
                "calls": step.lines.iter().map(line).collect::<Vec<_>>(),
                "rest_ms": step.rest.median(),
            })
        };
        serde_json::json!({ "side": self.side, "steps": self.steps.iter().map(step).collect::<Vec<_>>() })
    }
}
