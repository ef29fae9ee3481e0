//! The control protocol, version 1.
//!
//! One connection carries one request. The client sends one line of JSON, [`Ask`], and perhaps later [`Cancel`]. The server answers with
//! lines of JSON, [`Reply`]: `accepted` at once, then any number of `alive`, `step` and `notice`, and last `done` or `failed`. Both sides
//! are the same program; the version is there for the moment after an update, while an older `serve` still runs.

use crate::failure::{Failure, FailureKind};
use crate::request::{Answer, Request};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thinlayer_graphdriver::Event;

/// The version that this program speaks.
pub(crate) const VERSION: u32 = 1;
/// The name of the socket in a root's run-time folder.
pub(crate) const SOCKET: &str = "control.sock";

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// The protocol's version.
    pub(crate) version: u32,
    /// Storage options of the client's command line.
    #[serde(default)]
    pub(crate) options: Vec<String>,
    /// What is wanted.
    pub(crate) request: Request,
}

/// The part of [`Ask`] that every version has.
#[derive(Deserialize)]
struct AnyAsk {
    version: u32,
}

impl Ask {
    /// Reads a client's line.
    ///
    /// # Errors
    /// Another version, or no such request.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, Failure> {
        let malformed =
            |error: serde_json::Error| Failure::usage(format!("the request makes no sense: {error}"));
        let AnyAsk { version } = serde_json::from_slice(line).map_err(malformed)?;
        if version != VERSION {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!(
                    "control protocol version {version} is not supported by this `thinlayer serve`, which speaks version {VERSION}; \
                     restart it, so that both are of one version"
                ),
            ));
        }
        let ask: Self = serde_json::from_slice(line).map_err(malformed)?;
        ask.request.check()?;
        Ok(ask)
    }
}

/// What a client sends when a signal came: the step under way is finished, the rest is left. The answer says what that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {
    /// `interrupted` or `terminated`.
    cancel: FailureKind,
}

impl Cancel {
    /// For a signal that came.
    pub(crate) fn after(signal: FailureKind) -> Self {
        Self { cancel: signal }
    }

    /// Reads a client's later line; `None` if it is something else.
    pub(crate) fn parse(line: &[u8]) -> Option<FailureKind> {
        let Self { cancel } = serde_json::from_slice(line).ok()?;
        matches!(cancel, FailureKind::Interrupted | FailureKind::Terminated).then_some(cancel)
    }
}

/// One line of the server's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// The request was read and is worked on.
    Accepted {
        /// The protocol's version.
        version: u32,
    },
    /// The work goes on.
    Alive,
    /// A long step.
    Step {
        /// What it does.
        what: String,
        /// Where it is.
        #[serde(flatten)]
        state: StepState,
    },
    /// Something the user should know.
    Notice {
        /// In one line.
        text: String,
        /// It should be looked at.
        warning: bool,
    },
    /// It was carried out.
    Done {
        /// What it came to.
        answer: Box<Answer>,
    },
    /// It was not.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It was not even begun, since too many others are; try again.
    Full,
}

/// Where a long step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum StepState {
    /// It began.
    Started,
    /// It goes on.
    Alive {
        /// Milliseconds so far.
        elapsed_ms: u64,
    },
    /// It goes on.
    Amount {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It ended.
    Finished,
}

impl Reply {
    /// A step's event as a line.
    pub(crate) fn step(event: &Event<'_>) -> Self {
        let (what, state) = match event {
            Event::Started { what } => (what, StepState::Started),
            Event::Alive { what, elapsed } => (
                what,
                StepState::Alive { elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) },
            ),
            Event::Amount { what, done, total } => (what, StepState::Amount { done: *done, total: *total }),
            Event::Finished { what } => (what, StepState::Finished),
        };
        Self::Step { what: (*what).to_owned(), state }
    }
}

impl StepState {
    /// A line as a step's event.
    pub(crate) fn event<'a>(&self, what: &'a str) -> Event<'a> {
        match *self {
            Self::Started => Event::Started { what },
            Self::Alive { elapsed_ms } => Event::Alive { what, elapsed: Duration::from_millis(elapsed_ms) },
            Self::Amount { done, total } => Event::Amount { what, done, total },
            Self::Finished => Event::Finished { what },
        }
    }
}

/// A value as one line.
pub(crate) fn to_line<T: Serialize>(value: &T) -> Vec<u8> {
    // Nothing of ours can fail to become JSON: no maps with keys that are no text, no failing implementations.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::samples;
    use crate::request::{GivenBack, LayerFailure, RemovedLayer};
    use proptest::prelude::*;

    fn asks() -> impl Strategy<Value = Ask> {
        let id = "[0-9A-Za-z#+.:=@_-]{1,20}".prop_filter("ids", |id| crate::request::new_id(id).is_ok());
        let request = prop_oneof![
            (id.clone(), proptest::option::of(id.clone()), proptest::option::of(any::<u64>()))
                .prop_map(|(id, parent, size)| Request::Create { id, parent, size }),
            id.clone().prop_map(|id| Request::Mount { id }),
            (id.clone(), any::<bool>()).prop_map(|(id, all)| Request::Umount { id, all }),
            proptest::collection::vec(id, 1..5).prop_map(|ids| Request::Rm { ids }),
            Just(Request::Status),
            (any::<bool>(), any::<bool>()).prop_map(|(repair, dry_run)| Request::Check { repair, dry_run }),
            Just(Request::PoolGrow { data: Some(crate::request::PoolSize::By(7)), metadata: None }),
            Just(Request::Stop),
        ];
        (request, proptest::collection::vec(".*", 0..3)).prop_map(|(request, options)| Ask {
            version: VERSION,
            options,
            request,
        })
    }

    proptest! {
        #[test]
        fn asks_round_trip(ask in asks()) {
            let line = to_line(&ask);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(Ask::parse(&line).unwrap(), ask);
        }

        #[test]
        fn garbage_is_refused_and_breaks_nothing(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Ask::parse(&garbage).is_err());
        }
    }

    #[test]
    fn replies_round_trip() {
        let answers = [
            Answer::Created { layer: samples::layer("a", Some("p")) },
            Answer::Mounted { id: "a".into(), path: std::path::Path::new("/x").into(), uses: 2 },
            Answer::GivenBack { id: "a".into(), result: GivenBack::NotMounted, uses: 0 },
            Answer::Removed {
                removed: vec![RemovedLayer { id: "a".into(), deferred: true }],
                failures: vec![LayerFailure {
                    id: "b".into(),
                    failure: Failure::new(FailureKind::Busy, "why"),
                }],
            },
            Answer::Resized { layer: samples::layer("a", None) },
            Answer::Status { status: samples::status() },
            Answer::Checked { report: samples::check() },
            Answer::Stopped { was_active: true, notices: vec!["n".into()] },
        ];
        let events = [
            Event::Started { what: "w" },
            Event::Alive { what: "w", elapsed: Duration::from_millis(5) },
            Event::Amount { what: "w", done: 1, total: 2 },
            Event::Finished { what: "w" },
        ];
        let replies = answers
            .into_iter()
            .map(|answer| Reply::Done { answer: Box::new(answer) })
            .chain(events.iter().map(Reply::step))
            .chain([
                Reply::Accepted { version: 1 },
                Reply::Alive,
                Reply::Full,
                Reply::Notice { text: "t".into(), warning: true },
                Reply::Failed { failure: Failure::new(FailureKind::NoSpace, "full") },
            ]);
        for reply in replies {
            let line = to_line(&reply);
            assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
        }
        for event in events {
            let Reply::Step { what, state } = Reply::step(&event) else { panic!() };
            assert_eq!(state.event(&what), event);
        }
    }

    #[test]
    fn another_version_is_refused_clearly_whatever_else_it_says() {
        let failure =
            Ask::parse(br#"{"version":7,"request":{"command":"dance"},"colour":"red"}"#).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.contains("version 7") && failure.message.contains("version 1"), "{failure}");
    }

    #[test]
    fn only_a_signal_cancels() {
        for kind in [FailureKind::Interrupted, FailureKind::Terminated] {
            assert_eq!(Cancel::parse(&to_line(&Cancel::after(kind))), Some(kind));
        }
        for line in [
            &b""[..],
            b"{}",
            br#"{"cancel":"busy"}"#,
            br#"{"cancel":"whatever"}"#,
            b"\xff",
            br#"{"cancel":1}"#,
        ] {
            assert_eq!(Cancel::parse(line), None);
        }
    }

    #[test]
    fn bad_requests_are_usage_errors() {
        for line in [
            &b""[..],
            b"{}",
            b"null",
            b"{\"version\":1}",
            br#"{"version":1,"request":{"command":"dance"}}"#,
            br#"{"version":1,"request":{"command":"mount"}}"#,
            br#"{"version":1,"request":{"command":"mount","id":"a/b"}}"#,
            br#"{"version":1,"request":{"command":"rm","ids":["base"]}}"#,
            br#"{"version":1,"request":{"command":"create","id":"a b","parent":null,"size":null}}"#,
            br#"{"version":1,"request":{"command":"status"},"extra":1}"#,
            &[b'['; 100_000],
        ] {
            let failure = Ask::parse(line).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{failure}");
            assert!(!failure.message.contains('\n'));
        }
    }
}
