//! One operation at a time per layer: reservations that can travel to the thread that really holds the layer.

use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thinlayer_store::LayerId;

#[derive(Debug, Default)]
struct Table {
    held: Mutex<HashSet<LayerId>>,
    freed: Condvar,
}

/// The reservations of a driver's layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations(Arc<Table>);

/// A layer that is ours until the last clone of this is dropped. One may be moved into a thread that outlives the operation.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    table: Arc<Table>,
    id: LayerId,
}

impl Reservations {
    /// Reserves a layer, waiting at most `wait` for another operation on it.
    pub(crate) fn reserve(&self, id: &LayerId, wait: Duration) -> Result<Reservation> {
        self.take(&[id], wait)?;
        Ok(self.held(id))
    }

    /// Is an operation on this layer under way?
    pub(crate) fn is_held(&self, id: &LayerId) -> bool {
        self.0.held.lock().contains(id)
    }

    /// Reserves two layers at once: nothing is held while the other one is waited for.
    pub(crate) fn reserve_pair(
        &self,
        first: &LayerId,
        second: &LayerId,
        wait: Duration,
    ) -> Result<(Reservation, Reservation)> {
        if first == second {
            return Err(Error::Invalid { what: format!("layer {first} cannot be its own parent") });
        }
        self.take(&[first, second], wait)?;
        Ok((self.held(first), self.held(second)))
    }

    fn take(&self, ids: &[&LayerId], wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        let mut held = self.0.held.lock();
        while let Some(taken) = ids.iter().find(|id| held.contains(**id)) {
            if self.0.freed.wait_until(&mut held, deadline).timed_out()
                && ids.iter().any(|id| held.contains(*id))
            {
                return Err(Error::Busy {
                    what: format!("layer {taken}"),
                    why: format!("another operation on it has not finished within {wait:?}; try again later"),
                });
            }
        }
        held.extend(ids.iter().map(|id| (*id).clone()));
        Ok(())
    }

    fn held(&self, id: &LayerId) -> Reservation {
        Reservation { _held: Arc::new(Held { table: self.0.clone(), id: id.clone() }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.held.lock().remove(&self.id);
        self.table.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LayerId {
        LayerId::given(text).unwrap()
    }

    #[test]
    fn a_layer_is_one_operations_at_a_time() {
        let table = Reservations::default();
        let first = table.reserve(&id("a"), Duration::ZERO).unwrap();
        table.reserve(&id("b"), Duration::ZERO).unwrap();
        assert_eq!(table.reserve(&id("a"), Duration::ZERO).unwrap_err().kind(), crate::Kind::Busy);
        let other = table.clone();
        let waiting = std::thread::spawn(move || other.reserve(&id("a"), Duration::from_secs(30)).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn pairs_never_wait_for_each_other() {
        let table = Reservations::default();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        let (a, b) = if n % 2 == 0 { ("x", "y") } else { ("y", "x") };
                        drop(table.reserve_pair(&id(a), &id(b), Duration::from_secs(30)).unwrap());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn no_layer_is_its_own_parent() {
        let table = Reservations::default();
        assert!(table.reserve_pair(&id("x"), &id("x"), Duration::ZERO).is_err());
    }
}
