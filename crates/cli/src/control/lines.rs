//! Lines out of a stream, with a limit and a deadline.

use nix::sys::socket::{MsgFlags, recv};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How a line did not come.
#[derive(Debug)]
pub(crate) enum Missing {
    /// The other side has closed.
    Closed,
    /// The deadline has passed.
    Late,
    /// It is longer than the limit.
    TooLong,
    /// The stream broke.
    Broken(std::io::Error),
}

/// Reads a stream line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub(crate) fn new(stream: UnixStream, limit: usize) -> Self {
        Self { stream, buffer: Vec::new(), limit }
    }

    /// The next line, without its end, in at most `within`; in no time at all, one that is there already. What came of a line that is late is kept
    /// for the next call.
    pub(crate) fn next(&mut self, within: Duration) -> Result<Vec<u8>, Missing> {
        let end = Instant::now() + within;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched > self.limit {
                return Err(Missing::TooLong);
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut chunk = [0; 8192];
            let read = if left.is_zero() {
                recv(self.stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT).map_err(Into::into)
            } else {
                self.stream.set_read_timeout(Some(left)).map_err(Missing::Broken)?;
                self.stream.read(&mut chunk)
            };
            match read {
                Ok(0) => return Err(Missing::Closed),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock && left.is_zero() => {
                    return Err(Missing::Late);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Missing::Closed),
                Err(error) => return Err(Missing::Broken(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(theirs, 100);
        ours.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.next(Duration::from_secs(5)).unwrap(), b"one");
        assert!(matches!(lines.next(Duration::from_millis(10)), Err(Missing::Late)));
        ours.write_all(b"o\n\nlast").unwrap();
        drop(ours);
        assert_eq!(lines.next(Duration::from_secs(5)).unwrap(), b"two");
        assert_eq!(lines.next(Duration::from_secs(5)).unwrap(), b"");
        assert!(matches!(lines.next(Duration::from_secs(5)), Err(Missing::Closed)));
    }

    #[test]
    fn in_no_time_comes_what_is_there() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(theirs, 100);
        assert!(matches!(lines.next(Duration::ZERO), Err(Missing::Late)));
        ours.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(lines.next(Duration::ZERO).unwrap(), b"one");
        assert_eq!(lines.next(Duration::ZERO).unwrap(), b"two");
        assert!(matches!(lines.next(Duration::ZERO), Err(Missing::Late)));
        ours.write_all(b"ee\n").unwrap();
        assert_eq!(lines.next(Duration::ZERO).unwrap(), b"three");
        drop(ours);
        assert!(matches!(lines.next(Duration::ZERO), Err(Missing::Closed)));
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(theirs, 1000);
        let writer = std::thread::spawn(move || ours.write_all(&[b'x'; 64 << 10]));
        assert!(matches!(lines.next(Duration::from_secs(5)), Err(Missing::TooLong)));
        drop(lines);
        // The writer gets an error or had room enough; it must only not hang.
        let _written = writer.join().unwrap();
    }
}
