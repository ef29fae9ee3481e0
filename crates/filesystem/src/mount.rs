//! Mounting by the kernel's mount API (`fsopen` and its relatives), and by mount(2) where the kernel is older than 5.2.

use crate::error::{Error, ErrorKind, Result};
use crate::filesystems::{Kind, MountRequest};
use crate::kernel_log::KernelLog;
use crate::options::{MountFlags, MountOptions};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which of the two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// The mount API, and mount(2) where the kernel answers ENOSYS.
    Newest,
    /// mount(2).
    Classic,
}

/// Why the kernel did not mount.
#[derive(Debug)]
struct Refusal {
    errno: Errno,
    /// What the mount context or we have to say.
    said: Vec<String>,
    class: Option<ErrorKind>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, said: Vec::new(), class: None }
    }
}

impl Refusal {
    fn because(errno: Errno, why: impl Into<String>) -> Self {
        Self { errno, said: vec![why.into()], class: None }
    }

    fn with_messages_of(mut self, context: OwnedFd) -> Self {
        self.said.extend(messages(context));
        self
    }
}

/// What a request asks for: the caller's words, then what the file system and the request's fields need.
pub(crate) fn options_of(
    request: &MountRequest,
) -> std::result::Result<MountOptions, crate::options::InvalidOption> {
    let mut options = MountOptions::parse(&request.options)?;
    let read_only = request.read_only || request.no_recovery;
    if read_only {
        options.flags.insert(MountFlags::READ_ONLY);
    }
    let mut need = |key: &str| if options.has(key) { Ok(()) } else { options.set(key, None) };
    match request.kind {
        Kind::Xfs => {
            // A snapshot has its origin's UUID, and xfs mounts each UUID once.
            need("nouuid")?;
            if read_only {
                need("norecovery")?;
            }
        }
        Kind::Ext4 => {
            if request.no_recovery {
                need("noload")?;
            }
            // An ext4 that goes on after a write of its own structures has failed may read their old content back from the device, and
            // journal that on top of what was synced.
            if !read_only && !options.has("errors") {
                options.set("errors", Some("remount-ro"))?;
            }
        }
    }
    if let Some(label) = &request.label {
        options.set("context", Some(label))?;
    }
    Ok(options)
}

pub(crate) fn mount(request: &MountRequest, interface: Interface) -> Result<()> {
    let action = format!("mount {} on {} from", request.kind, request.target.display());
    let options = options_of(request).map_err(|invalid| {
        Error::new(&action, &request.device, Errno::EINVAL)
            .detail(invalid.to_string())
            .of_kind(ErrorKind::Options)
    })?;
    let log = KernelLog::from_now(&request.device);
    let guard = if request.no_recovery { DeviceReadOnly::hold(&request.device)? } else { None };
    let answer = match interface {
        Interface::Newest => match by_context(request, &options) {
            Err(Refusal { errno: Errno::ENOSYS, .. }) => by_mount2(request, &options),
            other => other,
        },
        Interface::Classic => by_mount2(request, &options),
    };
    drop(guard);
    answer.map_err(|refusal| {
        let mut said = refusal.said;
        for line in log.lines() {
            if !said.contains(&line) {
                said.push(line);
            }
        }
        let error = Error::new(action, &request.device, refusal.errno).detail(said.join("; "));
        match refusal.class {
            Some(class) => error.of_kind(class),
            None => error,
        }
    })
}

fn c_string(text: &[u8]) -> std::result::Result<CString, Refusal> {
    CString::new(text).map_err(|_| Refusal::because(Errno::EINVAL, "a NUL in a path or an option"))
}

fn by_context(request: &MountRequest, options: &MountOptions) -> std::result::Result<(), Refusal> {
    let context = sys::fsopen(&c_string(request.kind.as_str().as_bytes())?).map_err(|errno| match errno {
        Errno::ENODEV => no_kind(request.kind),
        other => other.into(),
    })?;
    // Before anything is read from the device: a mount point that cannot be used must not cost a journal replay.
    let target = open_target(&request.target)?;
    let refused = |errno, why: String| Refusal::because(errno, why);

    let set = |key: &str, value: Option<&[u8]>| -> std::result::Result<(), Refusal> {
        let value = value.map(c_string).transpose()?;
        sys::fsconfig(context.as_fd(), &c_string(key.as_bytes())?, value.as_deref()).map_err(Refusal::from)
    };
    let configured = (|| {
        set("source", Some(request.device.as_os_str().as_bytes()))?;
        for word in options.superblock_words() {
            set(word, None)?;
        }
        for parameter in &options.parameters {
            set(&parameter.key, parameter.value.as_deref().map(str::as_bytes)).map_err(|refusal| {
                Refusal {
                    class: (refusal.errno == Errno::EINVAL).then_some(ErrorKind::Options),
                    ..refused(refusal.errno, format!("mount option `{parameter}` is refused"))
                }
            })?;
        }
        sys::fsconfig_create(context.as_fd())?;
        sys::fsmount(context.as_fd(), options.attributes()).map_err(Refusal::from)
    })();
    let mount = match configured {
        Ok(mount) => mount,
        Err(refusal) => return Err(refusal.with_messages_of(context)),
    };
    sys::move_mount(mount.as_fd(), target.as_fd())
        .map_err(|errno| refused(errno, "the mount cannot be put on its mount point".to_owned()))
}

fn by_mount2(request: &MountRequest, options: &MountOptions) -> std::result::Result<(), Refusal> {
    drop(open_target(&request.target)?);
    let data = options.data();
    let data = (!data.is_empty()).then_some(data.as_str());
    let kind = request.kind.as_str();
    nix::mount::mount(Some(&request.device), &request.target, Some(kind), options.ms_flags(), data).map_err(
        |errno| match errno {
            Errno::ENODEV => no_kind(request.kind),
            other => other.into(),
        },
    )
}

fn no_kind(kind: Kind) -> Refusal {
    Refusal {
        class: Some(ErrorKind::Unsupported),
        ..Refusal::because(
            Errno::ENODEV,
            format!("this kernel has no {kind}, and no module for it could be loaded"),
        )
    }
}

/// A link in the last place is not followed: it could lead the mount anywhere.
fn open_target(target: &Path) -> std::result::Result<OwnedFd, Refusal> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(target, flags, Mode::empty()).map_err(|errno| Refusal {
        // It is the caller's folder that is missing, not the device.
        class: (errno == Errno::ENOENT).then_some(ErrorKind::NotFound),
        ..Refusal::because(errno, "the mount point cannot be opened as a folder")
    })
}

/// The messages that a mount context holds, one per read, without their class letter.
fn messages(context: OwnedFd) -> Vec<String> {
    let mut context = File::from(context);
    let mut buffer = [0; 1024];
    let mut said = Vec::new();
    while said.len() < 16 {
        match context.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
                let text = match text.split_once(' ') {
                    Some(("e" | "w" | "i", message)) => message.to_owned(),
                    _ => text,
                };
                said.push(text);
            }
            _ => break,
        }
    }
    said
}

/// Holds a block device read-only while it is mounted without recovery.
///
/// `noload` keeps ext4 from its journal alone: a list of orphaned inodes, which a frozen file system has too, is still worked off
/// during the mount, with writes, unless the device itself refuses them.
#[derive(Debug)]
struct DeviceReadOnly {
    device: File,
}

impl DeviceReadOnly {
    /// `None`: it was read-only before, and stays so.
    fn hold(device: &Path) -> Result<Option<Self>> {
        let action = "make read-only for a mount without recovery";
        let failed = |errno| Error::new(action, device, errno);
        let file = File::open(device).map_err(|error| Error::io(action, device, &error))?;
        if sys::is_read_only(file.as_fd()).map_err(failed)? {
            return Ok(None);
        }
        sys::set_read_only(file.as_fd(), true).map_err(failed)?;
        Ok(Some(Self { device: file }))
    }
}

impl Drop for DeviceReadOnly {
    fn drop(&mut self) {
        if let Err(errno) = sys::set_read_only(self.device.as_fd(), false) {
            tracing::warn!(device = ?self.device, %errno, "a device could not be made writable again after its mount");
        }
    }
}

#[cfg(test)]
mod tests;
