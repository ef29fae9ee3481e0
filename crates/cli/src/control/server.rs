//! The server's side of the control socket: one thread for each connection, none of which can hold up another.

use super::lines::{Lines, Missing};
use super::protocol::{Ask, Cancel, Reply, VERSION, to_line};
use crate::failure::{Failure, FailureKind};
use crate::request::Answer;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use parking_lot::{Condvar, Mutex};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How often a client that waits is listened to.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// What the server does with requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Carries a request out. What happens meanwhile goes to `client`, which also knows whether the rest is still wanted.
    fn handle(&self, ask: &Ask, client: &Client) -> Result<Answer, Failure>;

    /// Nobody was there any more to take this answer.
    fn undelivered(&self, answer: &Answer);
}

/// The client of a request while it waits.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    replies: SyncSender<Reply>,
    signal: Arc<OnceLock<FailureKind>>,
}

impl Client {
    /// The signal that came to the client, if one did: what is under way is finished, and nothing more is begun.
    pub(crate) fn ended(&self) -> Option<FailureKind> {
        self.signal.get().copied()
    }

    /// Tells it what happens. Never waits for it: what it does not take is dropped.
    pub(crate) fn tell(&self, reply: Reply) {
        match self.replies.try_send(reply) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::trace!("a client does not keep up with the progress of its request")
            }
            Err(TrySendError::Disconnected(_)) => tracing::trace!("a client is gone"),
        }
    }
}

/// How much a client may ask for and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Bytes of a request.
    pub(crate) request_bytes: usize,
    /// Until the request has to be there.
    pub(crate) request_within: Duration,
    /// Until a client has to take a line.
    pub(crate) write_within: Duration,
    /// How often a waiting client hears of the server.
    pub(crate) alive_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            request_bytes: 1 << 20,
            request_within: Duration::from_secs(5),
            write_within: Duration::from_secs(5),
            alive_every: Duration::from_secs(1),
        }
    }
}

/// A listening control socket; the file goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    limits: Limits,
    connections: Arc<Connections>,
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Connections {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Connections {
    fn enter(self: &Arc<Self>, limit: usize) -> Option<Entered> {
        let mut count = self.count.lock();
        (*count < limit).then(|| {
            *count += 1;
            Entered(self.clone())
        })
    }
}

/// A connection that counts.
#[derive(Debug)]
struct Entered(Arc<Connections>);

impl Drop for Entered {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.fewer.notify_all();
    }
}

impl Server {
    /// Listens. The caller owns the root: a socket that lies there is an ended owner's, and is replaced.
    ///
    /// # Errors
    /// With the path.
    pub(crate) fn bind(path: &Path, limits: Limits) -> Result<Self, Failure> {
        let fail = |what: &str, error: &std::io::Error| {
            Failure::other(format!("control socket {}: {what}: {error}", path.display()))
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(fail("cannot remove the old one", &error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|e| fail("cannot listen", &e))?;
        // The folder is closed to others (0700), so that nobody comes in before this either.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| fail("cannot set its mode", &e))?;
        listener.set_nonblocking(true).map_err(|e| fail("cannot set it up", &e))?;
        Ok(Self { listener, path: path.to_owned(), limits, connections: Arc::default() })
    }

    /// Readable when a client is waiting.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes one waiting client, if there is one, and serves it on a thread of its own.
    pub(crate) fn accept(&self, service: &Arc<dyn Service>) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                // Too many open files and the like: the client keeps waiting, and this must not spin.
                std::thread::sleep(Duration::from_millis(100));
                return;
            }
        };
        let Some(entered) = self.connections.enter(self.limits.connections) else {
            tracing::warn!(
                limit = self.limits.connections,
                "too many connections at a time; one is turned away"
            );
            turn_away(&stream);
            return;
        };
        let (service, limits) = (service.clone(), self.limits);
        let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
            let entered = entered;
            if let Err(error) = serve(stream, &service, limits) {
                tracing::debug!(%error, "a control connection ended early");
            }
            drop(entered);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start a thread for a connection");
        }
    }

    /// Takes no more clients, and waits for those that are being served. `false`: some still are.
    pub(crate) fn close(self, within: Duration) -> bool {
        let connections = self.connections.clone();
        drop(self);
        let end = Instant::now() + within;
        let mut count = connections.count.lock();
        while *count > 0 {
            if connections.fewer.wait_until(&mut count, end).timed_out() {
                return *count == 0;
            }
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// Says that there is no room, without waiting for anybody.
fn turn_away(stream: &UnixStream) {
    let told = stream.set_nonblocking(true).and_then(|()| (&*stream).write_all(&to_line(&Reply::Full)));
    if let Err(error) = told {
        tracing::debug!(%error, "cannot tell a client that there is no room");
    }
}

/// One connection from its begin to its end.
fn serve(stream: UnixStream, service: &Arc<dyn Service>, limits: Limits) -> std::io::Result<()> {
    // An accepted socket does not inherit the listener's mode on Linux; say it all the same.
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(limits.write_within))?;
    let mut out = stream.try_clone()?;
    let mut say = move |reply: &Reply| out.write_all(&to_line(reply));

    let peer = getsockopt(&stream, PeerCredentials)?;
    if !(peer.uid() == 0 || peer.uid() == Uid::effective().as_raw()) {
        let why = format!("user {} may not use the control socket; run as root", peer.uid());
        return say(&Reply::Failed { failure: Failure::other(why) });
    }
    let mut heard = Lines::new(stream, limits.request_bytes);
    let line = match heard.next(limits.request_within) {
        Ok(line) => line,
        Err(Missing::Closed) => return Ok(()),
        Err(Missing::Late) => {
            let why = format!("no request came within {:?}", limits.request_within);
            return say(&Reply::Failed { failure: Failure::other(why) });
        }
        Err(Missing::TooLong) => {
            let why =
                format!("the request is longer than {} bytes; ask for less at a time", limits.request_bytes);
            return say(&Reply::Failed { failure: Failure::usage(why) });
        }
        Err(Missing::Broken(error)) => return Err(error),
    };
    let ask = match Ask::parse(&line) {
        Ok(ask) => ask,
        Err(failure) => return say(&Reply::Failed { failure }),
    };
    tracing::debug!(pid = peer.pid(), request = ask.request.name(), "asked");
    // A client that is gone before the work began wants none of it.
    say(&Reply::Accepted { version: VERSION })?;
    let result = work(&ask, service, limits, heard, &mut say)?;
    let reply = match &result {
        Ok(answer) => Reply::Done { answer: Box::new(answer.clone()) },
        Err(failure) => Reply::Failed { failure: failure.clone() },
    };
    let said = say(&reply);
    if let (Err(_), Ok(answer)) = (&said, &result) {
        service.undelivered(answer);
    }
    said
}

/// Carries a request out on a second thread, tells the client meanwhile what happens, and hears if it wants no more. A client that goes away or is
/// slow does not end the work.
fn work(
    ask: &Ask,
    service: &Arc<dyn Service>,
    limits: Limits,
    heard: Lines,
    say: &mut dyn FnMut(&Reply) -> std::io::Result<()>,
) -> std::io::Result<Result<Answer, Failure>> {
    let (replies, told) = sync_channel(256);
    let signal = Arc::new(OnceLock::new());
    let mut heard = Some(heard);
    // A client that changed its mind before the work began wants none of it.
    listen(&mut heard, &signal);
    let mut listened = Instant::now();
    let client = Client { replies, signal: signal.clone() };
    let (service, ask) = (service.clone(), ask.clone());
    let name = ask.request.name();
    let worker =
        std::thread::Builder::new().name(name.into()).spawn(move || service.handle(&ask, &client))?;
    let mut listens = true;
    let mut said = Instant::now();
    loop {
        let left = limits.alive_every.saturating_sub(said.elapsed());
        let reply = match told.recv_timeout(left.min(LISTEN_EVERY)) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) => (said.elapsed() >= limits.alive_every).then_some(Reply::Alive),
            // The worker has ended and dropped its side.
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if listened.elapsed() >= LISTEN_EVERY {
            listen(&mut heard, &signal);
            listened = Instant::now();
        }
        let Some(reply) = reply else { continue };
        said = Instant::now();
        if listens && let Err(error) = say(&reply) {
            tracing::debug!(%error, request = name, "the client is gone; its request is carried out all the same");
            listens = false;
        }
    }
    Ok(worker.join().unwrap_or_else(|_| {
        let why = format!("`thinlayer serve` failed inside while it carried out {name}; its log says more, and `check` what is left");
        Err(Failure::new(FailureKind::Other, why))
    }))
}

/// Has the client said that it wants no more? It is not listened to any longer after that, or once it is gone.
fn listen(heard: &mut Option<Lines>, signal: &OnceLock<FailureKind>) {
    let Some(lines) = heard else { return };
    match lines.next(Duration::ZERO).map(|line| Cancel::parse(&line)) {
        Err(Missing::Late) => return,
        Ok(Some(kind)) => {
            tracing::debug!(?kind, "the client wants no more than the step under way");
            // The first one counts, and there is no second one.
            let _set = signal.set(kind);
        }
        Ok(None) => tracing::debug!("a client says something that makes no sense after its request"),
        Err(missing) => tracing::trace!(?missing, "a client says nothing more"),
    }
    *heard = None;
}

#[cfg(test)]
mod tests;
