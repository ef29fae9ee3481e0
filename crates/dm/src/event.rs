//! Events of all devices, through a descriptor of the control node that is used for nothing else.

use crate::control::{CONTROL_PATH, call, open_control};
use crate::device_mapper::{Events, Version};
use crate::error::Result;
use crate::request::{Command, Request};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is armed belongs to the open file, so each watcher has one of its own.
#[derive(Debug)]
pub(crate) struct ControlEvents {
    fd: OwnedFd,
    interface: Version,
}

impl ControlEvents {
    pub(crate) fn open(interface: Version) -> Result<Self> {
        let events = Self { fd: open_control(CONTROL_PATH)?, interface };
        events.arm()?;
        Ok(events)
    }

    /// From now on an event makes the descriptor readable.
    fn arm(&self) -> Result<()> {
        call(self.fd.as_fd(), self.interface, &Request::new(Command::ArmPoll)).map(drop)
    }
}

impl Events for ControlEvents {
    /// Arms again before it returns `true`, so that whatever happens after the caller's look at the list ends the next wait.
    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        if !wait_readable(self.fd.as_fd(), timeout)
            .map_err(|errno| Request::new(Command::ArmPoll).error(errno))?
        {
            return Ok(false);
        }
        self.arm()?;
        Ok(true)
    }
}

/// Waits until the descriptor is readable; `false` at the timeout. Signals do not end it.
fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, timeout: Duration) -> nix::Result<bool> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Milliseconds, rounded up so that the last wait is not a busy loop; at most 24 days at a time.
        let millis = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
        let step = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], step) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wait_readable;
    use std::io::Write as _;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn waits_as_long_as_it_may_and_no_longer() {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let began = Instant::now();
        assert_eq!(wait_readable(reader.as_fd(), Duration::from_millis(40)), Ok(false));
        assert!(began.elapsed() >= Duration::from_millis(40));
        assert_eq!(wait_readable(reader.as_fd(), Duration::ZERO), Ok(false));
        writer.write_all(b"x").unwrap();
        assert_eq!(wait_readable(reader.as_fd(), Duration::ZERO), Ok(true));
        assert_eq!(wait_readable(reader.as_fd(), Duration::MAX), Ok(true));
    }
}
