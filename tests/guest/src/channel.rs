//! The results' own way to the host: a serial port that nothing else writes to.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::protocol::{Event, Line};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

/// Shared by the threads of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Channel(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    port: File,
    seq: u64,
}

impl Channel {
    pub(crate) fn open() -> Result<Self> {
        let path = "/dev/ttyS1";
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the results port {path}"))?;
        let mut settings = tcgetattr(&port)?;
        cfmakeraw(&mut settings);
        tcsetattr(&port, SetArg::TCSANOW, &settings).with_context(|| format!("cannot set up {path}"))?;
        Ok(Self(Arc::new(Mutex::new(Inner { port, seq: 0 }))))
    }

    /// Sends one line. A port that does not take it is the host's to notice: nothing else is left to tell.
    pub(crate) fn send(&self, event: Event) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line { seq: inner.seq, event };
        inner.seq += 1;
        let sent = serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            inner.port.write_all(&text)
        });
        if let Err(error) = sent {
            eprintln!("thinlayer agent: cannot report {line:?}: {error}");
        }
    }

    /// Waits until all of it has left.
    pub(crate) fn drain(&self) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = tcdrain(&inner.port) {
            eprintln!("thinlayer agent: cannot drain the results port: {error}");
        }
    }

    /// Tells the host every few seconds that the guest is alive.
    pub(crate) fn beat(&self) {
        let channel = self.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                channel.send(Event::Beat);
            }
        });
    }
}
