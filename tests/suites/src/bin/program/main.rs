//! The program on the real kernel: a root's whole life by hand and through `serve`, and what goes wrong on the way.

mod by_hand;
mod checking;
mod disk;
mod fixture;
mod life;
mod many;
mod serving;
mod trouble;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "program",
        Set::Everywhere,
        vec![
            test("ext4: a whole life in text", || life::in_text("ext4")).deadline(minutes(4)),
            test("xfs: a whole life in text", || life::in_text("xfs")).deadline(minutes(4)),
            test("ext4: a whole life in JSON", || life::in_json("ext4")).deadline(minutes(4)),
            test("xfs: a whole life in JSON through serve", || life::in_json_through_serve("xfs"))
                .deadline(minutes(4)),
            test("through serve all is the same", life::in_text_through_serve).deadline(minutes(4)),
            test("the example runs", life::example).deadline(minutes(4)),
            test("the second serve names the first", serving::second_serve),
            test("serve tells systemd, and ends with what is under way done", serving::ends_well)
                .deadline(minutes(4)),
            test("serve stops, and opens again for the next command", serving::stop_and_go_on),
            test("other options than serve's are refused with both values", serving::other_options),
            test("a second signal ends serve at once", serving::second_signal),
            test("a serve whose lock says nothing is found", serving::lock_without_text),
            test("garbage on the control socket hurts nobody", serving::garbage),
            test("use counts survive a restart and a kill of serve", serving::use_counts_survive)
                .deadline(minutes(4)),
            test("a killed serve's removals are carried on", serving::killed_while_removing)
                .deadline(minutes(6)),
            test("ten creates at once all succeed", many::ten_creates).deadline(minutes(4)),
            test("ten creates at once through serve all succeed", many::ten_creates_through_serve)
                .deadline(minutes(4)),
            test("ls answers while a create is stopped", many::ls_beside_a_stopped_create)
                .deadline(minutes(4)),
            test("ls and status answer while serve is stopped", many::ls_beside_a_stopped_serve),
            test("a killed create leaves the state before or after", many::killed_creates)
                .deadline(minutes(6)),
            test("rm goes on after SIGTERM only to the next layer", many::terminated_rm).deadline(minutes(4)),
            test(
                "through serve rm goes on after SIGTERM only to the next layer",
                many::terminated_rm_through_serve,
            )
            .deadline(minutes(4)),
            test("a full disk loses nothing", trouble::full_disk).deadline(minutes(4)),
            test("a disk that is full from the start", trouble::disk_full_from_the_start),
            test("a read-only root can be looked at", trouble::read_only_root),
            test("stray files and a truncated record cost no other layer", trouble::damaged_records),
            test("a missing loop file is said and not made anew", trouble::missing_loop_file),
            test("a pool of another root is refused", trouble::pool_of_another_root),
            test("nonsense is refused and changes nothing", trouble::nonsense),
            test("layers in use stay", trouble::layers_in_use),
            test(
                "without device-mapper the answer is clear and nothing is made",
                trouble::without_device_mapper,
            ),
            test("what is missing beneath a layer is no missing layer", trouble::missing_beneath),
            test("check finds what disagrees in an active pool, and --repair mends it", checking::active)
                .deadline(minutes(4)),
            test("check finds what disagrees in a root at rest, and wakes nothing", checking::at_rest)
                .deadline(minutes(4)),
            test(
                "check names the tools for damaged metadata, and --repair leaves it alone",
                checking::damage,
            )
            .deadline(minutes(4)),
            test(
                "check names damage below an active pool, and --repair leaves it alone",
                checking::damaged_while_active,
            )
            .deadline(minutes(4)),
            test("check finds devices and mounts that somebody changed by hand", by_hand::devices)
                .deadline(minutes(4)),
            test("a growth that was cut off is found at rest, and --repair finishes it", by_hand::growth)
                .deadline(minutes(4)),
            test("a killed check's metadata snapshot is released, and nobody else's", checking::killed),
            test(
                "check and --repair work through serve, and a pending removal is no finding",
                checking::serving,
            )
            .deadline(minutes(4)),
        ],
    )
    .main()
}
