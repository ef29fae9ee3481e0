//! Any pool that can be written is read back as it is.

use super::super::writer::{WrittenDevice, WrittenPool};
use super::super::{Difference, Side};
use super::{id, open};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Devices that begin as copies of others, with runs of their own.
fn pools() -> impl Strategy<Value = WrittenPool> {
    let run = (0..300_u64, 1..120_u64, 0..2000_u64, 0..4_u32);
    let device =
        (0..0x00ff_ffff_u32, any::<prop::sample::Index>(), any::<bool>(), prop::collection::vec(run, 0..6));
    let shape = (
        prop::collection::vec(device, 0..9),
        prop_oneof![Just(3_usize), Just(9), Just(usize::MAX)],
        any::<bool>(),
    );
    shape.prop_map(|(devices, fill, held)| {
        let mut pool =
            WrittenPool { fill, held, data_blocks: 20_000, metadata_blocks: 4000, ..WrittenPool::default() };
        let mut made: Vec<WrittenDevice> = Vec::new();
        for (number, origin, snapshot, runs) in devices {
            let mut device = if snapshot && !made.is_empty() {
                origin.get(&made).clone()
            } else {
                WrittenDevice::default()
            };
            for (start, len, data, time) in runs {
                for block in 0..len {
                    device.mappings.insert(start + block, (data + block, time));
                }
            }
            made.push(device.clone());
            pool.devices.insert(number, device);
        }
        pool
    })
}

fn ranges(blocks: impl IntoIterator<Item = (u64, Side)>) -> Vec<Difference> {
    let mut found: Vec<Difference> = Vec::new();
    for (block, side) in blocks {
        match found.last_mut() {
            Some(last) if last.side == side && last.start + last.len == block => last.len += 1,
            _ => found.push(Difference { start: block, len: 1, side }),
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_is_what_was_written(pool in pools()) {
        let metadata = open(&pool);
        let ids: Vec<u32> = metadata.devices().map(|device| device.unwrap().id.get()).collect();
        prop_assert_eq!(ids, pool.devices.keys().copied().collect::<Vec<_>>());
        let mut owners: HashMap<u64, BTreeSet<u32>> = HashMap::new();
        for (number, device) in &pool.devices {
            for (data, _) in device.mappings.values() {
                owners.entry(*data).or_default().insert(*number);
            }
        }
        for (number, device) in &pool.devices {
            prop_assert_eq!(metadata.details(id(*number)).unwrap().mapped.0, device.mappings.len() as u64);
            let mut read = BTreeMap::new();
            let mut last: Option<super::Run> = None;
            for run in metadata.runs(id(*number)).unwrap() {
                let run = run.unwrap();
                if let Some(last) = last {
                    prop_assert!(run.start >= last.start + last.len);
                    let joins = run.start == last.start + last.len && run.data == last.data + last.len && run.time == last.time;
                    prop_assert!(!joins, "{last:?} {run:?}");
                }
                last = Some(run);
                read.extend((0..run.len).map(|block| (run.start + block, (run.data + block, run.time))));
            }
            prop_assert_eq!(&read, &device.mappings);
            prop_assert_eq!(metadata.highest_mapped(id(*number)).unwrap(), device.mappings.keys().next_back().copied());
        }
        let report = metadata.check();
        prop_assert!(report.is_sound() && report.counts_compared, "{:?}", report);
        prop_assert_eq!(report.devices, pool.devices.len() as u64);
        for usage in metadata.usage().unwrap() {
            let device = &pool.devices[&usage.details.id.get()];
            // A block that the same device has twice is no block of its own alone.
            let mut times: HashMap<u64, u32> = HashMap::new();
            device.mappings.values().for_each(|(data, _)| *times.entry(*data).or_default() += 1);
            let alone = device.mappings.values().filter(|(data, _)| owners[data].len() == 1 && times[data] == 1).count() as u64;
            prop_assert_eq!(usage.exclusive.0, alone);
            prop_assert_eq!(usage.shared.0, device.mappings.len() as u64 - alone);
        }
    }

    #[test]
    fn differences_are_those_of_the_mappings(pool in pools()) {
        let metadata = open(&pool);
        for (left, on_left) in &pool.devices {
            for (right, on_right) in &pool.devices {
                let blocks: BTreeSet<u64> = on_left.mappings.keys().chain(on_right.mappings.keys()).copied().collect();
                let expected = ranges(blocks.into_iter().filter_map(|block| {
                    match (on_left.mappings.get(&block), on_right.mappings.get(&block)) {
                        (Some((left, _)), Some((right, _))) => (left != right).then_some((block, Side::Both)),
                        (Some(_), None) => Some((block, Side::Left)),
                        _ => Some((block, Side::Right)),
                    }
                }));
                let found: Vec<_> = metadata.differences(id(*left), id(*right)).unwrap().map(Result::unwrap).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
