//! What `serve` does with requests: one driver for all of them, opened when it is needed, its deletion worker and the pool's watcher.

use crate::backend::{check_at_rest, log, tell};
use crate::config::{Settings, key, overlay};
use crate::control::protocol::{Ask, Reply};
use crate::control::server::{Client, Service};
use crate::execute::execute;
use crate::failure::{Failure, FailureKind};
use crate::request::{Answer, Request, ended_early};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thinlayer_graphdriver::{Driver, Event, Machine, Options, Progress, Severity, Stop};

/// Making the first base on a slow disk may take this long, and others wait for it.
const OPEN_WITHIN: Duration = Duration::from_secs(600);
/// How long `stop` waits for what is under way.
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// How often a request that waits looks for its client's signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a thread that ends is looked at.
const TICK: Duration = Duration::from_millis(20);

/// The service of one root.
#[derive(Debug)]
pub(crate) struct RootService {
    settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
    progress: Arc<Router>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Requests that use the driver.
    users: usize,
    /// The process ends: nothing new begins.
    ending: bool,
}

#[derive(Debug, Default)]
enum Phase {
    /// No driver is open.
    #[default]
    Closed,
    /// One is being opened.
    Opening,
    /// One is open.
    Open(Opened),
    /// It is being closed.
    Stopping,
}

#[derive(Debug)]
struct Opened {
    driver: Arc<Driver>,
    background: Background,
}

/// The threads that work beside the requests: the deletion worker and the pool's watcher.
#[derive(Debug)]
struct Background {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

/// What such a thread does until it is stopped.
type Job = fn(&Driver, &Stop);

impl Background {
    fn start(driver: &Arc<Driver>) -> Result<Self, Failure> {
        let mut background = Self { stop: Stop::default(), threads: Vec::new() };
        for (name, job) in [("deletion", Driver::run_worker as Job), ("pool", Driver::run_watcher)] {
            let (driver, stop) = (driver.clone(), background.stop.clone());
            let started = std::thread::Builder::new().name(name.into()).spawn(move || job(&driver, &stop));
            match started {
                Ok(thread) => background.threads.push(thread),
                Err(error) => {
                    background.stop.stop();
                    return Err(Failure::other(format!("cannot start the {name} thread: {error}")));
                }
            }
        }
        Ok(background)
    }

    fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Asks them to end, and waits. `false`: one is still at something.
    fn end(&self, within: Duration) -> bool {
        self.stop.stop();
        let end = Instant::now() + within;
        while !self.has_ended() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(TICK);
        }
        true
    }
}

/// The use of the driver for one request.
#[derive(Debug)]
struct Lease<'a> {
    driver: Arc<Driver>,
    service: &'a RootService,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.service.state.lock().users -= 1;
        self.service.changed.notify_all();
    }
}

impl RootService {
    /// A service whose driver is not open yet. The caller owns the root.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default(), changed: Condvar::new(), progress: Arc::default() }
    }

    /// Opens the driver now, so that what is wrong shows at the start.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        self.lease(&|| None).map(drop)
    }

    /// Lets nothing new begin, ends the threads, and waits for what is under way. What is still under way then, in words.
    pub(crate) fn end(&self, within: Duration, worker_within: Duration) -> Option<&'static str> {
        let begin = Instant::now();
        let mut state = self.state.lock();
        state.ending = true;
        self.changed.notify_all();
        loop {
            let (patience, left) = match &state.phase {
                Phase::Closed => return None,
                Phase::Open(opened) => {
                    opened.background.stop.stop();
                    if opened.background.has_ended() {
                        return None;
                    }
                    (
                        worker_within,
                        "a removed layer is still being given back, or the pool still grows; the next owner of the root goes on with it",
                    )
                }
                Phase::Opening => {
                    (within, "the root is still being opened; the next owner settles what that leaves")
                }
                Phase::Stopping => {
                    (within, "the root is still being stopped; the next owner settles what that leaves")
                }
            };
            if begin.elapsed() >= patience {
                return Some(left);
            }
            MutexGuard::unlocked(&mut state, || std::thread::sleep(TICK));
        }
    }

    /// The driver, opened if it is not. Who waits for another's opening may be `ended` by a signal.
    fn lease(&self, ended: &dyn Fn() -> Option<FailureKind>) -> Result<Lease<'_>, Failure> {
        let end = Instant::now() + OPEN_WITHIN;
        let mut state = self.state.lock();
        loop {
            if let Some(kind) = ended() {
                return Err(ended_early(kind, "nothing was done"));
            }
            if state.ending {
                return Err(self.busy("`thinlayer serve` is ending; try again, the next owner answers"));
            }
            match &state.phase {
                Phase::Open(opened) => {
                    let driver = opened.driver.clone();
                    state.users += 1;
                    return Ok(Lease { driver, service: self });
                }
                Phase::Stopping => return Err(self.busy("it is being stopped; try again in a moment")),
                Phase::Opening => {
                    if self.wait(&mut state, end) {
                        return Err(self.busy("it is still being opened"));
                    }
                }
                Phase::Closed => {
                    state.phase = Phase::Opening;
                    let opened = MutexGuard::unlocked(&mut state, || self.open_driver());
                    self.changed.notify_all();
                    match opened {
                        Ok(opened) => state.phase = Phase::Open(opened),
                        Err(failure) => {
                            state.phase = Phase::Closed;
                            return Err(failure);
                        }
                    }
                }
            }
        }
    }

    fn open_driver(&self) -> Result<Opened, Failure> {
        let machine = Machine::system(&self.settings.root)?;
        let (driver, notices) = Driver::open(machine, &self.settings.options, self.progress.clone())?;
        tell(&notices);
        Router::tell(|client| {
            for notice in &notices {
                client.tell(Reply::Notice {
                    text: notice.text.clone(),
                    warning: notice.severity == Severity::Warning,
                });
            }
        });
        let driver = Arc::new(driver);
        let background = Background::start(&driver)?;
        Ok(Opened { driver, background })
    }

    /// Repairs a root that is not open: what is wrong with it shows before it is opened. `None`: somebody has opened it meanwhile.
    fn repair_at_rest(&self) -> Option<Result<Answer, Failure>> {
        let mut state = self.state.lock();
        if state.ending || !matches!(state.phase, Phase::Closed) {
            return None;
        }
        state.phase = Phase::Opening;
        let (phase, answer) = MutexGuard::unlocked(&mut state, || match self.repair_closed() {
            Ok((phase, answer)) => (phase, Ok(answer)),
            Err(failure) => (Phase::Closed, Err(failure)),
        });
        state.phase = phase;
        self.changed.notify_all();
        Some(answer)
    }

    fn repair_closed(&self) -> Result<(Phase, Answer), Failure> {
        let machine = Machine::system(&self.settings.root)?;
        let (report, driver) =
            thinlayer_graphdriver::repair(machine, &self.settings.options, self.progress.clone())?;
        let phase = match driver.map(Arc::new) {
            Some(driver) => Phase::Open(Opened { background: Background::start(&driver)?, driver }),
            None => Phase::Closed,
        };
        Ok((phase, Answer::Checked { report: report.into() }))
    }

    /// Docker's clean-up. The process goes on owning the root; the next command that needs the driver opens it again.
    fn stop(&self, ended: &dyn Fn() -> Option<FailureKind>) -> Result<Answer, Failure> {
        let opened = self.take(ended)?;
        let Some(opened) = opened else {
            return Ok(Answer::Stopped { was_active: false, notices: Vec::new() });
        };
        let result = if opened.background.end(IDLE_WITHIN) {
            execute(&opened.driver, &Request::Stop, &|| None)
        } else {
            Err(self
                .busy("a removed layer's blocks are being given back, or the pool grows; try again later"))
        };
        // A driver that could not stop goes on; its threads have ended and are started again.
        let phase = match &result {
            Ok(_) => Phase::Closed,
            Err(_) => match Background::start(&opened.driver) {
                Ok(background) => Phase::Open(Opened { background, ..opened }),
                Err(failure) => {
                    log(&failure.message, true);
                    Phase::Closed
                }
            },
        };
        self.state.lock().phase = phase;
        self.changed.notify_all();
        result
    }

    /// Waits for a change, only shortly, since a signal may come. `true`: it is past the end, and nothing has changed.
    fn wait(&self, state: &mut MutexGuard<'_, State>, end: Instant) -> bool {
        self.changed.wait_until(state, end.min(Instant::now() + LOOK_EVERY)).timed_out()
            && Instant::now() >= end
    }

    /// The driver alone, once nobody uses it. `None`: it is not open.
    fn take(&self, ended: &dyn Fn() -> Option<FailureKind>) -> Result<Option<Opened>, Failure> {
        let end = Instant::now() + IDLE_WITHIN;
        let mut state = self.state.lock();
        loop {
            if let Some(kind) = ended() {
                return Err(ended_early(kind, "nothing was done"));
            }
            match std::mem::replace(&mut state.phase, Phase::Stopping) {
                Phase::Open(opened) => {
                    // From here on nothing new begins; what is under way may finish.
                    while state.users > 0 {
                        let late = self.wait(&mut state, end);
                        if let Some(kind) = ended() {
                            state.phase = Phase::Open(opened);
                            return Err(ended_early(kind, "nothing was done"));
                        }
                        if late && state.users > 0 {
                            let users = state.users;
                            state.phase = Phase::Open(opened);
                            return Err(
                                self.busy(&format!("{users} commands are still under way; try again later"))
                            );
                        }
                    }
                    return Ok(Some(opened));
                }
                Phase::Closed => {
                    state.phase = Phase::Closed;
                    return Ok(None);
                }
                Phase::Stopping => return Err(self.busy("it is being stopped already")),
                Phase::Opening => {
                    state.phase = Phase::Opening;
                    if self.wait(&mut state, end) {
                        return Err(self.busy("it is still being opened"));
                    }
                }
            }
        }
    }

    fn busy(&self, why: &str) -> Failure {
        Failure::new(FailureKind::Busy, format!("root {} is busy: {why}", self.settings.root.display()))
    }
}

impl Service for RootService {
    fn handle(&self, ask: &Ask, client: &Client) -> Result<Answer, Failure> {
        same_options(&self.settings, &ask.options)?;
        let _route = Router::route(client.clone());
        if ask.request == Request::Stop {
            return self.stop(&|| client.ended());
        }
        if let Request::Check { repair, .. } = ask.request
            && matches!(self.state.lock().phase, Phase::Closed)
        {
            if ask.request.only_looks() {
                // A root that is at rest is not woken to be looked at.
                return check_at_rest(&self.settings, repair);
            }
            if let Some(answer) = self.repair_at_rest() {
                return answer;
            }
        }
        let ended = || client.ended();
        let lease = self.lease(&ended)?;
        if let Some(kind) = ended() {
            return Err(ended_early(
                kind,
                &format!("the root is ready, {} was not begun", ask.request.name()),
            ));
        }
        execute(&lease.driver, &ask.request, &ended)
    }

    /// A mount whose path nobody has got is a use that nobody would give back.
    fn undelivered(&self, answer: &Answer) {
        let Answer::Mounted { id, .. } = answer else { return };
        let put = self.lease(&|| None).and_then(|lease| {
            execute(&lease.driver, &Request::Umount { id: id.clone(), all: false }, &|| None)
        });
        match put {
            Ok(_) => {
                log(&format!("the client that mounted layer {id} is gone; its use is given back"), false)
            }
            Err(failure) => log(
                &format!(
                    "the client that mounted layer {id} is gone, and its use cannot be given back: {failure}"
                ),
                true,
            ),
        }
    }
}

/// Options on a client's command line have to be the owner's: they cannot be changed under a pool that is up.
fn same_options(settings: &Settings, given: &[String]) -> Result<(), Failure> {
    let differs = |given: &[String]| -> Result<bool, Failure> {
        Ok(Options::parse(&overlay(&settings.items, given))? != settings.options)
    };
    if given.is_empty() || !differs(given)? {
        return Ok(());
    }
    let mut keys: Vec<String> = given.iter().map(|item| key(item)).collect();
    keys.dedup();
    for wanted in keys {
        let of = |items: &[String]| -> Vec<String> {
            items.iter().filter(|item| key(item) == wanted).cloned().collect()
        };
        let ours = of(given);
        // An option that only makes sense with another one is judged with all of them.
        if differs(&ours).unwrap_or(true) {
            let theirs = of(&settings.items);
            let theirs = if theirs.is_empty() { format!("no {wanted}") } else { theirs.join(", ") };
            return Err(Failure::usage(format!(
                "`thinlayer serve` owns root {} with {theirs}, and {} was given; leave it out, or restart serve with it",
                settings.root.display(),
                ours.join(", ")
            )));
        }
    }
    Err(Failure::usage(format!(
        "`thinlayer serve` owns root {} with the options {}, and {} were given; leave them out, or restart serve with them",
        settings.root.display(),
        settings.items.join(", "),
        given.join(", ")
    )))
}

thread_local! {
    /// Who is told of what this thread does.
    static TOLD: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// Brings the steps of a request to the client that asked; those of the worker to nobody.
#[derive(Debug, Default)]
struct Router;

/// While this lives, the thread's steps go to a client.
struct Route;

impl Router {
    fn route(client: Client) -> Route {
        TOLD.with(|told| *told.borrow_mut() = Some(client));
        Route
    }

    fn tell(tell: impl FnOnce(&Client)) {
        TOLD.with(|told| {
            if let Some(client) = &*told.borrow() {
                tell(client);
            }
        });
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        TOLD.with(|told| *told.borrow_mut() = None);
    }
}

impl Progress for Router {
    fn event(&self, event: Event<'_>) {
        tracing::debug!(?event, "step");
        Self::tell(|client| client.tell(Reply::step(&event)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Global;

    fn settings(items: &[&str]) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, "").unwrap();
        let storage_opts = items.iter().map(ToString::to_string).collect();
        Settings::load(&Global { storage_opts, config: Some(config), ..Global::default() }).unwrap()
    }

    fn given(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_options_are_accepted_however_they_are_written() {
        let settings = settings(&["dm.fs=xfs", "dm.basesize=1G", "dm.mkfsarg=-q", "dm.mkfsarg=-f"]);
        for items in [
            &[][..],
            &["dm.fs=xfs"],
            &["DM.BaseSize = 1024M"],
            &["dm.basesize=1G", "dm.fs=xfs"],
            &["dm.mkfsarg=-q", "dm.mkfsarg=-f"],
            &["dm.min_free_space=10%"],
        ] {
            same_options(&settings, &given(items)).unwrap();
        }
    }

    #[test]
    fn others_are_refused_with_both_values() {
        let settings = settings(&["dm.fs=xfs", "dm.basesize=1G", "dm.mkfsarg=-q"]);
        for (items, both) in [
            (&["dm.basesize=2G"][..], ["dm.basesize=1G", "dm.basesize=2G"]),
            (&["dm.fs=xfs", "dm.fs=ext4"], ["dm.fs=xfs", "dm.fs=ext4"]),
            (&["dm.blkdiscard=false"], ["no dm.blkdiscard", "dm.blkdiscard=false"]),
            (&["dm.mkfsarg=-f"], ["dm.mkfsarg=-q", "dm.mkfsarg=-f"]),
            (
                &["dm.use_deferred_removal=false"],
                ["no dm.use_deferred_removal", "dm.use_deferred_removal=false"],
            ),
        ] {
            let failure = same_options(&settings, &given(items)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            for value in both {
                assert!(failure.message.contains(value), "{value} is not in: {failure}");
            }
        }
        assert_eq!(same_options(&settings, &given(&["dm.nonsense=1"])).unwrap_err().kind, FailureKind::Usage);
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let service = RootService::new(settings(&[]));
        assert_eq!(service.end(Duration::ZERO, Duration::ZERO), None);
        assert_eq!(service.open().unwrap_err().kind, FailureKind::Busy);
    }

    #[test]
    fn at_the_end_is_told_what_is_still_under_way() {
        for (phase, word) in [(Phase::Opening, "opened"), (Phase::Stopping, "stopped")] {
            let service = RootService::new(settings(&[]));
            service.state.lock().phase = phase;
            let left = service.end(Duration::from_millis(30), Duration::ZERO).unwrap();
            assert!(left.contains(word) && !left.contains("layer"), "{left}");
            // It is waited for.
            std::thread::scope(|scope| {
                let ending = scope.spawn(|| service.end(Duration::from_secs(30), Duration::ZERO));
                std::thread::sleep(Duration::from_millis(50));
                service.state.lock().phase = Phase::Closed;
                assert_eq!(ending.join().unwrap(), None);
            });
        }
    }

    #[test]
    fn a_driver_that_does_not_open_is_tried_again_each_time() {
        let service = RootService::new(Settings { root: "/nonexistent/root".into(), ..settings(&[]) });
        for _ in 0..2 {
            service.open().unwrap_err();
            assert!(matches!(service.state.lock().phase, Phase::Closed));
        }
        assert!(matches!(service.stop(&|| None), Ok(Answer::Stopped { was_active: false, .. })));
    }
}
