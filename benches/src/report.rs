//! What was measured, whether the goals hold, and the files that are left.

use std::path::Path;

use anyhow::{Context, Result};

use crate::calls::Calls;
use crate::clients::Clients;
use crate::latency::{self, Latency};
use crate::memory::{self, Memory};
use crate::picture;
use crate::table::Table;
use crate::terms::Terms;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) terms: Option<Terms>,
    pub(crate) latency: Option<Latency>,
    pub(crate) clients: Option<Clients>,
    pub(crate) calls: Vec<Calls>,
    pub(crate) memory: Option<Memory>,
}

/// A goal and how it was met.
#[derive(Debug)]
struct Verdict {
    what: String,
    measured: String,
    goal: String,
    holds: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { terms: None, latency: None, clients: None, calls: Vec::new(), memory: None }
    }

    fn goals(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(latency) = &self.latency {
            verdicts.push(Verdict {
                what: "whole cycle, one client, driver / floor".to_owned(),
                measured: format!("{:.2}", latency.ratio()),
                goal: format!("at most {}", latency::GOAL),
                holds: latency.ratio() <= latency::GOAL,
            });
        }
        if let Some(memory) = &self.memory {
            for usage in &memory.usages {
                verdicts.push(Verdict {
                    what: format!("memory with {} layers: {}", memory.layers, usage.who),
                    measured: format!("{:.1} MiB", usage.peak.max(usage.resident)),
                    goal: format!("under {} MiB", memory::GOAL),
                    holds: usage.holds(),
                });
            }
        }
        verdicts
    }

    /// All goals that were measured are met, and at least one was.
    pub(crate) fn goals_hold(&self) -> bool {
        let goals = self.goals();
        !goals.is_empty() && goals.iter().all(|verdict| verdict.holds)
    }

    pub(crate) fn verdicts(&self) -> String {
        let mut table = Table::new("Goals", &["what", "measured", "goal", "verdict"]);
        for verdict in self.goals() {
            let word = if verdict.holds { "holds" } else { "MISSED" };
            table.row([verdict.what, verdict.measured, verdict.goal, word.to_owned()]);
        }
        table.text()
    }

    fn json(&self) -> serde_json::Value {
        let goal = |verdict: Verdict| {
            serde_json::json!({
                "what": verdict.what, "measured": verdict.measured, "goal": verdict.goal, "holds": verdict.holds,
            })
        };
        let terms = self.terms.as_ref().map(
            |terms| serde_json::json!({ "pool": terms.pool, "loops": terms.loops, "mount": terms.mount }),
        );
        serde_json::json!({
            "version": 1,
            "kernel": harness::kernel(),
            "udev": harness::udev_runs(),
            "terms": terms,
            "one_client": self.latency.as_ref().map(Latency::json),
            "many_clients": self.clients.as_ref().map(Clients::json),
            "calls": self.calls.iter().map(Calls::json).collect::<Vec<_>>(),
            "memory": self.memory.as_ref().map(Memory::json),
            "goals": self.goals().into_iter().map(goal).collect::<Vec<_>>(),
        })
    }

    /// `bench.json`, and `bench.svg` if latencies were measured.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("bench.json", serde_json::to_string_pretty(&self.json())? + "\n")?;
        if let Some(latency) = &self.latency {
            write("bench.svg", picture::bars(latency))?;
        }
        Ok(())
    }
}
