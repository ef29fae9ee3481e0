//! What must be there: layers, their uses, and what their files may hold.

use std::collections::BTreeMap;
use thinlayer_sim::Holder;

/// A file's content here is one number, or nothing.
pub(crate) type Value = Option<u32>;

/// What a file may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// What is durable: one of these.
    pub(crate) durable: Vec<Value>,
    /// What was written since and not synced, in order.
    pub(crate) later: Vec<Value>,
}

impl Default for File {
    fn default() -> Self {
        Self { durable: vec![None], later: Vec::new() }
    }
}

impl File {
    /// What its reader may see now.
    pub(crate) fn visible(&self) -> Vec<Value> {
        self.later.last().map_or_else(|| self.durable.clone(), |last| vec![*last])
    }

    fn after_power_cut(&self) -> Vec<Value> {
        let mut all = self.durable.clone();
        all.extend(&self.later);
        all
    }
}

/// A program in a mount of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) holder: Holder,
    /// It is in the mount that is seen, not in one that was put out of sight.
    pub(crate) seen: bool,
}

/// A layer that was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) uses: u32,
    pub(crate) files: BTreeMap<u8, File>,
    pub(crate) inside: Vec<Inside>,
}

impl Layer {
    pub(crate) fn write(&mut self, file: u8, value: u32) {
        self.files.entry(file).or_default().later.push(Some(value));
    }

    pub(crate) fn sync(&mut self) {
        for file in self.files.values_mut() {
            *file = File { durable: file.visible(), later: Vec::new() };
        }
    }

    /// A copy made now; the origin was frozen for it.
    pub(crate) fn snapshot(&mut self) -> Self {
        self.sync();
        Self { files: self.files.clone(), ..Self::default() }
    }

    /// It is mounted nowhere that is seen. Without anybody in it its file system is written out.
    pub(crate) fn unmounted(&mut self) {
        self.uses = 0;
        self.inside.iter_mut().for_each(|inside| inside.seen = false);
        if self.inside.is_empty() {
            self.sync();
        }
    }

    pub(crate) fn power_cut(&mut self) {
        self.uses = 0;
        self.inside.clear();
        for file in self.files.values_mut() {
            *file = File { durable: file.after_power_cut(), later: Vec::new() };
        }
    }
}

/// All layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) layers: BTreeMap<u8, Layer>,
    /// Programs in mounts of layers that are gone.
    pub(crate) orphans: Vec<Holder>,
    /// The machine went down, and with it what others had in the kernel.
    pub(crate) rebooted: bool,
}

impl Model {
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let inside = self.layers.values().flat_map(|l| l.inside.iter().map(|i| i.holder));
        inside.chain(self.orphans.iter().copied()).collect()
    }

    pub(crate) fn power_cut(&mut self) {
        self.layers.values_mut().for_each(Layer::power_cut);
        self.orphans.clear();
        self.rebooted = true;
    }
}

/// What is seen of a layer after a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uses: u32,
    pub(crate) files: BTreeMap<u8, Value>,
}

/// Is this what the layer may be? With `power`, the machine went down meanwhile.
pub(crate) fn admits(layer: Option<&Layer>, seen: Option<&Seen>, power: bool) -> Result<(), String> {
    let (layer, seen) = match (layer, seen) {
        (None, None) => return Ok(()),
        (Some(layer), Some(seen)) => (layer, seen),
        (Some(_), None) => return Err("it is gone".into()),
        (None, Some(_)) => return Err("it is there".into()),
    };
    let uses = if power { 0 } else { layer.uses };
    if seen.uses != uses {
        return Err(format!("used {} times, not {uses}", seen.uses));
    }
    for (file, value) in &seen.files {
        let may = layer.files.get(file).cloned().unwrap_or_default();
        let may = if power { may.after_power_cut() } else { may.visible() };
        if !may.contains(value) {
            return Err(format!("file {file} holds {value:?}, which is none of {may:?}"));
        }
    }
    Ok(())
}
