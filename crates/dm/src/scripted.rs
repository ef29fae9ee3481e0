//! A device-mapper for this crate's own unit tests: it remembers devices and fails where it is told to.

use crate::device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
use crate::error::{Error, Result};
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::units::Sectors;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Scripted {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<String, Info>,
    forgotten: Vec<String>,
    /// Command, errno, how often.
    failures: Vec<(&'static str, Errno, usize)>,
}

impl Scripted {
    /// The next `times` calls of `command` fail with `errno`.
    pub(crate) fn fail(&self, command: &'static str, errno: Errno, times: usize) {
        self.state.lock().unwrap().failures.push((command, errno, times));
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().devices.keys().cloned().collect()
    }

    pub(crate) fn forgotten(&self) -> Vec<String> {
        self.state.lock().unwrap().forgotten.clone()
    }

    fn act<T>(
        &self,
        command: &'static str,
        device: DeviceRef<'_>,
        act: impl FnOnce(&mut State, &str) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let mut state = self.state.lock().unwrap();
        let failure = state.failures.iter_mut().find(|(of, _, left)| *of == command && *left > 0);
        if let Some((_, errno, left)) = failure {
            *left -= 1;
            return Err(Error::ioctl(command, device, *errno));
        }
        let found = state.devices.iter().find(|(_, info)| match device {
            DeviceRef::Name(name) => &info.name == name,
            DeviceRef::Uuid(uuid) => info.uuid.as_ref() == Some(uuid),
            DeviceRef::Number(number) => info.number == number,
        });
        match (found.map(|(name, _)| name.clone()), device) {
            (Some(name), _) => act(&mut state, &name),
            (None, DeviceRef::Name(name)) => act(&mut state, name.as_str()),
            (None, _) => Err(Errno::ENXIO),
        }
        .map_err(|errno| Error::ioctl(command, device, errno))
    }

    fn change(
        &self,
        command: &'static str,
        device: DeviceRef<'_>,
        change: impl FnOnce(&mut Info),
    ) -> Result<Info> {
        self.act(command, device, |state, name| {
            let info = state.devices.get_mut(name).ok_or(Errno::ENXIO)?;
            change(info);
            Ok(info.clone())
        })
    }
}

impl DeviceMapper for Scripted {
    fn version(&self) -> Version {
        Version(4, 47, 0)
    }

    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        Ok(vec![TargetVersion { name: "zero".into(), version: Version(1, 2, 0) }])
    }

    fn devices(&self) -> Result<Vec<ListedDevice>> {
        let state = self.state.lock().unwrap();
        let listed = |info: &Info| ListedDevice {
            name: info.name.clone(),
            uuid: info.uuid.clone(),
            number: info.number,
            event_nr: Some(info.event_nr),
        };
        Ok(state.devices.values().map(listed).collect())
    }

    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        self.act("DM_DEV_CREATE", name.into(), |state, text| {
            if state.devices.contains_key(text) {
                return Err(Errno::EBUSY);
            }
            let minor = u32::try_from(state.devices.len()).unwrap();
            let info = Info {
                name: name.clone(),
                uuid: uuid.cloned(),
                number: DeviceNumber { major: 253, minor },
                open_count: 0,
                target_count: 0,
                event_nr: 0,
                suspended: false,
                read_only: false,
                live_table: false,
                inactive_table: false,
                deferred_remove: false,
            };
            state.devices.insert(text.into(), info.clone());
            Ok(info)
        })
    }

    fn remove(&self, device: DeviceRef<'_>, _when: Removal) -> Result<Removed> {
        self.act("DM_DEV_REMOVE", device, |state, name| {
            Ok(state.devices.remove(name).map_or(Removed::Absent, |_| Removed::Gone))
        })
    }

    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        self.change("DM_TARGET_MSG", device, |info| info.deferred_remove = false).map(drop)
    }

    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.act("DM_DEV_RENAME", device.into(), |state, name| {
            let mut info = state.devices.remove(name).ok_or(Errno::ENXIO)?;
            info.name = to.clone();
            state.devices.insert(to.as_str().into(), info.clone());
            Ok(info)
        })
    }

    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        self.change("DM_DEV_RENAME", device.into(), |info| info.uuid = Some(uuid.clone()))
    }

    fn suspend(&self, device: DeviceRef<'_>, _how: Suspend) -> Result<Info> {
        self.change("DM_DEV_SUSPEND", device, |info| info.suspended = true)
    }

    fn resume(&self, device: DeviceRef<'_>, _how: Suspend) -> Result<Info> {
        self.change("DM_DEV_RESUME", device, |info| {
            info.suspended = false;
            info.live_table |= std::mem::take(&mut info.inactive_table);
        })
    }

    fn load(&self, device: DeviceRef<'_>, _table: &[Target], access: Access) -> Result<Info> {
        self.change("DM_TABLE_LOAD", device, |info| {
            info.inactive_table = true;
            info.read_only = access == Access::ReadOnly;
        })
    }

    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.change("DM_TABLE_CLEAR", device, |info| info.inactive_table = false)
    }

    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.act("DM_DEV_STATUS", device, |state, name| Ok(state.devices.get(name).cloned()))
    }

    fn table(&self, device: DeviceRef<'_>, _slot: Slot) -> Result<(Info, Vec<Target>)> {
        Ok((self.change("DM_TABLE_STATUS", device, |_| ())?, Vec::new()))
    }

    fn status(&self, device: DeviceRef<'_>, _flush: Flush) -> Result<(Info, Vec<Target>)> {
        Ok((self.change("DM_TABLE_STATUS", device, |_| ())?, Vec::new()))
    }

    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.change("DM_TABLE_DEPS", device, |_| ()).map(|_| Vec::new())
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        _sector: Sectors,
        _message: &str,
    ) -> Result<(Info, Option<String>)> {
        Ok((self.change("DM_TARGET_MSG", device, |_| ())?, None))
    }

    fn events(&self) -> Result<Box<dyn Events>> {
        Ok(Box::new(NoEvents))
    }

    fn node(&self, name: &DmName, _number: DeviceNumber) -> Result<PathBuf> {
        Ok(PathBuf::from("/dev/mapper").join(name.as_str()))
    }

    fn forget_node(&self, name: &DmName, _number: DeviceNumber) -> Result<()> {
        self.state.lock().unwrap().forgotten.push(name.as_str().into());
        Ok(())
    }
}

#[derive(Debug)]
struct NoEvents;

impl Events for NoEvents {
    fn wait(&mut self, _timeout: Duration) -> Result<bool> {
        Ok(false)
    }
}
