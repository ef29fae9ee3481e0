//! A stream read on a thread of its own, so that reading, hashing, decompressing and writing overlap.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

const BUFFER: usize = 256 << 10;
/// Buffers on their way at most: the memory is this many, and two more at the ends.
const AHEAD: usize = 4;

/// Reads another stream ahead on a thread, by at most 1.5 MiB. Errors arrive in their place. When it is dropped the thread ends with its
/// current read.
#[derive(Debug)]
pub struct ReadAhead {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl ReadAhead {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of making a thread.
    pub fn new(stream: impl Read + Send + 'static) -> io::Result<Self> {
        let (filled_sender, filled) = sync_channel(AHEAD);
        let (empty, empty_receiver) = sync_channel(AHEAD + 2);
        thread::Builder::new()
            .name("read-ahead".into())
            .spawn(move || fill(stream, &filled_sender, &empty_receiver))?;
        Ok(Self { filled, empty, current: Vec::new(), position: 0, ended: false })
    }
}

/// Ends with the stream, with its first error, or when nobody listens any more.
fn fill(mut stream: impl Read, filled: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        match read_full(&mut stream, &mut buffer) {
            (0, None) => return,
            (read, error) => {
                buffer.truncate(read);
                if filled.send(Ok(buffer)).is_err() {
                    return;
                }
                if let Some(error) = error {
                    // Whether it is heard is the listener's matter.
                    let _ = filled.send(Err(error));
                    return;
                }
            }
        }
    }
}

/// As much as fits, or as there is before the end or an error.
fn read_full(stream: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            match self.filled.recv() {
                Ok(Ok(next)) => {
                    let used = std::mem::replace(&mut self.current, next);
                    self.position = 0;
                    // A full or closed channel only means that the thread makes a new one.
                    let _ = self.empty.try_send(used);
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        let read = buffer.len().min(self.current.len() - self.position);
        buffer[..read].copy_from_slice(&self.current[self.position..self.position + read]);
        self.position += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn it_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        let mut all = Vec::new();
        ReadAhead::new(io::Cursor::new(bytes.clone())).unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
    }

    #[test]
    fn an_error_arrives_behind_the_bytes_before_it() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(Error::Missing { what: "it".into() }.into())
            }
        }
        let mut all = Vec::new();
        let error = ReadAhead::new((&b"abc"[..]).chain(Failing)).unwrap().read_to_end(&mut all).unwrap_err();
        assert_eq!(all, b"abc");
        assert!(matches!(Error::from_stream(error), Error::Missing { .. }));
    }

    #[test]
    fn who_stops_early_ends_the_thread() {
        let (sender, ended) = std::sync::mpsc::channel::<()>();
        struct Endless(
            #[expect(dead_code, reason = "its drop is what is waited for")] std::sync::mpsc::Sender<()>,
        );
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(buffer.len())
            }
        }
        let mut ahead = ReadAhead::new(Endless(sender)).unwrap();
        ahead.read_exact(&mut [0; 10]).unwrap();
        drop(ahead);
        let timeout = std::time::Duration::from_secs(60);
        assert_eq!(ended.recv_timeout(timeout), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
