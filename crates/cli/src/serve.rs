//! `thinlayer serve`: owns the root, answers the other commands, and gives back the blocks of removed layers.

use crate::backend::{answering_holder, before_making, busy, held, log, socket_of};
use crate::config::Settings;
use crate::control::server::{Limits, Server, Service};
use crate::failure::Failure;
use crate::notify::Notify;
use crate::request::ended_early;
use crate::service::RootService;
use crate::signals::{Signals, wake_on_signal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thinlayer_graphdriver::{Holder, Kind, Ownership};

/// How long what is under way may take at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// How long the deletion worker may take for the layer that it is at.
const WORKER_WITHIN: Duration = Duration::from_secs(15);
/// How long the lock is tried before its holder is looked at again.
const SLICE: Duration = Duration::from_millis(200);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The root is somebody else's, or cannot be opened.
pub(crate) fn serve(settings: Settings) -> Result<(), Failure> {
    if settings.read_only {
        return Err(Failure::usage("serve would write, and --read-only forbids it; leave one of them out"));
    }
    let notify = Notify::from_environment();
    let cannot = |error: std::io::Error| Failure::other(format!("cannot catch signals: {error}"));
    let signals = Signals::catch().map_err(cannot)?;
    let (wake, waker) = wake_on_signal().map_err(cannot)?;
    let (ownership, socket) = own(&settings, &signals)?;
    // Not given back before the process ends: a call that outlived its deadline may still be at work.
    let _ownership = ManuallyDrop::new(ownership);
    let root = settings.root.display().to_string();
    let server = Server::bind(&socket, Limits::default())?;
    let service = Arc::new(RootService::new(settings));
    log(&format!("serving root {root} on {}", socket.display()), false);

    let opening = open(&service, waker)?;
    let result =
        Loop { server: &server, service: service.clone(), wake, notify: &notify, opening: Some(opening) }
            .run();
    notify.tell("STOPPING=1");
    let end = Instant::now() + FINISH_WITHIN;
    if !server.close(FINISH_WITHIN) {
        log("some commands are still under way; the next owner of the root settles what they leave", true);
    }
    if let Some(left) = service.end(end.saturating_duration_since(Instant::now()), WORKER_WITHIN) {
        log(left, false);
    }
    result
}

/// Takes the root, and says where it will answer.
fn own(settings: &Settings, signals: &Signals) -> Result<(Ownership, PathBuf), Failure> {
    let root = &settings.root;
    before_making(root)?;
    // What goes wrong here, taking the lock says better.
    if !root.exists()
        && let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)
    {
        tracing::debug!(root = %root.display(), %error, "cannot make the root");
    }
    let socket = socket_of(root);
    let holder = Holder::this_process("serve", socket.clone());
    let end = Instant::now() + settings.wait;
    loop {
        if let Some(kind) = signals.ended() {
            return Err(ended_early(kind, "the root was not taken"));
        }
        // Another `serve` that answers will not end soon; one that is starting or ending may.
        if let Some((other, socket)) = answering_holder(root)
            && UnixStream::connect(&socket).is_ok()
        {
            return Err(busy(root, &other, "owns it", Duration::ZERO));
        }
        let left = end.saturating_duration_since(Instant::now());
        match Ownership::acquire(root, &holder, left.min(SLICE)) {
            Ok(ownership) => {
                let socket = socket
                    .ok_or_else(|| Failure::other(format!("root {} is gone; try again", root.display())))?;
                make_folder(&socket)?;
                return Ok((ownership, socket));
            }
            Err(error) if error.kind() == Kind::Busy && left > SLICE => {}
            Err(error) => {
                return Err(if error.kind() == Kind::Busy {
                    held(root, settings.wait, error)
                } else {
                    error.into()
                });
            }
        }
    }
}

/// The folder of the socket, closed to others.
fn make_folder(socket: &Path) -> Result<(), Failure> {
    let Some(folder) = socket.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::other(format!(
            "{}: cannot make the folder of the control socket: {error}; run as root",
            folder.display()
        ))
    })
}

/// Opens the driver beside the main loop, which is woken when that is done.
fn open(service: &Arc<RootService>, mut waker: UnixStream) -> Result<Opening, Failure> {
    let service = service.clone();
    std::thread::Builder::new()
        .name("open".into())
        .spawn(move || {
            let opened = service.open();
            if let Err(error) = waker.write_all(b"o") {
                tracing::warn!(%error, "cannot wake the main loop");
            }
            opened
        })
        .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}

type Opening = std::thread::JoinHandle<Result<(), Failure>>;

struct Loop<'a> {
    server: &'a Server,
    service: Arc<dyn Service>,
    wake: UnixStream,
    notify: &'a Notify,
    opening: Option<Opening>,
}

impl Loop<'_> {
    /// Takes connections until a signal comes or the root turns out not to open.
    fn run(mut self) -> Result<(), Failure> {
        loop {
            let timeout = self.notify.watchdog().map_or(PollTimeout::NONE, |period| {
                PollTimeout::try_from(period).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [
                PollFd::new(self.server.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Failure::other(format!("cannot wait for connections: {error}"))),
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let (client, woken) = (ready(&fds[0]), ready(&fds[1]));
            if self.notify.watchdog().is_some() {
                self.notify.tell("WATCHDOG=1");
            }
            if client {
                self.server.accept(&self.service);
            }
            if woken && self.woken()? {
                return Ok(());
            }
        }
    }

    /// Something woke the loop: `true` for a signal.
    fn woken(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 64];
        // Not blocking; what cannot be read now wakes the loop again.
        let read = self.wake.read(&mut bytes).unwrap_or(0);
        if self.opening.as_ref().is_some_and(|opening| bytes[..read].contains(&b'o') || opening.is_finished())
            && let Some(opening) = self.opening.take()
        {
            opening.join().unwrap_or_else(|_| Err(Failure::other("opening the root failed inside")))?;
            self.notify.tell("READY=1");
            log("ready", false);
        }
        // signal-hook writes X.
        Ok(bytes[..read].iter().any(|byte| *byte != b'o'))
    }
}
