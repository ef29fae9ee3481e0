//! A layer's whole life: create from a parent, get and write, put, remove.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::samples::Samples;

/// The steps of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new layer on the parent.
    Create,
    /// Activate, mount, write [`WORDS`] to a new file.
    Get,
    /// Unmount, deactivate.
    Put,
    /// The layer goes.
    Remove,
}

impl Step {
    pub(crate) const ALL: [Self; 4] = [Self::Create, Self::Get, Self::Put, Self::Remove];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::Put => "put",
            Self::Remove => "remove",
        }
    }
}

/// What is written to a file of the layer.
pub(crate) const WORDS: &[u8] = b"hello";

/// Whose layer, and its how manieth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) client: u32,
    pub(crate) number: u32,
}

/// Somebody who can take a layer through its life.
pub(crate) trait Contender: Sync {
    /// Does one step for the layer of this turn.
    fn step(&self, step: Step, turn: Turn) -> Result<()>;

    /// Does what it has put off. `false`: it never puts anything off.
    fn work_off(&self) -> Result<bool> {
        Ok(false)
    }
}

/// The times of many cycles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cycles {
    steps: [Samples; 4],
    pub(crate) whole: Samples,
    /// What was put off, for each cycle of a turn.
    pub(crate) put_off: Samples,
}

impl Cycles {
    pub(crate) fn step(&self, step: Step) -> &Samples {
        &self.steps[step as usize]
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        for (mine, theirs) in self.steps.iter_mut().zip(&other.steps) {
            mine.extend(theirs);
        }
        self.whole.extend(&other.whole);
        self.put_off.extend(&other.put_off);
    }

    /// One cycle more.
    pub(crate) fn run(&mut self, contender: &dyn Contender, turn: Turn) -> Result<()> {
        let mut whole = Duration::ZERO;
        for step in Step::ALL {
            let start = Instant::now();
            contender.step(step, turn).with_context(|| format!("{} of layer {turn:?}", step.name()))?;
            let took = start.elapsed();
            whole += took;
            self.steps[step as usize].push(took);
        }
        self.whole.push(whole);
        Ok(())
    }

    /// So many cycles, and then what they put off.
    pub(crate) fn run_many(&mut self, contender: &dyn Contender, first: u32, count: u32) -> Result<()> {
        for number in first..first + count {
            self.run(contender, Turn { client: 0, number })?;
        }
        let start = Instant::now();
        if contender.work_off()? {
            self.put_off.push(start.elapsed() / count.max(1));
        }
        Ok(())
    }
}
