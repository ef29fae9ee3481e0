//! Devices that an operator names.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use harness::{LoopFile, eventually, run, sparse_file, try_run};
use thinlayer_dm::{Bytes, DeviceNumber};
use thinlayer_provision::given::{self, Purpose, validate_pair, validate_pair_for};
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::{Backing, ErrorKind, System};

use crate::support::{MIB, Mapped, PATIENCE, expect, gone, number_of, path, text, word};

/// What blkid finds by looking: the type, or the kind of partition table.
fn blkid(node: &Path) -> Result<Option<String>> {
    let shown = try_run("blkid", ["--probe", "--output", "export", text(node)?])?;
    let shown = shown.stdout_text();
    let value = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    Ok(value("TYPE=").or_else(|| value("PTTYPE=")))
}

fn signature(node: &Path) -> Result<Option<String>> {
    Ok(System::new().inspect(node)?.signature)
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 },
        )
    })
}

/// A partition table with no partitions; blkid proves it right.
fn write_gpt(node: &Path, copy_only: bool) -> Result<()> {
    let device = File::options().write(true).open(node)?;
    let sectors = System::new().inspect(node)?.size.0 / 512;
    let header = |my: u64, other: u64, entries: u64| {
        let mut header = vec![0_u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, value) in [(24, my), (32, other), (40, 34), (48, sectors - 34), (72, entries)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].fill(7);
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&[0; 128 * 128]).to_le_bytes());
        let sum = crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    let mut protective = vec![0_u8; 512];
    protective[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0, 0]);
    protective[510..].copy_from_slice(&[0x55, 0xaa]);
    if !copy_only {
        device.write_all_at(&header(1, sectors - 1, 2), 512)?;
        device.write_all_at(&protective, 0)?;
    }
    device.write_all_at(&header(sectors - 1, 1, sectors - 33), (sectors - 1) * 512)?;
    device.sync_all()?;
    Ok(())
}

pub(crate) fn signatures() -> Result<()> {
    let makers: [(&str, &[&str]); 6] = [
        ("ext2", &["mkfs.ext2", "-q", "-F"]),
        ("ext3", &["mkfs.ext3", "-q", "-F"]),
        ("ext4", &["mkfs.ext4", "-q", "-F"]),
        ("xfs", &["mkfs.xfs", "-q", "-f"]),
        ("swap", &["mkswap", "-q"]),
        ("LVM2_member", &["pvcreate", "-q", "-y", "--zero", "y", "--devicesfile", ""]),
    ];
    let device = LoopFile::new("device", 320 * MIB)?;
    let node = device.device();
    let same = |wanted: Option<&str>, by_blkid: bool| -> Result<()> {
        harness::wait_for_udev()?;
        let ours = signature(node)?;
        ensure!(ours.as_deref() == wanted, "ours {ours:?}, not {wanted:?}");
        let theirs = blkid(node)?;
        ensure!(!by_blkid || theirs.as_deref() == wanted, "blkid says {theirs:?}, not {wanted:?}");
        Ok(())
    };
    same(None, true)?;
    for (name, maker) in makers {
        let mut arguments = maker[1..].to_vec();
        arguments.push(text(node)?);
        run(maker[0], arguments)?;
        same(Some(name), true).with_context(|| name.to_owned())?;
        wipe(node)?;
        same(None, true)?;
    }
    write_gpt(node, false)?;
    same(Some("gpt"), true)?;
    wipe(node)?;
    write_gpt(node, true)?;
    same(Some("gpt"), false)?;
    wipe(node)?;

    let mut old = vec![0_u8; 512];
    old[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    old[510..].copy_from_slice(&[0x55, 0xaa]);
    File::options().write(true).open(node)?.write_all_at(&old, 0)?;
    same(Some("dos"), true)?;
    wipe(node)?;
    File::options().write(true).open(node)?.write_all_at(b"of no known kind", 1000)?;
    same(Some("unrecognised data"), false)
}

/// Zeros at both ends and a discard between.
fn wipe(node: &Path) -> Result<()> {
    harness::wait_for_udev()?;
    let size = System::new().inspect(node)?.size.0;
    let device = File::options().write(true).open(node)?;
    let zeros = vec![0_u8; usize::try_from(MIB)?];
    device.write_all_at(&zeros, 0)?;
    device.write_all_at(&zeros, size - MIB)?;
    device.sync_all()?;
    run("blkdiscard", ["-f", text(node)?])?;
    Ok(())
}

/// Lets the kernel format a metadata device.
fn format_metadata(metadata: &Path, data: &Path) -> Result<()> {
    let table =
        format!("0 65536 thin-pool {} {} 128 0 1 skip_block_zeroing", metadata.display(), data.display());
    drop(Mapped::new("provision-format", &table)?);
    ensure!(!Path::new("/dev/mapper/provision-format").exists(), "the pool is still there");
    Ok(())
}

pub(crate) fn thin_metadata() -> Result<()> {
    let (data, metadata) = (LoopFile::new("data", 32 * MIB)?, LoopFile::new("metadata", 4 * MIB)?);
    format_metadata(metadata.device(), data.device())?;
    let found = signature(metadata.device())?;
    ensure!(found.as_deref() == Some("thin-pool metadata"), "{found:?}");
    run("thin_check", [metadata.device()])?;
    let device = File::options().read(true).write(true).open(metadata.device())?;
    device.write_all_at(b"x", 300)?;
    device.sync_all()?;
    let found = signature(metadata.device())?;
    ensure!(found.as_deref() == Some("damaged thin-pool metadata"), "{found:?}");
    ensure!(!try_run("thin_check", [metadata.device()])?.status.success(), "thin_check finds nothing wrong");
    Ok(())
}

fn users_of(node: &Path) -> Result<Vec<String>> {
    harness::wait_for_udev()?;
    Ok(System::new().inspect(node)?.users)
}

fn expect_users(node: &Path, wanted: &[&str]) -> Result<()> {
    let users = users_of(node)?;
    ensure!(users == wanted, "the users of {} are {users:?}, not {wanted:?}", node.display());
    Ok(())
}

pub(crate) fn users() -> Result<()> {
    let device = LoopFile::new("device", 64 * MIB)?;
    let node = device.device();
    expect_users(node, &[])?;
    let facts = System::new().inspect(node)?;
    ensure!(facts.size == Bytes(64 * MIB) && !facts.read_only && facts.number == number_of(node)?);

    run("mkfs.ext4", ["-q", text(node)?])?;
    let folder = path("with blank")?;
    fs::create_dir_all(&folder)?;
    run("mount", [node, folder.as_path()])?;
    let said = format!("mounted on {}", folder.display());
    let checked = expect_users(node, &[&said]);
    run("umount", [&folder])?;
    checked?;
    expect_users(node, &[])?;

    run("mkswap", ["-q", text(node)?])?;
    run("swapon", [node])?;
    let checked = expect_users(node, &["used as swap space"]);
    run("swapoff", [node])?;
    checked?;

    let mapped = Mapped::new("provision-user", &format!("0 2048 linear {} 0", node.display()))?;
    let minor = fs::metadata(mapped.node()?)?.rdev();
    let said = format!("device-mapper device provision-user (dm-{})", DeviceNumber::from_stat(minor).minor);
    expect_users(node, &[&said])?;
    expect_users(&mapped.node()?, &[])?;
    let stacked = System::new().inspect(&mapped.node()?)?;
    ensure!(stacked.size == Bytes(MIB), "{stacked:?}");
    drop(mapped);

    let upper = word("losetup", &["--find", "--show", text(node)?])?;
    let checked = expect_users(node, &[&format!("loop device {upper}")]);
    run("losetup", ["--detach", &upper])?;
    checked?;
    gone(Path::new(&upper))?;
    expect_users(node, &[])
}

/// Ends a process when it goes.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

pub(crate) fn foreign_mount() -> Result<()> {
    let device = LoopFile::new("device", 16 * MIB)?;
    let node = device.device();
    run("mkfs.ext4", ["-q", text(node)?])?;
    let folder = path("folder")?;
    fs::create_dir_all(&folder)?;
    let script = r#"mount "$0" "$1" && touch "$2" && exec sleep 100"#;
    let mark = path("mark")?;
    let child = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .args([node, &folder, &mark])
        .spawn()?;
    let running = Running(child);
    eventually("the mount", PATIENCE, || Ok(if mark.exists() { Ok(()) } else { Err("no mark".into()) }))?;
    let users = users_of(node)?;
    ensure!(users.len() == 1 && users[0].contains("another namespace"), "{users:?}");
    drop(running);
    eventually("the device to be free", PATIENCE, || {
        let users = users_of(node)?;
        Ok(if users.is_empty() { Ok(()) } else { Err(format!("{users:?}")) })
    })
}

pub(crate) fn given_devices() -> Result<()> {
    let system = System::new();
    let (data, metadata) = (LoopFile::new("data", 64 * MIB)?, LoopFile::new("metadata", 4 * MIB)?);
    let (data, metadata) = (data.device(), metadata.device());
    let check = |data: &Path, metadata: &Path, fresh: bool| validate_pair(&system, data, metadata, fresh);
    let refused = |data: &Path, metadata: &Path, fresh, kind, words: &[&str]| -> Result<()> {
        harness::wait_for_udev()?;
        expect(check(data, metadata, fresh).map(drop), kind, words)
    };
    let pair = check(data, metadata, true)?;
    ensure!(
        pair.blank && pair.data.size == Bytes(64 * MIB) && pair.metadata.size == Bytes(4 * MIB),
        "{pair:?}"
    );

    let link = path("link")?;
    std::os::unix::fs::symlink(data, &link)?;
    refused(data, &link, true, ErrorKind::Invalid, &["dm.datadev", "dm.metadatadev", "the same device"])?;
    let file = path("file")?;
    sparse_file(&file, 64 * MIB)?;
    refused(&file, metadata, true, ErrorKind::Invalid, &["no block device"])?;
    refused(data, Path::new("/dev/null"), true, ErrorKind::Invalid, &["no block device"])?;
    refused(data, Path::new("/dev/missing"), true, ErrorKind::Invalid, &["/dev/missing", "dm.metadatadev"])?;

    let small = LoopFile::new("small", MIB)?;
    refused(data, small.device(), true, ErrorKind::Invalid, &["1048576 bytes", "dm.metadatadev"])?;
    let tiny = LoopFile::new("tiny", 32 << 10)?;
    refused(tiny.device(), metadata, true, ErrorKind::Invalid, &["32768 bytes", "dm.datadev"])?;

    run("blockdev", ["--setro", text(data)?])?;
    refused(data, metadata, true, ErrorKind::Invalid, &["refuses writes"])?;
    run("blockdev", ["--setrw", text(data)?])?;

    for (node, option) in [(data, "dm.datadev"), (metadata, "dm.metadatadev")] {
        let user = Mapped::new("provision-holder", &format!("0 2048 linear {} 0", node.display()))?;
        refused(data, metadata, true, ErrorKind::Busy, &["provision-holder", option])?;
        drop(user);
    }

    run("mkfs.ext4", ["-q", text(data)?])?;
    for fresh in [true, false] {
        refused(data, metadata, fresh, ErrorKind::Invalid, &["it holds ext4", "wipefs --all"])?;
    }
    wipe(data)?;
    run("mkswap", ["-q", text(metadata)?])?;
    refused(data, metadata, true, ErrorKind::Invalid, &["it holds swap"])?;
    wipe(metadata)?;

    // What the error says to do helps.
    File::options().write(true).open(metadata)?.write_all_at(b"garbage", 0)?;
    let Err(error) = check(data, metadata, false) else { bail!("garbage was taken") };
    let said = error.to_string();
    let command = said.split(": ").last().context("no command")?;
    ensure!(command.starts_with("dd if=/dev/zero"), "{said}");
    run("sh", ["-c", command])?;
    harness::wait_for_udev()?;
    ensure!(check(data, metadata, false)?.blank);

    // A pool that was only made is no loss; one that is a transaction on is somebody's.
    format_metadata(metadata, data)?;
    ensure!(!check(data, metadata, true)?.blank);
    let table =
        format!("0 65536 thin-pool {} {} 128 0 1 skip_block_zeroing", metadata.display(), data.display());
    let pool = Mapped::new("provision-used", &table)?;
    run("dmsetup", ["message", "provision-used", "0", "set_transaction_id 0 1"])?;
    drop(pool);
    refused(data, metadata, true, ErrorKind::Invalid, &["another thin pool", "dd if=/dev/zero"])?;
    ensure!(!check(data, metadata, false)?.blank);
    run("blockdev", ["--setro", text(metadata)?])?;
    ensure!(!validate_pair_for(&system, data, metadata, Purpose::ReadOnly)?.blank);
    run("blockdev", ["--setrw", text(metadata)?])?;
    ensure!(given::validate_active(&system, data, Side::Data, number_of(data)?).is_ok());
    expect(
        given::validate_active(&system, data, Side::Data, number_of(metadata)?).map(drop),
        ErrorKind::Busy,
        &["dm.datadev"],
    )
}
