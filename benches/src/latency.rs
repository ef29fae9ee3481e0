//! One client: the driver's cycle beside the floor's, in turns.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cycle::{Contender, Cycles, Step};
use crate::parties::Parties;
use crate::samples::Samples;
use crate::say;
use crate::table::{Table, short};

/// What the driver may cost at most, as a multiple of the floor.
pub(crate) const GOAL: f64 = 1.5;

/// The times of all sides.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    pub(crate) floor: Cycles,
    pub(crate) plain: Cycles,
    pub(crate) discarding: Cycles,
    /// The driver over the floor, whole cycles, for each round by itself.
    pub(crate) rounds: Vec<f64>,
    pub(crate) floor_calls: BTreeMap<&'static str, Samples>,
    /// How many of the floor's removals had to be tried again.
    pub(crate) floor_busy: usize,
}

/// Rounds in which each side has its turn; who begins changes from round to round. The first round warms up and does not count.
pub(crate) fn measure(parties: &Parties, rounds: u32, cycles: u32) -> Result<Latency> {
    let sides: [&dyn Contender; 3] = [&parties.floor, &parties.plain, &parties.discarding];
    let mut all = [Cycles::default(), Cycles::default(), Cycles::default()];
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        say(&format!("one client, round {round} of {rounds}"));
        let mut these = [Cycles::default(), Cycles::default(), Cycles::default()];
        for place in 0..sides.len() {
            let side = (place + round as usize) % sides.len();
            settle()?;
            these[side].run_many(sides[side], round * cycles, cycles)?;
        }
        if round == 0 {
            parties.floor.take_calls();
            parties.floor.take_busy();
            continue;
        }
        ratios.push(these[1].whole.median() / these[0].whole.median());
        for (all, these) in all.iter_mut().zip(&these) {
            all.extend(these);
        }
    }
    let [floor, plain, discarding] = all;
    Ok(Latency {
        floor,
        plain,
        discarding,
        rounds: ratios,
        floor_calls: parties.floor.take_calls(),
        floor_busy: parties.floor.take_busy(),
    })
}

/// What udev still has to do for one side must not cost the other.
pub(crate) fn settle() -> Result<()> {
    if harness::udev_runs() {
        harness::run("udevadm", ["settle", "--timeout=60"])?;
    }
    Ok(())
}

impl Latency {
    /// Each side with its name.
    pub(crate) fn sides(&self) -> [(&'static str, &Cycles); 3] {
        [("floor", &self.floor), ("driver", &self.plain), ("driver, discarding", &self.discarding)]
    }

    /// The driver over the floor: medians of whole cycles.
    pub(crate) fn ratio(&self) -> f64 {
        self.plain.whole.median() / self.floor.whole.median()
    }

    pub(crate) fn text(&self) -> String {
        let title = format!("One client, medians of {} cycles, ms", self.floor.whole.len());
        let heads =
            ["", "create", "get", "put", "remove", "cycle", "quarter to three quarters", "afterwards"];
        let mut table = Table::new(title, &heads);
        for (name, cycles) in self.sides() {
            let steps = Step::ALL.map(|step| short(cycles.step(step).median()));
            let spread = format!("{:.0} to {:.0}", cycles.whole.quantile(0.25), cycles.whole.quantile(0.75));
            let after = if cycles.put_off.len() > 0 { short(cycles.put_off.median()) } else { String::new() };
            let whole = short(cycles.whole.median());
            table.row([name.to_owned()].into_iter().chain(steps).chain([whole, spread, after]));
        }
        let ratio = |step| self.plain.step(step).median() / self.floor.step(step).median();
        let ratios = Step::ALL.map(|step| format!("{:.2}", ratio(step)));
        let (least, most) =
            self.rounds.iter().fold((f64::MAX, 0.0_f64), |(least, most), &r| (least.min(r), most.max(r)));
        table.row(["driver / floor".to_owned()].into_iter().chain(ratios).chain([
            format!("{:.2}", self.ratio()),
            format!("rounds {least:.2} to {most:.2}, middle {:.2}", middle(&self.rounds)),
            String::new(),
        ]));
        let mut calls = Table::new("The floor's single calls, medians, ms", &["call", "ms"]);
        for (call, samples) in &self.floor_calls {
            calls.row([(*call).to_owned(), short(samples.median())]);
        }
        calls.row(["removals tried again (count)".to_owned(), self.floor_busy.to_string()]);
        table.text() + &calls.text()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let calls: serde_json::Map<String, serde_json::Value> = self
            .floor_calls
            .iter()
            .map(|(call, samples)| ((*call).to_owned(), samples.median().into()))
            .collect();
        serde_json::json!({
            "sides": self.sides().map(|(name, cycles)| side_json(name, cycles)),
            "ratio": self.ratio(),
            "ratio_by_round": self.rounds,
            "ratio_by_round_middle": middle(&self.rounds),
            "floor_calls_ms": calls,
            "floor_removals_tried_again": self.floor_busy,
        })
    }
}

/// The middle one (of an even number the upper of two).
fn middle(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// A side's medians.
pub(crate) fn side_json(name: &str, cycles: &Cycles) -> serde_json::Value {
    let steps: serde_json::Map<String, serde_json::Value> = Step::ALL
        .iter()
        .map(|&step| (format!("{}_ms", step.name()), cycles.step(step).median().into()))
        .collect();
    serde_json::json!({
        "name": name,
        "cycles": cycles.whole.len(),
        "cycle_ms": cycles.whole.median(),
        "cycle_quartiles_ms": [cycles.whole.quantile(0.25), cycles.whole.quantile(0.75)],
        "steps": steps,
        "afterwards_ms": (cycles.put_off.len() > 0).then(|| cycles.put_off.median()),
    })
}
