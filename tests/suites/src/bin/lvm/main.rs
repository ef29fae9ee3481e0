//! Thin pools that are LVM's, with the real LVM: direct-lvm set up and interrupted, refusals, reboots, growth, and dockerd on the same pool.

mod brim;
mod disk;
mod docker;
mod dying;
#[path = "../program/fixture.rs"]
#[allow(dead_code, reason = "the fixture serves another suite, too")]
mod fixture;
mod given;
mod growth;
mod reboot;
mod refusals;
mod root;
mod setup;
#[path = "../full/writers.rs"]
#[allow(dead_code, reason = "the writers serve another suite, too")]
mod writers;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    // This program is also the one that is killed.
    if let Some(done) = dying::child() {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "lvm",
        Set::NeedsUdev,
        vec![
            test("a set-up killed after each step ends in the same pool", setup::killed_after_each_step)
                .deadline(minutes(20))
                .thorough(),
            test("a set-up killed inside of each step ends in the same pool", setup::killed_inside)
                .deadline(minutes(12))
                .thorough(),
            test("a stored configuration wins over options that were lost", setup::stored_wins)
                .deadline(minutes(10))
                .thorough(),
            test("devices that hold something are refused and untouched", refusals::held_devices)
                .deadline(minutes(12))
                .thorough(),
            test("missing tools are named before anything is written", refusals::missing_tools),
            test("after a reboot LVM activates the pool and the layers are there", reboot::reboot)
                .deadline(minutes(12))
                .thorough(),
            test("a pool grows under its layers, also when it is full", growth::grows)
                .deadline(minutes(12))
                .thorough(),
            test("a pool grows under four writers, by thinlayer and by LVM", brim::grows)
                .deadline(minutes(12))
                .thorough(),
            test("a pool whose group is full fails its four writers and recovers", brim::cannot_grow)
                .deadline(minutes(15))
                .thorough(),
            test("full metadata in a full group: LVM's spare lets layers be removed", brim::metadata)
                .deadline(minutes(10))
                .thorough(),
            test("a pool in which LVM counts is refused", given::counted_pools_are_refused)
                .deadline(minutes(10))
                .thorough(),
            test("dockerd takes a pool that thinlayer set up", docker::dockerd_takes_ours)
                .deadline(minutes(12))
                .thorough(),
            test("thinlayer takes a pool that dockerd set up", docker::we_take_dockerds)
                .deadline(minutes(12))
                .thorough(),
        ],
    )
    .main()
}
