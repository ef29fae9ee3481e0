//! A device-mapper for this crate's own unit tests: it remembers devices and calls, and fails where it is told to.

use crate::wait::Wait;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DeviceRef, DmName, DmUuid, Error, Events, Flush, Info, ListedDevice,
    Removal, Removed, Result, Sectors, Slot, Suspend, Target, TargetVersion, Version,
};

pub(crate) const POOL: &str = "tlt-pool";
pub(crate) const POOL_TABLE: &str = "0 204800 thin-pool 7:0 7:1 128 100 1 skip_block_zeroing";
pub(crate) const POOL_STATUS: &str = "5 40/1000 10/1600 - rw discard_passdown queue_if_no_space - 250 ";

#[derive(Debug, Default)]
pub(crate) struct Scripted {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<String, Device>,
    calls: Vec<String>,
    failures: Vec<Failure>,
    /// Status lines; the last one stays.
    status: Vec<String>,
    minors: u32,
}

#[derive(Clone, Debug)]
struct Device {
    info: Info,
    live: Option<Target>,
    inactive: Option<Target>,
    deps: Vec<DeviceNumber>,
}

#[derive(Debug)]
struct Failure {
    call: &'static str,
    errno: Errno,
    times: usize,
    /// The device is left suspended, as by a target that refuses at resume.
    suspends: bool,
}

pub(crate) fn name(text: &str) -> DmName {
    DmName::new(text).unwrap()
}

impl Scripted {
    /// With the pool [`POOL`] active as 253:0.
    pub(crate) fn with_pool() -> Arc<Self> {
        let dm = Arc::new(Self::default());
        dm.add(POOL, POOL_TABLE);
        dm.says([POOL_STATUS]);
        dm
    }

    pub(crate) fn add(&self, device: &str, table: &str) -> DeviceNumber {
        let mut state = self.state.lock().unwrap();
        let mut info = state.new_device(&name(device));
        info.live_table = true;
        let words: Vec<&str> = table.splitn(4, ' ').collect();
        let live = Target {
            start: Sectors(words[0].parse().unwrap()),
            len: Sectors(words[1].parse().unwrap()),
            kind: words[2].into(),
            params: words.get(3).copied().unwrap_or_default().into(),
        };
        let number = info.number;
        state
            .devices
            .insert(device.into(), Device { info, live: Some(live), inactive: None, deps: Vec::new() });
        number
    }

    pub(crate) fn stands_on(&self, device: &str, dep: DeviceNumber) {
        self.state.lock().unwrap().devices.get_mut(device).unwrap().deps.push(dep);
    }

    pub(crate) fn open_count(&self, device: &str, count: u32) {
        self.state.lock().unwrap().devices.get_mut(device).unwrap().info.open_count = count;
    }

    /// What the next looks at the pool's status show; the last one stays.
    pub(crate) fn says<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
        lines.reverse();
        self.state.lock().unwrap().status = lines;
    }

    pub(crate) fn event(&self, device: &str) {
        self.state.lock().unwrap().devices.get_mut(device).unwrap().info.event_nr += 1;
    }

    /// The next `times` calls that start with `call` fail.
    pub(crate) fn fail(&self, call: &'static str, errno: Errno, times: usize) {
        self.state.lock().unwrap().failures.push(Failure { call, errno, times, suspends: false });
    }

    /// The next resume fails and leaves the device suspended, with the new table in use.
    pub(crate) fn refuse_table(&self, errno: Errno) {
        self.state.lock().unwrap().failures.push(Failure { call: "resume", errno, times: 1, suspends: true });
    }

    /// The calls since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub(crate) fn exists(&self, device: &str) -> bool {
        self.state.lock().unwrap().devices.contains_key(device)
    }

    pub(crate) fn suspended(&self, device: &str) -> bool {
        self.state.lock().unwrap().devices[device].info.suspended
    }

    pub(crate) fn live(&self, device: &str) -> String {
        let state = self.state.lock().unwrap();
        let target = state.devices[device].live.clone().unwrap();
        format!("{} {} {} {}", target.start.0, target.len.0, target.kind, target.params)
    }

    fn act<T>(
        &self,
        call: String,
        device: DeviceRef<'_>,
        act: impl FnOnce(&mut State, &str) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(call.clone());
        let DeviceRef::Name(device_name) = device else { panic!("{call} is not by name") };
        let failure =
            state.failures.iter_mut().find(|failure| failure.times > 0 && call.starts_with(failure.call));
        let failed = failure.map(|failure| {
            failure.times -= 1;
            (failure.errno, failure.suspends)
        });
        let result = match failed {
            Some((errno, suspends)) => {
                if suspends && let Some(device) = state.devices.get_mut(device_name.as_str()) {
                    device.info.suspended = true;
                    device.live = device.inactive.take().or(device.live.take());
                }
                Err(errno)
            }
            None => act(&mut state, device_name.as_str()),
        };
        let command = if call.starts_with("create") { "DM_DEV_CREATE" } else { "DM_OTHER" };
        result.map_err(|errno| Error::ioctl(command, device, errno))
    }

    fn change<T>(
        &self,
        call: String,
        device: DeviceRef<'_>,
        change: impl FnOnce(&mut Device) -> T,
    ) -> Result<(Info, T)> {
        self.act(call, device, |state, name| {
            let device = state.devices.get_mut(name).ok_or(Errno::ENXIO)?;
            let value = change(device);
            Ok((device.info.clone(), value))
        })
    }
}

impl State {
    fn new_device(&mut self, name: &DmName) -> Info {
        let number = DeviceNumber { major: 253, minor: self.minors };
        self.minors += 1;
        Info {
            name: name.clone(),
            uuid: None,
            number,
            open_count: 0,
            target_count: 0,
            event_nr: 0,
            suspended: false,
            read_only: false,
            live_table: false,
            inactive_table: false,
            deferred_remove: false,
        }
    }
}

fn flags(how: Suspend) -> &'static str {
    match (how.freeze, how.flush) {
        (true, true) => "freeze flush",
        (true, false) => "freeze",
        (false, true) => "flush",
        (false, false) => "neither",
    }
}

impl DeviceMapper for Scripted {
    fn version(&self) -> Version {
        Version(4, 47, 0)
    }

    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        Ok(Vec::new())
    }

    fn devices(&self) -> Result<Vec<ListedDevice>> {
        let state = self.state.lock().unwrap();
        let listed = |device: &Device| ListedDevice {
            name: device.info.name.clone(),
            uuid: None,
            number: device.info.number,
            event_nr: None,
        };
        Ok(state.devices.values().map(listed).collect())
    }

    fn create(&self, name: &DmName, _uuid: Option<&DmUuid>) -> Result<Info> {
        self.act(format!("create {name}"), name.into(), |state, text| {
            if state.devices.contains_key(text) {
                return Err(Errno::EBUSY);
            }
            let info = state.new_device(name);
            let device = Device { info: info.clone(), live: None, inactive: None, deps: Vec::new() };
            state.devices.insert(text.into(), device);
            Ok(info)
        })
    }

    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.act(format!("remove {device} {when:?}"), device, |state, name| {
            Ok(state.devices.remove(name).map_or(Removed::Absent, |_| Removed::Gone))
        })
    }

    fn cancel_deferred_removal(&self, _device: DeviceRef<'_>) -> Result<()> {
        panic!("not used by this crate")
    }

    fn rename(&self, _device: &DmName, _to: &DmName) -> Result<Info> {
        panic!("not used by this crate")
    }

    fn set_uuid(&self, _device: &DmName, _uuid: &DmUuid) -> Result<Info> {
        panic!("not used by this crate")
    }

    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        let call = format!("suspend {device} {}", flags(how));
        Ok(self.change(call, device, |device| device.info.suspended = true)?.0)
    }

    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        let call = format!("resume {device} {}", flags(how));
        let changed = self.change(call, device, |device| {
            device.info.suspended = false;
            device.live = device.inactive.take().or(device.live.take());
            device.info.live_table = device.live.is_some();
        })?;
        Ok(changed.0)
    }

    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
        let call = format!("load {device} {} {} {access:?}", table[0].len.0, table[0].params);
        let changed = self.change(call, device, |device| {
            device.inactive = table.first().cloned();
            device.info.read_only = access == Access::ReadOnly;
        })?;
        Ok(changed.0)
    }

    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        Ok(self.change(format!("clear {device}"), device, |device| device.inactive = None)?.0)
    }

    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.act(format!("info {device}"), device, |state, name| {
            Ok(state.devices.get(name).map(|device| device.info.clone()))
        })
    }

    fn table(&self, device: DeviceRef<'_>, _slot: Slot) -> Result<(Info, Vec<Target>)> {
        self.change(format!("table {device}"), device, |device| device.live.iter().cloned().collect())
    }

    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
        self.act(format!("status {device} {flush:?}"), device, |state, name| {
            let device = state.devices.get(name).cloned().ok_or(Errno::ENXIO)?;
            let params = match state.status.len() {
                0 | 1 => state.status.last().cloned().unwrap_or_default(),
                _ => state.status.pop().unwrap_or_default(),
            };
            let target = device.live.map(|live| Target { params, ..live });
            Ok((device.info, target.into_iter().collect()))
        })
    }

    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        Ok(self.change(format!("deps {device}"), device, |device| device.deps.clone())?.1)
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        _sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        Ok((self.change(format!("message {device} {message}"), device, |_| ())?.0, None))
    }

    fn events(&self) -> Result<Box<dyn Events>> {
        Ok(Box::new(AtOnce))
    }

    fn node(&self, name: &DmName, _number: DeviceNumber) -> Result<PathBuf> {
        self.act(format!("node {name}"), name.into(), |_, text| Ok(PathBuf::from("/dev/mapper").join(text)))
    }

    fn forget_node(&self, name: &DmName, _number: DeviceNumber) -> Result<()> {
        self.act(format!("forget {name}"), name.into(), |_, _| Ok(()))
    }
}

/// There is always an event.
#[derive(Debug)]
struct AtOnce;

impl Events for AtOnce {
    fn wait(&mut self, _timeout: Duration) -> Result<bool> {
        Ok(true)
    }
}

/// A clock that moves only when somebody sleeps.
#[derive(Debug, Default)]
pub(crate) struct FakeWait {
    slept: Mutex<Vec<Duration>>,
}

impl FakeWait {
    pub(crate) fn pauses(&self) -> Vec<Duration> {
        self.slept.lock().unwrap().clone()
    }
}

impl Wait for FakeWait {
    fn now(&self) -> Duration {
        self.slept.lock().unwrap().iter().sum()
    }

    fn sleep(&self, how_long: Duration) {
        self.slept.lock().unwrap().push(how_long);
    }
}
