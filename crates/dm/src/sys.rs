//! The only unsafe code of this crate: the ioctl with its buffer, and the SysV semaphore of a udev cookie.

pub(crate) mod ioctl;
pub(crate) mod semaphore;
