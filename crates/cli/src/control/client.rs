//! The client's side of the control socket.

use super::lines::{Lines, Missing};
use super::protocol::{Ask, Reply, VERSION, to_line};
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
/// How many layers one request names; more go in several requests.
const IDS_AT_ONCE: usize = 1000;

/// Who is to be told, and what may end the waiting.
pub(crate) struct Listener<'a> {
    /// Is told of long steps.
    pub(crate) progress: &'a dyn Progress,
    /// Is told what the user should know: the text, and whether it is a warning.
    pub(crate) notice: &'a dyn Fn(&str, bool),
    /// The signal that came, if one did.
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

/// Asks the server at a socket. `within`: until it has to take the request; the work itself may last.
pub(crate) fn ask(
    socket: &Path,
    request: &Request,
    options: &[String],
    within: Duration,
    listener: &Listener<'_>,
) -> Result<Answer, NoAnswer> {
    let Request::Rm { ids } = request else { return ask_once(socket, request, options, within, listener) };
    let (mut all_removed, mut all_failures) = (Vec::new(), Vec::new());
    for ids in ids.chunks(IDS_AT_ONCE) {
        match ask_once(socket, &Request::Rm { ids: ids.to_vec() }, options, within, listener)? {
            Answer::Removed { removed, failures } => {
                all_removed.extend(removed);
                all_failures.extend(failures);
            }
            other => return Err(Failure::other(format!("the server answered {other:?} to rm")).into()),
        }
    }
    Ok(Answer::Removed { removed: all_removed, failures: all_failures })
}

fn ask_once(
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
    // What was said before the connection was closed can still be read.
    Conversation { lines: Lines::new(stream, REPLY_BYTES), accepted: false, listener, request }.run(within)
}

struct Conversation<'a> {
    lines: Lines,
    accepted: bool,
    listener: &'a Listener<'a>,
    request: &'a Request,
}

impl Conversation<'_> {
    fn run(mut self, within: Duration) -> Result<Answer, NoAnswer> {
        let mut end = Instant::now() + within.max(TICK);
        loop {
            if let Some(kind) = (self.listener.ended)() {
                return Err(ended_early(kind, "`thinlayer serve` finishes the step under way").into());
            }
            let line = match self.lines.next(TICK) {
                Ok(line) => line,
                Err(Missing::Late) if Instant::now() < end => continue,
                Err(Missing::Late) if !self.accepted => return Err(NoAnswer::Silent),
                Err(Missing::Closed | Missing::Broken(_)) if !self.accepted => {
                    return Err(NoAnswer::NotBegun);
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
