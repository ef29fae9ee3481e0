//! The driver on the real kernel: the generic cases and Docker's own of section 7 of the specification, on ext4 and xfs.

mod fixture;
mod generic;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, Test, suite, test};

fn main() -> ExitCode {
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
        tests.push(
            test(format!("{filesystem}: layers twenty deep"), move || {
                generic::deep_layer_read(filesystem, 20)
            })
            .deadline(Duration::from_secs(300)),
        );
    }
    suite("driver", Set::Everywhere, tests).main()
}
