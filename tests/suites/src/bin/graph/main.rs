//! The pool that belongs to a root, and others that do not.

#[expect(dead_code, reason = "the suite states uses the rest")]
mod fixture;
mod identity;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "graph",
        Set::Main,
        vec![
            test("another pool than the loop files is refused untouched", identity::loop_root)
                .deadline(minutes(4)),
            test("lost options and a remade disk are refused untouched", identity::given_pool)
                .deadline(minutes(4)),
            test("given devices are known again", identity::given_devices).deadline(minutes(4)),
            test("a root restored elsewhere works, with another root's files not", identity::restored)
                .deadline(minutes(5)),
        ],
    )
    .main()
}
