use super::*;
use crate::error::ErrorKind;
use crate::fake::{Fake, loop_number};

const MIB: u64 = 1 << 20;
const SIZES: Sizes = Sizes { data: Bytes(1024 * MIB), metadata: Bytes(16 * MIB) };

fn root() -> &'static Path {
    Path::new("/root")
}

fn data() -> PathBuf {
    Side::Data.path(root())
}

fn metadata() -> PathBuf {
    Side::Metadata.path(root())
}

fn world() -> Fake {
    Fake::new(64 * MIB)
}

#[test]
fn files_lie_where_docker_has_them() {
    assert_eq!(data(), Path::new("/root/devicemapper/data"));
    assert_eq!(metadata(), Path::new("/root/devicemapper/metadata"));
    assert_eq!(reserve_path(root()), Path::new("/root/thinlayer/metadata-reserve"));
}

#[test]
fn a_pair_is_made_and_found_again() {
    let world = world();
    let pair = ensure_pair(&world, root(), SIZES).unwrap();
    assert_eq!(pair.state, PairState::Created);
    assert_eq!((pair.data.ensured, pair.metadata.ensured), (Ensured::Created, Ensured::Created));
    assert_ne!(pair.data.attachment.number, pair.metadata.attachment.number);
    let files = world.files();
    assert_eq!((files[&data()].size, files[&data()].allocated), (SIZES.data, Bytes(0)));
    assert_eq!((files[&metadata()].size, files[&metadata()].allocated), (SIZES.metadata, SIZES.metadata));
    assert_eq!(world.loop_count(), 2);
    drop(pair);
    assert_eq!(world.loop_count(), 0);

    let pair =
        ensure_pair(&world, root(), Sizes { data: Bytes(2048 * MIB), metadata: Bytes(8 * MIB) }).unwrap();
    assert_eq!(pair.state, PairState::Found);
    assert_eq!(pair.data.ensured, Ensured::Grown { from: SIZES.data });
    assert_eq!(pair.metadata.ensured, Ensured::Larger { size: SIZES.metadata });
    assert_eq!(pair.data.attachment.size, Bytes(2048 * MIB));
}

#[test]
fn one_file_without_the_other_is_explained_and_left_alone() {
    for (there, gone) in [(Side::Data, Side::Metadata), (Side::Metadata, Side::Data)] {
        let world = world();
        world.add_file(there.path(root()), 100 * MIB, 4096);
        let before = world.files();
        let error = ensure_pair(&world, root(), SIZES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("{}: this {gone} file is missing", gone.path(root()).display())),
            "{text}"
        );
        assert!(text.contains(&format!("move {} away", there.path(root()).display())), "{text}");
        assert_eq!(world.files(), before);
        assert_eq!(world.take_effects(), Vec::<String>::new());
    }
}

#[test]
fn a_data_file_without_a_block_is_completed() {
    let world = world();
    world.add_file(data(), 100 * MIB, 0);
    assert_eq!(ensure_pair(&world, root(), SIZES).unwrap().state, PairState::Completed);
    assert_eq!(world.files()[&metadata()].allocated, SIZES.metadata);
}

#[test]
fn docker_s_sparse_metadata_is_filled_when_it_is_taken_over() {
    let world = world();
    world.add_file(data(), 1024 * MIB, 300 * MIB);
    world.add_file(metadata(), 32 * MIB, MIB);
    let pair = ensure_pair(&world, root(), SIZES).unwrap();
    assert_eq!(pair.metadata.ensured, Ensured::Larger { size: Bytes(32 * MIB) });
    assert_eq!(world.files()[&metadata()].allocated, Bytes(32 * MIB));
}

#[test]
fn no_room_names_the_option_and_takes_the_new_file_away() {
    let world = Fake::new(MIB);
    let error = ensure_pair(&world, root(), SIZES).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("dm.loopmetadatasize"), "{error}");
    assert!(world.files().is_empty() && world.loop_count() == 0);

    // A data file that was there stays.
    world.add_file(data(), MIB, 0);
    assert!(ensure_pair(&world, root(), SIZES).is_err());
    assert!(world.files().contains_key(&data()));
}

#[test]
fn sizes_are_sane_and_whole_blocks() {
    let world = world();
    for (sizes, option) in [
        (Sizes { data: Bytes(65535), ..SIZES }, "dm.loopdatasize"),
        (Sizes { data: Bytes(u64::MAX), ..SIZES }, "dm.loopdatasize"),
        (Sizes { data: Bytes(1 << 63), ..SIZES }, "dm.loopdatasize"),
        (Sizes { metadata: Bytes(2 * MIB - 1), ..SIZES }, "dm.loopmetadatasize"),
        (Sizes { metadata: Bytes(0), ..SIZES }, "dm.loopmetadatasize"),
    ] {
        let error = ensure_pair(&world, root(), sizes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(option), "{error}");
    }
    assert!(world.files().is_empty());
    drop(ensure_pair(&world, root(), Sizes { data: Bytes(1_000_000), ..SIZES }).unwrap());
    assert_eq!(world.files()[&data()].size, Bytes(1_003_520));
}

#[test]
fn a_file_that_another_loop_device_holds_is_refused_before_anything_changes() {
    for side in [Side::Data, Side::Metadata] {
        let world = world();
        world.add_file(data(), MIB, MIB);
        world.add_file(metadata(), 2 * MIB, 2 * MIB);
        world.add_loop(5, &side.path(root()));
        let before = world.files();
        let error = ensure_pair(&world, root(), SIZES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("/dev/loop5"), "{error}");
        assert_eq!(world.files(), before);
        assert_eq!(ensure_side(&world, root(), side, Bytes(4 * MIB)).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(open_read_only(&world, root()).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(world.loop_count(), 1);
        assert_eq!(world.files(), before);
    }
}

#[test]
fn a_single_side_beside_a_given_device() {
    let world = world();
    let side = ensure_side(&world, root(), Side::Metadata, Bytes(4 * MIB)).unwrap();
    assert_eq!(side.ensured, Ensured::Created);
    assert_eq!(world.files().keys().collect::<Vec<_>>(), [&metadata()]);
    drop(side);
    assert_eq!(ensure_side(&world, root(), Side::Metadata, Bytes(1)).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn reading_only_needs_both_files_and_changes_none() {
    let world = world();
    let error = open_read_only(&world, root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.add_file(data(), MIB, 0);
    assert_eq!(open_read_only(&world, root()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.loop_count(), 0);
    world.add_file(metadata(), MIB, 4096);
    let before = world.files();
    let pair = open_read_only(&world, root()).unwrap();
    assert_eq!(pair.state, PairState::Found);
    assert_eq!(world.files(), before);
}

/// After a failure at any step nothing is attached, and the next start succeeds with a whole pair.
#[test]
fn a_crash_at_any_step_is_got_over() {
    for existing in [false, true] {
        let mut at = 0;
        loop {
            let world = world();
            if existing {
                world.add_file(data(), MIB, MIB);
                world.add_file(metadata(), 2 * MIB, 4096);
            }
            world.fail_at(Some(at));
            let crashed = ensure_pair(&world, root(), SIZES);
            let effects = world.take_effects().len();
            if crashed.is_ok() {
                assert_eq!(at, effects, "every effect was made to fail");
                break;
            }
            assert_eq!(world.loop_count(), 0);
            world.fail_at(None);
            let pair = ensure_pair(&world, root(), SIZES).unwrap();
            assert_eq!(pair.metadata.attachment.size, SIZES.metadata);
            assert_eq!(pair.data.attachment.size, SIZES.data);
            assert!(world.files()[&metadata()].allocated >= SIZES.metadata);
            at += 1;
        }
        assert!(at >= 4, "only {at} effects");
    }
}

/// A kill leaves what an error path would have undone: every prefix of the effects on the files.
#[test]
fn a_kill_while_the_pair_is_made_is_got_over() {
    let world = world();
    world.add_file(data(), SIZES.data.0, 0);
    drop(ensure_pair(&world, root(), SIZES).unwrap());
    // Killed while it allocated.
    let world = self::world();
    world.add_file(data(), SIZES.data.0, 0);
    world.add_file(metadata(), 5 * MIB, 5 * MIB);
    drop(ensure_pair(&world, root(), SIZES).unwrap());
    assert_eq!(world.files()[&metadata()].allocated, SIZES.metadata);
    // Killed before it had a length.
    let world = self::world();
    world.add_file(data(), 0, 0);
    drop(ensure_pair(&world, root(), SIZES).unwrap());
    assert_eq!(world.files()[&data()].size, SIZES.data);
}

fn active() -> (Fake, LoopPair) {
    let world = world();
    let pair = ensure_pair(&world, root(), SIZES).unwrap();
    (world, pair)
}

#[test]
fn an_active_pool_s_devices_are_found_by_number_and_file() {
    let (world, pair) = active();
    let (data, metadata) = (pair.data.attachment.number, pair.metadata.attachment.number);
    let found = find_active(&world, root(), data, metadata).unwrap();
    assert_eq!((found.data.number, found.metadata.number), (data, metadata));
    assert_eq!(found.data.file, self::data());

    let error = find_active(&world, root(), metadata, data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("the pool of another root"), "{error}");
    let error = find_active(&world, root(), loop_number(9), metadata).unwrap_err();
    assert!(error.to_string().contains("7:9, which is no loop device in use"), "{error}");

    world.add_loop(6, &self::metadata());
    let error = find_active(&world, root(), data, metadata).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("another loop device holds the same file: /dev/loop6"), "{error}");
    let error = find_active(&world, Path::new("/else"), data, metadata).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn growing_reaches_the_device() {
    let (world, pair) = active();
    let number = pair.data.attachment.number;
    let growth = grow_side(&world, root(), Side::Data, number, Bytes(4096 * MIB)).unwrap();
    assert_eq!(growth, Growth { ensured: Ensured::Grown { from: SIZES.data }, device: Bytes(4096 * MIB) });
    let growth = grow_side(&world, root(), Side::Data, number, Bytes(MIB)).unwrap();
    assert_eq!(growth.device, Bytes(4096 * MIB));
    // No room for metadata: as it was, and the option is named.
    let number = pair.metadata.attachment.number;
    let error = grow_side(&world, root(), Side::Metadata, number, Bytes(1024 * MIB)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(world.files()[&metadata()].size, SIZES.metadata);
    assert!(grow_side(&world, root(), Side::Data, loop_number(9), Bytes(4096 * MIB)).is_err());
}

#[test]
fn the_reserve_is_spent_when_there_is_no_other_room() {
    let (world, pair) = active();
    let number = pair.metadata.attachment.number;
    assert_eq!(spend_reserve(&world, root(), number).unwrap(), None);
    assert_eq!(ensure_reserve(&world, root(), Bytes(8 * MIB), "reserve").unwrap(), Ensured::Created);
    world.set_free(0);
    let spent = spend_reserve(&world, root(), number).unwrap().unwrap();
    assert_eq!(spent, Spent { added: Bytes(8 * MIB), device: Bytes(24 * MIB) });
    assert!(!world.files().contains_key(&reserve_path(root())));
    assert_eq!(world.files()[&metadata()].allocated, Bytes(24 * MIB));
    assert_eq!(spend_reserve(&world, root(), number).unwrap(), None);
    let error = ensure_reserve(&world, root(), Bytes(8 * MIB), "the reserve's option").unwrap_err();
    assert!(error.to_string().contains("the reserve's option"), "{error}");
}

#[test]
fn a_host_that_needs_some_of_the_room_itself_gets_it() {
    let (world, pair) = active();
    ensure_reserve(&world, root(), Bytes(8 * MIB), "reserve").unwrap();
    world.set_free(0);
    world.keep_back(MIB / 2);
    let spent = spend_reserve(&world, root(), pair.metadata.attachment.number).unwrap().unwrap();
    assert_eq!(spent, Spent { added: Bytes(7 * MIB), device: Bytes(23 * MIB) });

    // Somebody else took nearly all of it in the meantime.
    let (world, pair) = active();
    ensure_reserve(&world, root(), Bytes(8 * MIB), "reserve").unwrap();
    world.set_free(0);
    world.keep_back(8 * MIB - 4096);
    let error = spend_reserve(&world, root(), pair.metadata.attachment.number).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(world.files()[&metadata()].size, SIZES.metadata);
}

#[test]
fn a_reserve_is_not_spent_on_a_pool_that_is_not_ours() {
    let (world, pair) = active();
    ensure_reserve(&world, root(), Bytes(8 * MIB), "reserve").unwrap();
    assert!(spend_reserve(&world, root(), pair.data.attachment.number).is_err());
    assert!(world.files().contains_key(&reserve_path(root())));
}

#[test]
fn a_crash_while_the_reserve_is_spent_loses_at_most_the_reserve() {
    for at in 0..3 {
        let (world, pair) = active();
        let number = pair.metadata.attachment.number;
        ensure_reserve(&world, root(), Bytes(8 * MIB), "reserve").unwrap();
        world.set_free(0);
        world.take_effects();
        world.fail_at(Some(at));
        assert!(spend_reserve(&world, root(), number).is_err());
        world.fail_at(None);
        let grown = world.files()[&metadata()].size;
        let reserved = world.files().contains_key(&reserve_path(root()));
        match at {
            0 => assert!(reserved && grown == SIZES.metadata),
            1 => assert!(!reserved && grown == SIZES.metadata),
            _ => assert!(!reserved && grown == Bytes(24 * MIB)),
        }
        // Asked to grow to what it has, the device follows the file.
        let growth = grow_side(&world, root(), Side::Metadata, number, grown).unwrap();
        assert_eq!(growth.device, grown);
    }
}

#[test]
fn half_a_reserve_is_worth_half() {
    let (world, pair) = active();
    world.add_file(reserve_path(root()), 8 * MIB, 3 * MIB + 512);
    world.set_free(0);
    let spent = spend_reserve(&world, root(), pair.metadata.attachment.number).unwrap().unwrap();
    assert_eq!(spent.added, Bytes(3 * MIB));
    world.add_file(reserve_path(root()), 8 * MIB, 0);
    assert_eq!(spend_reserve(&world, root(), pair.metadata.attachment.number).unwrap(), None);
    assert!(!world.files().contains_key(&reserve_path(root())));
}
