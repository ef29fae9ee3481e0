//! Folders and small files, on the host and in what is mounted.

use super::bench::{Bench, MIB};
use super::{Outcome, ensure, list, refused, same};
use thinlayer_filesystem::{ErrorKind, Kind, Owner};

list! {
    "a folder is made with those above it, again and again" => make,
    "folders are listed sorted, and files are not" => list,
    "an empty folder is removed, others are not" => remove,
    "a mount point is not removed" => mount_point,
    "a small file is written once" => write_if_absent,
    "folders and files in a mounted file system stay in it" => inside,
    "free bytes are those of the file system that holds the path" => free,
}

fn make(b: &Bench<'_>) -> Outcome {
    let path = b.path("a/b/c");
    for _ in 0..2 {
        b.fs().make_dir(&path, 0o700, Owner { uid: 1, gid: 2 })?;
    }
    same!(b.fs().dirs(&b.path("a"))?, vec!["b".to_owned()], "what is in a");
    b.lab.write(&b.path("file"), b"x")?;
    ensure!(b.fs().make_dir(&b.path("file"), 0o700, Owner::default()).is_err(), "a file became a folder");
    ensure!(
        b.fs().make_dir(&b.path("file/below"), 0o700, Owner::default()).is_err(),
        "a folder below a file"
    );
    Ok(())
}

fn list(b: &Bench<'_>) -> Outcome {
    for name in ["b", "c", "a"] {
        b.folder(&format!("all/{name}"))?;
    }
    b.lab.write(&b.path("all/file"), b"x")?;
    same!(b.fs().dirs(&b.path("all"))?, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], "the folders");
    same!(b.fs().dirs(&b.path("none"))?, Vec::<String>::new(), "folders of no folder");
    Ok(())
}

fn remove(b: &Bench<'_>) -> Outcome {
    let path = b.folder("a")?;
    b.folder("a/b")?;
    refused!(b.fs().remove_dir(&path), ErrorKind::Busy, "a folder with one in it");
    ensure!(b.fs().remove_dir(&path.join("b"))?, "the inner one was not there");
    ensure!(b.fs().remove_dir(&path)?, "the outer one was not there");
    ensure!(!b.fs().remove_dir(&path)?, "it was there again");
    b.lab.write(&b.path("file"), b"x")?;
    ensure!(b.fs().remove_dir(&b.path("file")).is_err(), "a file was removed");
    Ok(())
}

fn mount_point(b: &Bench<'_>) -> Outcome {
    let disk = b.attached("disk", 64 * MIB)?;
    b.mkfs_at(&disk.node, Kind::Ext4)?;
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    refused!(b.fs().remove_dir(&target), ErrorKind::Busy, "removal of a mount point");
    b.unmount(&target)?;
    ensure!(b.fs().remove_dir(&target)?, "it was not there");
    Ok(())
}

fn write_if_absent(b: &Bench<'_>) -> Outcome {
    let path = b.path("id");
    ensure!(b.fs().write_if_absent(&path, b"one")?, "it was there");
    ensure!(!b.fs().write_if_absent(&path, b"two")?, "it was written again");
    same!(b.lab.read(&path)?, Some(b"one".to_vec()), "its content");
    ensure!(b.fs().write_if_absent(&b.path("none/id"), b"x").is_err(), "a file in no folder");
    Ok(())
}

fn inside(b: &Bench<'_>) -> Outcome {
    let disk = b.attached("disk", 64 * MIB)?;
    b.mkfs_at(&disk.node, Kind::Ext4)?;
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    b.fs().make_dir(&target.join("rootfs"), 0o755, Owner::default())?;
    ensure!(b.fs().write_if_absent(&target.join("id"), b"me")?, "the id was there");
    b.unmount(&target)?;
    same!(b.fs().dirs(&target)?, Vec::<String>::new(), "folders in the empty mount point");
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    ensure!(b.fs().dirs(&target)?.contains(&"rootfs".to_owned()), "rootfs is gone");
    ensure!(!b.fs().write_if_absent(&target.join("id"), b"other")?, "the id is gone");
    ensure!(b.fs().remove_dir(&target.join("rootfs"))?, "rootfs could not be removed");
    Ok(())
}

fn free(b: &Bench<'_>) -> Outcome {
    let disk = b.attached("disk", 64 * MIB)?;
    b.mkfs_at(&disk.node, Kind::Ext4)?;
    let target = b.folder("mnt")?;
    let host = b.fs().free_bytes(&target)?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    let inside = b.fs().free_bytes(&target)?;
    ensure!(
        inside < 64 * MIB && inside > 16 * MIB && inside < host,
        "{inside} bytes in 64 MiB, {host} outside"
    );
    refused!(b.fs().free_bytes(&b.path("none")), ErrorKind::NotFound, "of no path");
    Ok(())
}
