//! dockerd with its own `devicemapper` driver and thinlayer on the same graph, one after the other, in both directions.

mod found;
mod refusals;
mod root_of_ours;
mod story;

#[path = "../program/fixture.rs"]
#[expect(dead_code, reason = "the fixture of the program's own suite, of which this one needs a part")]
mod fixture;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};

fn main() -> ExitCode {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    suite(
        "docker",
        Set::NeedsUdev,
        vec![
            test("xfs: a graph of dockerd's goes to thinlayer and back", || story::there_and_back("xfs"))
                .deadline(minutes(25)),
            test("ext4: a graph of dockerd's goes to thinlayer and back", || story::there_and_back("ext4"))
                .deadline(minutes(25))
                .thorough(),
            test("a root of thinlayer's is dockerd's graph, and its layers stay whole", root_of_ours::taken)
                .deadline(minutes(15))
                .thorough(),
        ],
    )
    .main()
}
