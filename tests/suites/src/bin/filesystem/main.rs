//! `thinlayer-filesystem` on the real kernel: ext4 and xfs on loop devices, with the usual tools as second opinion.

mod bench;
mod journal;
mod live;
mod making;
mod mounting;

use harness::{Set, suite, test};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // Started again below strace, to see which processes it starts.
    if let Some(code) = live::cycle_below_strace() {
        return code;
    }
    suite(
        "filesystem",
        // `--matrix` runs it on the other kernel and without udev too.
        Set::Main,
        vec![
            test("usable loads the kernel's module", making::usable_loads_the_module),
            test("what was made is what blkid tells", making::made_as_blkid_tells),
            test("mkfs's own words are in the error", making::words_of_mkfs),
            test("a device in use or with a signature is not made anew", making::not_made_anew),
            test("an old btrfs signature does not outlive what is made", making::old_btrfs_signature),
            test("checks by count and time go, and the superblock stays whole", making::periodic_checks),
            test("a mkfs that hangs is killed with its children", making::hanging_mkfs),
            test("mount flags are in the mount table", mounting::flags),
            test("an option that is refused is named", mounting::refused_options),
            test("a damaged superblock's error has the kernel log's line", mounting::damaged_superblock),
            test("a mount point that is none costs no mount", mounting::bad_mount_points),
            test("busy, lazy and nothing to unmount", mounting::unmounting),
            test("a read-only mount without recovery writes nothing", mounting::without_recovery)
                .deadline(Duration::from_secs(240)),
            test("a temporary mount goes with its work", mounting::temporary),
            test("folders around mounts", mounting::folders),
            test("grown file systems are whole", live::growing).deadline(Duration::from_secs(240)),
            test("what cannot grow says why", live::not_growing),
            test("a frozen file system holds its writers until it is thawed", live::freezing),
            test("xfs's patience with a full device can be limited", live::xfs_retries),
            test(
                "what was synced into an ext4 outlives an unmount that cannot write",
                journal::outlives_an_unmount,
            ),
            test("an ext4 that could not write its own structures takes no more", journal::no_more_writes),
            test("mounting, growing and unmounting start no process", live::no_process),
        ],
    )
    .main()
}
