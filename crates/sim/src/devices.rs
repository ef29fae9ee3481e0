//! Device-mapper devices, their tables, and who has what open.

use crate::image::Content;
use crate::pool::PoolSpec;
use crate::state::{Held, Result, State, Storage};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use thinlayer_dm::{Access, DeviceNumber, DmName, DmUuid, SECTOR_BYTES};

/// The major number of device-mapper devices here.
pub(crate) const DM_MAJOR: u32 = 253;
/// The major number of loop devices.
pub(crate) const LOOP_MAJOR: u32 = 7;

/// A device-mapper device.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) name: DmName,
    pub(crate) uuid: Option<DmUuid>,
    pub(crate) live: Option<Table>,
    pub(crate) inactive: Option<Table>,
    pub(crate) suspended: bool,
    /// The suspension froze the file system on it.
    pub(crate) froze: bool,
    pub(crate) event_nr: u32,
    pub(crate) deferred: bool,
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) lines: Vec<Line>,
    pub(crate) access: Access,
}

/// One line of a table, understood.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) target: Target,
}

/// A target.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Zero,
    Error,
    Linear { device: DeviceNumber, offset: u64 },
    Pool(PoolSpec),
    Thin { pool: DeviceNumber, id: u32 },
}

impl Target {
    /// Its type's name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Error => "error",
            Self::Linear { .. } => "linear",
            Self::Pool(_) => "thin-pool",
            Self::Thin { .. } => "thin",
        }
    }

    fn stands_on(&self) -> Vec<DeviceNumber> {
        match self {
            Self::Zero | Self::Error => Vec::new(),
            Self::Linear { device, .. } => vec![*device],
            Self::Pool(spec) => vec![spec.metadata, spec.data],
            Self::Thin { pool, .. } => vec![*pool],
        }
    }
}

impl Table {
    /// The devices below, each once.
    pub(crate) fn stands_on(&self) -> Vec<DeviceNumber> {
        let mut all: Vec<_> = self.lines.iter().flat_map(|line| line.target.stands_on()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.start + line.len)
    }

    /// The only target, if there is one.
    pub(crate) fn only(&self) -> Option<&Target> {
        match self.lines.as_slice() {
            [line] => Some(&line.target),
            _ => None,
        }
    }
}

impl Device {
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.live.iter().chain(self.inactive.iter())
    }
}

/// Where the bytes of a block device really are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Storage(Storage),
    Thin { metadata: Storage, id: u32 },
}

pub(crate) fn dm(minor: u32) -> DeviceNumber {
    DeviceNumber { major: DM_MAJOR, minor }
}

impl State {
    /// The block device that a path or `MAJOR:MINOR` names.
    pub(crate) fn block_device(&self, text: &str) -> Result<DeviceNumber> {
        let number = if let Ok(number) = text.parse::<DeviceNumber>() {
            number
        } else if let Some(name) = text.strip_prefix("/dev/mapper/") {
            let name = DmName::new(name).map_err(|_| Errno::ENOENT)?;
            *self.nodes.get(&name).ok_or(Errno::ENOENT)?
        } else if let Some(minor) = text.strip_prefix("/dev/dm-").and_then(|m| m.parse().ok()) {
            dm(minor)
        } else if let Some(minor) = text.strip_prefix("/dev/loop").and_then(|m| m.parse().ok()) {
            DeviceNumber { major: LOOP_MAJOR, minor }
        } else {
            let path = Path::new(text);
            match self.disks.iter().find(|(_, disk)| disk.path == path) {
                Some((&number, _)) => number,
                None if self.files.lookup(path).is_ok() => return Err(Errno::ENOTBLK),
                None => return Err(Errno::ENOENT),
            }
        };
        if self.exists(number) { Ok(number) } else { Err(Errno::ENOENT) }
    }

    fn exists(&self, number: DeviceNumber) -> bool {
        match number.major {
            DM_MAJOR => self.devices.contains_key(&number.minor),
            LOOP_MAJOR => self.loops.contains_key(&number.minor),
            _ => self.disks.contains_key(&number),
        }
    }

    /// A block device's size in sectors, as it is now.
    pub(crate) fn sectors(&self, number: DeviceNumber) -> u64 {
        match number.major {
            DM_MAJOR => {
                self.devices.get(&number.minor).and_then(|d| d.live.as_ref()).map_or(0, Table::sectors)
            }
            LOOP_MAJOR => self.loops.get(&number.minor).map_or(0, |l| l.sectors),
            _ => self.disks.get(&number).map_or(0, |d| d.bytes / SECTOR_BYTES),
        }
    }

    /// May it be written, as far as the device itself goes?
    pub(crate) fn writable(&self, number: DeviceNumber) -> bool {
        match number.major {
            DM_MAJOR => self
                .devices
                .get(&number.minor)
                .and_then(|d| d.live.as_ref())
                .is_some_and(|table| table.access == Access::ReadWrite),
            LOOP_MAJOR => self.loops.get(&number.minor).is_some_and(|l| !l.read_only),
            _ => self.disks.get(&number).is_some_and(|d| !d.read_only),
        }
    }

    /// Where a block device's bytes are; `None` if it has none of its own, such as a zero device.
    pub(crate) fn place(&self, number: DeviceNumber) -> Option<Place> {
        self.place_in(number, &self.pools)
    }

    pub(crate) fn place_in(
        &self,
        number: DeviceNumber,
        pools: &BTreeMap<u32, crate::pool::Pool>,
    ) -> Option<Place> {
        match number.major {
            DM_MAJOR => match self.devices.get(&number.minor)?.live.as_ref()?.only()? {
                Target::Linear { device, offset: 0 } => self.place_in(*device, pools),
                Target::Thin { pool, id } => {
                    Some(Place::Thin { metadata: pools.get(&pool.minor)?.metadata, id: *id })
                }
                _ => None,
            },
            LOOP_MAJOR => self.loops.get(&number.minor).map(|l| Place::Storage(l.storage)),
            _ => self.disks.contains_key(&number).then_some(Place::Storage(Storage::Disk(number))),
        }
    }

    /// The storage under a device that is no thin one.
    pub(crate) fn storage(&self, number: DeviceNumber) -> Option<Storage> {
        match self.place(number)? {
            Place::Storage(storage) => Some(storage),
            Place::Thin { .. } => None,
        }
    }

    /// What a device holds, as far as it was written out.
    pub(crate) fn content(&self, place: Place) -> Content {
        match place {
            Place::Storage(storage) if self.metadata.contains_key(&storage) => {
                Content::Signature("thin-pool metadata".into())
            }
            Place::Storage(storage) => self.contents.get(&storage).cloned().unwrap_or_default(),
            Place::Thin { metadata, id } => self.thin_content(metadata, id),
        }
    }

    /// The devices whose tables, live or not, stand on this one: once each, or twice if one table is read-only and the other is not.
    pub(crate) fn tables_on(&self, number: DeviceNumber) -> Vec<u32> {
        let mut all: Vec<(u32, bool)> = self
            .devices
            .iter()
            .flat_map(|(&minor, device)| {
                device
                    .tables()
                    .filter(|t| t.stands_on().contains(&number))
                    .map(move |t| (minor, t.access == Access::ReadOnly))
            })
            .collect();
        all.dedup();
        all.into_iter().map(|(minor, _)| minor).collect()
    }

    /// How many have a device open.
    pub(crate) fn open_count(&self, number: DeviceNumber) -> u32 {
        let held = self.holders.values().filter(|held| match held {
            Held::Node(n) => *n == number,
            Held::Loop { minor, .. } => number == DeviceNumber { major: LOOP_MAJOR, minor: *minor },
            Held::Mount(_) => false,
        });
        let all =
            held.count() + self.tables_on(number).len() + usize::from(self.supers.contains_key(&number));
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// After something was closed: devices whose removal was put off go, and loop devices that clear themselves, and what then is free, too.
    pub(crate) fn settle(&mut self) {
        loop {
            let leaving = self
                .devices
                .iter()
                .find(|&(&minor, device)| device.deferred && self.open_count(dm(minor)) == 0)
                .map(|(&minor, _)| minor);
            if let Some(minor) = leaving {
                self.destroy(minor);
                continue;
            }
            let closed: Vec<u32> = self
                .pools
                .keys()
                .copied()
                .filter(|minor| {
                    !self
                        .devices
                        .get(minor)
                        .is_some_and(|d| d.tables().any(|t| matches!(t.only(), Some(Target::Pool(_)))))
                })
                .collect();
            for minor in &closed {
                self.close_pool(*minor);
            }
            let cleared: Vec<u32> = self
                .loops
                .iter()
                .filter(|&(&minor, l)| {
                    l.autoclear && self.open_count(DeviceNumber { major: LOOP_MAJOR, minor }) == 0
                })
                .map(|(&minor, _)| minor)
                .collect();
            for minor in &cleared {
                self.loops.remove(minor);
            }
            if closed.is_empty() && cleared.is_empty() {
                return;
            }
        }
    }

    /// Takes a device away, with its tables.
    pub(crate) fn destroy(&mut self, minor: u32) {
        self.devices.remove(&minor);
        self.events += 1;
    }

    /// A target has something to say.
    pub(crate) fn table_event(&mut self, minor: u32) {
        self.events += 1;
        if let Some(device) = self.devices.get_mut(&minor) {
            device.event_nr += 1;
        }
    }
}
