//! [`DeviceMapper`] on the world.

use crate::devices::{DM_MAJOR, Device, Line, Table, Target, dm};
use crate::pool::pool_params;
use crate::state::{Result as Answer, Shared, State, View};
use nix::errno::Errno;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DeviceRef, DmName, DmUuid, Error, Events, Flush, Info, ListedDevice,
    Removal, Removed, Result, SECTOR_BYTES, Sectors, Slot, Suspend, TargetVersion, Version,
};

/// Device-mapper of the world.
#[derive(Clone, Debug)]
pub(crate) struct SimDm(pub(crate) View);

impl State {
    fn find(&self, device: DeviceRef<'_>) -> Answer<u32> {
        let found = match device {
            DeviceRef::Name(name) => self.devices.iter().find(|(_, d)| d.name == *name).map(|(&m, _)| m),
            DeviceRef::Uuid(uuid) => {
                self.devices.iter().find(|(_, d)| d.uuid.as_ref() == Some(uuid)).map(|(&m, _)| m)
            }
            DeviceRef::Number(number) => {
                Some(number.minor).filter(|m| number.major == DM_MAJOR && self.devices.contains_key(m))
            }
        };
        found.ok_or(Errno::ENXIO)
    }

    fn info_of(&self, minor: u32) -> Answer<Info> {
        let device = self.devices.get(&minor).ok_or(Errno::ENXIO)?;
        Ok(Info {
            name: device.name.clone(),
            uuid: device.uuid.clone(),
            number: dm(minor),
            open_count: self.open_count(dm(minor)),
            target_count: device
                .live
                .as_ref()
                .map_or(0, |t| u32::try_from(t.lines.len()).unwrap_or(u32::MAX)),
            event_nr: device.event_nr,
            suspended: device.suspended,
            read_only: device.live.as_ref().is_some_and(|t| t.access == Access::ReadOnly),
            live_table: device.live.is_some(),
            inactive_table: device.inactive.is_some(),
            deferred_remove: device.deferred,
        })
    }

    fn device_mut(&mut self, minor: u32) -> Answer<&mut Device> {
        self.devices.get_mut(&minor).ok_or(Errno::ENXIO)
    }

    fn construct(&mut self, minor: u32, table: &[thinlayer_dm::Target], access: Access) -> Answer<Table> {
        if table.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut lines: Vec<Line> = Vec::new();
        for line in table {
            let at = lines.last().map_or(0, |l| l.start + l.len);
            let single = line.kind == "thin-pool" && table.len() > 1;
            if line.start.0 != at || line.len.0 == 0 || single {
                return Err(Errno::EINVAL);
            }
            let words: Vec<&str> = line.params.split_ascii_whitespace().collect();
            let target = match (line.kind.as_str(), words.as_slice()) {
                ("zero", []) => Target::Zero,
                ("error", _) => Target::Error,
                ("linear", [device, offset]) => {
                    let offset = offset.parse().map_err(|_| Errno::EINVAL)?;
                    let device = self.target_device(device, minor)?;
                    if offset + line.len.0 > self.sectors(device) {
                        return Err(Errno::EINVAL);
                    }
                    Target::Linear { device, offset }
                }
                ("thin-pool", _) => {
                    if access == Access::ReadOnly {
                        return Err(Errno::EINVAL);
                    }
                    let spec = self.construct_pool(minor, &line.params)?;
                    if line.len.0 > self.sectors(spec.data) {
                        return Err(Errno::EINVAL);
                    }
                    Target::Pool(spec)
                }
                ("thin", _) => self.construct_thin(minor, &line.params)?,
                _ => return Err(Errno::EINVAL),
            };
            lines.push(Line { start: line.start.0, len: line.len.0, target });
        }
        let table = Table { lines, access };
        let live = self.devices.get(&minor).and_then(|d| d.live.as_ref());
        let pool_stays = |t: &Table| !matches!(t.only(), Some(Target::Pool(_)));
        if live.is_some_and(|live| !pool_stays(live)) && pool_stays(&table) {
            return Err(Errno::EINVAL);
        }
        Ok(table)
    }

    fn show(&self, table: &Table, params: impl Fn(&Target) -> String) -> Vec<thinlayer_dm::Target> {
        table
            .lines
            .iter()
            .map(|line| thinlayer_dm::Target {
                start: Sectors(line.start),
                len: Sectors(line.len),
                kind: line.target.kind().into(),
                params: params(&line.target),
            })
            .collect()
    }

    fn status_of(&self, minor: u32, target: &Target) -> String {
        match target {
            Target::Zero | Target::Error | Target::Linear { .. } => String::new(),
            Target::Pool(_) => self.pool_status(minor),
            Target::Thin { pool, id } => self.thin_status(pool.minor, *id),
        }
    }

    /// Freezes what is mounted on a device and holds back its I/O.
    fn suspend(&mut self, minor: u32, freeze: bool) -> Answer<()> {
        let number = dm(minor);
        let mut froze = false;
        if freeze && self.supers.get(&number).is_some_and(|fs| !fs.frozen) {
            // A file system that cannot write out its data is frozen all the same; its users see the error at their next sync.
            if self.sync(number).is_err() {
                return Err(Errno::EIO);
            }
            if let Some(fs) = self.supers.get_mut(&number) {
                fs.frozen = true;
                froze = true;
            }
        }
        let flushes = matches!(
            self.devices.get(&minor).and_then(|d| d.live.as_ref()).and_then(Table::only),
            Some(Target::Pool(_))
        );
        if flushes {
            self.commit(minor);
        }
        let device = self.device_mut(minor)?;
        device.suspended = true;
        device.froze = froze;
        Ok(())
    }

    fn resume(&mut self, minor: u32) -> Answer<()> {
        let device = self.device_mut(minor)?;
        if let Some(new) = device.inactive.take() {
            device.suspended = true;
            device.live = Some(new);
            self.events += 1;
        }
        let Some(live) = self.devices.get(&minor).and_then(|d| d.live.clone()) else {
            return if self.devices.get(&minor).is_some_and(|d| d.suspended) {
                Err(Errno::EINVAL)
            } else {
                Ok(())
            };
        };
        // The old table is gone, whatever comes of the new one.
        let bound = match live.only() {
            Some(Target::Pool(spec)) => self.bind_pool(minor, spec, live.sectors()),
            Some(Target::Thin { pool, id }) => {
                self.watch_activation(minor, pool.minor, *id);
                Ok(())
            }
            _ => Ok(()),
        };
        self.settle();
        bound?;
        let device = self.device_mut(minor)?;
        let froze = std::mem::take(&mut device.froze);
        device.suspended = false;
        if froze && let Some(fs) = self.supers.get_mut(&dm(minor)) {
            fs.frozen = false;
        }
        Ok(())
    }
}

impl SimDm {
    fn on<T>(
        &self,
        action: &str,
        command: &str,
        device: impl std::fmt::Display,
        extra: &str,
        run: impl FnOnce(&mut State, &str) -> Answer<T>,
    ) -> Result<T> {
        let call = format!("dm {action} {device}{extra}");
        self.0.call(&call, |state| run(state, &call)).map_err(|errno| Error::ioctl(command, device, errno))
    }
}

impl DeviceMapper for SimDm {
    fn version(&self) -> Version {
        Version(4, 47, 0)
    }

    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        self.on("list targets", "DM_LIST_VERSIONS", "-", "", |_, _| {
            let all = [
                ("thin", Version(1, 22, 0)),
                ("thin-pool", Version(1, 22, 0)),
                ("error", Version(1, 5, 0)),
                ("linear", Version(1, 4, 0)),
                ("zero", Version(1, 1, 0)),
            ];
            Ok(all.map(|(name, version)| TargetVersion { name: name.into(), version }).to_vec())
        })
    }

    fn devices(&self) -> Result<Vec<ListedDevice>> {
        self.on("list devices", "DM_LIST_DEVICES", "-", "", |st, _| {
            Ok(st
                .devices
                .iter()
                .map(|(&minor, d)| ListedDevice {
                    name: d.name.clone(),
                    uuid: d.uuid.clone(),
                    number: dm(minor),
                    event_nr: Some(d.event_nr),
                })
                .collect())
        })
    }

    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        self.on("create", "DM_DEV_CREATE", name, "", |st, call| {
            if st.devices.values().any(|d| d.name == *name || (uuid.is_some() && d.uuid.as_ref() == uuid)) {
                return Err(Errno::EBUSY);
            }
            let minor = (0..).find(|minor| !st.devices.contains_key(minor)).ok_or(Errno::ENXIO)?;
            st.effect(call);
            let device = Device {
                name: name.clone(),
                uuid: uuid.cloned(),
                live: None,
                inactive: None,
                suspended: false,
                froze: false,
                event_nr: 0,
                deferred: false,
            };
            st.devices.insert(minor, device);
            st.info_of(minor)
        })
    }

    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.on("remove", "DM_DEV_REMOVE", device, "", |st, call| {
            let Ok(minor) = st.find(device) else { return Ok(Removed::Absent) };
            if st.open_count(dm(minor)) > 0 {
                if when == Removal::Now {
                    return Err(Errno::EBUSY);
                }
                if !st.device_mut(minor)?.deferred {
                    st.effect(&format!("{call} (deferred)"));
                    st.device_mut(minor)?.deferred = true;
                }
                return Ok(Removed::Scheduled);
            }
            st.effect(call);
            st.destroy(minor);
            st.settle();
            Ok(Removed::Gone)
        })
    }

    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        self.on("cancel removal of", "DM_TARGET_MSG \"@cancel_deferred_remove\"", device, "", |st, call| {
            let minor = st.find(device)?;
            if st.device_mut(minor)?.deferred {
                st.effect(call);
                st.device_mut(minor)?.deferred = false;
            }
            Ok(())
        })
    }

    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.on("rename", "DM_DEV_RENAME", device, &format!(" to {to}"), |st, call| {
            if st.devices.values().any(|d| d.name == *to) {
                return Err(Errno::EBUSY);
            }
            let minor = st.find(device.into())?;
            st.effect(call);
            st.device_mut(minor)?.name = to.clone();
            if st.device_mut(minor)?.live.is_some() {
                st.table_event(minor);
            }
            st.info_of(minor)
        })
    }

    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        self.on("set uuid of", "DM_DEV_RENAME", device, &format!(" to {uuid}"), |st, call| {
            if st.devices.values().any(|d| d.uuid.as_ref() == Some(uuid)) {
                return Err(Errno::EBUSY);
            }
            let minor = st.find(device.into())?;
            if st.device_mut(minor)?.uuid.is_some() {
                return Err(Errno::EINVAL);
            }
            st.effect(call);
            st.device_mut(minor)?.uuid = Some(uuid.clone());
            if st.device_mut(minor)?.live.is_some() {
                st.table_event(minor);
            }
            st.info_of(minor)
        })
    }

    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.on("suspend", "DM_DEV_SUSPEND", device, "", |st, call| {
            let minor = st.find(device)?;
            if !st.device_mut(minor)?.suspended {
                st.effect(call);
                st.suspend(minor, how.freeze)?;
            }
            st.info_of(minor)
        })
    }

    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.on("resume", "DM_DEV_SUSPEND", device, "", |st, call| {
            let minor = st.find(device)?;
            let d = st.device_mut(minor)?;
            if d.suspended || d.inactive.is_some() {
                let swaps_under_users = d.inactive.is_some() && d.live.is_some() && !d.suspended;
                st.effect(call);
                if swaps_under_users {
                    st.suspend(minor, how.freeze)?;
                }
                st.resume(minor)?;
            }
            st.info_of(minor)
        })
    }

    fn load(&self, device: DeviceRef<'_>, table: &[thinlayer_dm::Target], access: Access) -> Result<Info> {
        let text: Vec<String> =
            table.iter().map(|t| format!("{} {} {} {}", t.start.0, t.len.0, t.kind, t.params)).collect();
        let extra = format!(": {}", text.join("; "));
        self.on("load", "DM_TABLE_LOAD", device, &extra, |st, call| {
            let minor = st.find(device)?;
            let table = match st.construct(minor, table, access) {
                Ok(table) => table,
                Err(errno) => {
                    // A pool that was opened for a table that then failed is closed again.
                    st.settle();
                    return Err(errno);
                }
            };
            st.effect(call);
            st.device_mut(minor)?.inactive = Some(table);
            st.settle();
            st.info_of(minor)
        })
    }

    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.on("clear", "DM_TABLE_CLEAR", device, "", |st, call| {
            let minor = st.find(device)?;
            if st.device_mut(minor)?.inactive.is_some() {
                st.effect(call);
                st.device_mut(minor)?.inactive = None;
                st.settle();
            }
            st.info_of(minor)
        })
    }

    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.on("info", "DM_DEV_STATUS", device, "", |st, _| {
            st.find(device).ok().map(|m| st.info_of(m)).transpose()
        })
    }

    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<thinlayer_dm::Target>)> {
        self.on("table", "DM_TABLE_STATUS", device, "", |st, _| {
            let minor = st.find(device)?;
            let d = st.devices.get(&minor).ok_or(Errno::ENXIO)?;
            let table = match slot {
                Slot::Live => &d.live,
                Slot::Inactive => &d.inactive,
            };
            let lines = table.as_ref().map_or_else(Vec::new, |table| {
                st.show(table, |target| match target {
                    Target::Zero | Target::Error => String::new(),
                    Target::Linear { device, offset } => format!("{device} {offset}"),
                    Target::Pool(spec) => pool_params(spec),
                    Target::Thin { pool, id } => format!("{pool} {id}"),
                })
            });
            Ok((st.info_of(minor)?, lines))
        })
    }

    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<thinlayer_dm::Target>)> {
        self.on("status", "DM_TABLE_STATUS", device, "", |st, _| {
            let minor = st.find(device)?;
            if flush == Flush::Yes {
                let below = match st.devices.get(&minor).and_then(|d| d.live.as_ref()).and_then(Table::only) {
                    Some(Target::Pool(_)) => Some(minor),
                    _ => None,
                };
                if let Some(pool) = below {
                    st.commit(pool);
                }
            }
            let live = st.devices.get(&minor).and_then(|d| d.live.as_ref());
            let lines =
                live.map_or_else(Vec::new, |table| st.show(table, |target| st.status_of(minor, target)));
            Ok((st.info_of(minor)?, lines))
        })
    }

    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.on("deps", "DM_TABLE_DEPS", device, "", |st, _| {
            let minor = st.find(device)?;
            let live = st.devices.get(&minor).and_then(|d| d.live.as_ref());
            Ok(live.map_or_else(Vec::new, Table::stands_on))
        })
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        let command = format!("DM_TARGET_MSG {message:?}");
        self.on("message", &command, device, &format!(": {message}"), |st, call| {
            let minor = st.find(device)?;
            let live = st.devices.get(&minor).and_then(|d| d.live.as_ref()).ok_or(Errno::EINVAL)?;
            let line = live
                .lines
                .iter()
                .find(|line| (line.start..line.start + line.len).contains(&sector.0))
                .ok_or(Errno::EINVAL)?;
            match line.target {
                Target::Pool(_) => {
                    st.pool_message(minor, message, call)?;
                    Ok((st.info_of(minor)?, None))
                }
                _ => Err(Errno::EINVAL),
            }
        })
    }

    fn events(&self) -> Result<Box<dyn Events>> {
        let seen = self.on("watch events of", "open", "-", "", |st, _| Ok(st.events))?;
        Ok(Box::new(SimEvents { view: self.0.clone(), seen }))
    }

    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        let kernels = PathBuf::from(format!("/dev/dm-{}", number.minor));
        let call = format!("dm node {name}");
        let made = self.0.call(&call, |st| {
            if st.nodes.get(name) != Some(&number) {
                st.effect(&call);
                st.nodes.insert(name.clone(), number);
            }
            Ok(st.find(number.into()).is_ok())
        });
        match made {
            Ok(true) => Ok(kernels),
            // A node can be made for a number that no device has.
            Ok(false) => Ok(PathBuf::from(format!("/dev/mapper/{name}"))),
            Err(errno) => Err(Error::Node { path: kernels, errno }),
        }
    }

    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        let path = PathBuf::from(format!("/dev/mapper/{name}"));
        let call = format!("dm forget node {name}");
        let gone = self.0.call(&call, |st| {
            if st.nodes.get(name) == Some(&number) {
                st.effect(&call);
                st.nodes.remove(name);
            }
            Ok(())
        });
        gone.map_err(|errno| Error::Node { path, errno })
    }
}

/// Events since the last look.
#[derive(Debug)]
struct SimEvents {
    view: View,
    seen: u64,
}

impl Events for SimEvents {
    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let shared: &Arc<Shared> = &self.view.shared;
        let mut state = shared.lock();
        if state.process != self.view.process || state.is_dead() {
            return Err(Error::ioctl("DM_DEV_ARM_POLL", "-", Errno::EIO));
        }
        if state.events == self.seen {
            state.pass(timeout);
        }
        let news = state.events != self.seen;
        self.seen = state.events;
        Ok(news)
    }
}

/// A size in bytes of a device that tests look at.
pub(crate) fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_BYTES)
}
