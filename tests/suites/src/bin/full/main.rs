//! Pools filled to the brim by real writers: they grow, or say that they are full; nothing hangs for ever, nothing that was synced is lost.

mod brim;
mod by_hand;
mod check;
#[path = "../program/fixture.rs"]
#[allow(dead_code, reason = "the fixture serves another suite, too")]
mod fixture;
mod host;
mod killed;
mod metadata;
mod writers;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "full",
        Set::Main,
        vec![
            test("ext4: a pool grows under four writers", || brim::grows("ext4")).deadline(minutes(5)),
            test("xfs: a pool grows under four writers", || brim::grows("xfs")).deadline(minutes(5)),
            test("ext4: a pool that cannot grow fails its four writers and recovers", || {
                brim::cannot_grow("ext4")
            })
            .deadline(minutes(6))
            .thorough(),
            test("xfs: a pool that cannot grow fails its four writers and recovers", || {
                brim::cannot_grow("xfs")
            })
            .deadline(minutes(6))
            .thorough(),
            test("ext4: a full host below a sparse file loses nothing that was synced", || {
                brim::host_full("ext4")
            })
            .deadline(minutes(5))
            .thorough(),
            test("xfs: a full host below a sparse file loses nothing that was synced", || {
                brim::host_full("xfs")
            })
            .deadline(minutes(5))
            .thorough(),
            test("full metadata: the reserve lets layers be removed, through serve", || {
                metadata::removal(true)
            })
            .deadline(minutes(4))
            .thorough(),
            test("full metadata: the reserve lets layers be removed, by a command alone", || {
                metadata::removal(false)
            })
            .deadline(minutes(4))
            .thorough(),
            test("metadata grows at its threshold, at a create too", metadata::grows).deadline(minutes(4)),
            test(
                "a serve killed while the pool grows leaves a pool that the next start completes",
                killed::in_growth,
            )
            .deadline(minutes(5)),
            test("pool grow, by a command alone and through serve", by_hand::loop_files).deadline(minutes(4)),
            test("pool grow takes in what a given device has become", by_hand::given_devices)
                .deadline(minutes(4)),
            test("pool grow of somebody else's pool is refused with what to do", by_hand::somebody_elses),
            test(
                "a pool that needs a check is not written to, and the message's own commands mend it",
                check::needs_check,
            )
            .deadline(minutes(4)),
        ],
    )
    .main()
}
