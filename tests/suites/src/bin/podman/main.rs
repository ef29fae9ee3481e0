//! Podman with the `devicemapper` driver of containers/storage and thinlayer on the same graph, one after the other.

mod engine;
mod killed;
mod story;

#[path = "../docker/found.rs"]
#[expect(dead_code, reason = "what the suite of dockerd sees of a root, of which this one needs a part")]
mod found;

#[path = "../lvm/disk.rs"]
#[expect(dead_code, reason = "the disk of LVM's own suite, of which this one needs a part")]
mod disk;

#[path = "../program/fixture.rs"]
#[expect(dead_code, reason = "the fixture of the program's own suite, of which this one needs a part")]
mod fixture;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "podman",
        Set::NeedsUdev,
        vec![
            test("xfs: a graph of Podman's on loop files goes to thinlayer and back", story::on_loop_files)
                .deadline(minutes(25))
                .thorough(),
            test("ext4: a graph of Podman's on LVM goes to thinlayer and back", story::on_lvm)
                .deadline(minutes(25))
                .thorough(),
            test("ext4: Podman is killed at any moment, and its graph stays whole", || {
                killed::at_any_moment("ext4")
            })
            .deadline(minutes(25))
            .thorough(),
            test("xfs: Podman is killed at any moment, and its graph stays whole", || {
                killed::at_any_moment("xfs")
            })
            .deadline(minutes(25))
            .thorough(),
        ],
    )
    .main()
}
