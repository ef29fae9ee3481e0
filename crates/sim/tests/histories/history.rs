//! Histories: what users, containers and operators do, in random order.

use nix::errno::Errno;
use proptest::prelude::*;

/// Layers that a history is about.
pub(crate) const SLOTS: u8 = 4;
/// Files in each of them.
pub(crate) const FILES: u8 = 2;

/// One step. Steps that make no sense at their place must be refused, and change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A new layer, empty or on a parent, of the parent's size or larger.
    Create { slot: u8, parent: Option<u8>, larger: bool },
    /// One more use of a layer.
    Get(u8),
    /// One less; lazily also if somebody is in it.
    Put { slot: u8, lazy: bool },
    /// A container writes a file, and may sync.
    Write { slot: u8, file: u8, sync: bool },
    /// A container works in a mounted layer, until all leave it.
    Enter(u8),
    /// They leave.
    Leave(u8),
    /// The layer is removed.
    Remove(u8),
    /// The worker does all that it can.
    WorkOff,
    /// The pool gets more room by hand.
    Grow,
    /// Time passes.
    Pass,
    /// The owner ends in this way, and another begins.
    Restart(Restart),
}

/// How an owner ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// In good order, pool and all.
    Stop,
    /// At once; mounts and pool stay.
    Kill,
    /// With the machine.
    PowerCut(u64),
}

/// The driver's options that change what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setup {
    pub(crate) discard: bool,
    pub(crate) deferral: Deferral,
    pub(crate) xfs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deferral {
    Off,
    Removal,
    RemovalAndDeletion,
}

impl Setup {
    /// As the program takes them.
    pub(crate) fn items(self) -> Vec<String> {
        let (removal, deletion) = match self.deferral {
            Deferral::Off => (false, false),
            Deferral::Removal => (true, false),
            Deferral::RemovalAndDeletion => (true, true),
        };
        vec![
            "dm.basesize=1G".into(),
            "dm.loopdatasize=8G".into(),
            "dm.loopmetadatasize=64M".into(),
            format!("dm.fs={}", if self.xfs { "xfs" } else { "ext4" }),
            format!("dm.blkdiscard={}", self.discard),
            format!("dm.use_deferred_removal={removal}"),
            format!("dm.use_deferred_deletion={deletion}"),
        ]
    }
}

/// A call that fails during one step.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// Before which step it is planted.
    pub(crate) step: usize,
    /// Which calls, as the world describes them.
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
    /// So many such calls are served before.
    pub(crate) skip: u32,
    /// So many fail.
    pub(crate) times: u32,
}

/// What may fail, and how it does.
const TROUBLES: [(&str, Errno); 32] = [
    ("backing allocate", Errno::ENOSPC),
    ("backing attach", Errno::EBUSY),
    ("backing discard", Errno::EIO),
    ("backing refresh", Errno::EIO),
    ("disk overwrite", Errno::EIO),
    ("disk remove", Errno::EIO),
    ("disk rename", Errno::ENOSPC),
    ("disk rename", Errno::EIO),
    ("disk sync file", Errno::EIO),
    ("disk sync folder", Errno::EIO),
    ("disk write", Errno::ENOSPC),
    ("dm cancel", Errno::EBUSY),
    ("dm create", Errno::ENOMEM),
    ("dm forget node", Errno::EIO),
    ("dm info", Errno::EIO),
    ("dm load", Errno::ENOMEM),
    ("dm message", Errno::EIO),
    ("dm message", Errno::EOPNOTSUPP),
    ("dm node", Errno::EIO),
    ("dm remove", Errno::EBUSY),
    ("dm rename", Errno::ENOMEM),
    ("dm resume", Errno::ENOMEM),
    ("dm status", Errno::EIO),
    ("dm suspend", Errno::EIO),
    ("fs grow", Errno::EIO),
    ("fs make folder", Errno::ENOSPC),
    ("fs mount", Errno::EIO),
    ("fs remove folder", Errno::EIO),
    ("fs unmount", Errno::EBUSY),
    ("fs write", Errno::ENOSPC),
    ("runtime remove", Errno::EIO),
    ("runtime write", Errno::ENOSPC),
];

/// A whole history.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) setup: Setup,
    pub(crate) ops: Vec<Op>,
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    prop_oneof![
        6 => (slot.clone(), proptest::option::weighted(0.7, slot.clone()), proptest::bool::weighted(0.15))
            .prop_map(|(slot, parent, larger)| Op::Create { slot, parent, larger }),
        5 => slot.clone().prop_map(Op::Get),
        4 => (slot.clone(), any::<bool>()).prop_map(|(slot, lazy)| Op::Put { slot, lazy }),
        4 => (slot.clone(), 0..FILES, any::<bool>()).prop_map(|(slot, file, sync)| Op::Write { slot, file, sync }),
        2 => slot.clone().prop_map(Op::Enter),
        2 => slot.clone().prop_map(Op::Leave),
        5 => slot.prop_map(Op::Remove),
        2 => Just(Op::WorkOff),
        1 => Just(Op::Pass),
        1 => Just(Op::Grow),
        2 => prop_oneof![
            Just(Restart::Stop),
            Just(Restart::Kill),
            any::<u64>().prop_map(Restart::PowerCut),
        ]
        .prop_map(Op::Restart),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let deferral =
        prop_oneof![Just(Deferral::RemovalAndDeletion), Just(Deferral::Removal), Just(Deferral::Off),];
    (any::<bool>(), deferral, proptest::bool::weighted(0.3)).prop_map(|(discard, deferral, xfs)| Setup {
        discard,
        deferral,
        xfs,
    })
}

/// Histories of up to this many steps. The first ones make and use a layer, so that little of a history goes to waste.
pub(crate) fn histories(steps: usize) -> impl Strategy<Value = History> {
    (setup(), proptest::collection::vec(op(), 1..steps)).prop_map(|(setup, mut ops)| {
        ops.insert(0, Op::Create { slot: 0, parent: None, larger: false });
        ops.insert(1, Op::Get(0));
        History { setup, ops }
    })
}

/// Histories in which calls fail and the owner lives on.
pub(crate) fn troubled_histories(steps: usize) -> impl Strategy<Value = (History, Vec<Trouble>)> {
    let trouble = (0..steps, 0..TROUBLES.len(), 0..4_u32, 1..4_u32).prop_map(|(step, which, skip, times)| {
        let (call, errno) = TROUBLES[which];
        Trouble { step, call, errno, skip, times }
    });
    (histories(steps), proptest::collection::vec(trouble, 1..6))
}
