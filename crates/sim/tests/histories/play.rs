//! Plays a history on a world and remembers, for each effect, what was acknowledged by then.

use crate::check::{Expected, check};
use crate::history::{History, Op, Restart, Setup, Trouble};
use crate::model::{Inside, Layer, Model};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use thinlayer_dm::{Bytes, DmName};
use thinlayer_graphdriver::{
    CreateRequest, Driver, GrowRequest, Kind, LayerId, Machine, Notice, Options, PoolSize, Silent,
    SizeChange, Unmount,
};
use thinlayer_sim::{Capture, Fault, World};

pub(crate) const ROOT: &str = "/root";
/// A thin device that somebody else has in the pool, and that the driver must step around.
pub(crate) const FOREIGN_THIN: u32 = 3;
pub(crate) const FOREIGN_DM: &str = "foreign-zero";
pub(crate) const FOREIGN_FILE: &str = "/other/file";

/// What stands between driver and machine: nothing, or a deliberate bug.
pub(crate) type Wrap = fn(Machine) -> Machine;

pub(crate) fn honest(machine: Machine) -> Machine {
    machine
}

pub(crate) fn id(slot: u8) -> LayerId {
    LayerId::given(&format!("layer-{slot}")).unwrap()
}

pub(crate) fn tree(slot: u8) -> PathBuf {
    mount_point(slot).join("rootfs")
}

pub(crate) fn mount_point(slot: u8) -> PathBuf {
    PathBuf::from(format!("{ROOT}/mnt/layer-{slot}"))
}

pub(crate) fn pool_name(world: &World) -> DmName {
    let root = world.machine(ROOT).root;
    DmName::new(format!("docker-8:1-{}-pool", root.inode)).unwrap()
}

pub(crate) fn open(
    world: &World,
    setup: Setup,
    wrap: Wrap,
) -> thinlayer_graphdriver::Result<(Driver, Vec<Notice>)> {
    let options = Options::parse(&setup.items()).unwrap();
    Driver::open(wrap(world.machine(ROOT)), &options, Arc::new(Silent))
}

/// A world with a root that is set up and whose owner was killed, and with things that are not the driver's. Every history of a setup begins in a copy.
pub(crate) fn prepared(setup: Setup) -> World {
    static WORLDS: OnceLock<Mutex<BTreeMap<Setup, World>>> = OnceLock::new();
    let mut worlds = WORLDS.get_or_init(Mutex::default).lock().unwrap();
    worlds
        .entry(setup)
        .or_insert_with(|| {
            let world = World::new(7);
            let dm = world.machine(ROOT).dm;
            let name = DmName::new(FOREIGN_DM).unwrap();
            dm.create(&name, None).unwrap();
            let zero = thinlayer_dm::Target {
                start: thinlayer_dm::Sectors(0),
                len: thinlayer_dm::Sectors(8),
                kind: "zero".into(),
                params: String::new(),
            };
            dm.load((&name).into(), &[zero], thinlayer_dm::Access::ReadWrite).unwrap();
            dm.resume((&name).into(), thinlayer_dm::Suspend::default()).unwrap();
            world.attach_foreign_loop(FOREIGN_FILE, Bytes(1 << 20)).unwrap();
            drop(open(&world, setup, honest).unwrap());
            world.plant_thin(&pool_name(&world), FOREIGN_THIN).unwrap();
            world.kill();
            world
        })
        .fork()
}

/// A step of a played history.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) before: Model,
    pub(crate) after: Model,
    /// Effects when it was acknowledged.
    pub(crate) end: u64,
}

/// Who is told of each step, with the captures that it left.
pub(crate) type Sink<'a> = dyn FnMut(&Step, Vec<Capture>) -> Result<(), String> + 'a;

/// A history in the making.
pub(crate) struct Player<'a> {
    pub(crate) world: World,
    setup: Setup,
    wrap: Wrap,
    driver: Option<Driver>,
    pub(crate) model: Model,
    next_value: u32,
    pub(crate) steps: Vec<Step>,
    sink: &'a mut Sink<'a>,
}

/// Plays a history in which calls fail. A step that fails leaves the state before or the one after it, and the owner lives on.
pub(crate) fn play_troubled(history: &History, troubles: &[Trouble]) -> Result<(), (World, String)> {
    let world = prepared(history.setup);
    let mut sink = |_: &Step, _| Ok(());
    let mut player = Player {
        world: world.clone(),
        setup: history.setup,
        wrap: honest,
        driver: None,
        model: Model::default(),
        next_value: 0,
        steps: Vec::new(),
        sink: &mut sink,
    };
    player.run_troubled(history, troubles).map_err(|why| (world, why))
}

fn unexpected(op: &Op, error: &thinlayer_graphdriver::Error) -> String {
    format!("{op:?} failed: {error}")
}

impl<'a> Player<'a> {
    /// Plays it to its end, or to the first thing that goes wrong.
    pub(crate) fn play(
        history: &History,
        wrap: Wrap,
        sink: &'a mut Sink<'a>,
    ) -> Result<World, (World, String)> {
        let world = prepared(history.setup);
        let mut player = Player {
            world: world.clone(),
            setup: history.setup,
            wrap,
            driver: None,
            model: Model::default(),
            next_value: 0,
            steps: Vec::new(),
            sink,
        };
        match player.run(history) {
            Ok(()) => Ok(world),
            Err(why) => Err((world, why)),
        }
    }

    fn run(&mut self, history: &History) -> Result<(), String> {
        self.world.capture(true);
        self.open()?;
        for op in &history.ops {
            let before = self.model.clone();
            self.step(op)?;
            let step =
                Step { op: op.clone(), before, after: self.model.clone(), end: self.world.effect_count() };
            self.steps.push(step.clone());
            (self.sink)(&step, self.world.take_captures())?;
        }
        self.world.capture(false);
        let violations = self.world.violations();
        if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
    }

    fn run_troubled(&mut self, history: &History, troubles: &[Trouble]) -> Result<(), String> {
        self.open()?;
        for (at, op) in history.ops.iter().enumerate() {
            for t in troubles.iter().filter(|t| t.step == at) {
                self.world.inject(Fault::new(t.call, t.errno).skip(t.skip).times(t.times));
            }
            let outcome = self.step(op);
            let troubled = self.world.faults_struck() > 0;
            self.world.clear_faults();
            match outcome {
                Ok(()) => {}
                Err(why) if troubled => {
                    self.resolve(op).map_err(|what| format!("{op:?} failed ({why}), and {what}"))?
                }
                Err(why) => return Err(why),
            }
        }
        let expected = Expected {
            setup: self.setup,
            before: &self.model,
            after: &self.model,
            power: false,
            deep: true,
            foreign_thin: true,
        };
        // The owner itself must be able to go on: one more layer, and everything that was put off.
        let extra = LayerId::given("one-more").map_err(|e| e.to_string())?;
        let driver = self.driver()?;
        driver.create(&extra, &CreateRequest::empty()).map_err(|e| format!("one more create: {e}"))?;
        driver.remove(&extra).map_err(|e| format!("one more remove: {e}"))?;
        self.world.kill();
        check(&self.world, &expected, honest)
    }

    /// What a step that failed left: it must be what was there before, or what would have been after.
    fn resolve(&mut self, op: &Op) -> Result<(), String> {
        if self.driver.is_none() || matches!(op, Op::Restart(_)) {
            // An owner that could not end in good order ends all the same.
            self.driver = None;
            self.world.kill();
            self.open()?;
        }
        let driver = self.driver()?;
        let all: BTreeMap<u8, u32> = (0..crate::history::SLOTS)
            .filter(|slot| driver.exists(&id(*slot)))
            .filter_map(|slot| Some((slot, driver.inspect(&id(slot)).ok()?.uses)))
            .collect();
        let uses = |slot: u8| all.get(&slot).copied();
        let slots: Vec<u8> = match op {
            Op::Create { slot, .. } => {
                let parent = match op {
                    Op::Create { parent: Some(parent), .. } => self.model.layers.get(parent).cloned(),
                    _ => Some(Layer::default()),
                };
                if uses(*slot).is_some()
                    && !self.model.layers.contains_key(slot)
                    && let Some(mut parent) = parent
                {
                    self.model.layers.insert(*slot, parent.snapshot());
                }
                vec![*slot]
            }
            Op::Remove(slot) => {
                if uses(*slot).is_none()
                    && let Some(layer) = self.model.layers.remove(slot)
                {
                    self.model.orphans.extend(layer.inside.iter().map(|i| i.holder));
                }
                vec![*slot]
            }
            Op::Get(slot) => {
                if let (Some(layer), Some(uses)) = (self.model.layers.get_mut(slot), uses(*slot))
                    && uses == layer.uses + 1
                {
                    layer.uses = uses;
                }
                vec![*slot]
            }
            Op::Put { .. } | Op::Restart(_) => {
                for (slot, layer) in &mut self.model.layers {
                    match uses(*slot) {
                        Some(0) if layer.uses > 0 => layer.unmounted(),
                        Some(uses) if uses + 1 == layer.uses => layer.uses = uses,
                        _ => {}
                    }
                }
                self.model.layers.keys().copied().collect()
            }
            _ => Vec::new(),
        };
        for slot in slots {
            let seen = uses(slot);
            let wanted = self.model.layers.get(&slot).map(|layer| layer.uses);
            if seen != wanted {
                return Err(format!("layer {slot} is used {seen:?} times, and {wanted:?} was due"));
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        let (driver, _) =
            open(&self.world, self.setup, self.wrap).map_err(|e| format!("open failed: {e}"))?;
        self.driver = Some(driver);
        Ok(())
    }

    fn driver(&self) -> Result<&Driver, String> {
        self.driver.as_ref().ok_or_else(|| "no driver".to_owned())
    }

    /// A refusal is as good as a success where it is due, and changes nothing.
    fn refused<T>(op: &Op, result: thinlayer_graphdriver::Result<T>, kind: Kind) -> Result<(), String> {
        match result {
            Ok(_) => Err(format!("{op:?} worked, and {kind:?} was due")),
            Err(error) if error.kind() == kind => Ok(()),
            Err(error) => Err(format!("{op:?}: {:?} ({error}), and {kind:?} was due", error.kind())),
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Create { slot, parent, larger } => self.create(op, *slot, *parent, *larger),
            Op::Get(slot) => {
                let result = self.driver()?.get(&id(*slot), None);
                let Some(layer) = self.model.layers.get_mut(slot) else {
                    return Self::refused(op, result, Kind::NotFound);
                };
                result.map_err(|e| unexpected(op, &e))?;
                layer.uses += 1;
                Ok(())
            }
            Op::Put { slot, lazy } => self.put(op, *slot, *lazy),
            Op::Write { slot, file, sync } => {
                self.next_value += 1;
                let value = self.next_value;
                let Some(layer) = self.model.layers.get_mut(slot).filter(|l| l.uses > 0) else {
                    return Ok(());
                };
                let path = tree(*slot).join(format!("file-{file}"));
                self.world
                    .write_file(&path, value.to_string().as_bytes())
                    .map_err(|e| format!("{op:?}: {e}"))?;
                layer.write(*file, value);
                if *sync {
                    self.world.sync_fs(&path).map_err(|e| format!("{op:?}: {e}"))?;
                    layer.sync();
                }
                Ok(())
            }
            Op::Enter(slot) => {
                let Some(layer) = self.model.layers.get_mut(slot).filter(|l| l.uses > 0) else {
                    return Ok(());
                };
                let holder = self.world.hold(mount_point(*slot)).map_err(|e| format!("{op:?}: {e}"))?;
                layer.inside.push(Inside { holder, seen: true });
                Ok(())
            }
            Op::Leave(slot) => {
                let Some(layer) = self.model.layers.get_mut(slot) else { return Ok(()) };
                for inside in std::mem::take(&mut layer.inside) {
                    self.world.release(inside.holder);
                }
                if layer.uses == 0 {
                    layer.sync();
                }
                Ok(())
            }
            Op::Remove(slot) => self.remove(op, *slot),
            Op::WorkOff => self.driver()?.work_off().map(drop).map_err(|e| unexpected(op, &e)),
            Op::Grow => {
                let more = |mib: u64| Some(PoolSize::By(Bytes(mib << 20)));
                let grown = self.driver()?.grow_pool(&GrowRequest::new(more(64), more(4)));
                let grown = grown.map_err(|e| unexpected(op, &e))?;
                let changed = |change: SizeChange, mib: u64| change.to.0 == change.from.0 + (mib << 20);
                if changed(grown.data, 64) && changed(grown.metadata, 4) {
                    Ok(())
                } else {
                    Err(format!("the pool grew otherwise: {grown:?}"))
                }
            }
            Op::Pass => {
                self.world.pass(Duration::from_secs(31));
                Ok(())
            }
            Op::Restart(how) => self.restart(op, *how),
        }
    }

    fn create(&mut self, op: &Op, slot: u8, parent: Option<u8>, larger: bool) -> Result<(), String> {
        let mut request = CreateRequest::empty();
        if let Some(parent) = parent {
            request = CreateRequest::on(id(parent));
        }
        if larger {
            // Each generation may grow once more.
            request = request.size(Bytes(2 << 30));
        }
        let result = self.driver()?.create(&id(slot), &request);
        if parent == Some(slot) {
            return Self::refused(op, result, Kind::Invalid);
        }
        if self.model.layers.contains_key(&slot) {
            return Self::refused(op, result, Kind::Exists);
        }
        let layer = match parent {
            None => Layer::default(),
            Some(parent) => match self.model.layers.get_mut(&parent) {
                None => return Self::refused(op, result, Kind::NotFound),
                Some(parent) => parent.snapshot(),
            },
        };
        result.map_err(|e| unexpected(op, &e))?;
        self.model.layers.insert(slot, layer);
        Ok(())
    }

    fn put(&mut self, op: &Op, slot: u8, lazy: bool) -> Result<(), String> {
        let when = if lazy { Unmount::Lazy } else { Unmount::Now };
        let result = self.driver()?.put(&id(slot), when);
        let Some(layer) = self.model.layers.get_mut(&slot) else {
            return Self::refused(op, result, Kind::NotFound);
        };
        if layer.uses == 1 && !lazy && layer.inside.iter().any(|i| i.seen) {
            return Self::refused(op, result, Kind::Busy);
        }
        match result {
            Ok(_) => {}
            // Without deferral a device that somebody is in cannot go; the mount is gone all the same.
            Err(error)
                if error.kind() == Kind::Busy
                    && !layer.inside.is_empty()
                    && self.setup.deferral == crate::history::Deferral::Off => {}
            Err(error) => return Err(unexpected(op, &error)),
        }
        if layer.uses > 1 {
            layer.uses -= 1;
        } else {
            layer.unmounted();
        }
        Ok(())
    }

    fn remove(&mut self, op: &Op, slot: u8) -> Result<(), String> {
        let result = self.driver()?.remove(&id(slot));
        let Some(layer) = self.model.layers.get(&slot) else {
            return match result {
                Ok(thinlayer_graphdriver::Removed::Absent) => Ok(()),
                other => Err(format!("{op:?} of an absent layer: {other:?}")),
            };
        };
        if layer.uses > 0 {
            return Self::refused(op, result, Kind::Busy);
        }
        match result {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Busy && !layer.inside.is_empty() => return Ok(()),
            Err(error) => return Err(unexpected(op, &error)),
        }
        let inside = self.model.layers.remove(&slot).map(|l| l.inside).unwrap_or_default();
        self.model.orphans.extend(inside.into_iter().map(|i| i.holder));
        Ok(())
    }

    fn restart(&mut self, op: &Op, how: Restart) -> Result<(), String> {
        match how {
            Restart::Stop => {
                match self.driver()?.stop() {
                    Ok(_) => {}
                    // Somebody is in a layer: it stays, and so does the pool.
                    Err(error) if error.kind() == Kind::Busy && !self.model.holders().is_empty() => {}
                    Err(error) => return Err(unexpected(op, &error)),
                }
                for layer in self.model.layers.values_mut().filter(|l| l.inside.iter().all(|i| !i.seen)) {
                    layer.unmounted();
                }
                self.driver = None;
                self.world.kill();
            }
            Restart::Kill => {
                self.world.kill();
                self.driver = None;
            }
            Restart::PowerCut(seed) => {
                self.world.power_cut(seed);
                self.driver = None;
                self.model.power_cut();
            }
        }
        self.open()
    }
}
