//! The kernel's tables and status lines, to and from values.
#![expect(
    clippy::unwrap_used,
    reason = "a bench, like a test, ends at the first thing that is not as it should be"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use thinlayer_dm::{DeviceNumber, DmName, Sectors, Target};
use thinlayer_thin::{POOL_TARGET, PoolState, PoolTable, THIN_TARGET, ThinId, ThinStatus, ThinTable};

fn line(kind: &str, params: &str) -> Target {
    Target { start: Sectors(0), len: Sectors(20_971_520), kind: kind.to_owned(), params: params.to_owned() }
}

fn statuses(criterion: &mut Criterion) {
    let pool =
        line(POOL_TARGET, "4711 1234/524288 56789/1638400 - rw discard_passdown queue_if_no_space - 1024");
    assert!(PoolState::from_target(&pool).unwrap().running().is_some());
    criterion.bench_function("parse a pool's status", |b| {
        b.iter(|| PoolState::from_target(black_box(&pool)).unwrap());
    });
    let thin = line(THIN_TARGET, "1048576 20971519");
    criterion.bench_function("parse a thin device's status", |b| {
        b.iter(|| ThinStatus::from_target(black_box(&thin)).unwrap());
    });
}

fn tables(criterion: &mut Criterion) {
    let number = |minor| DeviceNumber { major: 7, minor };
    let pool = PoolTable::new(number(1), number(0), Sectors(8_388_608));
    criterion.bench_function("print and parse a pool's table", |b| {
        b.iter(|| PoolTable::from_target(&black_box(&pool).target()).unwrap());
    });
    let thin = ThinTable::new(number(0), ThinId::new(4711).unwrap(), Sectors(20_971_520));
    criterion.bench_function("print and parse a thin device's table", |b| {
        b.iter(|| ThinTable::from_target(&black_box(&thin).target()).unwrap());
    });
}

fn names(criterion: &mut Criterion) {
    let text = format!("docker-253:1-17538953-{:064x}", 4711);
    criterion.bench_function("check a device's name", |b| {
        b.iter(|| DmName::new(black_box(text.as_str())).unwrap());
    });
}

criterion_group!(benches, statuses, tables, names);
criterion_main!(benches);
