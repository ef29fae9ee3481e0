//! The store's disk.

use super::bench::Bench;
use super::{Outcome, ensure, list, same};
use std::io::ErrorKind;
use std::path::Path;
use thinlayer_store::Entry;

list! {
    "a file is written, replaced and read" => write,
    "what is not there is not found" => absent,
    "folders are made with those above, and again" => folders,
    "an overwrite keeps the rest and the length" => overwrite,
    "a rename replaces what had the name" => rename,
    "a removed file is gone" => remove,
    "a folder is not read, written or removed as a file" => folder_as_file,
    "no path leads out of the root" => outside,
}

fn write(b: &Bench<'_>) -> Outcome {
    let disk = b.lab.disk();
    disk.write(Path::new("file"), b"one and more")?;
    disk.sync_file(Path::new("file"))?;
    same!(disk.read(Path::new("file"))?, b"one and more".to_vec(), "its content");
    disk.write(Path::new("file"), b"two")?;
    same!(disk.read(Path::new("file"))?, b"two".to_vec(), "its new content");
    same!(b.lab.read(&b.path("file"))?, Some(b"two".to_vec()), "seen by its whole path");
    let entries = disk.list(Path::new(""))?;
    same!(entries, vec![Entry { name: "file".into(), is_dir: false }], "the folder");
    disk.sync_folder(Path::new(""))?;
    Ok(())
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

fn absent(b: &Bench<'_>) -> Outcome {
    let (disk, none) = (b.lab.disk(), Path::new("none"));
    let missing = Some(ErrorKind::NotFound);
    same!(kind(disk.read(none)), missing, "read");
    same!(kind(disk.list(none)), missing, "list");
    same!(kind(disk.overwrite(none, b"x")), missing, "overwrite");
    same!(kind(disk.sync_file(none)), missing, "sync_file");
    same!(kind(disk.sync_folder(none)), missing, "sync_folder");
    same!(kind(disk.rename(none, Path::new("other"))), missing, "rename");
    same!(kind(disk.remove(none)), missing, "remove");
    same!(kind(disk.write(Path::new("none/file"), b"x")), missing, "write in no folder");
    Ok(())
}

fn folders(b: &Bench<'_>) -> Outcome {
    let disk = b.lab.disk();
    for _ in 0..2 {
        disk.make_folder(Path::new("a/b"))?;
    }
    disk.write(Path::new("a/b/file"), b"x")?;
    disk.sync_folder(Path::new("a/b"))?;
    same!(disk.list(Path::new("a"))?, vec![Entry { name: "b".into(), is_dir: true }], "what is in a");
    same!(disk.list(Path::new("a/b"))?, vec![Entry { name: "file".into(), is_dir: false }], "what is in a/b");
    ensure!(disk.make_folder(Path::new("a/b/file")).is_err(), "a file became a folder");
    Ok(())
}

fn overwrite(b: &Bench<'_>) -> Outcome {
    let (disk, file) = (b.lab.disk(), Path::new("file"));
    disk.write(file, &[b'x'; 1000])?;
    disk.overwrite(file, b"begin")?;
    let content = disk.read(file)?;
    same!(content.len(), 1000, "its length");
    ensure!(content.starts_with(b"beginx"), "its content");
    ensure!(disk.overwrite(file, &[b'y'; 1001]).is_err(), "more than the file holds");
    same!(disk.read(file)?.len(), 1000, "its length after that");
    Ok(())
}

fn rename(b: &Bench<'_>) -> Outcome {
    let disk = b.lab.disk();
    disk.make_folder(Path::new("folder"))?;
    disk.write(Path::new("one"), b"1")?;
    disk.write(Path::new("two"), b"2")?;
    disk.rename(Path::new("one"), Path::new("two"))?;
    same!(disk.read(Path::new("two"))?, b"1".to_vec(), "the content");
    same!(kind(disk.read(Path::new("one"))), Some(ErrorKind::NotFound), "the old name");
    disk.rename(Path::new("two"), Path::new("folder/three"))?;
    same!(disk.read(Path::new("folder/three"))?, b"1".to_vec(), "in another folder");
    disk.rename(Path::new("folder/three"), Path::new("folder/three"))?;
    disk.write(Path::new("file"), b"f")?;
    ensure!(disk.rename(Path::new("file"), Path::new("folder")).is_err(), "a file replaced a folder");
    Ok(())
}

fn remove(b: &Bench<'_>) -> Outcome {
    let (disk, file) = (b.lab.disk(), Path::new("file"));
    disk.write(file, b"x")?;
    disk.remove(file)?;
    same!(kind(disk.read(file)), Some(ErrorKind::NotFound), "the file");
    disk.write(file, b"")?;
    same!(disk.read(file)?, Vec::<u8>::new(), "one made anew");
    Ok(())
}

fn folder_as_file(b: &Bench<'_>) -> Outcome {
    let (disk, folder) = (b.lab.disk(), Path::new("folder"));
    disk.make_folder(folder)?;
    ensure!(disk.read(folder).is_err(), "a folder was read");
    ensure!(disk.write(folder, b"x").is_err(), "a folder was written");
    ensure!(disk.remove(folder).is_err(), "a folder was removed");
    disk.write(Path::new("file"), b"x")?;
    ensure!(disk.list(Path::new("file")).is_err(), "a file was listed");
    Ok(())
}

fn outside(b: &Bench<'_>) -> Outcome {
    let disk = b.lab.disk();
    for path in ["../file", "/file", "folder/../../file"] {
        ensure!(disk.write(Path::new(path), b"x").is_err(), "{path} was written");
        ensure!(disk.read(Path::new(path)).is_err(), "{path} was read");
    }
    Ok(())
}
