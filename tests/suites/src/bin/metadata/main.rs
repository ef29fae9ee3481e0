//! The reader of a pool's metadata on pools that the kernel made, with `thin_dump`, `thin_ls`, `thin_delta` and `thin_check` as second opinions.

mod damage;
mod live;
mod offline;
mod oracle;
mod rig;

use std::process::ExitCode;

use harness::{Set, suite};

fn main() -> ExitCode {
    if let Some(pool) = std::env::var_os(live::HOLD) {
        return live::hold_until_killed(&pool);
    }
    let tests = [offline::tests(), live::tests(), damage::tests()];
    suite("metadata", Set::Main, tests.into_iter().flatten().collect()).main()
}
