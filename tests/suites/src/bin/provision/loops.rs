//! Loop devices.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{eventually, run, scratch_dir, sparse_file};
use thinlayer_dm::{Bytes, DeviceNumber};
use thinlayer_provision::{Allocation, Backing, Ensured, ErrorKind, System};

use crate::support::{
    MIB, PATIENCE, RO, RW, detach, expect, gone, is_attached, losetup, number_of, path, text, word,
};

pub(crate) fn attached(system: &System) -> Result<()> {
    let file = path("data")?;
    sparse_file(&file, 8 * MIB)?;
    for (options, ro) in [(RW, "0"), (RO, "1")] {
        let attachment = system.attach(&file, options)?;
        let shown = losetup(&attachment.node, "NAME,BACK-FILE,AUTOCLEAR,RO,OFFSET,SIZELIMIT")?;
        let wanted = format!("{} {} 1 {ro} 0 0", attachment.node.display(), file.display());
        ensure!(shown == wanted, "losetup says {shown:?}, not {wanted:?}");
        let dio = losetup(&attachment.node, "DIO")?;
        ensure!(
            dio == if attachment.direct_io { "1" } else { "0" },
            "DIO is {dio}, told {}",
            attachment.direct_io
        );
        // The scratch disk is ext4 on a disk with sectors of 512 bytes, which can.
        ensure!(attachment.direct_io, "no direct I/O on the scratch disk");
        ensure!(attachment.number == number_of(&attachment.node)?);
        ensure!(attachment.size == Bytes(8 * MIB));
        let read_only = word("blockdev", &["--getro", text(&attachment.node)?])?;
        ensure!(read_only == ro, "blockdev says {read_only}");
        let opened = File::options().read(true).write(true).open(&attachment.node);
        match opened.and_then(|device| device.write_at(b"written", 4096).and_then(|_| device.sync_all())) {
            Ok(()) => ensure!(!options.read_only, "a read-only device took a write"),
            Err(error) => ensure!(options.read_only, "a write failed: {error}"),
        }

        let listed = system.loops()?;
        let found =
            listed.iter().find(|found| found.number == attachment.number).context("it is not listed")?;
        let facts = fs::metadata(&file)?;
        ensure!(found.node == attachment.node && found.file == file, "{found:?}");
        ensure!((found.dev, found.inode) == (facts.dev(), facts.ino()), "{found:?}, not {facts:?}");
        ensure!(
            found.autoclear
                && found.direct_io == attachment.direct_io
                && found.read_only == options.read_only
        );
        let all = word("losetup", &["--list", "--noheadings", "--raw", "--output", "NAME"])?;
        ensure!(all.lines().count() == listed.len(), "losetup lists {all}, loops() {listed:?}");
        detach(attachment)?;
    }
    let facts = system.file(&file)?.context("the file is gone")?;
    ensure!(facts.size == Bytes(8 * MIB));
    let mut content = [0; 7];
    File::open(&file)?.read_exact_at(&mut content, 4096)?;
    ensure!(&content == b"written", "the file holds {content:?}");
    Ok(())
}

pub(crate) fn long_name() -> Result<()> {
    let folder = path(&format!("{}with blank", "deep/".repeat(20)))?;
    fs::create_dir_all(&folder)?;
    let file = folder.join("data");
    sparse_file(&file, MIB)?;
    // Through a link to its folder: the true name counts.
    let link = path("link")?;
    std::os::unix::fs::symlink(&folder, &link)?;
    let system = System::new();
    let attachment = system.attach(&link.join("data"), RW)?;
    let shown =
        word("losetup", &["--list", "--noheadings", "--output", "BACK-FILE", text(&attachment.node)?])?;
    ensure!(shown.trim() == text(&file)?, "losetup says {shown:?}");
    ensure!(system.loops()?.iter().any(|found| found.file == file));
    fs::remove_file(&file)?;
    let deleted = format!("{} (deleted)", file.display());
    ensure!(system.loops()?.iter().any(|found| found.file == Path::new(&deleted)), "{:?}", system.loops()?);
    detach(attachment)
}

pub(crate) fn autoclear() -> Result<()> {
    let file = path("data")?;
    sparse_file(&file, MIB)?;
    let system = System::new();
    let attachment = system.attach(&file, RW)?;
    let node = attachment.node.clone();
    let another = File::open(&node)?;
    drop(attachment);
    std::thread::sleep(Duration::from_millis(300));
    ensure!(is_attached(&node)?, "freed although somebody has it open");
    drop(another);
    gone(&node)?;
    // At once again, whatever udev still does.
    for _ in 0..20 {
        drop(system.attach(&file, RW)?);
    }
    eventually("all to be free", PATIENCE, || {
        let left = system.loops()?;
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    })
}

pub(crate) fn forty() -> Result<()> {
    let system = System::new();
    let mut held = Vec::new();
    for index in 0..40 {
        let file = path(&format!("file{index}"))?;
        sparse_file(&file, MIB)?;
        held.push(system.attach(&file, RW)?);
    }
    let mut numbers: Vec<_> = held.iter().map(|attachment| attachment.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(numbers.len() == 40, "{numbers:?}");
    let listed = system.loops()?;
    ensure!(listed.len() == 40, "{} listed", listed.len());
    for (index, attachment) in held.iter().enumerate() {
        let file = path(&format!("file{index}"))?;
        let found = listed.iter().find(|found| found.number == attachment.number).context("not listed")?;
        ensure!(found.file == file, "{found:?}");
    }
    held.into_iter().try_for_each(detach)
}

/// Runs one job per thread and gives their results.
fn threads<T: Send>(count: usize, job: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for index in 0..count {
            let (job, results) = (&job, &results);
            scope.spawn(move || {
                let result = job(index);
                if let Ok(mut results) = results.lock() {
                    results.push(result);
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    ensure!(results.len() == count, "{} threads came to an end", results.len());
    results.into_iter().collect()
}

pub(crate) fn racing() -> Result<()> {
    let held = threads(8, |index| {
        // Half of them as on an old kernel.
        let system = if index % 2 == 0 { System::new() } else { System::new().attach_in_two_steps() };
        (0..5)
            .map(|round| {
                let file = path(&format!("file{index}-{round}"))?;
                sparse_file(&file, MIB)?;
                Ok((file.clone(), system.attach(&file, RW)?))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let held: Vec<_> = held.into_iter().flatten().collect();
    for (file, attachment) in &held {
        let shown = losetup(&attachment.node, "BACK-FILE")?;
        ensure!(shown == text(file)?, "{} has {shown}, not {}", attachment.node.display(), file.display());
    }
    held.into_iter().try_for_each(|(_, attachment)| detach(attachment))
}

pub(crate) fn racing_for_one() -> Result<()> {
    let file = path("data")?;
    sparse_file(&file, MIB)?;
    let results = threads(4, |_| Ok(System::new().attach(&file, RW)))?;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| result.is_ok());
    ensure!(won.len() == 1, "{} won: {won:?}", won.len());
    for result in lost {
        expect(result.map(drop), ErrorKind::Busy, &[text(&file)?])?;
    }
    ensure!(System::new().loops()?.len() == 1);
    for result in won {
        detach(result?)?;
    }
    Ok(())
}

pub(crate) fn duplicates() -> Result<()> {
    let file = path("data")?;
    sparse_file(&file, MIB)?;
    let system = System::new();
    let link = path("hard link")?;
    fs::hard_link(&file, &link)?;
    let node = word("losetup", &["--find", "--show", text(&file)?])?;
    for path in [&file, &link] {
        for options in [RW, RO] {
            expect(
                system.attach(path, options).map(drop),
                ErrorKind::Busy,
                &[&node, text(path)?, "losetup -d"],
            )?;
        }
        expect(system.remove_file(path).map(drop), ErrorKind::Busy, &[&node])?;
    }
    ensure!(file.exists() && system.loops()?.len() == 1);
    run("losetup", ["--detach", &node])?;
    gone(Path::new(&node))?;
    // Our own holds it as well.
    let attachment = system.attach(&file, RW)?;
    expect(system.attach(&link, RW).map(drop), ErrorKind::Busy, &[text(&attachment.node)?])?;
    detach(attachment)?;
    ensure!(system.remove_file(&link)? && !system.remove_file(&link)?);
    Ok(())
}

pub(crate) fn missing_node() -> Result<()> {
    let file = path("data")?;
    sparse_file(&file, MIB)?;
    let system = System::new();
    let node = PathBuf::from(word("losetup", &["--find"])?);
    let number = number_of(&node)?;
    fs::remove_file(&node)?;
    let attachment = system.attach(&file, RW)?;
    ensure!(attachment.node == node && attachment.number == number, "{attachment:?}, not {}", node.display());
    ensure!(number_of(&node)? == number);
    // A listing knows the device without its node, and with a plain file in its place; it makes nothing.
    let whole = system.loops()?;
    fs::remove_file(&node)?;
    ensure!(
        system.loops()? == whole && whole.len() == 1 && !node.exists(),
        "{:?}, not {whole:?}",
        system.loops()?
    );
    fs::write(&node, "stale")?;
    ensure!(system.loops()? == whole, "{:?}, not {whole:?}", system.loops()?);
    // Neither stops who attaches another file, and the file is still known to be taken.
    let other = path("other")?;
    sparse_file(&other, MIB)?;
    detach(system.attach(&other, RW)?)?;
    expect(system.attach(&file, RW).map(drop), ErrorKind::Busy, &["in use by"])?;
    fs::remove_file(&node)?;
    expect(system.attach(&file, RW).map(drop), ErrorKind::Busy, &["in use by"])?;
    ensure!(number_of(&node)? == number, "who attaches looks at all of them");
    // A file that is gone by its path is somebody else's.
    fs::remove_file(&file)?;
    fs::remove_file(&node)?;
    ensure!(system.loops()?.is_empty(), "{:?}", system.loops()?);
    let left = system.attach(&other, RW)?;
    ensure!(number_of(&node)? == number && left.node != node, "{left:?}");
    detach(left)?;
    detach(attachment)
}

pub(crate) fn growth() -> Result<()> {
    let file = path("data")?;
    let system = System::new();
    ensure!(system.ensure_file(&file, Bytes(4 * MIB), Allocation::Sparse)? == Ensured::Created);
    let attachment = system.attach(&file, RW)?;
    let grown = system.ensure_file(&file, Bytes(9 * MIB), Allocation::Sparse)?;
    ensure!(grown == Ensured::Grown { from: Bytes(4 * MIB) }, "{grown:?}");
    let size =
        || -> Result<u64> { Ok(word("blockdev", &["--getsize64", text(&attachment.node)?])?.parse()?) };
    ensure!(size()? == 4 * MIB);
    ensure!(system.refresh_size(attachment.number)? == Bytes(9 * MIB));
    ensure!(size()? == 9 * MIB);
    let number = attachment.number;
    detach(attachment)?;
    expect(system.refresh_size(number).map(drop), ErrorKind::NotFound, &[])?;
    let root = fs::metadata("/")?.dev();
    expect(
        system.refresh_size(DeviceNumber::from_stat(root)).map(drop),
        ErrorKind::Invalid,
        &["no loop device"],
    )
}

pub(crate) fn no_file() -> Result<()> {
    let system = System::new();
    let before = system.loops()?;
    let missing = path("missing")?;
    expect(system.attach(&missing, RW).map(drop), ErrorKind::NotFound, &[text(&missing)?])?;
    let link = path("link")?;
    std::os::unix::fs::symlink("/etc/passwd", &link)?;
    for (path, said) in
        [(scratch_dir()?, "a directory"), (link, "a symbolic link"), ("/dev/null".into(), "regular")]
    {
        for options in [RW, RO] {
            expect(system.attach(&path, options).map(drop), ErrorKind::Invalid, &[said])?;
        }
    }
    ensure!(system.loops()? == before);
    Ok(())
}
