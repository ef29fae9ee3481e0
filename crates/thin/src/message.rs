//! The messages that a pool takes: [`Message`].

use crate::error::ParseError;
use crate::quantity::{ThinId, TransactionId};
use crate::table::Words;
use std::fmt;
use std::str::FromStr;

/// A message to a pool. `Display` writes the text that goes to the kernel, `FromStr` reads it back.
///
/// Each message that succeeds makes the pool commit its metadata. A failure of that commit is not in the message's result:
/// it shows in the pool's status, and in the next message.
///
/// # References
/// Specification section 5.2; the kernel's `thin-provisioning.rst`, "Messages".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A new empty thin device.
    CreateThin(ThinId),
    /// A new thin device that shares all blocks of `origin`. An active origin must be suspended meanwhile.
    CreateSnap {
        /// The new device.
        new: ThinId,
        /// What it is taken of.
        origin: ThinId,
    },
    /// Drops a thin device and its hold on its blocks.
    Delete(ThinId),
    /// Moves the pool's counter on, if it is what the sender thinks.
    SetTransactionId {
        /// What it must be.
        current: TransactionId,
        /// What it becomes.
        new: TransactionId,
    },
    /// Keeps the metadata of this moment readable for programs, at the held root that the status shows.
    ReserveMetadataSnap,
    /// Gives that up.
    ReleaseMetadataSnap,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateThin(id) => write!(f, "create_thin {id}"),
            Self::CreateSnap { new, origin } => write!(f, "create_snap {new} {origin}"),
            Self::Delete(id) => write!(f, "delete {id}"),
            Self::SetTransactionId { current, new } => write!(f, "set_transaction_id {current} {new}"),
            Self::ReserveMetadataSnap => f.write_str("reserve_metadata_snap"),
            Self::ReleaseMetadataSnap => f.write_str("release_metadata_snap"),
        }
    }
}

impl FromStr for Message {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut words = Words::of("pool message", text);
        // The kernel compares the first word without regard to case.
        let message = match words.next("message")?.to_ascii_lowercase().as_str() {
            "create_thin" => Self::CreateThin(words.next("thin id")?.parse()?),
            "create_snap" => Self::CreateSnap {
                new: words.next("new thin id")?.parse()?,
                origin: words.next("origin's thin id")?.parse()?,
            },
            "delete" => Self::Delete(words.next("thin id")?.parse()?),
            "set_transaction_id" => Self::SetTransactionId {
                current: words.next("current transaction id")?.parse()?,
                new: words.next("new transaction id")?.parse()?,
            },
            "reserve_metadata_snap" => Self::ReserveMetadataSnap,
            "release_metadata_snap" => Self::ReleaseMetadataSnap,
            _ => return Err(words.error("a pool knows no such message")),
        };
        match words.optional() {
            None => Ok(message),
            Some(_) => Err(words.error("there are too many words")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = ThinId> {
        (0..=ThinId::MAX.get()).prop_map(|number| ThinId::new(number).unwrap())
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            id().prop_map(Message::CreateThin),
            (id(), id()).prop_map(|(new, origin)| Message::CreateSnap { new, origin }),
            id().prop_map(Message::Delete),
            any::<(u64, u64)>().prop_map(|(current, new)| Message::SetTransactionId {
                current: TransactionId(current),
                new: TransactionId(new),
            }),
            Just(Message::ReserveMetadataSnap),
            Just(Message::ReleaseMetadataSnap),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(message in message()) {
            prop_assert_eq!(message.to_string().parse::<Message>().unwrap(), message);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_ 0-9]{0,60}") {
            if let Ok(message) = text.parse::<Message>() {
                prop_assert_eq!(message.to_string().parse::<Message>().unwrap(), message);
            }
        }
    }

    #[test]
    fn the_kernels_words() {
        let origin = ThinId::MAX;
        let message = Message::CreateSnap { new: ThinId::ZERO, origin };
        assert_eq!(message.to_string(), "create_snap 0 16777215");
        assert_eq!("CREATE_SNAP 0 16777215".parse::<Message>().unwrap(), message);
        for bad in ["", "create_thin", "create_thin 16777216", "create_snap 1", "delete 1 2", "trim 1 2"] {
            assert!(bad.parse::<Message>().is_err(), "{bad:?}");
        }
    }
}
