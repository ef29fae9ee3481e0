//! A small LVM in memory for this crate's own tests: one disk or two, and a crash before or after any effect.

use super::journal::RootFiles;
use super::{Finished, Programs};
use crate::backing::BlockDevice;
use crate::error::{Error, Result};
use crate::fake::Fake;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thinlayer_dm::{Bytes, DeviceNumber};

/// Where the model's effects end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    Before(usize),
    After(usize),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) kind: String,
    pub(super) extents: u64,
    pub(super) active: bool,
    pub(super) profile: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Physical volumes by node: id and group.
    pub(super) physical: BTreeMap<String, (String, String)>,
    pub(super) groups: BTreeMap<String, u64>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) profile: Option<String>,
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Model {
    state: State,
    missing: Vec<String>,
    /// Whoever runs this finds that it was done a moment before.
    raced: Option<String>,
    effects: Vec<String>,
    crash: Option<Crash>,
    crashed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct FakeLvm {
    model: Arc<Mutex<Model>>,
    pub(super) backing: Fake,
}

fn dead() -> Error {
    Error::System { action: "go on with", path: "/crash".into(), errno: Errno::EIO, advice: String::new() }
}

const SIZE: u64 = 2 << 30;
const EXTENTS: u64 = SIZE / (4 << 20) - 1;

impl FakeLvm {
    /// With two empty disks, `/dev/sdb` (8:16) and `/dev/sdc` (8:32).
    pub(super) fn new() -> Self {
        let this = Self { model: Arc::default(), backing: Fake::new(0) };
        for node in ["/dev/sdb", "/dev/sdc"] {
            this.put_disk(node, None);
        }
        this
    }

    pub(super) fn put_disk(&self, node: &str, signature: Option<&str>) {
        let device = BlockDevice {
            number: DeviceNumber { major: 8, minor: if node.ends_with('b') { 16 } else { 32 } },
            size: Bytes(SIZE),
            read_only: false,
            signature: signature.map(str::to_owned),
            users: Vec::new(),
        };
        self.backing.add_device(node, device);
    }

    pub(super) fn state(&self) -> State {
        self.model.lock().unwrap().state.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.model.lock().unwrap().state);
    }

    pub(super) fn uninstall(&self, program: &str) {
        self.model.lock().unwrap().missing.push(program.to_owned());
    }

    pub(super) fn race(&self, program: &str) {
        self.model.lock().unwrap().raced = Some(program.to_owned());
    }

    pub(super) fn crash(&self, crash: Option<Crash>) {
        let mut model = self.model.lock().unwrap();
        model.effects.clear();
        model.crash = crash;
        model.crashed = false;
    }

    pub(super) fn effects(&self) -> Vec<String> {
        self.model.lock().unwrap().effects.clone()
    }

    /// Does something that a crash may prevent, or follow.
    fn effect<T>(&self, what: String, act: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut model = self.model.lock().unwrap();
        let number = model.effects.len();
        if model.crashed || matches!(model.crash, Some(Crash::Before(at)) if at == number) {
            model.crashed = true;
            return Err(dead());
        }
        model.effects.push(what);
        let done = act(&mut model.state);
        if matches!(model.crash, Some(Crash::After(at)) if at == number) {
            model.crashed = true;
            return Err(dead());
        }
        Ok(done)
    }

    fn rows(&self, program: &str, arguments: &[&str]) -> String {
        let only_pool = arguments.iter().any(|word| word.contains("lv_name=\"thinpool\""));
        let model = self.model.lock().unwrap();
        let state = &model.state;
        let rows: Vec<String> = match program {
            "pvs" => state
                .physical
                .iter()
                .map(|(node, (uuid, group))| {
                    let minor = if node.ends_with('b') { 16 } else { 32 };
                    format!(r#"{{"pv_name":"{node}","pv_uuid":"{uuid}","vg_name":"{group}","pv_major":"8","pv_minor":"{minor}"}}"#)
                })
                .collect(),
            "vgs" => state
                .groups
                .iter()
                .filter(|(name, _)| *name == "docker")
                .map(|(name, number)| format!(r#"{{"vg_name":"{name}","vg_uuid":"group-{number}"}}"#))
                .collect(),
            _ => state
                .volumes
                .iter()
                .filter(|(name, _)| !only_pool || *name == "thinpool")
                .map(|(name, volume)| {
                    let Volume { kind, extents, active, profile } = volume;
                    let (active, size) = (if *active { "active" } else { "" }, extents * (4 << 20));
                    format!(
                        r#"{{"vg_name":"docker","lv_name":"{name}","segtype":"{kind}","lv_active":"{active}","lv_size":"{size}","lv_profile":"{profile}","chunk_size":"524288","zero":"","thin_count":"0","transaction_id":"0"}}"#
                    )
                })
                .collect(),
        };
        format!(r#"{{"report":[{{"rows":[{}]}}]}}"#, rows.join(","))
    }

    fn act(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        let refused =
            |why: &str| Ok(Finished { code: Some(5), stdout: String::new(), stderr: format!("  {why}\n") });
        let done = || Ok(Finished { code: Some(0), stdout: String::new(), stderr: String::new() });
        let last = (*arguments.last().unwrap()).to_owned();
        let line = format!("{program} {}", arguments.join(" "));
        let state = self.state();
        match program {
            "pvcreate" => {
                let uuid = arguments[arguments.iter().position(|word| *word == "--uuid").unwrap() + 1];
                if state.physical.get(&last).is_some_and(|(_, group)| !group.is_empty()) {
                    return refused("Can't initialize physical volume");
                }
                self.effect(line, |state| {
                    state.physical.insert(last.clone(), (uuid.to_owned(), String::new()));
                })?;
                self.put_disk(&last, Some("LVM2_member"));
            }
            "vgcreate" => {
                if state.groups.contains_key("docker") {
                    return refused("A volume group called docker already exists.");
                }
                self.effect(line, |state| {
                    state.physical.get_mut(&last).unwrap().1 = "docker".into();
                    state.groups.insert("docker".into(), 1);
                })?;
            }
            "lvcreate" => {
                let name = arguments[arguments.iter().position(|word| *word == "-n").unwrap() + 1];
                if state.volumes.contains_key(name) {
                    return refused("Logical Volume already exists in volume group");
                }
                let percent: u64 = last.strip_suffix("%VG").unwrap().parse().unwrap();
                self.effect(line, |state| {
                    let volume = Volume {
                        kind: "linear".into(),
                        extents: EXTENTS * percent / 100,
                        active: true,
                        profile: String::new(),
                    };
                    state.volumes.insert(name.to_owned(), volume);
                })?;
            }
            "lvconvert" => {
                if !state.volumes.contains_key("thinpoolmeta") {
                    return refused("Metadata LV thinpoolmeta not found.");
                }
                // Killed between its last commit and the activation, LVM leaves an inactive pool.
                self.effect(format!("{line} (commit)"), |state| {
                    let metadata = state.volumes.remove("thinpoolmeta").unwrap();
                    state.volumes.insert("[lvol0_pmspare]".into(), metadata.clone());
                    state.volumes.insert("[thinpool_tmeta]".into(), metadata);
                    let pool = state.volumes.get_mut("thinpool").unwrap();
                    "thin-pool".clone_into(&mut pool.kind);
                    pool.active = false;
                })?;
                self.effect(line, |state| state.volumes.get_mut("thinpool").unwrap().active = true)?;
            }
            "lvchange" if arguments[0] == "--activate" => {
                self.effect(line, |state| state.volumes.get_mut("thinpool").unwrap().active = true)?;
            }
            "lvchange" => {
                if state.profile.is_none() {
                    return refused("Failed to find profile");
                }
                self.effect(line, |state| {
                    arguments[1].clone_into(&mut state.volumes.get_mut("thinpool").unwrap().profile);
                })?;
            }
            other => panic!("{other}"),
        }
        done()
    }
}

impl Programs for FakeLvm {
    fn find(&self, program: &str) -> Option<PathBuf> {
        let missing = self.model.lock().unwrap().missing.iter().any(|missing| missing == program);
        (!missing).then(|| Path::new("/sbin").join(program))
    }

    fn run(&self, program: &str, arguments: &[&str], _: Duration) -> Result<Finished> {
        if self.model.lock().unwrap().crashed {
            return Err(dead());
        }
        let answer = |code, stdout: String| Ok(Finished { code: Some(code), stdout, stderr: String::new() });
        match program {
            "pvs" | "vgs" | "lvs" => answer(0, self.rows(program, arguments)),
            "blkid" => answer(2, String::new()),
            "lsblk" => answer(0, r#"{"blockdevices":[{"wwn":null,"serial":"S1"}]}"#.into()),
            _ => {
                let mut ended = self.act(program, arguments)?;
                if self.model.lock().unwrap().raced.as_deref() == Some(program) {
                    ended.code = Some(5);
                    ended.stderr = "  It exists already.\n".into();
                }
                Ok(ended)
            }
        }
    }

    fn write_profile(&self, _: &str, content: &str) -> Result<()> {
        self.effect("profile".into(), |state| state.profile = Some(content.to_owned()))
    }
}

impl RootFiles for FakeLvm {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.model.lock().unwrap().state.files.get(path).cloned())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.effect(format!("write {}", path.display()), |state| {
            state.files.insert(path.to_owned(), content.to_owned());
        })
        .map_err(|_| io::Error::from_raw_os_error(5))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.effect(format!("remove {}", path.display()), |state| {
            state.files.remove(path);
        })
        .map_err(|_| io::Error::from_raw_os_error(5))
    }
}
