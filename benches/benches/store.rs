//! The store without a kernel: opening a root, reading and writing one record, checking ids.
#![expect(
    clippy::unwrap_used,
    reason = "a bench, like a test, ends at the first thing that is not as it should be"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use thinlayer_store::{DeviceId, Extra, Folder, LayerId, Mode, Record, Store};

/// The size of a layer's device, as Docker's default has it.
const SIZE_BYTES: u64 = 10 << 30;

/// The record of a layer that stands on another.
fn record(number: u32) -> Record {
    let extra = Extra {
        parent: Some(LayerId::given("a-parent").unwrap()),
        filesystem: Some("ext4".to_owned()),
        created_ns: Some(1_700_000_000_000_000_000),
        ..Extra::default()
    };
    let device_id = DeviceId::new(number).unwrap();
    Record { extra: Some(extra), ..Record::new(device_id, SIZE_BYTES, u64::from(number)) }
}

/// An id as Docker makes them.
fn id(number: u32) -> LayerId {
    LayerId::given(&format!("{number:064x}")).unwrap()
}

/// A root with so many records, written as files: through the store each would be a durable write.
fn fill(root: &Path, count: u32) {
    let folder = root.join("metadata");
    std::fs::create_dir(&folder).unwrap();
    for number in 1..=count {
        std::fs::write(folder.join(id(number).file_name()), record(number).to_json()).unwrap();
    }
}

fn open(root: &Path) -> Store {
    let (store, findings) = Store::open(Arc::new(Folder::open(root).unwrap()), Mode::ReadOnly).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    store
}

fn opening(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open a store");
    group.sample_size(10);
    for count in [1_000_u32, 10_000] {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), count);
        assert_eq!(open(root.path()).layers().len(), count as usize);
        group.bench_function(format!("{count} records"), |b| b.iter(|| open(black_box(root.path()))));
    }
    group.finish();
}

fn one_record(criterion: &mut Criterion) {
    let text = record(7).to_json();
    criterion
        .bench_function("parse a record", |b| b.iter(|| Record::parse(black_box(text.as_bytes())).unwrap()));
    let parsed = record(7);
    criterion.bench_function("write a record's text", |b| b.iter(|| black_box(&parsed).to_json()));

    let root = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Arc::new(Folder::open(root.path()).unwrap()), Mode::ReadWrite).unwrap();
    let mut number = 0;
    criterion.bench_function("put and remove a record (durable)", |b| {
        b.iter_batched(
            || {
                number += 1;
                id(number)
            },
            |layer| {
                store.put(&layer, &record(7)).unwrap();
                store.remove(&layer).unwrap();
            },
            BatchSize::SmallInput,
        );
    });
}

fn looking_up(criterion: &mut Criterion) {
    let root = tempfile::tempdir().unwrap();
    fill(root.path(), 1_000);
    let store = open(root.path());
    let layer = id(500);
    criterion.bench_function("look a record up among 1000", |b| {
        b.iter(|| store.lookup(black_box(&layer)).unwrap());
    });
}

fn ids(criterion: &mut Criterion) {
    let docker = id(500).as_str().to_owned();
    criterion.bench_function("check an id that Docker made", |b| {
        b.iter(|| LayerId::given(black_box(&docker)).unwrap());
    });
    criterion.bench_function("refuse an id with a slash", |b| {
        b.iter(|| LayerId::given(black_box("default/17/key")).unwrap_err());
    });
}

criterion_group!(benches, opening, one_record, looking_up, ids);
criterion_main!(benches);
