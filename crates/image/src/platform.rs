//! For which machine an image was made.
//!
//! # References
//! OCI image specification, `image-index.md`, "platform"; the variants' defaults are those that registries and containerd use.

use crate::digest::clipped;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Operating system, architecture and the architecture's variant, in Go's words: `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Like `linux`.
    #[serde(default)]
    pub os: String,
    /// Like `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Like `v7`; empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }.normal()
    }

    /// The same with other spellings and default variants made one.
    pub(crate) fn normal(&self) -> Self {
        let architecture = match self.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "i386" | "i686" => "386",
            "aarch64" => "arm64",
            "armhf" => "arm",
            other => other,
        };
        let variant = match (architecture, self.variant.as_str()) {
            ("arm64", "v8" | "8") | ("amd64", "v1") => "",
            ("arm", "" | "7") => "v7",
            ("arm", "6") => "v6",
            ("arm", "5") => "v5",
            (_, other) => other,
        };
        Self { os: self.os.clone(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well an image for `other` runs here: 0 is best, `None` not at all. 32-bit ARM machines run older variants.
    pub(crate) fn rank(&self, other: &Self) -> Option<usize> {
        const ARM: [&str; 3] = ["v5", "v6", "v7"];
        let (want, have) = (self.normal(), other.normal());
        if (&want.os, &want.architecture) != (&have.os, &have.architecture) {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        let place = |variant: &str| ARM.iter().position(|known| *known == variant);
        match (want.architecture.as_str(), place(&want.variant), place(&have.variant)) {
            ("arm", Some(want), Some(have)) => want.checked_sub(have),
            _ => None,
        }
    }

    /// Attestations and the like stand in an index as images for no platform.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", clipped(&self.os), clipped(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", clipped(&self.variant)) }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Self> {
        let fine = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, variant @ ..] if variant.len() < 2 && parts.iter().all(|part| fine(part)) => {
                Ok(Self {
                    os: (*os).into(),
                    architecture: (*architecture).into(),
                    variant: variant.first().copied().unwrap_or_default().into(),
                }
                .normal())
            }
            _ => Err(Error::Invalid {
                what: format!("'{}' is no platform", clipped(text)),
                remedy: "give it like linux/amd64 or linux/arm/v7",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_and_default_variants_are_one() {
        assert_eq!(platform("linux/aarch64").rank(&platform("linux/arm64/v8")), Some(0));
        assert_eq!(platform("linux/x86_64").rank(&platform("linux/amd64")), Some(0));
        assert_eq!(platform("linux/arm").to_string(), "linux/arm/v7");
    }

    #[test]
    fn newer_variants_and_other_machines_do_not_run() {
        assert_eq!(platform("linux/arm/v7").rank(&platform("linux/arm/v6")), Some(1));
        assert_eq!(platform("linux/arm/v6").rank(&platform("linux/arm/v7")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("linux/amd64/v3")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("windows/amd64")), None);
    }

    #[test]
    fn this_machine_has_one() {
        assert_eq!(Platform::host().os, "linux");
        assert_eq!(Platform::host().to_string().parse::<Platform>().unwrap(), Platform::host());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
