//! System calls that nobody can end, with a deadline all the same: they run on a thread, and what they hold goes with them.

use crate::error::{Error, Result};
use crate::machine::Clock;
use crate::reserve::Reservation;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How long each kind of wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For another operation on the same layer.
    pub layer: Duration,
    /// For the store's transaction, which others hold shortly.
    pub transaction: Duration,
    /// For a mount.
    pub mount: Duration,
    /// For an unmount, which writes out what is dirty.
    pub unmount: Duration,
    /// For a suspend.
    pub suspend: Duration,
    /// For the store's transaction while a layer in use is suspended for it.
    pub suspended: Duration,
    /// For a device that something has open to be closed (udev's probes take milliseconds).
    pub removal: Duration,
    /// For making or growing a file system.
    pub filesystem: Duration,
    /// For the discard of a removed layer, and for the worker that is at one.
    pub discard: Duration,
    /// For each program of LVM's.
    pub lvm: Duration,
    /// For making the pool larger, or giving it another table.
    pub growth: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            layer: Duration::from_secs(60),
            transaction: Duration::from_secs(60),
            mount: Duration::from_secs(60),
            unmount: Duration::from_secs(120),
            suspend: Duration::from_secs(60),
            suspended: Duration::from_secs(5),
            removal: Duration::from_secs(20),
            filesystem: Duration::from_secs(1800),
            discard: Duration::from_secs(1800),
            lvm: Duration::from_secs(120),
            growth: Duration::from_secs(120),
        }
    }
}

/// Runs `job` within `deadline`. `what` names call and device for the error.
///
/// A clone of the layer's reservation goes to the job's thread: if nobody waits any more, the layer stays reserved as long as the call lasts. What the
/// job then still gives is dropped, so it should be a guard that undoes.
pub(crate) fn within<T: Send + 'static>(
    clock: &dyn Clock,
    what: impl FnOnce() -> String,
    deadline: Duration,
    reserved: &Reservation,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    enum Outcome<T> {
        Pending,
        Done(Result<T>),
        Abandoned,
    }
    let slot = Arc::new(Mutex::new(Outcome::<T>::Pending));
    let (theirs, held) = (slot.clone(), reserved.clone());
    let finished = clock.run_within(
        deadline,
        Box::new(move || {
            let result = job();
            let mut slot = theirs.lock();
            if let Outcome::Abandoned = *slot {
                drop(slot);
                if let Err(error) = &result {
                    tracing::warn!(%error, "a call that had passed its deadline ended with an error");
                }
                // First what it undoes, then the layer.
                drop(result);
            } else {
                *slot = Outcome::Done(result);
            }
            drop(held);
        }),
    );
    let mut slot = slot.lock();
    match std::mem::replace(&mut *slot, Outcome::Abandoned) {
        Outcome::Done(result) => result,
        // `finished` without an outcome: the job's thread died in a panic, or could not be started.
        Outcome::Pending | Outcome::Abandoned if finished => {
            Err(Error::Invalid { what: format!("{} could not be run to its end", what()) })
        }
        Outcome::Pending | Outcome::Abandoned => Err(Error::Deadline { what: what(), waited: deadline }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reserve::Reservations;
    use crate::system::SystemClock;
    use std::sync::mpsc;
    use thinlayer_store::LayerId;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_call_in_time_gives_its_result() {
        let table = Reservations::default();
        let id = LayerId::given("a").unwrap();
        let reserved = table.reserve(&id, LONG).unwrap();
        assert_eq!(within(&SystemClock::default(), || "call".into(), LONG, &reserved, || Ok(7)).unwrap(), 7);
        drop(reserved);
        table.reserve(&id, Duration::ZERO).unwrap();
    }

    #[test]
    fn the_layer_of_a_call_that_hangs_stays_reserved_and_what_it_gives_is_undone() {
        struct Undo(mpsc::Sender<()>);
        impl Drop for Undo {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let table = Reservations::default();
        let id = LayerId::given("a").unwrap();
        let reserved = table.reserve(&id, LONG).unwrap();
        let (end, ended) = mpsc::channel::<()>();
        let (undo, undone) = mpsc::channel();
        let clock = SystemClock::default();
        let error = within(
            &clock,
            || "mount of dm-3".into(),
            Duration::from_millis(20),
            &reserved,
            move || {
                ended.recv().unwrap();
                Ok(Undo(undo))
            },
        )
        .map(drop)
        .unwrap_err();
        assert!(error.kind() == crate::Kind::Busy && error.to_string().contains("mount of dm-3"), "{error}");
        drop(reserved);
        assert!(table.reserve(&id, Duration::ZERO).is_err(), "the call still has the layer");
        end.send(()).unwrap();
        undone.recv_timeout(LONG).unwrap();
        table.reserve(&id, LONG).unwrap();
    }
}
