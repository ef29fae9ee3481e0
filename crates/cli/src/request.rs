//! What the owner of a root can be asked, and what it answers: the same for a command that works by itself and for one that goes through `serve`.

use crate::facts::{CheckFacts, LayerFacts, PathText, StatusFacts};
use crate::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use thinlayer_graphdriver::{LayerId, parse_size};

/// A piece of work for the owner of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Make a layer.
    Create {
        /// Its id.
        id: String,
        /// What it is a copy of.
        parent: Option<String>,
        /// Its size in bytes.
        size: Option<u64>,
    },
    /// Mount it, or count one more use.
    Mount {
        /// Its id.
        id: String,
    },
    /// Give uses back.
    Umount {
        /// Its id.
        id: String,
        /// All uses.
        all: bool,
    },
    /// Remove layers.
    Rm {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Grow a layer.
    Resize {
        /// Its id.
        id: String,
        /// Its new size in bytes.
        size: u64,
    },
    /// The pool's state.
    Status,
    /// Compare store, pool and kernel.
    Check {
        /// Mend what is safe.
        repair: bool,
        /// Only say what would be mended.
        dry_run: bool,
    },
    /// More room for the pool.
    #[serde(rename = "pool grow")]
    PoolGrow {
        /// For data.
        data: Option<PoolSize>,
        /// For metadata.
        metadata: Option<PoolSize>,
    },
    /// Docker's clean-up.
    Stop,
}

/// A size of the pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PoolSize {
    /// So large in all.
    To(u64),
    /// So much more.
    By(u64),
}

impl Request {
    /// The command that it belongs to.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Mount { .. } => "mount",
            Self::Umount { .. } => "umount",
            Self::Rm { .. } => "rm",
            Self::Resize { .. } => "resize",
            Self::Status => "status",
            Self::Check { .. } => "check",
            Self::PoolGrow { .. } => "pool grow",
            Self::Stop => "stop",
        }
    }

    /// It changes nothing.
    pub(crate) fn only_looks(&self) -> bool {
        match self {
            Self::Status => true,
            Self::Check { repair, dry_run } => !repair || *dry_run,
            _ => false,
        }
    }

    /// It can be done without writing to the root.
    pub(crate) fn may_be_read_only(&self) -> bool {
        self.only_looks() || matches!(self, Self::Mount { .. } | Self::Umount { .. } | Self::Stop)
    }

    /// It may be the first command on a root.
    pub(crate) fn sets_up(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    /// Its ids and sizes make sense.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Create { id, parent, .. } => {
                new_id(id)?;
                parent.as_deref().map(known_id).transpose()?;
            }
            Self::Mount { id } | Self::Umount { id, .. } | Self::Resize { id, .. } => drop(known_id(id)?),
            Self::Rm { ids } => ids.iter().try_for_each(|id| known_id(id).map(drop))?,
            Self::Status | Self::Check { .. } | Self::PoolGrow { .. } | Self::Stop => {}
        }
        Ok(())
    }
}

/// The id of a layer that is to be made.
pub(crate) fn new_id(text: &str) -> Result<LayerId, Failure> {
    Ok(LayerId::given(text)?)
}

/// The id of a layer that may be there, also of one that somebody else named.
pub(crate) fn known_id(text: &str) -> Result<LayerId, Failure> {
    let id = LayerId::found(text)?;
    if id.is_base() {
        return Err(Failure::usage(
            "layer id `base` is reserved: it is the device that all layers without parent stand on; name a layer",
        ));
    }
    Ok(id)
}

/// A size on the command line, in bytes.
pub(crate) fn size(text: &str) -> Result<u64, Failure> {
    let bytes = parse_size(text).map_err(Failure::usage)?;
    if bytes.0 == 0 {
        return Err(Failure::usage(format!(
            "size {text:?} is zero; write a number and a unit, such as 512M or 10G"
        )));
    }
    Ok(bytes.0)
}

/// A size of the pool on the command line: in all, or after a plus sign so much more.
pub(crate) fn pool_size(text: &str) -> Result<PoolSize, Failure> {
    match text.strip_prefix('+') {
        Some(more) => size(more).map(PoolSize::By),
        None => size(text).map(PoolSize::To),
    }
}

/// What a piece of work came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The new layer.
    Created {
        /// Its facts.
        layer: LayerFacts,
    },
    /// A mounted layer.
    Mounted {
        /// Its id.
        id: String,
        /// Where its tree is.
        path: PathText,
        /// How many use it now.
        uses: u32,
    },
    /// A use given back.
    GivenBack {
        /// The layer's id.
        id: String,
        /// What became of its mount.
        result: GivenBack,
        /// How many still use it.
        uses: u32,
    },
    /// Layers removed, and some perhaps not.
    Removed {
        /// Those that are gone.
        removed: Vec<RemovedLayer>,
        /// Those that are not, in the order of the request.
        failures: Vec<LayerFailure>,
    },
    /// The grown layer.
    Resized {
        /// Its facts.
        layer: LayerFacts,
    },
    /// The pool's state.
    Status {
        /// Its facts.
        status: StatusFacts,
    },
    /// What a check found.
    Checked {
        /// The report.
        report: CheckFacts,
    },
    /// The pool has more room.
    Grown {
        /// Its data.
        data: Change,
        /// Its metadata.
        metadata: Change,
        /// What should be known about it.
        notices: Vec<String>,
    },
    /// The root is at rest.
    Stopped {
        /// The pool was active before.
        was_active: bool,
        /// What could not be undone.
        notices: Vec<String>,
    },
}

/// A size before and after, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Before.
    pub(crate) from: u64,
    /// After.
    pub(crate) to: u64,
}

/// What became of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GivenBack {
    /// Others still use the layer.
    StillUsed,
    /// That was the last use.
    Unmounted,
    /// It was not mounted.
    NotMounted,
}

/// A layer that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemovedLayer {
    /// Its id.
    pub(crate) id: String,
    /// Its blocks are given back later.
    pub(crate) deferred: bool,
}

/// A layer on which a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerFailure {
    /// Its id.
    pub(crate) id: String,
    /// Why.
    #[serde(flatten)]
    pub(crate) failure: Failure,
}

impl Answer {
    /// The failure that the whole command ends with, although a part of it may be done.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Removed { failures, .. } => failures.first().map(|first| &first.failure),
            _ => None,
        }
    }

    /// The exit code of a command that was carried out.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Checked { report } if !report.findings.is_empty() => crate::failure::NO,
            _ => self.failure().map_or(0, |failure| failure.kind.code()),
        }
    }
}

/// A command that was ended by a signal before it was through.
pub(crate) fn ended_early(kind: FailureKind, done: &str) -> Failure {
    let signal = if kind == FailureKind::Terminated { "SIGTERM" } else { "SIGINT" };
    Failure::new(kind, format!("ended by {signal}; {done}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_sizes_are_checked_before_anything_is_touched() {
        let long = "x".repeat(300);
        for id in ["a/b", "base", "", ".a", long.as_str(), "transaction-metadata"] {
            assert_eq!(new_id(id).unwrap_err().kind.code(), 2, "{id}");
            assert_eq!(known_id(id).unwrap_err().kind.code(), 2, "{id}");
            let create = Request::Create { id: "new".into(), parent: Some(id.into()), size: None };
            assert_eq!(create.check().unwrap_err().kind.code(), 2, "{id}");
        }
        // Others may have named layers in ways that nobody may any more.
        assert!(new_id("a b").is_err() && known_id("a b").is_ok());
        for text in ["10Q", "", "-1G", "0", "ten"] {
            assert_eq!(size(text).unwrap_err().kind.code(), 2, "{text}");
        }
        assert_eq!(size("1.5K").unwrap(), 1536);
        assert_eq!(pool_size("+1.5K").unwrap(), PoolSize::By(1536));
        assert_eq!(pool_size("2G").unwrap(), PoolSize::To(2 << 30));
        for text in ["+", "++1G", "+0", "-1G", "+10Q"] {
            assert_eq!(pool_size(text).unwrap_err().kind.code(), 2, "{text}");
        }
        assert!(Request::Rm { ids: vec!["a".into(), "b/c".into()] }.check().is_err());
    }

    #[test]
    fn requests_round_trip() {
        let all = [
            Request::Create { id: "a".into(), parent: Some("p".into()), size: Some(1 << 30) },
            Request::Mount { id: "a".into() },
            Request::Umount { id: "a".into(), all: true },
            Request::Rm { ids: vec!["a".into(), "b".into()] },
            Request::Resize { id: "a".into(), size: 5 },
            Request::Status,
            Request::Check { repair: true, dry_run: true },
            Request::PoolGrow { data: Some(PoolSize::By(5)), metadata: Some(PoolSize::To(6)) },
            Request::Stop,
        ];
        for request in all {
            let text = serde_json::to_string(&request).unwrap();
            assert!(text.contains(&format!("\"command\":\"{}\"", request.name())), "{text}");
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
    }

    #[test]
    fn the_first_failure_decides_the_exit_code() {
        let failed = |kind| LayerFailure { id: "x".into(), failure: Failure::new(kind, "why") };
        let answer = Answer::Removed {
            removed: vec![],
            failures: vec![failed(FailureKind::Busy), failed(FailureKind::NotFound)],
        };
        assert_eq!(answer.code(), 5);
        assert_eq!(Answer::Removed { removed: vec![], failures: vec![] }.code(), 0);
    }
}
