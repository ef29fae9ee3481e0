//! How a command ends when it does not end well, and the exit codes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a caller may want to tell apart without reading text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", from = "String")]
pub(crate) enum FailureKind {
    /// The command line, an id, a size or an option is not valid.
    Usage,
    /// No such layer or root.
    NotFound,
    /// There is one already.
    Exists,
    /// Somebody uses it.
    Busy,
    /// No room in the pool or on the host.
    NoSpace,
    /// Something is damaged.
    NeedsCheck,
    /// Not supported here.
    Unsupported,
    /// SIGINT came before everything was done.
    Interrupted,
    /// SIGTERM came before everything was done.
    Terminated,
    /// Anything else, also what a newer `serve` may say.
    Other,
}

/// The exit code for "no" and for "something was found".
pub(crate) const NO: u8 = 1;

impl FailureKind {
    /// The exit code, as `docs/exit-codes.md` lists them.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Exists => 4,
            Self::Busy => 5,
            Self::NoSpace => 6,
            Self::NeedsCheck => 7,
            Self::Unsupported => 8,
            Self::Other => 9,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<FailureKind> for &'static str {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Usage => "usage",
            FailureKind::NotFound => "not-found",
            FailureKind::Exists => "exists",
            FailureKind::Busy => "busy",
            FailureKind::NoSpace => "no-space",
            FailureKind::NeedsCheck => "needs-check",
            FailureKind::Unsupported => "unsupported",
            FailureKind::Interrupted => "interrupted",
            FailureKind::Terminated => "terminated",
            FailureKind::Other => "other",
        }
    }
}

impl From<String> for FailureKind {
    fn from(word: String) -> Self {
        const KNOWN: [FailureKind; 9] = [
            FailureKind::Usage,
            FailureKind::NotFound,
            FailureKind::Exists,
            FailureKind::Busy,
            FailureKind::NoSpace,
            FailureKind::NeedsCheck,
            FailureKind::Unsupported,
            FailureKind::Interrupted,
            FailureKind::Terminated,
        ];
        KNOWN.into_iter().find(|kind| <&str>::from(*kind) == word).unwrap_or(Self::Other)
    }
}

impl From<thinlayer_graphdriver::Kind> for FailureKind {
    fn from(kind: thinlayer_graphdriver::Kind) -> Self {
        use thinlayer_graphdriver::Kind;
        match kind {
            Kind::Invalid => Self::Usage,
            Kind::NotFound => Self::NotFound,
            Kind::Exists => Self::Exists,
            Kind::Busy => Self::Busy,
            Kind::NoSpace => Self::NoSpace,
            Kind::NeedsCheck => Self::NeedsCheck,
            Kind::Unsupported => Self::Unsupported,
            _ => Self::Other,
        }
    }
}

/// A command that did not do what it was asked, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Its class.
    pub(crate) kind: FailureKind,
    /// What, why, and what to do.
    pub(crate) message: String,
}

impl Failure {
    /// A failure; the text is made one line.
    pub(crate) fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        Self { kind, message: one_line(message.as_ref()) }
    }

    /// A command that makes no sense as it is.
    pub(crate) fn usage(message: impl AsRef<str>) -> Self {
        Self::new(FailureKind::Usage, message)
    }

    /// Anything that has no class of its own.
    pub(crate) fn other(message: impl AsRef<str>) -> Self {
        Self::new(FailureKind::Other, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<thinlayer_graphdriver::Error> for Failure {
    fn from(error: thinlayer_graphdriver::Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<thinlayer_graphdriver::InvalidLayerId> for Failure {
    fn from(error: thinlayer_graphdriver::InvalidLayerId) -> Self {
        Self::usage(error.to_string())
    }
}

/// A text without line breaks and other control characters, so that it cannot move a terminal's cursor either.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(['\n', '\r']).map(str::trim).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use thinlayer_graphdriver::{Error, Kind, LayerId};

    const ALL: [(FailureKind, u8, &str); 10] = [
        (FailureKind::Usage, 2, "usage"),
        (FailureKind::NotFound, 3, "not-found"),
        (FailureKind::Exists, 4, "exists"),
        (FailureKind::Busy, 5, "busy"),
        (FailureKind::NoSpace, 6, "no-space"),
        (FailureKind::NeedsCheck, 7, "needs-check"),
        (FailureKind::Unsupported, 8, "unsupported"),
        (FailureKind::Other, 9, "other"),
        (FailureKind::Interrupted, 130, "interrupted"),
        (FailureKind::Terminated, 143, "terminated"),
    ];

    #[test]
    fn codes_are_the_documented_ones() {
        let table = include_str!("../../../docs/exit-codes.md");
        for (kind, code, word) in ALL {
            assert_eq!(kind.code(), code);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{word}\""));
            assert!(
                table.contains(&format!("| {code} | `{word}` |")),
                "{code} {word} is not in docs/exit-codes.md"
            );
        }
        assert!(table.contains(&format!("| {NO} | ")));
        assert_eq!(
            table
                .lines()
                .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit())
                .count(),
            ALL.len() + 2
        );
    }

    #[test]
    fn every_kind_of_the_driver_has_its_code() {
        for (kind, code) in [
            (Kind::Invalid, 2),
            (Kind::NotFound, 3),
            (Kind::Exists, 4),
            (Kind::Busy, 5),
            (Kind::NoSpace, 6),
            (Kind::NeedsCheck, 7),
            (Kind::Unsupported, 8),
            (Kind::Other, 9),
        ] {
            assert_eq!(FailureKind::from(kind).code(), code);
        }
        let failure = Failure::from(Error::NotFound { id: LayerId::given("a").unwrap() });
        assert_eq!(failure.kind.code(), 3);
        assert!(failure.message.contains("layer a"), "{failure}");
        let failure = Failure::from(LayerId::given("a/b").unwrap_err());
        assert_eq!(failure.kind, FailureKind::Usage);
    }

    #[test]
    fn a_newer_server_may_say_more() {
        let failure: Failure = serde_json::from_str(r#"{"kind":"on-fire","message":"x"}"#).unwrap();
        assert_eq!(failure.kind, FailureKind::Other);
    }

    #[test]
    fn messages_are_one_line() {
        assert_eq!(Failure::other("a\n  b\r\n\nc\x1b[2J").message, "a b c\u{fffd}[2J");
    }
}
