use super::*;
use crate::{Finding, LayerId, Mode as StoreMode, Operation, Record, Recovery, Store};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

fn folder() -> (tempfile::TempDir, Folder) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::open(temporary.path()).unwrap();
    (temporary, folder)
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[test]
fn files_are_written_read_renamed_and_removed() {
    let (temporary, disk) = folder();
    disk.make_folder(path("a/b")).unwrap();
    disk.make_folder(path("a/b")).unwrap();
    disk.write(path("a/b/c"), b"first").unwrap();
    disk.write(path("a/b/c"), b"2nd").unwrap();
    disk.sync_file(path("a/b/c")).unwrap();
    assert_eq!(disk.read(path("a/b/c")).unwrap(), b"2nd");
    disk.rename(path("a/b/c"), path("a/d")).unwrap();
    for folder in ["a/b", "a", ""] {
        disk.sync_folder(path(folder)).unwrap();
    }
    assert_eq!(disk.read(path("a/b/c")).unwrap_err().kind(), io::ErrorKind::NotFound);
    let mut entries = disk.list(path("a")).unwrap();
    entries.sort();
    assert_eq!(
        entries,
        [Entry { name: "b".into(), is_dir: true }, Entry { name: "d".into(), is_dir: false }]
    );
    let mode =
        |name: &str| std::fs::metadata(temporary.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/d")), (0o700, 0o700, 0o600));
    disk.remove(path("a/d")).unwrap();
    assert_eq!(disk.remove(path("a/d")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.list(path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn overwriting_keeps_length_and_inode() {
    let (temporary, disk) = folder();
    disk.write(path("t"), &[b' '; 4096]).unwrap();
    let before = std::fs::metadata(temporary.path().join("t")).unwrap();
    disk.overwrite(path("t"), b"{}").unwrap();
    let after = std::fs::metadata(temporary.path().join("t")).unwrap();
    assert_eq!((after.len(), after.ino(), after.blocks()), (4096, before.ino(), before.blocks()));
    assert_eq!(&disk.read(path("t")).unwrap()[..4], b"{}  ");
    disk.write(path("short"), b"x").unwrap();
    assert_eq!(disk.overwrite(path("short"), b"xy").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(disk.read(path("short")).unwrap(), b"x");
}

#[test]
fn nothing_leads_out_of_the_root() {
    let (temporary, disk) = folder();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path(), temporary.path().join("link")).unwrap();
    symlink(outside.path().join("secret"), temporary.path().join("file")).unwrap();
    assert!(disk.read(path("link/secret")).is_err());
    assert!(disk.write(path("link/new"), b"x").is_err());
    assert!(disk.make_folder(path("link/new")).is_err());
    assert_eq!(disk.read(path("file")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(disk.write(path("file"), b"y").is_err());
    for bad in ["../x", "/etc/hostname", "a/../../x"] {
        assert!(disk.read(path(bad)).is_err(), "{bad}");
    }
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"x");
    let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn what_is_no_file_does_not_stop_a_read() {
    let (temporary, disk) = folder();
    nix::unistd::mkfifo(&temporary.path().join("fifo"), Mode::S_IRWXU).unwrap();
    disk.make_folder(path("folder")).unwrap();
    for name in ["fifo", "folder"] {
        assert_eq!(disk.read(path(name)).unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
    }
    let large = File::create(temporary.path().join("large")).unwrap();
    large.set_len(READ_MAX_BYTES + 1).unwrap();
    assert_eq!(disk.read(path("large")).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// The whole store on a real folder, with the files that it leaves compared byte for byte.
#[test]
fn a_store_lives_in_a_folder() {
    let (temporary, disk) = folder();
    std::fs::create_dir(temporary.path().join("metadata")).unwrap();
    nix::unistd::mkfifo(&temporary.path().join("metadata/fifo"), Mode::S_IRWXU).unwrap();
    symlink("/etc/hostname", temporary.path().join("metadata/link")).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (store, findings) = Store::open(Arc::clone(&disk), StoreMode::ReadWrite).unwrap();
    assert!(
        matches!(&findings[..], [Finding::DamagedRecord { .. }, Finding::DamagedRecord { .. }]),
        "{findings:?}"
    );
    assert_eq!(store.recovery(0), Recovery::Clean);
    let layer = LayerId::given("debian").unwrap();
    let device_id = store.propose_device_id().unwrap();
    let transaction = store.begin(&[Operation::create(layer.clone(), device_id)]).unwrap();
    store.put(&layer, &Record::new(device_id, 1 << 30, transaction.id())).unwrap();
    store.close(transaction);
    let text = |name: &str| std::fs::read_to_string(temporary.path().join("metadata").join(name)).unwrap();
    assert_eq!(
        text("debian"),
        r#"{"device_id":1,"size":1073741824,"transaction_id":1,"initialized":false,"deleted":false}"#
    );
    let intent = text("transaction-metadata");
    assert_eq!(intent.len(), 4096);
    assert_eq!(
        intent.trim_end(),
        r#"{"open_transaction_id":1,"device_hash":"debian","device_id":1,"thinlayer":{"version":1,"kind":"create"}}"#
    );
    let gone = store.retire(&layer).unwrap();
    assert_eq!(
        text(gone.as_str()),
        r#"{"device_id":1,"size":1073741824,"transaction_id":1,"initialized":false,"deleted": true}"#
    );
    let (again, findings) = Store::open(disk, StoreMode::ReadWrite).unwrap();
    assert_eq!((findings, again.recovery(1)), (vec![], Recovery::Clean));
    assert_eq!(again.pending_deletion()[0].0, gone);
    let mut names: Vec<_> = std::fs::read_dir(temporary.path().join("thinlayer/quarantine"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["fifo.1", "link.1"]);
}

/// A name that is no text cannot be a layer, but its device is in use.
#[test]
fn a_name_that_is_no_text_is_left_and_its_device_kept() {
    let (temporary, disk) = folder();
    std::fs::create_dir(temporary.path().join("metadata")).unwrap();
    let name = OsStr::from_bytes(b"a\xff");
    let record = Record::new(crate::DeviceId::new(1).unwrap(), 1, 1);
    std::fs::write(temporary.path().join("metadata").join(name), record.to_json()).unwrap();
    let (store, findings) = Store::open(Arc::new(disk), StoreMode::ReadWrite).unwrap();
    let device_id = Some(record.device_id);
    assert_eq!(findings, [Finding::UnusableName { name: name.to_owned(), device_id }]);
    assert_eq!(store.propose_device_id().unwrap().get(), 2);
    store.release(record.device_id);
    assert!(!store.reserve(record.device_id));
    assert!(store.put(&LayerId::base(), &record).is_err());
    assert!(temporary.path().join("metadata").join(name).exists());
}
