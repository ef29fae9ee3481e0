//! Backing files, loop devices and given devices on a real kernel, with losetup, blkid, du and dmsetup as oracles.

mod devices;
mod discards;
mod loops;
mod pool;
mod room;
mod support;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Set, suite, test};
use thinlayer_provision::System;

fn main() -> ExitCode {
    suite(
        "provision",
        Set::Everywhere,
        vec![
            test("an attached file is what losetup says", || loops::attached(&System::new())),
            test("attached in two steps it is the same", || {
                loops::attached(&System::new().attach_in_two_steps())
            }),
            test("the name of a file deep down is whole", loops::long_name),
            test("a loop device frees itself after its last close", loops::autoclear),
            test("forty files at once have forty devices", loops::forty),
            test("racing threads each get a device of their own", loops::racing),
            test("of racing threads on one file one wins", loops::racing_for_one),
            test("a file that another loop device holds is refused", loops::duplicates),
            test("a node that is missing is made to attach, and stops no listing", loops::missing_node),
            test("growth is seen after a refresh", loops::growth),
            test("what is no file is refused", loops::no_file),
            test("no room leaves nothing behind", room::no_room),
            test("metadata is really allocated on ext4, ext3, ext2 and xfs", room::allocated)
                .deadline(Duration::from_secs(240)),
            test("an allocated file takes writes on a full host", room::full_host)
                .deadline(Duration::from_secs(240)),
            test("a discard punches the backing file", discards::discard),
            test("a discard keeps to its rate", discards::discard_rate),
            test("a device that cannot discard is no error", discards::discard_unsupported),
            test("signatures are those of blkid", devices::signatures).deadline(Duration::from_secs(240)),
            test("a thin pool's metadata is recognised, and damage to it", devices::thin_metadata),
            test("users are named", devices::users),
            test("a mount in another namespace is noticed", devices::foreign_mount),
            test("given devices are refused for each reason", devices::given_devices),
            test(
                "a loop pool lives: made, found, grown, its reserve spent on a full host",
                pool::loop_pool_life,
            )
            .deadline(Duration::from_secs(240)),
            test("a loop pool is refused while somebody else holds its file", pool::loop_pool_duplicates),
            test("half a loop pool is refused and left alone", pool::loop_pool_partial),
        ],
    )
    .main()
}
