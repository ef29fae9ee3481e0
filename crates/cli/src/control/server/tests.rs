use super::*;
use crate::control::client::{self, Listener, NoAnswer};
use crate::facts::{PathText, samples};
use crate::request::Request;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use thinlayer_graphdriver::{Event, Progress, Silent};

/// Answers without a driver. `mount slow` takes until it is let go, `umount boom` panics.
#[derive(Debug, Default)]
struct Fake {
    go: AtomicBool,
    waiting: AtomicUsize,
    undelivered: Mutex<Vec<Answer>>,
}

impl Service for Fake {
    fn handle(&self, ask: &Ask, client: &Client) -> Result<Answer, Failure> {
        match &ask.request {
            Request::Mount { id } => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let end = Instant::now() + Duration::from_secs(20);
                while id == "slow" && !self.go.load(Ordering::SeqCst) && Instant::now() < end {
                    client.tell(Reply::step(&Event::Amount { what: "turning", done: 1, total: 2 }));
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(Answer::Mounted { id: id.clone(), path: PathText::Text("/x".into()), uses: 1 })
            }
            Request::Umount { .. } => panic!("boom"),
            Request::Status => {
                client.tell(Reply::Notice { text: "look".into(), warning: true });
                Ok(Answer::Status { status: samples::status() })
            }
            Request::Rm { ids } => {
                let (mut removed, mut failures) = (Vec::new(), Vec::new());
                for id in ids.iter().cloned() {
                    match client.ended() {
                        Some(kind) => {
                            let failure = crate::execute::not_removed(kind, &id);
                            failures.push(crate::request::LayerFailure { id, failure });
                        }
                        None => {
                            self.waiting.fetch_add(1, Ordering::SeqCst);
                            // More than the channel to the client holds.
                            for done in 0..20 {
                                client.tell(Reply::step(&Event::Amount {
                                    what: "removing",
                                    done,
                                    total: 20,
                                }));
                            }
                            std::thread::sleep(Duration::from_millis(10));
                            removed.push(crate::request::RemovedLayer { id, deferred: false });
                        }
                    }
                }
                Ok(Answer::Removed { removed, failures })
            }
            _ => Err(Failure::new(FailureKind::NoSpace, "full")),
        }
    }

    fn undelivered(&self, answer: &Answer) {
        self.undelivered.lock().push(answer.clone());
    }
}

struct World {
    folder: tempfile::TempDir,
    fake: Arc<Fake>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Server>>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::bind(&folder.path().join("s"), limits).unwrap();
        let fake = Arc::new(Fake::default());
        let end = Arc::new(AtomicBool::new(false));
        let (service, stop): (Arc<dyn Service>, _) = (fake.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                server.accept(&service);
                std::thread::sleep(Duration::from_millis(1));
            }
            server
        });
        Self { folder, fake, end, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn server(&mut self) -> Server {
        self.end.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }

    fn ask(&self, request: &Request) -> Result<Answer, NoAnswer> {
        self.ask_told(request, &Silent, &|_, _| {}, &|| None)
    }

    fn ask_told(
        &self,
        request: &Request,
        progress: &dyn Progress,
        notice: &dyn Fn(&str, bool),
        ended: &dyn Fn() -> Option<FailureKind>,
    ) -> Result<Answer, NoAnswer> {
        client::ask(
            &self.socket(),
            request,
            &[],
            Duration::from_secs(10),
            &Listener { progress, notice, ended },
        )
    }

    /// Sends bytes as they are, and reads to the end.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The server may close before it has read all.
        let _sent = stream.write_all(bytes);
        let mut said = String::new();
        let _read = stream.read_to_string(&mut said);
        said
    }
}

fn slow() -> Request {
    Request::Mount { id: "slow".into() }
}

fn wait_for(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < end, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Debug, Default)]
struct Steps(Mutex<Vec<String>>);

impl Progress for Steps {
    fn event(&self, event: Event<'_>) {
        self.0.lock().push(format!("{event:?}"));
    }
}

#[test]
fn the_socket_is_closed_to_others_and_goes_with_the_server() {
    let mut world = World::new(Limits::default());
    let mode = std::fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(world.server().close(Duration::ZERO));
    assert!(!world.socket().exists());
    assert!(matches!(world.ask(&Request::Status), Err(NoAnswer::NotBegun)));
}

#[test]
fn a_socket_that_an_ended_owner_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path, Limits::default()).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
    drop(server);
}

#[test]
fn answers_failures_and_notices_reach_the_client() {
    let world = World::new(Limits::default());
    let noticed = Mutex::new(Vec::new());
    let answer = world
        .ask_told(
            &Request::Status,
            &Silent,
            &|text, warning| noticed.lock().push((text.to_owned(), warning)),
            &|| None,
        )
        .unwrap();
    assert_eq!(answer, Answer::Status { status: samples::status() });
    assert_eq!(*noticed.lock(), [("look".to_owned(), true)]);
    let Err(NoAnswer::Failed(failure)) = world.ask(&Request::Stop) else { panic!() };
    assert_eq!(failure, Failure::new(FailureKind::NoSpace, "full"));
}

#[test]
fn progress_comes_while_it_happens() {
    let world = World::new(Limits::default());
    let steps = Steps::default();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask_told(&slow(), &steps, &|_, _| {}, &|| None).unwrap());
        wait_for(|| steps.0.lock().iter().any(|step| step.contains("turning")));
        assert!(!asked.is_finished());
        world.fake.go.store(true, Ordering::SeqCst);
    });
}

#[test]
fn garbage_is_answered_and_hurts_nobody() {
    let world = World::new(Limits {
        request_bytes: 1000,
        request_within: Duration::from_millis(200),
        ..Limits::default()
    });
    assert!(world.raw(b"hello\n").contains("\"failed\""));
    assert!(world.raw(b"\xff\xfe\x00\n").contains("\"usage\""));
    assert!(world.raw(b"{\"version\":9}\n").contains("version 9"));
    assert!(world.raw(&[b'x'; 5000]).contains("longer than 1000 bytes"));
    assert!(world.raw(b"{\"version\":1,").contains("no request came within"));
    assert!(matches!(world.ask(&Request::Status), Ok(Answer::Status { .. })));
}

#[test]
fn a_slow_client_does_not_hold_up_another() {
    let world = World::new(Limits::default());
    let idle = UnixStream::connect(world.socket()).unwrap();
    let mut deaf = UnixStream::connect(world.socket()).unwrap();
    deaf.write_all(&to_line(&Ask { version: VERSION, options: vec![], request: slow() })).unwrap();
    wait_for(|| world.fake.waiting.load(Ordering::SeqCst) == 1);
    assert!(matches!(world.ask(&Request::Status), Ok(Answer::Status { .. })));
    world.fake.go.store(true, Ordering::SeqCst);
    drop((idle, deaf));
}

#[test]
fn too_many_connections_are_turned_away_and_may_come_again() {
    let world = World::new(Limits { connections: 2, ..Limits::default() });
    let held: Vec<_> = (0..2).map(|_| UnixStream::connect(world.socket()).unwrap()).collect();
    wait_for(|| matches!(world.ask(&Request::Status), Err(NoAnswer::NotBegun)));
    drop(held);
    wait_for(|| world.ask(&Request::Status).is_ok());
}

#[test]
fn an_answer_that_nobody_takes_is_taken_back() {
    let world = World::new(Limits { alive_every: Duration::from_millis(5), ..Limits::default() });
    let mut gone = UnixStream::connect(world.socket()).unwrap();
    gone.write_all(&to_line(&Ask { version: VERSION, options: vec![], request: slow() })).unwrap();
    wait_for(|| world.fake.waiting.load(Ordering::SeqCst) == 1);
    drop(gone);
    // The work goes on all the same.
    std::thread::sleep(Duration::from_millis(50));
    assert!(world.fake.undelivered.lock().is_empty());
    world.fake.go.store(true, Ordering::SeqCst);
    wait_for(|| world.fake.undelivered.lock().len() == 1);
}

/// What a client hears that gets a signal once the work has begun.
fn signalled(
    world: &World,
    request: &Request,
    begun: usize,
    then: impl FnOnce(),
) -> Result<Answer, NoAnswer> {
    let signal = AtomicBool::new(false);
    let ended = || signal.load(Ordering::SeqCst).then_some(FailureKind::Terminated);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask_told(request, &Silent, &|_, _| {}, &ended));
        wait_for(|| world.fake.waiting.load(Ordering::SeqCst) >= begun);
        signal.store(true, Ordering::SeqCst);
        then();
        asked.join().unwrap()
    })
}

#[test]
fn a_signal_leaves_the_rest_of_a_request_and_the_answer_says_which() {
    let world = World::new(Limits::default());
    let ids: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let answer = signalled(&world, &Request::Rm { ids: ids.clone() }, 3, || {}).unwrap();
    assert_eq!(answer.code(), 143);
    let Answer::Removed { removed, failures } = answer else { panic!() };
    assert!(removed.len() >= 3 && removed.len() < 900, "{} are removed", removed.len());
    let told = removed.iter().map(|layer| &layer.id).chain(failures.iter().map(|layer| &layer.id));
    assert!(told.eq(&ids));
    assert!(failures[0].failure.message.contains("is not removed"), "{:?}", failures[0]);
}

#[test]
fn a_signal_lets_the_step_under_way_finish() {
    let world = World::new(Limits::default());
    let answer = signalled(&world, &slow(), 1, || {
        std::thread::sleep(Duration::from_millis(300));
        assert!(world.fake.undelivered.lock().is_empty());
        world.fake.go.store(true, Ordering::SeqCst);
    });
    assert!(matches!(answer, Ok(Answer::Mounted { .. })), "{answer:?}");
    assert!(world.fake.undelivered.lock().is_empty());
}

#[test]
fn a_signal_ends_the_wait_for_a_server_that_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let tell = Listener { progress: &Silent, notice: &|_, _| {}, ended: &|| Some(FailureKind::Interrupted) };
    let begin = Instant::now();
    let asked = client::ask(&path, &slow(), &[], Duration::from_secs(60), &tell);
    let Err(NoAnswer::Failed(failure)) = asked else { panic!("{asked:?}") };
    assert!(failure.kind.code() == 130 && failure.message.contains("nothing was done"), "{failure}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_failure_inside_is_an_answer_too() {
    let world = World::new(Limits::default());
    let Err(NoAnswer::Failed(failure)) = world.ask(&Request::Umount { id: "boom".into(), all: false }) else {
        panic!()
    };
    assert!(failure.kind == FailureKind::Other && failure.message.contains("umount"), "{failure}");
    assert!(world.ask(&Request::Status).is_ok());
}

#[test]
fn closing_waits_for_what_is_under_way() {
    let mut world = World::new(Limits::default());
    let socket = world.socket();
    let client = std::thread::spawn(move || {
        let listener = Listener { progress: &Silent, notice: &|_, _| {}, ended: &|| None };
        client::ask(&socket, &slow(), &[], Duration::from_secs(10), &listener)
    });
    wait_for(|| world.fake.waiting.load(Ordering::SeqCst) == 1);
    let server = world.server();
    let fake = world.fake.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        fake.go.store(true, Ordering::SeqCst);
    });
    assert!(server.close(Duration::from_secs(20)));
    later.join().unwrap();
    assert!(matches!(client.join().unwrap(), Ok(Answer::Mounted { .. })));
}

#[test]
fn closing_has_a_deadline() {
    let mut world = World::new(Limits::default());
    let _held = UnixStream::connect(world.socket()).unwrap();
    // Clients are taken in order: this one's answer says that the first has been taken.
    assert!(world.ask(&Request::Status).is_ok());
    let server = world.server();
    assert!(!server.close(Duration::from_millis(20)));
}

#[test]
fn a_server_that_does_not_take_the_request_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let tell = Listener { progress: &Silent, notice: &|_, _| {}, ended: &|| None };
    let asked = client::ask(&path, &Request::Status, &[], Duration::from_millis(50), &tell);
    assert!(matches!(asked, Err(NoAnswer::Silent)), "{asked:?}");
    drop(listener);
}
