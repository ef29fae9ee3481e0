//! Random histories on the simulated machine, with a crash at every single effect: by a kill and by a power cut. After each, a new owner starts,
//! and what it finds is compared with what was acknowledged.
//!
//! Everything follows from one seed: `THINLAYER_SIM_SEED` (a number; 0 unless set). `THINLAYER_SIM_CASES` is the number of histories of each test.
//! See `docs/simulation.md`.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

mod bugs;
mod check;
mod history;
mod model;
mod play;

use check::{End, Expected, check, end};
use history::{Deferral, History, Op, Setup, histories, troubled_histories};
use model::Model;
use play::{Player, Step, Wrap, honest};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thinlayer_sim::{Capture, World};

/// One crash in this many is followed by a crash at every effect of the recovery, too.
const NESTED: u64 = 11;
/// One in this many is followed by a second start and a new layer's life.
const DEEP: u64 = 3;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn seed() -> u64 {
    number("THINLAYER_SIM_SEED", 0)
}

/// Mixes numbers to one that looks random.
fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |h, part| {
        let h = (h ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^ (h >> 29)
    })
}

/// Plays a history, and crashes it everywhere. Counts the crash points.
fn crash_everywhere(history: &History, wrap: Wrap, nesting: u64, crashes: &Cell<u64>) -> Result<(), String> {
    let at = Cell::new((0, false));
    let mut sink = |step: &Step, captures: Vec<Capture>| {
        for capture in captures {
            at.set((capture.effects, capture.part));
            crash(history, step, capture, wrap, nesting, crashes)?;
        }
        Ok(())
    };
    let played = catch_unwind(AssertUnwindSafe(|| Player::play(history, wrap, &mut sink)));
    match played {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((world, why))) => {
            let (effects, part) = at.get();
            let log = world.effects();
            let upto = usize::try_from(effects).unwrap_or(usize::MAX).min(log.len());
            let shown = &log[upto.saturating_sub(25)..upto];
            let half = if part { " (in part)" } else { "" };
            Err(format!(
                "{why}\nafter effect {effects}{half}; the effects up to it:\n  {}",
                shown.join("\n  ")
            ))
        }
        Err(_) => Err("a panic".into()),
    }
}

fn crash(
    history: &History,
    step: &Step,
    capture: Capture,
    wrap: Wrap,
    nesting: u64,
    crashes: &Cell<u64>,
) -> Result<(), String> {
    let chance = mix(&[seed(), capture.effects, u64::from(capture.part)]);
    for how in [End::Kill, End::PowerCut(chance)] {
        let acknowledged = capture.effects >= step.end && !capture.part;
        let expected = Expected {
            setup: history.setup,
            before: if acknowledged { &step.after } else { &step.before },
            after: &step.after,
            power: how != End::Kill || matches!(step.op, Op::Restart(history::Restart::PowerCut(_))),
            deep: chance.is_multiple_of(DEEP),
            foreign_thin: true,
        };
        let told = |why| format!("{how:?} during {:?}: {why}", step.op);
        if chance.is_multiple_of(nesting) {
            nested(&capture, how, &expected, chance, wrap, nesting == 1, crashes).map_err(told)?;
        }
        let world = capture.world.fork();
        end(&world, how);
        crashes.set(crashes.get() + 1);
        check(&world, &expected, wrap).map_err(told)?;
    }
    Ok(())
}

/// Crashes the recovery, too.
fn nested(
    capture: &Capture,
    how: End,
    expected: &Expected<'_>,
    chance: u64,
    wrap: Wrap,
    every_way: bool,
    crashes: &Cell<u64>,
) -> Result<(), String> {
    let world = capture.world.fork();
    end(&world, how);
    world.capture(true);
    let opened = play::open(&world, expected.setup, wrap);
    drop(opened);
    for again in world.take_captures() {
        let effect = again.effects;
        let cut = |salt| End::PowerCut(mix(&[chance, effect, salt]));
        let ways = match ((chance ^ effect) & 1, every_way) {
            (_, true) => vec![End::Kill, cut(1), cut(2), cut(3)],
            (0, false) => vec![End::Kill],
            (_, false) => vec![cut(1)],
        };
        for second in ways {
            let power = expected.power || second != End::Kill;
            let expected = Expected { power, deep: false, ..*expected };
            let world = again.world.fork();
            end(&world, second);
            crashes.set(crashes.get() + 1);
            check(&world, &expected, wrap)
                .map_err(|why| format!("then {second:?} at effect {effect} of the recovery: {why}"))?;
        }
    }
    Ok(())
}

fn runner(part: u64, cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mix(&[seed(), part]).to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 150, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Many histories; fails with the shortest one that goes wrong.
fn run(part: u64, cases: u64, steps: usize) {
    let cases = u32::try_from(number("THINLAYER_SIM_CASES", cases)).unwrap();
    let crashes = Cell::new(0);
    let result = runner(part, cases).run(&histories(steps), |history| {
        crash_everywhere(&history, honest, NESTED, &crashes).map_err(TestCaseError::fail)
    });
    println!("{} crash points, seed {}", crashes.get(), seed());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => {
            panic!("THINLAYER_SIM_SEED={}\n{history:#?}\n{why}", seed());
        }
        Err(other) => panic!("THINLAYER_SIM_SEED={}: {other}", seed()),
    }
}

#[test]
fn short_histories_survive_a_crash_at_every_effect() {
    run(1, 100, 8);
}

#[test]
fn long_histories_survive_a_crash_at_every_effect() {
    run(2, 40, 24);
}

/// The root's first start, crashed everywhere.
#[test]
fn the_first_start_survives_a_crash_at_every_effect() {
    let setup = Setup { discard: true, deferral: Deferral::RemovalAndDeletion, xfs: false };
    let nothing = Model { rebooted: true, ..Model::default() };
    let mut crashes = 0;
    let world = World::new(seed());
    world.capture(true);
    let (driver, _) = play::open(&world, setup, honest).unwrap();
    driver.stop().unwrap();
    for capture in world.take_captures() {
        for how in [
            End::Kill,
            End::PowerCut(mix(&[seed(), capture.effects])),
            End::PowerCut(mix(&[seed(), capture.effects, 1])),
        ] {
            let world = capture.world.fork();
            end(&world, how);
            crashes += 1;
            let expected = Expected {
                setup,
                before: &nothing,
                after: &nothing,
                power: true,
                deep: true,
                foreign_thin: false,
            };
            if let Err(why) = check(&world, &expected, honest) {
                let effects = capture.effects;
                panic!(
                    "{how:?} after effect {effects} (in part: {}): {why}\n{}",
                    capture.part,
                    world.effects().join("\n")
                );
            }
        }
    }
    assert!(crashes > 100, "{crashes} crash points");
}

/// Whatever a killed owner left is seen by the next one, durable or not: what that one does must hold even if it is cut off, too.
#[test]
fn recoveries_survive_a_crash_at_every_effect() {
    let create = |slot, parent| Op::Create { slot, parent, larger: parent.is_some() };
    let write = Op::Write { slot: 0, file: 0, sync: false };
    let all = [
        (false, vec![create(0, None), Op::Remove(0)]),
        (true, vec![create(0, None), Op::Remove(0), Op::WorkOff]),
        (
            false,
            vec![create(0, None), Op::Get(0), write, create(1, Some(0)), Op::Put { slot: 0, lazy: true }],
        ),
    ];
    let crashes = Cell::new(0);
    for (discard, ops) in all {
        let setup = Setup { discard, deferral: Deferral::RemovalAndDeletion, xfs: false };
        if let Err(why) = crash_everywhere(&History { setup, ops: ops.clone() }, honest, 1, &crashes) {
            panic!("THINLAYER_SIM_SEED={}: {ops:?}: {why}", seed());
        }
    }
    assert!(crashes.get() > 3000, "{} crash points", crashes.get());
}

/// Calls fail, and the owner lives on: a step that fails leaves what was, or what would have been.
#[test]
fn histories_survive_calls_that_fail() {
    let cases = u32::try_from(number("THINLAYER_SIM_CASES", 400)).unwrap();
    let result = runner(4, cases).run(&troubled_histories(12), |(history, troubles)| {
        play::play_troubled(&history, &troubles).map_err(|(world, why)| {
            let log = world.effects();
            let shown = &log[log.len().saturating_sub(40)..];
            TestCaseError::fail(format!("{why}\nthe last effects:\n  {}", shown.join("\n  ")))
        })
    });
    if let Err(error) = result {
        match error {
            TestError::Fail(why, case) => panic!("THINLAYER_SIM_SEED={}\n{case:#?}\n{why}", seed()),
            other => panic!("THINLAYER_SIM_SEED={}: {other:?}", seed()),
        }
    }
}

/// The histories are worth something: each deliberate bug is found by them.
#[test]
fn deliberate_bugs_are_found() {
    for (name, wrap) in bugs::ALL {
        let crashes = Cell::new(0);
        let found = runner(3, 200).run(&histories(16), |history| {
            crash_everywhere(&history, wrap, NESTED, &crashes).map_err(TestCaseError::fail)
        });
        match found {
            Err(TestError::Fail(why, history)) => {
                println!("{name}: found after {} crash points by {:?}: {why}", crashes.get(), history.ops);
            }
            other => panic!("{name}: not found in {} crash points: {other:?}", crashes.get()),
        }
    }
}
