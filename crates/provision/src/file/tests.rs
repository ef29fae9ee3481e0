use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

const MIB: u64 = 1 << 20;

fn nobody(_: &FileInfo) -> Result<Option<String>> {
    Ok(None)
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_sparse_file_is_made_grown_and_never_shrunk() {
    let folder = scratch();
    let path = folder.path().join("data");
    assert_eq!(look(&path).unwrap(), None);
    assert_eq!(ensure(&path, Bytes(64 * MIB), Allocation::Sparse, &nobody).unwrap(), Ensured::Created);
    let made = look(&path).unwrap().unwrap();
    assert_eq!((made.size, made.allocated), (Bytes(64 * MIB), Bytes(0)));
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!((made.dev, made.inode), (metadata.dev(), metadata.ino()));

    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"kept", 5000).unwrap();
    assert_eq!(ensure(&path, Bytes(64 * MIB), Allocation::Sparse, &nobody).unwrap(), Ensured::AsItWas);
    assert_eq!(
        ensure(&path, Bytes(96 * MIB), Allocation::Sparse, &nobody).unwrap(),
        Ensured::Grown { from: Bytes(64 * MIB) }
    );
    assert_eq!(
        ensure(&path, Bytes(MIB), Allocation::Sparse, &nobody).unwrap(),
        Ensured::Larger { size: Bytes(96 * MIB) }
    );
    assert_eq!(look(&path).unwrap().unwrap().size, Bytes(96 * MIB));
    assert_eq!(&std::fs::read(&path).unwrap()[5000..5004], b"kept");
}

#[test]
fn a_full_file_has_all_its_blocks() {
    let folder = scratch();
    let path = folder.path().join("metadata");
    assert_eq!(ensure(&path, Bytes(4 * MIB), Allocation::Full, &nobody).unwrap(), Ensured::Created);
    let made = look(&path).unwrap().unwrap();
    assert!(made.size == Bytes(4 * MIB) && made.allocated >= made.size, "{made:?}");
    assert_eq!(
        ensure(&path, Bytes(6 * MIB), Allocation::Full, &nobody).unwrap(),
        Ensured::Grown { from: Bytes(4 * MIB) }
    );
    assert!(look(&path).unwrap().unwrap().allocated >= Bytes(6 * MIB));
}

/// A file with data at some places, and its content.
fn sparse_with_data(path: &Path, size: u64, data: &[(u64, u8)]) -> Vec<u8> {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, byte) in data {
        file.write_all_at(&[*byte; 100], *at).unwrap();
    }
    file.sync_all().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn taking_over_a_sparse_file_fills_its_holes_and_keeps_its_content() {
    let folder = scratch();
    let path = folder.path().join("metadata");
    let content = sparse_with_data(&path, 4 * MIB, &[(0, 1), (MIB, 2), (3 * MIB + 7, 3)]);
    assert!(look(&path).unwrap().unwrap().allocated < Bytes(MIB));
    assert_eq!(ensure(&path, Bytes(4 * MIB), Allocation::Full, &nobody).unwrap(), Ensured::AsItWas);
    assert!(look(&path).unwrap().unwrap().allocated >= Bytes(4 * MIB));
    assert_eq!(std::fs::read(&path).unwrap(), content);

    // Larger than asked for: filled to its own end.
    let content = sparse_with_data(&path, 8 * MIB, &[(7 * MIB, 9)]);
    assert_eq!(
        ensure(&path, Bytes(2 * MIB), Allocation::Full, &nobody).unwrap(),
        Ensured::Larger { size: Bytes(8 * MIB) }
    );
    assert!(look(&path).unwrap().unwrap().allocated >= Bytes(8 * MIB));
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[test]
fn no_room_leaves_nothing_behind_and_keeps_the_length() {
    let folder = scratch();
    let path = folder.path().join("metadata");
    // More than any disk of a build machine, less than an ext4 file may have.
    let huge = Bytes(15 << 40);
    let error = ensure(&path, huge, Allocation::Full, &nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let Error::NoRoom { needed, free, option, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*needed, *option), (15 << 40, "dm.loopmetadatasize"));
    assert!(*free > 0 && *free < 15 << 40);
    assert!(!path.exists());

    let content = sparse_with_data(&path, 2 * MIB, &[(MIB, 4)]);
    let error = ensure(&path, huge, Allocation::Full, &nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[test]
fn only_regular_files_are_taken() {
    let folder = scratch();
    let target = folder.path().join("target");
    std::fs::write(&target, b"not mine").unwrap();
    let link = folder.path().join("link");
    symlink(&target, &link).unwrap();
    let dangling = folder.path().join("dangling");
    symlink(folder.path().join("nowhere"), &dangling).unwrap();
    let directory = folder.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, word) in [
        (&link, "a symbolic link"),
        (&dangling, "a symbolic link"),
        (&directory, "a directory"),
        (&fifo, "not a regular file"),
    ] {
        for allocation in [Allocation::Sparse, Allocation::Full] {
            let error = ensure(path, Bytes(MIB), allocation, &nobody).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(look(path).is_err() && open(path, false).is_err() && open(path, true).is_err());
        assert!(remove(path).is_err());
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"not mine");
    assert!(!folder.path().join("nowhere").exists());
}

#[test]
fn a_missing_folder_is_not_found() {
    let folder = scratch();
    let error = ensure(&folder.path().join("no/data"), Bytes(MIB), Allocation::Sparse, &nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("cannot make "), "{error}");
}

#[test]
fn a_removed_file_is_gone_and_its_room_free() {
    let folder = scratch();
    let path = folder.path().join("reserve");
    assert!(!remove(&path).unwrap());
    ensure(&path, Bytes(4 * MIB), Allocation::Full, &nobody).unwrap();
    // Who still has it open has an empty file: the blocks do not wait for the last close.
    let open = std::fs::File::open(&path).unwrap();
    assert!(remove(&path).unwrap());
    assert!(!path.exists());
    assert_eq!(open.metadata().unwrap().blocks(), 0);
}

#[test]
fn holes_of_a_file_that_is_attached_are_not_written_to() {
    let folder = scratch();
    let path = folder.path().join("metadata");
    let content = sparse_with_data(&path, 2 * MIB, &[(0, 1)]);
    let file = open(&path, true).unwrap();
    let error = fill_holes(&file, &path, 2 * MIB, &|_| Ok(Some("/dev/loop7".into()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("/dev/loop7"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), content);
    assert!(look(&path).unwrap().unwrap().allocated < Bytes(MIB));
}

#[test]
fn what_is_allocated_has_no_gaps_even_unwritten_and_in_many_pieces() {
    let folder = scratch();
    let path = folder.path().join("metadata");
    // More extents than one look tells.
    let data: Vec<_> = (0..150).map(|piece| (piece * 16384, 1)).collect();
    let content = sparse_with_data(&path, 4 * MIB, &data);
    let file = open(&path, true).unwrap();
    let found = gaps(&file, &path, 4 * MIB).unwrap();
    assert_eq!(found.len(), 150, "{found:?}");
    assert_eq!((found[0], found[149]), ((4096, 16384), (149 * 16384 + 4096, 4 * MIB)));
    assert_eq!(gaps(&file, &path, 10_000).unwrap(), [(4096, 10_000)]);

    ensure(&path, Bytes(4 * MIB), Allocation::Full, &nobody).unwrap();
    assert_eq!(gaps(&file, &path, 4 * MIB).unwrap(), []);
    assert_eq!(std::fs::read(&path).unwrap(), content);
    let fresh = folder.path().join("fresh");
    ensure(&fresh, Bytes(MIB), Allocation::Full, &nobody).unwrap();
    let fresh_file = open(&fresh, true).unwrap();
    assert_eq!(gaps(&fresh_file, &fresh, MIB).unwrap(), []);
    // A block that was punched out is missed again.
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 8192, 4096).unwrap();
    assert_eq!(gaps(&file, &path, 4 * MIB).unwrap(), [(8192, 12288)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn zeros_go_only_into_holes(
        data in prop::collection::vec((0_u64..2 * MIB - 100, 1_u8..), 0..6),
        size in 2 * MIB..4 * MIB,
    ) {
        let folder = scratch();
        let path = folder.path().join("metadata");
        let mut content = sparse_with_data(&path, 2 * MIB, &data);
        let file = open(&path, true).unwrap();
        fill_holes(&file, &path, size, &nobody).unwrap();
        content.resize(usize::try_from(size).unwrap(), 0);
        prop_assert!(std::fs::read(&path).unwrap() == content);
        prop_assert!(facts(&file, &path).unwrap().allocated.0 >= size);
        prop_assert_eq!(holes(&file, &path, size).unwrap(), vec![]);
    }
}
