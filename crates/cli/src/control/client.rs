//! The client's side of the control socket.

use super::lines::{Lines, Missing};
use super::protocol::{Ask, Cancel, Reply, VERSION, to_line};
use crate::failure::{Failure, FailureKind};
use crate::request::{Answer, Request, ended_early};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use thinlayer_graphdriver::Progress;

/// The longest line of a server's.
const REPLY_BYTES: usize = 64 << 20;
/// A server that says nothing for so long does not work any more; it says something each second.
const SILENCE: Duration = Duration::from_secs(20);
/// How often a signal is looked for while waiting.
const TICK: Duration = Duration::from_millis(100);
/// How long a server may still take a request after a signal has come.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);
/// How many layers one request names; more go in several requests.
pub(crate) const IDS_AT_ONCE: usize = 1000;

/// Who is to be told, and what may end the waiting.
pub(crate) struct Listener<'a> {
    /// Is told of long steps.
    pub(crate) progress: &'a dyn Progress,
    /// Is told what the user should know: the text, and whether it is a warning.
    pub(crate) notice: &'a dyn Fn(&str, bool),
    /// The signal that came, if one did: the server finishes the step under way, and its answer is waited for.
    pub(crate) ended: &'a dyn Fn() -> Option<FailureKind>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nobody works on the request: the server is starting, ending or full. It can be asked again, or the root be taken.
    NotBegun,
    /// The server did not take it in time.
    Silent,
    /// It is over.
    Failed(Failure),
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks the server at a socket. `within`: until it has to take the request; the work itself may last, and a signal lets the step under way finish.
pub(crate) fn ask(
    socket: &Path,
    request: &Request,
    options: &[String],
    within: Duration,
    listener: &Listener<'_>,
) -> Result<Answer, NoAnswer> {
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        tracing::debug!(socket = %socket.display(), %error, "nobody answers on the control socket");
        NoAnswer::NotBegun
    })?;
    let ask = Ask { version: VERSION, options: options.to_vec(), request: request.clone() };
    let sent =
        stream.set_write_timeout(Some(within.max(TICK))).and_then(|()| stream.write_all(&to_line(&ask)));
    if let Err(error) = sent {
        tracing::debug!(%error, "the server does not take the request");
    }
    let out = stream
        .try_clone()
        .map_err(|error| Failure::other(format!("control socket {}: {error}", socket.display())))?;
    // What was said before the connection was closed can still be read.
    let lines = Lines::new(stream, REPLY_BYTES);
    Conversation { lines, out, accepted: false, signal: None, listener, request }.run(within)
}

struct Conversation<'a> {
    lines: Lines,
    out: UnixStream,
    accepted: bool,
    signal: Option<FailureKind>,
    listener: &'a Listener<'a>,
    request: &'a Request,
}

impl Conversation<'_> {
    fn run(mut self, within: Duration) -> Result<Answer, NoAnswer> {
        let mut end = Instant::now() + within.max(TICK);
        loop {
            if self.signal.is_none()
                && let Some(kind) = (self.listener.ended)()
            {
                self.cancel(kind);
                if !self.accepted {
                    end = end.min(Instant::now() + CANCELLED_WITHIN);
                }
            }
            let line = match self.lines.next(TICK) {
                Ok(line) => line,
                Err(Missing::Late) if Instant::now() < end => continue,
                Err(missing) if !self.accepted => {
                    return Err(match (self.signal, missing) {
                        // What nobody took is not begun: the server first says that it takes it, and nobody hears that any more.
                        (Some(kind), _) => ended_early(kind, "nothing was done").into(),
                        (None, Missing::Late) => NoAnswer::Silent,
                        (None, Missing::Closed | Missing::Broken(_)) => NoAnswer::NotBegun,
                        (None, missing @ Missing::TooLong) => self.lost(&missing).into(),
                    });
                }
                Err(missing) => return Err(self.lost(&missing).into()),
            };
            let reply: Reply = serde_json::from_slice(&line).map_err(|error| {
                Failure::other(format!("`thinlayer serve` said something that makes no sense: {error}"))
            })?;
            end = Instant::now() + SILENCE;
            match reply {
                Reply::Accepted { .. } => self.accepted = true,
                Reply::Alive => {}
                Reply::Step { what, state } => self.listener.progress.event(state.event(&what)),
                Reply::Notice { text, warning } => (self.listener.notice)(&text, warning),
                Reply::Done { answer } => return Ok(*answer),
                Reply::Failed { failure } => return Err(failure.into()),
                Reply::Full => return Err(NoAnswer::NotBegun),
            }
        }
    }

    /// Tells the server that no more is wanted than the step under way. Its answer says what was left.
    fn cancel(&mut self, kind: FailureKind) {
        self.signal = Some(kind);
        if let Err(error) = self.out.write_all(&to_line(&Cancel::after(kind))) {
            tracing::debug!(%error, "the server does not hear of the signal");
        }
    }

    /// The request was taken, and its end is not known.
    fn lost(&self, missing: &Missing) -> Failure {
        let what = match missing {
            Missing::Late => "has said nothing for some time",
            Missing::TooLong => "has sent too long a line",
            Missing::Closed | Missing::Broken(_) => "ended before it answered",
        };
        let name = self.request.name();
        Failure::new(
            FailureKind::Other,
            format!(
                "`thinlayer serve` {what}; nothing is lost, but whether {name} was carried out is not known: look with ls, and run it again"
            ),
        )
    }
}
