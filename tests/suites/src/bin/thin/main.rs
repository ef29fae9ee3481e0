//! `thinlayer-thin` on the real kernel, with `dmsetup`, `thin_check` and `thin_dump` as second opinions.

mod devices;
mod full;
mod messages;
mod pools;
mod rig;
mod snapshots;
mod trouble;

use std::process::ExitCode;

use harness::{Set, suite};

fn main() -> ExitCode {
    let tests = [
        pools::tests(),
        messages::tests(),
        devices::tests(),
        snapshots::tests(),
        full::tests(),
        trouble::tests(),
    ];
    suite("thin", Set::Everywhere, tests.into_iter().flatten().collect()).main()
}
