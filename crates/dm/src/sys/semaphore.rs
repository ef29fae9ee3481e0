//! One SysV semaphore: what libdevmapper and udev's `dmsetup udevcomplete` count a cookie with.

use nix::errno::Errno;
use std::time::Duration;

/// A semaphore set with one semaphore. Not an owner: whoever makes one removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Semaphore {
    id: libc::c_int,
}

unsafe extern "C" {
    // The libc crate lacks it; glibc and musl have it, with this signature (semop(2)).
    fn semtimedop(
        semid: libc::c_int,
        sops: *mut libc::sembuf,
        nsops: libc::size_t,
        timeout: *const libc::timespec,
    ) -> libc::c_int;
}

const OWNER_ONLY: libc::c_int = 0o600;

impl Semaphore {
    /// A new one under `key`; EEXIST if the key is taken.
    pub(crate) fn create(key: libc::key_t) -> nix::Result<Self> {
        // SAFETY: semget takes integers only.
        let id = unsafe { libc::semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | OWNER_ONLY) };
        Errno::result(id).map(|id| Self { id })
    }

    /// The one with this id, which the kernel lists in `/proc/sysvipc/sem`.
    pub(crate) fn from_id(id: libc::c_int) -> Self {
        Self { id }
    }

    /// Sets the count.
    pub(crate) fn set(self, count: libc::c_int) -> nix::Result<()> {
        // SAFETY: SETVAL takes the member `val` of `union semun`, an int, as its one further argument.
        Errno::result(unsafe { libc::semctl(self.id, 0, libc::SETVAL, count) }).map(drop)
    }

    /// The count.
    #[cfg(test)]
    pub(crate) fn count(self) -> nix::Result<libc::c_int> {
        // SAFETY: GETVAL takes no further argument and touches no memory of ours.
        Errno::result(unsafe { libc::semctl(self.id, 0, libc::GETVAL) })
    }

    /// How many processes wait for zero.
    pub(crate) fn waiters(self) -> nix::Result<libc::c_int> {
        // SAFETY: GETZCNT takes no further argument and touches no memory of ours.
        Errno::result(unsafe { libc::semctl(self.id, 0, libc::GETZCNT) })
    }

    /// Adds `delta` without waiting; EAGAIN if the count would fall below zero.
    pub(crate) fn add(self, delta: libc::c_short) -> nix::Result<()> {
        let flags = i16::try_from(libc::IPC_NOWAIT).map_err(|_| Errno::EINVAL)?;
        self.operate(delta, flags, None)
    }

    /// Waits for zero, at most `timeout`; EAGAIN when it is over, EINTR after a signal.
    pub(crate) fn wait_zero(self, timeout: Duration) -> nix::Result<()> {
        self.operate(0, 0, Some(timeout))
    }

    /// Removes it. Whoever waits gets EIDRM.
    pub(crate) fn remove(self) -> nix::Result<()> {
        // SAFETY: IPC_RMID takes no further argument and touches no memory of ours.
        Errno::result(unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) }).map(drop)
    }

    fn operate(
        self,
        delta: libc::c_short,
        flags: libc::c_short,
        timeout: Option<Duration>,
    ) -> nix::Result<()> {
        let mut operation = libc::sembuf { sem_num: 0, sem_op: delta, sem_flg: flags };
        let timeout = timeout.map(nix::sys::time::TimeSpec::from_duration);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |spec| std::ptr::from_ref(spec.as_ref()));
        // SAFETY: `operation` is one sembuf, as the count says, and lives across the call; `timeout` is null or points to a
        // timespec that does.
        Errno::result(unsafe { semtimedop(self.id, &raw mut operation, 1, timeout) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::Semaphore;
    use nix::errno::Errno;
    use std::time::{Duration, Instant};

    /// A semaphore without a key that goes with the test.
    struct Private(Semaphore);

    impl Private {
        fn new() -> Self {
            Self(Semaphore::create(libc::IPC_PRIVATE).unwrap())
        }
    }

    impl Drop for Private {
        fn drop(&mut self) {
            // A test may have removed it already.
            self.0.remove().ok();
        }
    }

    #[test]
    fn counts_and_waits() {
        let Private(semaphore) = &Private::new();
        semaphore.set(1).unwrap();
        semaphore.add(1).unwrap();
        assert_eq!(semaphore.count(), Ok(2));
        semaphore.add(-1).unwrap();
        let began = Instant::now();
        assert_eq!(semaphore.wait_zero(Duration::from_millis(30)), Err(Errno::EAGAIN));
        assert!(began.elapsed() >= Duration::from_millis(30));
        semaphore.add(-1).unwrap();
        assert_eq!(semaphore.wait_zero(Duration::from_millis(30)), Ok(()));
        assert_eq!(semaphore.add(-1), Err(Errno::EAGAIN));
        assert_eq!(semaphore.waiters(), Ok(0));
    }

    #[test]
    fn a_removed_one_ends_the_wait() {
        let private = Private::new();
        let semaphore = private.0;
        semaphore.set(1).unwrap();
        let waiter = std::thread::spawn(move || semaphore.wait_zero(Duration::from_secs(10)));
        while semaphore.waiters().unwrap() == 0 {
            std::thread::yield_now();
        }
        semaphore.remove().unwrap();
        assert_eq!(waiter.join().unwrap(), Err(Errno::EIDRM));
    }
}
