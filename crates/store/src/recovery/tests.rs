use super::*;
use crate::testing::{device, id, record};
use OperationKind::{Create, Delete};

const ABSENT: DeviceFacts =
    DeviceFacts { present: false, in_use_by_other_record: false, active: false, pool_is_ours: true };
const PRESENT: DeviceFacts = DeviceFacts { present: true, ..ABSENT };
const ACTIVE: DeviceFacts = DeviceFacts { active: true, ..PRESENT };
const SHARED: DeviceFacts = DeviceFacts { pool_is_ours: false, ..PRESENT };
const FOREIGN: DeviceFacts = DeviceFacts { in_use_by_other_record: true, ..PRESENT };

/// Transaction 24 on layer `L` and device 18.
fn pending(kind: IntentKind, record: Option<Record>) -> Pending {
    Pending {
        kind,
        layer: id("L"),
        device_id: device(18),
        open_transaction_id: 24,
        record,
        unreadable_records: false,
    }
}

fn delete_device() -> Step {
    Step::DeleteDevice(device(18))
}

fn remove_record() -> Step {
    Step::RemoveRecord(id("L"))
}

fn leave(reason: LeaveReason) -> Vec<Step> {
    vec![Step::LeaveDevice(device(18), reason)]
}

/// Every row of the table in specification 2.5, with the facts that a start finds after a crash there.
#[test]
fn each_row_of_the_specifications_table() {
    let made = Some(record(18, 24));
    let older = Some(record(18, 7));
    let rows = [
        // Create: after the transaction file, the pool message, the record.
        (Create, None, ABSENT, vec![]),
        (Create, None, PRESENT, vec![delete_device()]),
        (Create, made.clone(), PRESENT, vec![delete_device(), remove_record()]),
        // Delete: after the transaction file, the pool message, the unlink.
        (Delete, older.clone(), PRESENT, vec![delete_device(), remove_record()]),
        (Delete, older.clone(), ABSENT, vec![remove_record()]),
        (Delete, None, ABSENT, vec![]),
        // Still active: never a device without a record.
        (Delete, older.clone(), ACTIVE, vec![Step::MarkDeleted(id("L"))]),
        (Create, made.clone(), ACTIVE, vec![Step::MarkDeleted(id("L"))]),
    ];
    for (kind, record, facts, steps) in rows {
        for intent in [IntentKind::Known(kind), IntentKind::Unknown] {
            let decision = decide(&pending(intent.clone(), record.clone()), &facts);
            assert_eq!(decision.steps, steps, "{intent:?} {record:?} {facts:?}");
            assert!(decision.sentence.contains("layer L"), "{}", decision.sentence);
        }
    }
}

/// A recovery that was itself interrupted comes to the same end.
#[test]
fn a_half_done_recovery_goes_on() {
    for (kind, transaction_id) in [(Create, 24), (Delete, 7)] {
        for intent in [IntentKind::Known(kind), IntentKind::Unknown] {
            let own = Some(record(18, transaction_id));
            assert_eq!(decide(&pending(intent.clone(), own), &ABSENT).steps, [remove_record()]);
            assert_eq!(decide(&pending(intent, None), &ABSENT).steps, []);
        }
    }
    // Marked and renamed by the first attempt: the device belongs to the record under the new id now.
    for kind in [Create, Delete] {
        let decision = decide(&pending(IntentKind::Known(kind), None), &FOREIGN);
        assert_eq!(decision.steps, leave(LeaveReason::NamedByAnotherRecord));
    }
}

/// C2: the record of a busy device stays until the device is gone.
#[test]
fn a_busy_device_keeps_a_record() {
    for kind in [Create, Delete] {
        let decision = decide(&pending(IntentKind::Known(kind), None), &ACTIVE);
        assert_eq!(decision.steps, [Step::KeepForDeletion(device(18))]);
    }
    let marked = Record { deleted: true, ..record(18, 7) };
    for intent in [IntentKind::Known(Delete), IntentKind::Unknown] {
        let decision = decide(&pending(intent, Some(marked.clone())), &ACTIVE);
        assert_eq!(decision.steps, [Step::MarkDeleted(id("L"))]);
        assert!(decision.sentence.contains("goes later"));
    }
}

/// C24: Docker names a device before the pool has said that it is free.
#[test]
fn what_docker_named_may_be_anothers() {
    let of = |record, facts: &DeviceFacts| decide(&pending(IntentKind::Unknown, record), facts).steps;
    assert_eq!(of(None, &FOREIGN), leave(LeaveReason::NamedByAnotherRecord));
    assert_eq!(of(None, &SHARED), leave(LeaveReason::PoolIsShared));
    assert_eq!(of(None, &ACTIVE), leave(LeaveReason::InUse));
    assert_eq!(of(None, &PRESENT), [delete_device()], "our pool, no record: it was made for this");
    assert_eq!(of(Some(record(9, 7)), &PRESENT), leave(LeaveReason::RecordNamesAnotherDevice));
    assert_eq!(of(Some(record(18, 25)), &PRESENT), leave(LeaveReason::RecordIsNewer));
    // A record proves whose the device is, in a shared pool too.
    assert_eq!(of(Some(record(18, 24)), &SHARED), [delete_device(), remove_record()]);
    assert_eq!(of(Some(record(18, 7)), &SHARED), [delete_device(), remove_record()]);

    let unreadable = Pending { unreadable_records: true, ..pending(IntentKind::Unknown, None) };
    assert_eq!(decide(&unreadable, &PRESENT).steps, leave(LeaveReason::RecordsUnreadable));
    assert_eq!(decide(&unreadable, &ABSENT).steps, []);
}

/// Ours names ids that were proven free, so the device is ours whatever else is unknown.
#[test]
fn what_we_named_is_ours() {
    let unreadable = Pending { unreadable_records: true, ..pending(IntentKind::Known(Create), None) };
    assert_eq!(decide(&unreadable, &SHARED).steps, [delete_device()]);
    // Another device's record under this id is not touched.
    for kind in [Create, Delete] {
        let other = pending(IntentKind::Known(kind), Some(record(9, 7)));
        assert_eq!(decide(&other, &PRESENT).steps, [delete_device()]);
        assert_eq!(decide(&other, &ABSENT).steps, []);
    }
}

#[test]
fn a_later_versions_work_is_left() {
    let decision = decide(&pending(IntentKind::Newer("move".into()), Some(record(18, 24))), &PRESENT);
    assert_eq!(decision.steps, leave(LeaveReason::WrittenByLaterVersion));
}

fn all_facts() -> impl Iterator<Item = DeviceFacts> {
    (0..16).map(|bits| DeviceFacts {
        present: bits & 1 != 0,
        in_use_by_other_record: bits & 2 != 0,
        active: bits & 4 != 0,
        pool_is_ours: bits & 8 != 0,
    })
}

/// All combinations: what must never happen, never does.
#[test]
fn no_combination_loses_or_takes_anything() {
    let intents = [
        IntentKind::Unknown,
        IntentKind::Known(Create),
        IntentKind::Known(Delete),
        IntentKind::Newer("x".into()),
    ];
    let records =
        [None, Some(record(18, 7)), Some(record(18, 24)), Some(record(18, 25)), Some(record(9, 24))];
    for intent in &intents {
        for own in &records {
            for facts in all_facts() {
                let steps = decide(&pending(intent.clone(), own.clone()), &facts).steps;
                let at = format!("{intent:?} {own:?} {facts:?}: {steps:?}");
                let deletes = steps.contains(&delete_device());
                let removes = steps.contains(&remove_record());
                assert!(
                    !deletes || (facts.present && !facts.active && !facts.in_use_by_other_record),
                    "{at}"
                );
                let same = own.as_ref().is_some_and(|record| record.device_id == device(18));
                assert!(!removes || same, "another device's record: {at}");
                assert!(!removes || deletes || !facts.present, "a device without a record: {at}");
                assert!(!removes || !facts.in_use_by_other_record, "{at}");
                assert!(
                    !deletes || facts.pool_is_ours || same || matches!(intent, IntentKind::Known(_)),
                    "{at}"
                );
            }
        }
    }
}

#[test]
fn texts_say_what_and_what_to_do() {
    let text = Recovery::TooFarAhead { open: 9, pool: 3 }.to_string();
    assert!(text.contains("9") && text.contains("3") && text.contains("give the right pool"), "{text}");
    let text = decide(&pending(IntentKind::Unknown, None), &SHARED).sentence;
    assert_eq!(
        text,
        "an operation on layer L was interrupted; thin device 18 was left alone: no record names it and others use this pool"
    );
}
