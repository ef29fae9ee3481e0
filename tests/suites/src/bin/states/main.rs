//! Every state that a graph directory can be in: Docker's old formats, what its crashes left, other sizes, Podman's surroundings, and looking without writing.

mod crashes;
mod docker;
#[expect(dead_code, reason = "the suite graph uses the rest")]
#[path = "../graph/fixture.rs"]
mod fixture;
mod formats;
mod looking;
mod podman;
mod untouched;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "states",
        Set::Main,
        vec![
            test("ext4: --read-only changes nothing", || looking::at_rest("ext4")).deadline(minutes(4)),
            test("xfs: --read-only changes nothing", || looking::at_rest("xfs"))
                .deadline(minutes(4))
                .thorough(),
            test("--read-only on a full disk", looking::full).deadline(minutes(4)).thorough(),
            test("--read-only on a damaged root", looking::damaged).deadline(minutes(4)),
            test("--read-only on files that are longer than the pool, and damaged", untouched::long_files)
                .deadline(minutes(4)),
            test("--read-only on given devices, longer than the pool, and damaged", untouched::given_devices)
                .deadline(minutes(4)),
            test("--read-only on a pool that is up", looking::given_pool).deadline(minutes(4)).thorough(),
            test("ext4: formats of old versions", || formats::old_formats("ext4"))
                .deadline(minutes(4))
                .thorough(),
            test("xfs: formats of old versions", || formats::old_formats("xfs"))
                .deadline(minutes(4))
                .thorough(),
            test("left-overs and one damaged record among many", formats::left_overs).deadline(minutes(4)),
            test("ext4: sizes grow and never shrink", || formats::sizes("ext4"))
                .deadline(minutes(4))
                .thorough(),
            test("xfs: sizes grow and never shrink", || formats::sizes("xfs"))
                .deadline(minutes(4))
                .thorough(),
            test("ext4: a growth that Docker failed is finished", || {
                formats::growth_that_docker_failed("ext4")
            })
            .deadline(minutes(4))
            .thorough(),
            test("xfs: a growth that Docker failed is finished", || {
                formats::growth_that_docker_failed("xfs")
            })
            .deadline(minutes(4))
            .thorough(),
            test("interrupted creates, each row", crashes::interrupted_creates)
                .deadline(minutes(4))
                .thorough(),
            test("interrupted deletes, each row", crashes::interrupted_deletes)
                .deadline(minutes(4))
                .thorough(),
            test("interrupted deletes of a device in use", crashes::interrupted_deferred_deletes)
                .deadline(minutes(4)),
            test("a pool that was moved on, and one that is older", crashes::other_counters)
                .deadline(minutes(4))
                .thorough(),
            test("Podman's names and lock", podman::names_and_lock).deadline(minutes(4)).thorough(),
            test("adopt tells, and changes nothing before --yes", podman::adopting).deadline(minutes(4)),
        ],
    )
    .main()
}
