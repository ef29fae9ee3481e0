//! Who carries a command out: this process, or the one that owns the root.

use crate::config::Settings;
use crate::control::client::{self, IDS_AT_ONCE, Listener, NoAnswer};
use crate::control::protocol::SOCKET;
use crate::execute::{execute, not_removed};
use crate::facts::PathText;
use crate::failure::{Failure, FailureKind};
use crate::request::{Answer, GivenBack, LayerFailure, RemovedLayer, Request, ended_early, known_id};
use crate::signals::Signals;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::mem::ManuallyDrop;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use thinlayer_graphdriver::{
    Driver, Error, Holder, Kind, Machine, Notice, Ownership, Progress, PutBack, ReadOnly, Root, Severity,
    View, repair as repair_root,
};

/// How long the lock is tried before the owner's socket is looked for again.
const SLICE: Duration = Duration::from_millis(200);
/// How long an owner has to take a question before it is answered without it.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How often a signal is looked for while deferred work is done.
const TICK: Duration = Duration::from_millis(50);

/// What a command needs besides its request.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) signals: Signals,
    pub(crate) progress: Arc<dyn Progress>,
}

/// A root that this process owns until it ends.
///
/// The lock is never given back earlier: a call that outlived its deadline may still be at work on a thread of the driver's.
#[derive(Debug)]
pub(crate) struct Local {
    driver: Option<Arc<Driver>>,
    _ownership: ManuallyDrop<Ownership>,
}

/// The outcome of a request, and the root if this process owns it.
pub(crate) type Outcome = (Result<Answer, Failure>, Option<Local>);

impl Session {
    /// Carries out a request through the owner of the root, or by owning the root, whichever is possible first within `--wait`.
    pub(crate) fn run(&self, request: &Request) -> Outcome {
        if let Err(failure) = self.allowed(request) {
            return (Err(failure), None);
        }
        if let Request::Rm { ids } = request
            && ids.len() > IDS_AT_ONCE
        {
            return self.remove_many(ids);
        }
        match self.find(request) {
            Err(failure) => (Err(failure), None),
            Ok(Found::Answer(answer)) => (*answer, None),
            Ok(Found::ReadOnly) => (self.run_read_only(request), None),
            Ok(Found::Owned(ownership)) => self.own(ownership, request),
        }
    }

    fn own(&self, ownership: Ownership, request: &Request) -> Outcome {
        let mut local = Local { driver: None, _ownership: ManuallyDrop::new(ownership) };
        (self.run_here(request, &mut local), Some(local))
    }

    /// More layers than one request takes: several requests, each of which whoever owns the root by then carries out. What one of them
    /// did is never asked for again, and what became of it is told whatever happens to the next.
    fn remove_many(&self, ids: &[String]) -> Outcome {
        let mut told = RemovedSoFar::default();
        let mut left = ids;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(IDS_AT_ONCE));
            if !told.is_empty()
                && let Some(kind) = self.signals.ended()
            {
                told.not_removed(kind, left);
                break;
            }
            let result = match self.find(&Request::Rm { ids: now.to_vec() }) {
                Ok(Found::Owned(ownership)) => {
                    let (result, local) = self.own(ownership, &Request::Rm { ids: left.to_vec() });
                    return (told.add(left, result).map(|()| told.into()), local);
                }
                Ok(Found::Answer(answer)) => *answer,
                // Not allowed, so never asked for.
                Ok(Found::ReadOnly) => self.run_read_only(&Request::Rm { ids: now.to_vec() }),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = told.add(now, result) {
                return (Err(failure), None);
            }
            left = later;
        }
        (Ok(told.into()), None)
    }

    /// May it be done at all, and on such a root?
    fn allowed(&self, request: &Request) -> Result<(), Failure> {
        request.check()?;
        let root = &self.settings.root;
        if self.settings.read_only && !request.may_be_read_only() {
            return Err(Failure::usage(format!(
                "{} would write, and --read-only forbids it; leave one of them out",
                request.name()
            )));
        }
        if !request.sets_up() && holds_nothing(root) {
            return Err(nothing_here(root));
        }
        Ok(())
    }

    fn find(&self, request: &Request) -> Result<Found, Failure> {
        let Settings { root, wait, given, .. } = &self.settings;
        let end = Instant::now() + *wait;
        let mut silent = None;
        if self.settings.read_only && !request.only_looks() {
            return Ok(Found::ReadOnly);
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Some(kind) = self.signals.ended() {
                return Err(ended_early(kind, "nothing was done"));
            }
            if let Some((holder, socket)) = answering_holder(root) {
                let notice = |text: &str, warning: bool| log(text, warning);
                let ended = || self.signals.ended();
                let listener = Listener { progress: &*self.progress, notice: &notice, ended: &ended };
                // A question has another way to its answer.
                let patience = if request.only_looks() { left.min(LOOK_WITHIN) } else { left };
                match client::ask(&socket, request, given, patience.max(SLICE), &listener) {
                    Ok(answer) => return Ok(Found::Answer(Box::new(Ok(answer)))),
                    Err(NoAnswer::Failed(failure)) => return Ok(Found::Answer(Box::new(Err(failure)))),
                    Err(NoAnswer::Silent) => silent = Some(holder),
                    Err(NoAnswer::NotBegun) => {}
                }
            }
            // A check that may go deep owns the root for that; beside somebody who does not answer it looks at what can be seen.
            let owns = matches!(request, Request::Check { .. })
                && !self.settings.read_only
                && silent.is_none()
                && end > Instant::now();
            // What only looks does so beside a one-shot command, and beside a `serve` that does not answer.
            if request.only_looks()
                && !owns
                && let Some(answer) = self.look(request)?
            {
                return Ok(Found::Answer(Box::new(Ok(answer))));
            }
            if self.settings.read_only {
                return Ok(Found::ReadOnly);
            }
            if let Some(holder) = silent.take() {
                return Err(busy(root, &holder, "does not answer", *wait));
            }
            before_making(root)?;
            let left = end.saturating_duration_since(Instant::now());
            let holder = Holder::this_process(request.name(), None);
            match Ownership::acquire(root, &holder, left.min(SLICE)) {
                Ok(ownership) => return Ok(Found::Owned(ownership)),
                Err(error) if error.kind() != Kind::Busy => return Err(error.into()),
                // A running dockerd is told at once, without any wait.
                Err(_) if left > SLICE => std::thread::sleep(TICK),
                // The next turn looks without owning it.
                Err(_) if owns && request.only_looks() => {}
                Err(error) => {
                    return Err(held(root, *wait, error));
                }
            }
        }
    }

    /// The answer to a question about an active pool, without owning the root.
    fn look(&self, request: &Request) -> Result<Option<Answer>, Failure> {
        let machine = Machine::looking(&self.settings.root)?;
        let (view, notices) = View::open(&machine)?;
        let answer = match request {
            Request::Status => {
                view.status(&self.settings.options)?.map(|status| Answer::Status { status: status.into() })
            }
            Request::Check { repair, .. } => {
                let report = view.check(&self.settings.options)?;
                let report = if *repair { report.planned() } else { report };
                Some(Answer::Checked { report: report.into() })
            }
            _ => None,
        };
        if answer.is_some() {
            tell(&notices);
        }
        Ok(answer)
    }

    fn run_here(&self, request: &Request, local: &mut Local) -> Result<Answer, Failure> {
        if let Request::Check { repair, .. } = request {
            if request.only_looks() {
                return check_at_rest(&self.settings, *repair);
            }
            let machine = Machine::system(&self.settings.root)?;
            let (report, driver) = repair_root(machine, &self.settings.options, self.progress.clone())?;
            local.driver = driver.map(Arc::new);
            return Ok(Answer::Checked { report: report.into() });
        }
        let machine = Machine::system(&self.settings.root)?;
        if *request == Request::Stop {
            // A root that is at rest is not woken to be put to rest.
            let (view, _) = View::open(&machine)?;
            if view.status(&self.settings.options)?.is_none() {
                return Ok(Answer::Stopped { was_active: false, notices: Vec::new() });
            }
        }
        let (driver, notices) = Driver::open(machine, &self.settings.options, self.progress.clone())?;
        tell(&notices);
        let driver = Arc::new(driver);
        local.driver = Some(driver.clone());
        if let Some(kind) = self.signals.ended() {
            return Err(ended_early(kind, &format!("the root is ready, {} was not begun", request.name())));
        }
        let answer = execute(&driver, request, &|| self.signals.ended())?;
        if *request == Request::Stop {
            local.driver = None;
        }
        Ok(answer)
    }

    /// Brings the pool up without writing to the root, and takes it down again unless layers stay mounted.
    fn run_read_only(&self, request: &Request) -> Result<Answer, Failure> {
        let Settings { root, options, wait, .. } = &self.settings;
        let machine = Machine::system(root)?;
        let _sharing = Ownership::share(root, &machine.root.runtime, *wait)?;
        if *request == Request::Stop {
            let (view, _) = View::open(&machine)?;
            if view.status(options)?.is_none() {
                return Ok(Answer::Stopped { was_active: false, notices: Vec::new() });
            }
        }
        let (opened, notices) = ReadOnly::open(machine, options)?;
        tell(&notices);
        let answer = answer_read_only(&opened, request);
        let closed = opened.close();
        let answer = answer?;
        closed?;
        Ok(answer)
    }

    /// Gives back the blocks of removed layers before the command ends, its own and what a killed one left.
    ///
    /// That it does not succeed costs nobody anything but space, and the next owner goes on with it: a warning, no failure.
    pub(crate) fn finish(&self, local: Local) -> Result<(), Failure> {
        let Some(driver) = local.driver.clone().filter(|driver| driver.deferred() > 0) else { return Ok(()) };
        let waiting = driver.deferred();
        let (done, finished) = channel();
        let job = std::thread::Builder::new().name("work-off".into()).spawn(move || {
            // Nobody listens any more after a signal.
            let _sent = done.send(driver.work_off());
        });
        if let Err(error) = job {
            log(
                &format!(
                    "{waiting} removed layers keep their blocks until the next command: cannot start a thread: {error}"
                ),
                true,
            );
            return Ok(());
        }
        loop {
            match finished.recv_timeout(TICK) {
                Ok(Ok(done)) => {
                    tracing::info!("gave back the blocks of {done} removed layers");
                    return Ok(());
                }
                Ok(Err(error)) => {
                    log(
                        &format!(
                            "some removed layers keep their blocks for now, and the next command tries again: {error}"
                        ),
                        true,
                    );
                    return Ok(());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::other(
                        "giving back the blocks of removed layers failed inside; the next command goes on with it",
                    ));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(kind) = self.signals.ended() {
                        return Err(ended_early(
                            kind,
                            "removed layers that still have blocks are left to the next command",
                        ));
                    }
                }
            }
        }
    }
}

/// What several requests for removals came to.
#[derive(Debug, Default)]
struct RemovedSoFar {
    removed: Vec<RemovedLayer>,
    failures: Vec<LayerFailure>,
}

impl RemovedSoFar {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.failures.is_empty()
    }

    /// What became of these ids. A request that failed as a whole is a failure of each, unless it was the first one: then it is all there is to say.
    fn add(&mut self, ids: &[String], result: Result<Answer, Failure>) -> Result<(), Failure> {
        match result {
            Ok(Answer::Removed { removed, failures }) => {
                self.removed.extend(removed);
                self.failures.extend(failures);
            }
            Ok(other) => return Err(Failure::other(format!("rm was answered with {other:?}"))),
            Err(failure) if self.is_empty() => return Err(failure),
            Err(failure) => self.failures.extend(ids.iter().map(|id| LayerFailure {
                id: id.clone(),
                failure: Failure::new(failure.kind, format!("layer {id}: {failure}")),
            })),
        }
        Ok(())
    }

    /// A signal came before these ids were asked for.
    fn not_removed(&mut self, kind: FailureKind, ids: &[String]) {
        self.failures
            .extend(ids.iter().map(|id| LayerFailure { id: id.clone(), failure: not_removed(kind, id) }));
    }
}

impl From<RemovedSoFar> for Answer {
    fn from(told: RemovedSoFar) -> Self {
        Self::Removed { removed: told.removed, failures: told.failures }
    }
}

/// A check of a root that this process owns and has not opened: it stays as it is. With `planned` also what a repair would do.
pub(crate) fn check_at_rest(settings: &Settings, planned: bool) -> Result<Answer, Failure> {
    let (view, notices) = View::open(&Machine::looking(&settings.root)?)?;
    tell(&notices);
    let report = view.check_owned(&settings.options)?;
    Ok(Answer::Checked { report: if planned { report.planned() } else { report }.into() })
}

/// Where a request went.
enum Found {
    Answer(Box<Result<Answer, Failure>>),
    /// Here, without owning the root.
    ReadOnly,
    Owned(Ownership),
}

fn answer_read_only(opened: &ReadOnly, request: &Request) -> Result<Answer, Failure> {
    match request {
        Request::Status => Ok(Answer::Status { status: opened.status()?.into() }),
        Request::Check { .. } => Ok(Answer::Checked { report: opened.check()?.into() }),
        Request::Mount { id } => {
            let path = opened.mount(&known_id(id)?)?;
            Ok(Answer::Mounted { id: id.clone(), path: PathText::from(path.as_path()), uses: 1 })
        }
        Request::Umount { id, .. } => {
            let result = match opened.unmount(&known_id(id)?)? {
                PutBack::NotMounted => GivenBack::NotMounted,
                _ => GivenBack::Unmounted,
            };
            Ok(Answer::GivenBack { id: id.clone(), result, uses: 0 })
        }
        Request::Stop => {
            opened.unmount_all()?;
            Ok(Answer::Stopped { was_active: true, notices: Vec::new() })
        }
        _ => Err(Failure::usage(format!("{} would write, and --read-only forbids it", request.name()))),
    }
}

/// The owner of a root, if it answers on a socket.
pub(crate) fn answering_holder(root: &Path) -> Option<(Holder, PathBuf)> {
    match Ownership::holder(root) {
        Some(holder) => {
            let socket = holder.socket.clone()?;
            Some((holder, socket))
        }
        // The lock does not say who holds it: the disk was full. The socket has a place of its own.
        None => socket_of(root).and_then(listener),
    }
}

/// Where a `serve` on a root listens. Needs nothing that is in the root.
pub(crate) fn socket_of(root: &Path) -> Option<PathBuf> {
    Some(Root::of(root).ok()?.runtime.join(SOCKET))
}

/// Who listens on a socket; nobody does on one that a killed owner left.
fn listener(socket: PathBuf) -> Option<(Holder, PathBuf)> {
    let stream = UnixStream::connect(&socket).ok()?;
    let mut holder = Holder::this_process("serve", Some(socket.clone()));
    holder.pid = u32::try_from(getsockopt(&stream, PeerCredentials).ok()?.pid()).ok()?;
    Some((holder, socket))
}

/// The root was not to be had in time.
pub(crate) fn held(root: &Path, waited: Duration, error: Error) -> Failure {
    match Ownership::holder(root) {
        Some(holder) => busy(root, &holder, "owns it", waited),
        // dockerd, or somebody who does not say who it is.
        None => error.into(),
    }
}

/// The root is somebody else's.
pub(crate) fn busy(root: &Path, holder: &Holder, does: &str, waited: Duration) -> Failure {
    let message = format!(
        "root {} is busy: {holder} {does} (waited {:.1} s); wait for it to end, or raise --wait",
        root.display(),
        waited.as_secs_f64()
    );
    Failure::new(FailureKind::Busy, message)
}

/// Taking the lock of a root makes its folders. On a machine that can do no more than that, it is said before.
pub(crate) fn before_making(root: &Path) -> Result<(), Failure> {
    let something_else = root.exists() && !root.is_dir();
    if something_else || root.join("thinlayer").exists() {
        return Ok(());
    }
    Ok(Machine::supported()?)
}

/// Nobody has set up a root at this place. Docker's oldest layout has no `metadata` yet.
pub(crate) fn holds_nothing(root: &Path) -> bool {
    ["metadata", "devicemapper"].iter().all(|folder| matches!(root.join(folder).try_exists(), Ok(false)))
}

/// There are no layers at a place.
pub(crate) fn nothing_here(root: &Path) -> Failure {
    let what = if root.exists() { "holds no layers" } else { "does not exist" };
    Failure::new(
        FailureKind::NotFound,
        format!("root {} {what}; `thinlayer create` sets one up, --root names another", root.display()),
    )
}

/// The driver's notices, in the log.
pub(crate) fn tell(notices: &[Notice]) {
    for notice in notices {
        log(&notice.text, notice.severity == Severity::Warning);
    }
}

/// One line in the log.
pub(crate) fn log(text: &str, warning: bool) {
    if warning {
        tracing::warn!("{text}");
    } else {
        tracing::info!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// On a full disk the lock cannot say who holds it.
    #[test]
    fn who_listens_is_found_by_the_socket_alone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert!(listener(socket.clone()).is_none());
        let server = UnixListener::bind(&socket).unwrap();
        let (holder, found) = listener(socket.clone()).unwrap();
        assert_eq!(
            (holder.pid, holder.command.as_str(), found),
            (std::process::id(), "serve", socket.clone())
        );
        drop(server);
        assert!(socket.exists() && listener(socket).is_none(), "a socket that a killed owner left");
    }
}
