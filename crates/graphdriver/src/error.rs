//! What went wrong, for people and for programs.

use std::path::PathBuf;
use std::time::Duration;
use thinlayer_store::{InvalidLayerId, LayerId};

/// The result of a driver operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation. The text is one line that says what, on which layer or device, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that is unknown, or whose value is not valid.
    #[error("option {item:?}: {why}")]
    Option {
        /// The item as given.
        item: String,
        /// What is wrong with it.
        why: String,
    },
    /// A request that makes no sense as it is.
    #[error("{what}")]
    Invalid {
        /// What, why, and what would make sense.
        what: String,
    },
    /// An id that no layer can have.
    #[error(transparent)]
    Id(#[from] InvalidLayerId),
    /// No such layer.
    #[error("there is no layer {id}; `ls` shows what there is")]
    NotFound {
        /// Its id.
        id: LayerId,
    },
    /// There is one already.
    #[error("layer {id} exists already; remove it first or choose another id")]
    Exists {
        /// Its id.
        id: LayerId,
    },
    /// A layer, device or root that somebody uses.
    #[error("{what} is busy: {why}")]
    Busy {
        /// What.
        what: String,
        /// Who has it, and what to do.
        why: String,
    },
    /// The pool or the host is full, or would be.
    #[error("{what}")]
    NoSpace {
        /// What is missing and what to do.
        what: String,
    },
    /// The pool or a record is damaged.
    #[error("{what}")]
    NeedsCheck {
        /// What is damaged and which tool mends it.
        what: String,
    },
    /// This machine or this version cannot do it.
    #[error("{what} is not supported here; {advice}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// A call that did not come back in time. It goes on, and what it works on stays reserved until it ends.
    #[error("{what} did not finish within {waited:?}; it goes on in the background, try again later")]
    Deadline {
        /// The call and its device.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The root cannot be used.
    #[error("{}: {why}", path.display())]
    Root {
        /// The path concerned.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Two failures: the first, and one while undoing what had been done.
    #[error("{first}; and while undoing it: {second}")]
    Undo {
        /// What went wrong first.
        #[source]
        first: Box<Error>,
        /// What then could not be undone.
        second: Box<Error>,
    },
    /// A failure with the layer that it happened on.
    #[error("layer {id}: {source}")]
    Layer {
        /// The layer.
        id: LayerId,
        /// What happened.
        #[source]
        source: Box<Error>,
    },
    /// A thin pool's failure.
    #[error(transparent)]
    Thin(#[from] thinlayer_thin::Error),
    /// Device-mapper's failure.
    #[error(transparent)]
    Dm(#[from] thinlayer_dm::Error),
    /// The store's failure.
    #[error(transparent)]
    Store(#[from] thinlayer_store::Error),
    /// A file system's failure.
    #[error(transparent)]
    Filesystem(#[from] thinlayer_filesystem::Error),
    /// A backing file's or device's failure.
    #[error(transparent)]
    Provision(#[from] thinlayer_provision::Error),
}

/// What a caller may want to tell apart; the program's exit codes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request is not valid.
    Invalid,
    /// No such layer.
    NotFound,
    /// There is one already.
    Exists,
    /// Somebody uses it.
    Busy,
    /// No room.
    NoSpace,
    /// Damaged.
    NeedsCheck,
    /// Not supported here.
    Unsupported,
    /// Anything else.
    Other,
}

impl Error {
    /// A bad option.
    pub(crate) fn option(item: &str, why: &str) -> Self {
        Self::Option { item: item.to_owned(), why: why.to_owned() }
    }

    /// The same failure with the layer that it is about.
    pub(crate) fn on(self, id: &LayerId) -> Self {
        match self {
            // These name it already.
            Self::Busy { ref what, .. } if what.ends_with(id.as_str()) => self,
            Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::Layer { .. }
            | Self::Id(_)
            | Self::Store(_) => self,
            other => Self::Layer { id: id.clone(), source: Box::new(other) },
        }
    }

    /// The same failure with what then could not be undone.
    pub(crate) fn and_undo(self, undone: Result<()>) -> Self {
        match undone {
            Ok(()) => self,
            Err(second) => Self::Undo { first: Box::new(self), second: Box::new(second) },
        }
    }

    /// The class of the failure. [`Kind::NotFound`] is about layers alone: whoever reads it may take a layer for gone.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Option { .. } | Self::Invalid { .. } | Self::Id(_) => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::Exists,
            Self::Busy { .. } | Self::Deadline { .. } => Kind::Busy,
            Self::NoSpace { .. } => Kind::NoSpace,
            Self::NeedsCheck { .. } => Kind::NeedsCheck,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Root { .. } => Kind::Other,
            Self::Undo { first, .. } => first.kind(),
            Self::Layer { source, .. } => source.kind(),
            Self::Thin(e) => thin(e),
            Self::Dm(e) => dm(e),
            Self::Store(e) => store(e),
            Self::Filesystem(e) => match e.kind() {
                thinlayer_filesystem::ErrorKind::Busy | thinlayer_filesystem::ErrorKind::Deadline => {
                    Kind::Busy
                }
                thinlayer_filesystem::ErrorKind::NoSpace => Kind::NoSpace,
                thinlayer_filesystem::ErrorKind::Unsupported => Kind::Unsupported,
                thinlayer_filesystem::ErrorKind::Damaged => Kind::NeedsCheck,
                _ => Kind::Other,
            },
            Self::Provision(e) => match e.kind() {
                thinlayer_provision::ErrorKind::Busy => Kind::Busy,
                thinlayer_provision::ErrorKind::NoSpace => Kind::NoSpace,
                thinlayer_provision::ErrorKind::Invalid => Kind::Invalid,
                thinlayer_provision::ErrorKind::Unsupported => Kind::Unsupported,
                _ => Kind::Other,
            },
        }
    }
}

fn dm(error: &thinlayer_dm::Error) -> Kind {
    match error.kind() {
        thinlayer_dm::Kind::Busy | thinlayer_dm::Kind::Deadline => Kind::Busy,
        thinlayer_dm::Kind::Exists => Kind::Exists,
        thinlayer_dm::Kind::NoSpace => Kind::NoSpace,
        thinlayer_dm::Kind::Unsupported | thinlayer_dm::Kind::Absent => Kind::Unsupported,
        _ => Kind::Other,
    }
}

fn thin(error: &thinlayer_thin::Error) -> Kind {
    match error.kind() {
        thinlayer_thin::Kind::Busy | thinlayer_thin::Kind::Deadline => Kind::Busy,
        // The records name a thin id that the pool does not have. A device that went away beneath us is no such contradiction.
        thinlayer_thin::Kind::NotFound if !matches!(error, thinlayer_thin::Error::NoSuchDevice { .. }) => {
            Kind::NeedsCheck
        }
        thinlayer_thin::Kind::Exists => Kind::Exists,
        thinlayer_thin::Kind::NoSpace => Kind::NoSpace,
        thinlayer_thin::Kind::NeedsCheck | thinlayer_thin::Kind::ReadOnly | thinlayer_thin::Kind::Failed => {
            Kind::NeedsCheck
        }
        thinlayer_thin::Kind::Invalid | thinlayer_thin::Kind::Mismatch => Kind::Invalid,
        thinlayer_thin::Kind::Unsupported | thinlayer_thin::Kind::Absent => Kind::Unsupported,
        _ => Kind::Other,
    }
}

fn store(error: &thinlayer_store::Error) -> Kind {
    match error.kind() {
        thinlayer_store::ErrorKind::NotFound => Kind::NotFound,
        thinlayer_store::ErrorKind::Exists => Kind::Exists,
        thinlayer_store::ErrorKind::Busy => Kind::Busy,
        thinlayer_store::ErrorKind::NoSpace | thinlayer_store::ErrorKind::Exhausted => Kind::NoSpace,
        thinlayer_store::ErrorKind::Damaged => Kind::NeedsCheck,
        thinlayer_store::ErrorKind::Invalid => Kind::Invalid,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use thinlayer_dm::DmName;
    use thinlayer_thin::ThinId;

    fn ioctl(errno: Errno) -> thinlayer_dm::Error {
        thinlayer_dm::Error::ioctl("DM_TABLE_LOAD", "pool", errno)
    }

    fn provision(errno: Errno) -> Error {
        thinlayer_provision::Error::System {
            action: "open",
            path: "/gone".into(),
            errno,
            advice: String::new(),
        }
        .into()
    }

    /// `rm web || [ $? = 3 ]`: a disk that is missing must not be taken for a layer that is gone already.
    #[test]
    fn only_a_layer_that_is_not_there_is_not_found() {
        let id = LayerId::given("web").unwrap();
        let pool = DmName::new("pool").unwrap();
        assert_eq!(Error::NotFound { id: id.clone() }.kind(), Kind::NotFound);
        assert_eq!(
            Error::from(thinlayer_store::Error::NotFound { layer: id.clone() }).kind(),
            Kind::NotFound
        );

        let source = || Box::new(ioctl(Errno::ENODATA));
        for gone in [
            thinlayer_thin::Error::NoSuchId {
                pool: pool.clone(),
                id: ThinId::new(7).unwrap(),
                source: source(),
            },
            thinlayer_thin::Error::TableRefused {
                op: "load",
                device: pool.clone(),
                table: "thin".into(),
                source: source(),
            },
        ] {
            assert_eq!(Error::from(gone).on(&id).kind(), Kind::NeedsCheck);
        }
        let device = thinlayer_thin::Error::NoSuchDevice { op: "suspend", device: pool, source: source() };
        assert_eq!(Error::from(device).kind(), Kind::Other);
        for errno in [Errno::ENOENT, Errno::ENXIO, Errno::ENODEV] {
            assert_eq!(Error::from(ioctl(errno)).kind(), Kind::Other);
            assert_eq!(provision(errno).kind(), Kind::Other);
        }
    }
}
