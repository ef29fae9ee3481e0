//! Everything there is in the world, and the way in: each call enters with its description, each effect is numbered.

use crate::devices::Device;
use crate::faults::{Fault, Faults};
use crate::files::Files;
use crate::image::Content;
use crate::loops::{Loop, NamedDevice};
use crate::mounts::{MountEntry, Super};
use crate::pool::{Pool, PoolMetadata};
use crate::random::Random;
use nix::errno::Errno;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thinlayer_dm::{DeviceNumber, DmName};

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// What a block device's content belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storage {
    /// A file of the host, by inode.
    File(u64),
    /// A disk that was there from the start.
    Disk(DeviceNumber),
}

/// Who has something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A program works in a mount (an open file, a working directory).
    Mount(u64),
    /// A block device's node is open, by nobody of ours.
    Node(DeviceNumber),
    /// Our process has a loop device open.
    Loop { minor: u32, process: u64 },
}

/// The world's state. A fork of it is another world with the same past.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The process that may act; those before it are gone.
    pub(crate) process: u64,
    dead: bool,
    crash_in: Option<u64>,
    effects: u64,
    new_effects: Vec<String>,
    capturing: bool,
    new_captures: Vec<(u64, bool, State)>,
    fresh: bool,
    pub(crate) random: Random,
    faults: Faults,
    violations: Vec<String>,
    pub(crate) now: Duration,
    /// Hosts are never without trim; a pool passes discards down then.
    pub(crate) files: Files,
    pub(crate) contents: BTreeMap<Storage, Content>,
    pub(crate) metadata: BTreeMap<Storage, Arc<PoolMetadata>>,
    pub(crate) disks: BTreeMap<DeviceNumber, NamedDevice>,
    pub(crate) devices: BTreeMap<u32, Device>,
    pub(crate) pools: BTreeMap<u32, Pool>,
    /// Pools of which a commit will fail, after so many more that succeed.
    pub(crate) commits_fail: BTreeMap<u32, u32>,
    pub(crate) loops: BTreeMap<u32, Loop>,
    pub(crate) mounts: Vec<MountEntry>,
    pub(crate) supers: BTreeMap<DeviceNumber, Super>,
    /// `/dev/mapper`.
    pub(crate) nodes: BTreeMap<DmName, DeviceNumber>,
    pub(crate) holders: BTreeMap<u64, Held>,
    pub(crate) next_id: u64,
    /// Events of all device-mapper devices.
    pub(crate) events: u64,
    /// The next `run_within` calls that do not come back.
    pub(crate) hang_next: u32,
    /// Those before them that do.
    pub(crate) hang_skip: u32,
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            process: 1,
            dead: false,
            crash_in: None,
            effects: 0,
            new_effects: Vec::new(),
            capturing: false,
            new_captures: Vec::new(),
            fresh: false,
            random: Random::new(seed),
            faults: Faults::default(),
            violations: Vec::new(),
            now: Duration::from_secs(1),
            files: Files::new(1 << 40),
            contents: BTreeMap::new(),
            metadata: BTreeMap::new(),
            disks: BTreeMap::new(),
            devices: BTreeMap::new(),
            pools: BTreeMap::new(),
            commits_fail: BTreeMap::new(),
            loops: BTreeMap::new(),
            mounts: Vec::new(),
            supers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            holders: BTreeMap::new(),
            next_id: 0,
            events: 0,
            hang_next: 0,
            hang_skip: 0,
        }
    }

    /// A copy that goes its own way.
    fn fork(&self, process_is_dead: bool) -> Self {
        // The lists that are not part of the world are short or empty here.
        let mut fork =
            Self { dead: process_is_dead, crash_in: None, capturing: false, fresh: false, ..self.clone() };
        fork.new_effects.clear();
        fork.new_captures.clear();
        fork
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Numbers an effect that is about to happen as a whole.
    pub(crate) fn effect(&mut self, what: &str) {
        self.effects += 1;
        self.new_effects.push(what.to_owned());
        self.fresh = true;
        if let Some(left) = &mut self.crash_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.dead = true;
            }
        }
    }

    /// Numbers an effect that a crash may also leave done in part, as `part` does it.
    pub(crate) fn effect_or_part(&mut self, what: &str, part: impl FnOnce(&mut Self)) -> Result<()> {
        let before = (self.capturing || self.crash_in == Some(1)).then(|| self.fork(true));
        self.effect(what);
        let Some(mut half) = before else { return Ok(()) };
        half.effects = self.effects;
        if self.capturing {
            part(&mut half);
            self.new_captures.push((self.effects, true, half));
        } else if self.random.coin() {
            part(self);
            return Err(Errno::EIO);
        }
        Ok(())
    }

    /// Something happened that no correct driver lets happen.
    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        self.faults.inject(fault);
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(crate) fn faults_struck(&self) -> u32 {
        self.faults.struck
    }

    pub(crate) fn effects(&self) -> u64 {
        self.effects
    }

    pub(crate) fn set_crash(&mut self, effects: u64) {
        self.crash_in = Some(effects);
        if effects == 0 {
            self.dead = true;
        }
    }

    pub(crate) fn set_capturing(&mut self, on: bool) {
        self.capturing = on;
        self.fresh = false;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// The process is gone, and what the kernel closes for it.
    pub(crate) fn end_process(&mut self) {
        let process = self.process;
        self.process += 1;
        self.dead = false;
        self.crash_in = None;
        self.holders.retain(|_, held| !matches!(held, Held::Loop { process: p, .. } if *p == process));
        self.settle();
    }

    /// The machine is off and on again: only what is durable is left.
    pub(crate) fn power_cut(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        self.process += 1;
        self.dead = false;
        self.crash_in = None;
        let supers = std::mem::take(&mut self.supers);
        let pools = std::mem::take(&mut self.pools);
        // What was not written out may have been, by chance; what is in a pool only as far as the pool committed it.
        for (device, fs) in supers {
            if let Some(place) = self.place_in(device, &pools) {
                self.lose_some(place, &fs, &mut random);
            }
        }
        self.devices.clear();
        self.loops.clear();
        self.mounts.clear();
        self.nodes.clear();
        self.holders.clear();
        self.hang_next = 0;
        self.files.power_cut(&mut random);
        self.files.wipe(&PathBuf::from("/run"));
        self.random = random;
    }
}

/// One finding of a capture: the state after an effect, with the process dead.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) effects: u64,
    pub(crate) part: bool,
    pub(crate) state: State,
}

/// What all views of a world share.
pub(crate) struct Shared {
    state: Mutex<State>,
    log: Mutex<Vec<String>>,
    captures: Mutex<Vec<Captured>>,
    pub(crate) hung: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("effects", &self.log.lock().len()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            log: Mutex::default(),
            captures: Mutex::default(),
            hung: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> Guard<'_> {
        Guard { shared: self, state: self.state.lock() }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    pub(crate) fn continue_log(&self, other: &Self) {
        *self.log.lock() = other.log();
    }

    pub(crate) fn take_captures(&self) -> Vec<Captured> {
        std::mem::take(&mut self.captures.lock())
    }
}

/// The state under its lock; new effects go to the log, and to the captures, when it is given back.
pub(crate) struct Guard<'a> {
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
}

impl Deref for Guard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.state.new_effects.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.state.new_effects);
        self.shared.log.lock().extend(news);
        if self.state.capturing && self.state.fresh {
            self.state.fresh = false;
            let mut captures = self.shared.captures.lock();
            let parts = std::mem::take(&mut self.state.new_captures);
            captures.extend(parts.into_iter().map(|(effects, part, state)| Captured {
                effects,
                part,
                state,
            }));
            captures.push(Captured {
                effects: self.state.effects,
                part: false,
                state: self.state.fork(true),
            });
        }
    }
}

/// The world as one process sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: u64,
}

impl View {
    /// Makes a call. `call` describes it, for faults and for the log.
    pub(crate) fn call<T>(&self, call: &str, run: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.shared.lock();
        if state.dead || state.process != self.process {
            return Err(Errno::EIO);
        }
        if let Some(errno) = state.faults.strike(call) {
            return Err(errno);
        }
        run(&mut state)
    }
}
