//! Backing files, loop devices, block devices.

use super::bench::{Bench, MIB, line};
use super::{Failure, Outcome, ensure, list, refused, same};
use thinlayer_dm::Bytes;
use thinlayer_filesystem::Kind;
use thinlayer_provision::{Allocation, AttachOptions, Ensured, ErrorKind, LoopDevice};

list! {
    "a backing file is made, grows, and never shrinks" => ensure_file,
    "a sparse file takes no room, a full one takes all of it" => allocation,
    "a file's facts, and none where there is none" => facts,
    "what is no file is refused as one" => not_a_file,
    "an attached file is listed by inode and clears itself" => attach,
    "a file is attached once" => attach_twice,
    "a loop device sees its file's new size when told to" => refresh,
    "a file under a loop device is not removed" => remove_file,
    "a loop device stays while a table stands on it" => under_a_table,
    "an attachment can be read-only" => read_only,
    "a block device's size, content and users can be looked at" => inspect,
    "what is no block device is refused as one" => inspect_nothing,
}

fn ensure_file(b: &Bench<'_>) -> Outcome {
    let path = b.path("file");
    let ensure = |mib: u64, how| b.backing().ensure_file(&path, Bytes(mib * MIB), how);
    same!(ensure(4, Allocation::Sparse)?, Ensured::Created, "the first time");
    same!(ensure(4, Allocation::Sparse)?, Ensured::AsItWas, "again");
    same!(ensure(8, Allocation::Sparse)?, Ensured::Grown { from: Bytes(4 * MIB) }, "larger");
    same!(ensure(4, Allocation::Sparse)?, Ensured::Larger { size: Bytes(8 * MIB) }, "smaller");
    same!(b.backing().file(&path)?.map(|f| f.size), Some(Bytes(8 * MIB)), "its size");
    Ok(())
}

fn allocation(b: &Bench<'_>) -> Outcome {
    b.file("sparse", 64 * MIB, Allocation::Sparse)?;
    b.file("full", 8 * MIB, Allocation::Full)?;
    let allocated = |name: &str| -> Result<u64, Failure> {
        let file = b.backing().file(&b.path(name))?;
        Ok(file.map_or(0, |f| f.allocated.0))
    };
    ensure!(allocated("sparse")? < MIB, "the sparse file takes {}", allocated("sparse")?);
    ensure!(allocated("full")? >= 8 * MIB, "the full file takes {}", allocated("full")?);
    b.backing().ensure_file(&b.path("sparse"), Bytes(8 * MIB), Allocation::Full)?;
    ensure!(allocated("sparse")? >= 64 * MIB, "filled up, it takes {}", allocated("sparse")?);
    Ok(())
}

fn facts(b: &Bench<'_>) -> Outcome {
    same!(b.backing().file(&b.path("none"))?, None, "a file that is not there");
    b.file("one", MIB, Allocation::Sparse)?;
    b.file("two", MIB, Allocation::Sparse)?;
    let (one, two) = (b.backing().file(&b.path("one"))?, b.backing().file(&b.path("two"))?);
    let (Some(one), Some(two)) = (one, two) else { return Err(Failure::new("a file has no facts")) };
    same!(one.dev, two.dev, "their devices");
    ensure!(one.inode != two.inode, "they have one inode");
    Ok(())
}

fn not_a_file(b: &Bench<'_>) -> Outcome {
    let folder = b.folder("folder")?;
    ensure!(b.backing().file(&folder).is_err(), "a folder is a file");
    ensure!(b.backing().ensure_file(&folder, Bytes(MIB), Allocation::Sparse).is_err(), "a folder grew");
    ensure!(b.backing().attach(&folder, AttachOptions::default()).is_err(), "a folder was attached");
    let below = b.path("none/file");
    refused!(
        b.backing().ensure_file(&below, Bytes(MIB), Allocation::Sparse),
        ErrorKind::NotFound,
        "a file in no folder"
    );
    Ok(())
}

fn listed(b: &Bench<'_>, name: &str) -> Result<Option<LoopDevice>, Failure> {
    let file = b.backing().file(&b.path(name))?.ok_or_else(|| Failure::new(format!("no file {name}")))?;
    Ok(b.backing().loops()?.into_iter().find(|l| l.inode == file.inode && l.dev == file.dev))
}

fn attach(b: &Bench<'_>) -> Outcome {
    refused!(b.backing().attach(&b.path("none"), AttachOptions::default()), ErrorKind::NotFound, "no file");
    let attachment = b.attached("file", 4 * MIB)?;
    same!(attachment.size, Bytes(4 * MIB), "its size");
    let Some(found) = listed(b, "file")? else { return Err(Failure::new("it is not listed")) };
    same!((found.number, &found.node), (attachment.number, &attachment.node), "who it is");
    same!(found.file, b.path("file"), "its file");
    ensure!(found.autoclear && !found.read_only, "{found:?}");
    same!(found.direct_io, attachment.direct_io, "direct I/O");
    drop(attachment);
    b.eventually("it clears itself", || Ok(listed(b, "file")?.is_none()))
}

fn attach_twice(b: &Bench<'_>) -> Outcome {
    let first = b.attached("file", 4 * MIB)?;
    refused!(b.backing().attach(&b.path("file"), AttachOptions::default()), ErrorKind::Busy, "a second time");
    let other = b.attached("other", 4 * MIB)?;
    ensure!(first.number != other.number, "both have one number");
    drop(first);
    b.eventually("it clears itself", || Ok(listed(b, "file")?.is_none()))?;
    b.backing().attach(&b.path("file"), AttachOptions::default())?;
    Ok(())
}

fn refresh(b: &Bench<'_>) -> Outcome {
    let attachment = b.attached("file", 4 * MIB)?;
    b.file("file", 8 * MIB, Allocation::Sparse)?;
    same!(b.backing().inspect(&attachment.node)?.size, Bytes(4 * MIB), "its size before");
    same!(b.backing().refresh_size(attachment.number)?, Bytes(8 * MIB), "its size");
    same!(b.backing().inspect(&attachment.node)?.size, Bytes(8 * MIB), "its size after");
    let number = attachment.number;
    drop(attachment);
    b.eventually("it clears itself", || Ok(listed(b, "file")?.is_none()))?;
    ensure!(b.backing().refresh_size(number).is_err(), "a loop device that is not in use was refreshed");
    Ok(())
}

fn remove_file(b: &Bench<'_>) -> Outcome {
    let attachment = b.attached("file", 4 * MIB)?;
    refused!(b.backing().remove_file(&b.path("file")), ErrorKind::Busy, "removal");
    drop(attachment);
    b.eventually("it clears itself", || Ok(listed(b, "file")?.is_none()))?;
    ensure!(b.backing().remove_file(&b.path("file"))?, "it was not there");
    ensure!(!b.backing().remove_file(&b.path("file"))?, "it was there again");
    same!(b.backing().file(&b.path("file"))?, None, "the file");
    Ok(())
}

fn under_a_table(b: &Bench<'_>) -> Outcome {
    let attachment = b.attached("file", 4 * MIB)?;
    let upper = b.device("upper", &[line(0, 1024, "linear", &format!("{} 0", attachment.number))])?;
    drop(attachment);
    std::thread::sleep(std::time::Duration::from_millis(50));
    ensure!(listed(b, "file")?.is_some(), "it went under the table");
    b.remove(&upper.name)?;
    b.eventually("it clears itself", || Ok(listed(b, "file")?.is_none()))
}

fn read_only(b: &Bench<'_>) -> Outcome {
    let path = b.file("file", 4 * MIB, Allocation::Sparse)?;
    let attachment = b.backing().attach(&path, AttachOptions::READ_ONLY)?;
    ensure!(b.backing().inspect(&attachment.node)?.read_only, "it can be written");
    ensure!(listed(b, "file")?.is_some_and(|l| l.read_only), "it is not listed as read-only");

    // A device too, as far as is wanted.
    let device = b.attached("device", 4 * MIB)?;
    refused!(
        b.backing().attach(&device.node, AttachOptions::default()),
        ErrorKind::Invalid,
        "a device for writing"
    );
    let limit = Some(Bytes(3 * MIB));
    let upper = b.backing().attach(&device.node, AttachOptions { limit, ..AttachOptions::READ_ONLY })?;
    let found = b.backing().inspect(&upper.node)?;
    same!(
        (upper.size, found.size, found.read_only),
        (Bytes(3 * MIB), Bytes(3 * MIB), true),
        "a part of a device"
    );
    Ok(())
}

fn inspect(b: &Bench<'_>) -> Outcome {
    let attachment = b.attached("file", 64 * MIB)?;
    let look = || b.backing().inspect(&attachment.node);
    let found = look()?;
    same!((found.number, found.size), (attachment.number, Bytes(64 * MIB)), "number and size");
    same!((found.read_only, found.signature), (false, None), "read-only and signature");
    b.mkfs_at(&attachment.node, Kind::Ext4)?;
    same!(look()?.signature.as_deref(), Some("ext4"), "the signature");
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&attachment.node, &target, Kind::Ext4))?;
    ensure!(!look()?.users.is_empty(), "nobody uses what is mounted");
    b.unmount(&target)?;
    let upper = b.device("upper", &[line(0, 1024, "linear", &format!("{} 0", attachment.number))])?;
    ensure!(!look()?.users.is_empty(), "nobody uses what a table stands on");
    b.remove(&upper.name)?;
    Ok(())
}

fn inspect_nothing(b: &Bench<'_>) -> Outcome {
    let path = b.file("file", MIB, Allocation::Sparse)?;
    refused!(b.backing().inspect(&path), ErrorKind::Invalid, "a regular file");
    refused!(b.backing().inspect(&b.path("none")), ErrorKind::NotFound, "nothing");
    Ok(())
}
