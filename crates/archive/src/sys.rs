//! The system calls that `nix` lacks: extended attributes.
//!
//! Files that are not open are named by their folder's descriptor through `/proc/self/fd`, in the calls that do not follow a link in
//! the last place; a plain path could lead elsewhere by the time it is used.

use nix::Result;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A file whose attributes are meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'a> {
    /// By its descriptor, which is not one of `O_PATH`.
    Open(BorrowedFd<'a>),
    /// By its name in a folder; a link is meant itself.
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Node<'_> {
    fn path(folder: BorrowedFd<'_>, name: &[u8]) -> Result<CString> {
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        CString::new(path).map_err(|_| Errno::EINVAL)
    }

    /// Names, each ended by a NUL, into the buffer; bytes written.
    fn list_into(self, buffer: &mut [u8]) -> Result<usize> {
        let answer = match self {
            // SAFETY: the kernel writes at most the buffer's length into it.
            Self::Open(fd) => unsafe {
                libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
            },
            Self::Named(folder, name) => {
                let path = Self::path(folder, name)?;
                // SAFETY: as above; the path lives through the call.
                unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
            }
        };
        length(answer)
    }

    fn get_into(self, attribute: &CStr, buffer: &mut [u8]) -> Result<usize> {
        let answer = match self {
            // SAFETY: the kernel writes at most the buffer's length into it; the name lives through the call.
            Self::Open(fd) => unsafe {
                libc::fgetxattr(fd.as_raw_fd(), attribute.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
            },
            Self::Named(folder, name) => {
                let path = Self::path(folder, name)?;
                // SAFETY: as above; the path lives through the call, too.
                unsafe {
                    libc::lgetxattr(
                        path.as_ptr(),
                        attribute.as_ptr(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                    )
                }
            }
        };
        length(answer)
    }

    /// The attributes' names, as the kernel lists them. A file system without attributes has none.
    pub(crate) fn list(self) -> Result<Vec<CString>> {
        let names = match grown(|buffer| self.list_into(buffer)) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            names => names?,
        };
        let mut list = Vec::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            list.push(CString::new(name).map_err(|_| Errno::EINVAL)?);
        }
        Ok(list)
    }

    /// An attribute's value; ENODATA: there is none.
    pub(crate) fn get(self, attribute: &CStr) -> Result<Vec<u8>> {
        grown(|buffer| self.get_into(attribute, buffer))
    }

    pub(crate) fn set(self, attribute: &CStr, value: &[u8]) -> Result<()> {
        let data = value.as_ptr().cast();
        let answer = match self {
            // SAFETY: the kernel reads the value's bytes; name and value live through the call.
            Self::Open(fd) => unsafe {
                libc::fsetxattr(fd.as_raw_fd(), attribute.as_ptr(), data, value.len(), 0)
            },
            Self::Named(folder, name) => {
                let path = Self::path(folder, name)?;
                // SAFETY: as above; the path lives through the call, too.
                unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), data, value.len(), 0) }
            }
        };
        Errno::result(answer).map(drop)
    }

    /// Takes an attribute away; ENODATA: there is none.
    pub(crate) fn remove(self, attribute: &CStr) -> Result<()> {
        let answer = match self {
            // SAFETY: the name lives through the call.
            Self::Open(fd) => unsafe { libc::fremovexattr(fd.as_raw_fd(), attribute.as_ptr()) },
            Self::Named(folder, name) => {
                let path = Self::path(folder, name)?;
                // SAFETY: name and path live through the call.
                unsafe { libc::lremovexattr(path.as_ptr(), attribute.as_ptr()) }
            }
        };
        Errno::result(answer).map(drop)
    }
}

fn length(answer: libc::ssize_t) -> Result<usize> {
    let answer = Errno::result(answer)?;
    usize::try_from(answer).map_err(|_| Errno::EINVAL)
}

/// Most lists and values are small; none is larger than 64 KiB.
fn grown(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::ERANGE) => {
            let mut large = vec![0; 64 << 10];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}
