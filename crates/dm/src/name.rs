//! Names of device-mapper devices, checked once: [`DmName`], [`DmUuid`], [`DeviceNumber`], [`DeviceRef`].

use crate::error::{Error, Result};
use std::fmt;

/// Longest name in bytes: the header's field less its terminator.
pub const NAME_MAX_BYTES: usize = 127;
/// Longest UUID in bytes.
pub const UUID_MAX_BYTES: usize = 128;

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text and takes it.
            ///
            /// # Errors
            /// [`Error::Name`] if it is empty, too long, or has a byte that the kernel or `/dev/mapper` cannot hold.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                match check(&text, $max) {
                    Ok(()) => Ok(Self(text.into_boxed_str())),
                    Err(why) => Err(Error::Name { what: $what, text, why }),
                }
            }

            /// A text that keeps the rules by how it was made.
            pub(crate) fn from_kernel(text: String) -> Self {
                debug_assert_eq!(check(&text, $max), Ok(()), "{text:?}");
                Self(text.into_boxed_str())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// The name of a device: 1 to 127 bytes of printable ASCII without `/`.
    DmName, "device name", NAME_MAX_BYTES
);
checked_text!(
    /// The UUID of a device: 1 to 128 bytes of printable ASCII without `/`. Any text serves, it need not be a UUID.
    DmUuid, "device uuid", UUID_MAX_BYTES
);

fn check(text: &str, max: usize) -> std::result::Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > max {
        return Err("it is too long");
    }
    if text == "." || text == ".." || text == "control" {
        return Err("it is taken in /dev/mapper");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        return Err("only printable ASCII without spaces and slashes is allowed");
    }
    Ok(())
}

/// The major and minor number of a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Major number (12 bits in the kernel).
    pub major: u32,
    /// Minor number (20 bits in the kernel).
    pub minor: u32,
}

impl DeviceNumber {
    /// From the `st_rdev` or `st_dev` that stat gives (glibc's 64-bit encoding).
    pub fn from_stat(dev: u64) -> Self {
        let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & 0xffff_f000);
        let minor = (dev & 0xff) | ((dev >> 12) & 0xffff_ff00);
        // Both are under 32 bits by the masks above.
        Self {
            major: u32::try_from(major & 0xffff_ffff).unwrap_or(u32::MAX),
            minor: u32::try_from(minor & 0xffff_ffff).unwrap_or(u32::MAX),
        }
    }
}

impl fmt::Display for DeviceNumber {
    /// `major:minor`, as tables have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl std::str::FromStr for DeviceNumber {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }))
            .ok_or_else(|| Error::Name {
                what: "device number",
                text: text.into(),
                why: "it is not MAJOR:MINOR",
            })
    }
}

/// How a call says which device it means. The kernel wants exactly one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRef<'a> {
    /// By name.
    Name(&'a DmName),
    /// By UUID.
    Uuid(&'a DmUuid),
    /// By number.
    Number(DeviceNumber),
}

impl<'a> From<&'a DmName> for DeviceRef<'a> {
    fn from(name: &'a DmName) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a DmUuid> for DeviceRef<'a> {
    fn from(uuid: &'a DmUuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl From<DeviceNumber> for DeviceRef<'_> {
    fn from(number: DeviceNumber) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for DeviceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uuid(uuid) => write!(f, "uuid {uuid}"),
            Self::Number(number) => number.fmt(f),
        }
    }
}
