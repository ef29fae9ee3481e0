//! The driver on the real kernel: the generic cases and Docker's own of section 7 of the specification, on ext4 and xfs.

mod budget;
mod docker;
mod examples;
mod fixture;
mod generic;
mod hardship;
mod oracles;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, Test, suite, test};

fn main() -> ExitCode {
    // This program is also the one that a test looks at with strace.
    if let Some(done) = budget::traced_cycle() {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut tests: Vec<Test> = Vec::new();
    for filesystem in fixture::FILESYSTEMS {
        let mut case = |name: &str, run: fn(&str) -> anyhow::Result<()>| {
            tests.push(test(format!("{filesystem}: {name}"), move || run(filesystem)));
        };
        case("an empty layer is made, mounted, removed", generic::create_empty);
        case("a layer keeps modes, owners and data", generic::create_base);
        case("a snapshot shows its parent's content", generic::create_snap);
        case("a layer takes its size and no more", generic::set_quota);
        case("uses are counted, also over a restart", generic::reference_counts);
        case("loop files never shrink", docker::loop_files_never_shrink);
        case("loop files grow at start", docker::loop_files_grow);
        case("the worker leaves no lock", docker::the_worker_leaves_no_lock);
        case("mounts that leak are put", docker::mounts_that_leak_are_put);
        case("the status agrees with dmsetup and losetup", oracles::status_agrees_with_dmsetup);
        case("devices agree with dmsetup and blkid", oracles::devices_agree_with_dmsetup);
        case("the pool holds what the records name", oracles::the_pool_holds_what_the_records_name);
        case("a layer's life keeps its budget", budget::a_life_keeps_its_budget);
        case("a layer's life keeps its budget under strace", budget::a_life_under_strace);
        case("the host fills up under the loop files", hardship::the_host_fills_up);
        case("damage in the store is set aside", hardship::damage_in_the_store_is_set_aside);
        case("lost and foreign pools are refused", hardship::lost_and_foreign_pools_are_refused);
        case("a given pool is used and left", hardship::a_given_pool_is_used_and_left);
        case("given devices are checked and used", hardship::given_devices_are_checked_and_used);
        case("a shared backing file is refused", hardship::a_shared_backing_file_is_refused);
        case("the base and layers grow", hardship::the_base_grows);
        tests.push(
            test(format!("{filesystem}: acknowledged layers survive a power cut"), move || {
                hardship::the_power_is_cut(filesystem)
            })
            .deadline(Duration::from_secs(240)),
        );
        tests.push(
            test(format!("{filesystem}: layers twenty deep"), move || {
                generic::deep_layer_read(filesystem, 20)
            })
            .deadline(Duration::from_secs(300)),
        );
    }
    tests.push(test("ext4: a pool that does not answer holds up its own callers, and not for ever", || {
        hardship::a_silent_pool_holds_nobody_for_ever("ext4")
    }));
    for (what, run) in [
        ("a window onto a device", examples::device_mapper as fn() -> anyhow::Result<()>),
        ("a loop pair, and a pool on it", examples::pool),
        ("a file system's life", examples::file_system),
        ("two layers", examples::layers),
    ] {
        tests.push(test(format!("example: {what}"), run));
    }
    suite("driver", Set::Everywhere, tests).main()
}
