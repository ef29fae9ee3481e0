//! Many clients at once, on one root and one parent.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::cycle::{Contender, Cycles, Step, Turn};
use crate::latency::{settle, side_json};
use crate::parties::Parties;
use crate::say;
use crate::table::{Table, short};

/// How many cycles each client has in a round.
const CYCLES: u32 = 2;

/// One side's times and how long all its rounds took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    cycles: Cycles,
    took: Duration,
}

impl Side {
    /// Whole cycles in a second, all clients together.
    fn throughput(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
        let count = self.cycles.whole.len() as f64;
        count / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// All clients' cycles of one round.
    fn round(&mut self, contender: &dyn Contender, clients: u32, round: u32) -> Result<()> {
        settle()?;
        let start = Instant::now();
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|client| {
                    scope.spawn(move || {
                        let mut cycles = Cycles::default();
                        for number in round * CYCLES..(round + 1) * CYCLES {
                            cycles.run(contender, Turn { client, number })?;
                        }
                        anyhow::Ok(cycles)
                    })
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Cycles>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a client ended in a panic")))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        self.took += start.elapsed();
        done.iter().for_each(|cycles| self.cycles.extend(cycles));
        let start = Instant::now();
        if contender.work_off()? {
            self.cycles.put_off.push(start.elapsed() / (clients * CYCLES));
        }
        Ok(())
    }
}

/// The times of all sides.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    clients: u32,
    sides: [(&'static str, Side); 3],
}

/// Rounds in which each side has its turn. The first one warms up and does not count.
pub(crate) fn measure(parties: &Parties, clients: u32, rounds: u32) -> Result<Clients> {
    let contenders: [&dyn Contender; 3] = [&parties.floor, &parties.plain, &parties.discarding];
    let mut sides = ["floor", "driver", "driver, discarding"].map(|name| (name, Side::default()));
    for round in 0..=rounds {
        say(&format!("{clients} clients, round {round} of {rounds}"));
        for place in 0..contenders.len() {
            let side = (place + round as usize) % contenders.len();
            let mut warm_up = Side::default();
            let into = if round == 0 { &mut warm_up } else { &mut sides[side].1 };
            into.round(contenders[side], clients, round)?;
        }
    }
    Ok(Clients { clients, sides })
}

impl Clients {
    pub(crate) fn text(&self) -> String {
        let count = self.sides[0].1.cycles.whole.len();
        let title = format!("{} clients, medians of {count} cycles, ms", self.clients);
        let heads = ["", "create", "get", "put", "remove", "cycle", "cycles/s", "afterwards"];
        let mut table = Table::new(title, &heads);
        for (name, side) in &self.sides {
            let cycles = &side.cycles;
            let steps = Step::ALL.map(|step| short(cycles.step(step).median()));
            let after = if cycles.put_off.len() > 0 { short(cycles.put_off.median()) } else { String::new() };
            table.row([(*name).to_owned()].into_iter().chain(steps).chain([
                short(cycles.whole.median()),
                format!("{:.2}", side.throughput()),
                after,
            ]));
        }
        table.text()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let sides = self.sides.iter().map(|(name, side)| {
            let mut json = side_json(name, &side.cycles);
            json["cycles_per_second"] = side.throughput().into();
            json
        });
        serde_json::json!({ "clients": self.clients, "sides": sides.collect::<Vec<_>>() })
    }
}
