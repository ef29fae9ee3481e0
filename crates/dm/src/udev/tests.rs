use super::{COOKIE_MAGIC, Counter, UdevFlags, cookies, key, parse, reclaim_cookies};
use crate::error::Kind;
use crate::sys::semaphore::Semaphore;
use proptest::prelude::*;
use std::time::{Duration, Instant, SystemTime};

fn listed(counter: &Counter) -> bool {
    let key = u32::from_ne_bytes(key(counter.base).to_ne_bytes());
    cookies().unwrap().iter().any(|cookie| cookie.key == key)
}

#[test]
fn a_cookie_is_there_while_it_lives_and_not_longer() {
    let counter = Counter::create().unwrap();
    assert!(listed(&counter));
    assert_eq!(counter.semaphore.count(), Ok(1));
    let (id, base) = (counter.semaphore, counter.base);
    drop(counter);
    assert!(id.count().is_err(), "{base}");
}

#[test]
fn the_wait_ends_when_the_last_one_counts_down() {
    let counter = Counter::create().unwrap();
    counter.add(1).unwrap();
    counter.add(1).unwrap();
    let semaphore = counter.semaphore;
    let udev = std::thread::spawn(move || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(20));
            semaphore.add(-1).unwrap();
        }
    });
    let began = Instant::now();
    counter.wait(Duration::from_secs(10)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(20));
    udev.join().unwrap();
}

#[test]
fn nothing_to_wait_for_is_no_wait() {
    Counter::create().unwrap().wait(Duration::ZERO).unwrap();
}

#[test]
fn a_udev_that_never_answers_ends_at_the_deadline_and_leaves_no_semaphore() {
    let counter = Counter::create().unwrap();
    counter.add(1).unwrap();
    let error = counter.wait(Duration::from_millis(30)).unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline);
    assert!(error.to_string().contains("cookie 0x0d4d"), "{error}");
    let id = counter.semaphore;
    drop(counter);
    assert!(id.count().is_err());
}

#[test]
fn a_cookie_that_is_taken_away_ends_the_wait() {
    let counter = Counter::create().unwrap();
    counter.add(1).unwrap();
    let semaphore = counter.semaphore;
    let operator = std::thread::spawn(move || {
        while semaphore.waiters().unwrap() == 0 {
            std::thread::yield_now();
        }
        semaphore.remove().unwrap();
    });
    counter.wait(Duration::from_secs(10)).unwrap();
    operator.join().unwrap();
}

#[test]
fn reclaiming_takes_the_old_and_leaves_the_waited_for_and_the_foreign() {
    // With a key outside the range of cookies: somebody else's.
    let foreign = Semaphore::create(0x0d4e_0001 + i32::from(std::process::id().to_le_bytes()[0])).unwrap();
    let young = Counter::create().unwrap();
    reclaim_cookies(Duration::from_secs(3600)).unwrap();
    assert!(young.semaphore.count().is_ok());
    assert!(foreign.count().is_ok());
    foreign.remove().unwrap();
    assert!(cookies().unwrap().iter().all(|cookie| cookie.key >> 16 == u32::from(COOKIE_MAGIC)));
}

#[test]
fn the_kernels_list_is_read() {
    let text = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n \
                223152685          0   600          1     0     0     0     0 1700000100 1700000000\n \
                223152686          1   600          2     0     0     0     0          0 1700000000\n         \
                0          2   600          1     0     0     0     0          0 1700000000\n\
                -1         3   600          1     0     0     0     0          0 1700000000\n";
    let list = parse(text);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].key, 0x0d4d_0a2d);
    assert_eq!(list[0].id, 0);
    assert_eq!(list[0].last_used, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_100));
}

#[test]
fn flags_travel_in_the_upper_half() {
    assert_eq!(UdevFlags::empty().without_cookie(), 0);
    assert_eq!(UdevFlags::DISABLE_DISK_RULES.without_cookie(), 0x0044_0000);
}

proptest! {
    #[test]
    fn any_list_is_survived(text in "([ 0-9a-z-]{0,60}\n){0,5}") {
        parse(&text);
    }
}
