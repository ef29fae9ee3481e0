//! The built program, on any machine: what needs no device-mapper, and what it says where there is none.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A pool that no machine has, so that no test makes one on a machine that has device-mapper.
const NO_POOL: &str = "--storage-opt=dm.thinpooldev=/dev/mapper/thinlayer-test-no-such-pool";

fn thinlayer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinlayer"));
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// A folder with an empty configuration, so that no test depends on the machine's.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), "").unwrap();
        Self { folder }
    }

    /// With a root as Docker leaves it: three layers, and one that we made.
    fn with_docker_records() -> Self {
        let world = Self::new();
        let metadata = world.root().join("metadata");
        std::fs::create_dir_all(&metadata).unwrap();
        let record = |id: &str, content: &str| std::fs::write(metadata.join(id), content).unwrap();
        record(
            "base",
            r#"{"device_id":1,"size":10737418240,"transaction_id":1,"initialized":true,"deleted":false}"#,
        );
        record(
            "a1b2",
            r#"{"device_id":2,"size":10737418240,"transaction_id":2,"initialized":false,"deleted":false}"#,
        );
        record(
            "a1b2-init",
            r#"{"device_id":3,"size":10737418240,"transaction_id":3,"initialized":false,"deleted":false}"#,
        );
        record(
            "web",
            r#"{"device_id":5,"size":21474836480,"transaction_id":5,"initialized":false,"deleted":false,"thinlayer":{"version":1,"parent":"a1b2","filesystem":"xfs","created_ns":1738324800000000000}}"#,
        );
        record(
            "gone",
            r#"{"device_id":4,"size":10737418240,"transaction_id":4,"initialized":false,"deleted":true}"#,
        );
        record(
            "deviceset-metadata",
            r#"{"next_device_id":0,"BaseDeviceUUID":"u","BaseDeviceFilesystem":"ext4"}"#,
        );
        record("transaction-metadata", r#"{"open_transaction_id":5,"device_hash":"web","device_id":5}"#);
        world
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = thinlayer();
        command
            .arg("--root")
            .arg(self.root())
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn refused(&self, words: &[&str], code: i32) -> String {
        refused(&self.run(words), code)
    }

    /// Holds the root's lock as another process would.
    fn held_by(&self, holder: Value) -> File {
        let folder = self.root().join("thinlayer");
        std::fs::create_dir_all(&folder).unwrap();
        let mut lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        lock.write_all(holder.to_string().as_bytes()).unwrap();
        lock
    }
}

fn stdout(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The one line of a failure; nothing is on standard output.
fn refused(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("thinlayer: "), "{text}");
    lines[0].to_owned()
}

fn has_device_mapper() -> bool {
    std::fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"))
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn version_and_help_go_to_standard_output() {
    for words in [&["--version"][..], &["-V"]] {
        let output = thinlayer().args(words).output().unwrap();
        assert_eq!(stdout(&output), format!("thinlayer {}\n", env!("CARGO_PKG_VERSION")));
    }
    let output = thinlayer().args(["create", "--help"]).output().unwrap();
    assert!(stdout(&output).contains("thinlayer create --parent base1 web"));
}

#[test]
fn without_device_mapper_the_answer_is_clear() {
    let world = World::with_docker_records();
    let before = files(&world.root());
    for words in [
        &["create", "x", NO_POOL][..],
        &["mount", "web", NO_POOL],
        &["rm", "web", NO_POOL],
        &["serve", NO_POOL],
        &["stop", NO_POOL],
        &["status", NO_POOL],
        &["check", NO_POOL],
    ] {
        let output = world.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if has_device_mapper() {
            assert!(!output.status.success() || words[0] == "stop", "{words:?}: {output:?}");
        } else {
            assert_eq!(output.status.code(), Some(8), "{words:?}: {said}");
        }
        assert!(output.stdout.is_empty() && said.lines().count() <= 1, "{words:?}: {output:?}");
        assert!(!said.contains("panicked"));
    }
    let output = world.run(&["create", "x", NO_POOL, "--json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let object: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(said.lines().next().unwrap().contains(object["error"]["message"].as_str().unwrap()));
    if !has_device_mapper() {
        assert_eq!(object["error"]["kind"], "unsupported");
        assert_eq!(files(&world.root()), before, "something was made although nothing can be done");
        let fresh = World::new();
        for words in [&["create", "x"][..], &["serve"]] {
            fresh.refused(words, 8);
            assert!(!fresh.root().exists(), "{words:?}");
        }
    }
}

#[test]
fn ls_shows_the_layers_that_docker_left() {
    let world = World::with_docker_records();
    let before = files(&world.root());
    let text = world.run(&["ls"]);
    assert_eq!(
        stdout(&text),
        "ID         PARENT  SIZE     FS    CREATED               MOUNTED\n\
         a1b2       ?       10.74GB  ext4  ?                     -\n\
         a1b2-init  ?       10.74GB  ext4  ?                     -\n\
         web        a1b2    21.47GB  xfs   2025-01-31T12:00:00Z  -\n"
    );
    let layers: Value = serde_json::from_str(stdout(&world.run(&["--json", "ls"]))).unwrap();
    let ids: Vec<_> = layers.as_array().unwrap().iter().map(|layer| layer["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a1b2", "a1b2-init", "web"]);
    assert_eq!(layers[0]["parent_state"], "unknown");
    assert_eq!((&layers[2]["parent"], &layers[2]["device_id"]), (&json!("a1b2"), &json!(5)));
    assert_eq!(files(&world.root()), before, "looking has changed something");
}

#[test]
fn tree_inspect_and_exists_look_too() {
    let world = World::with_docker_records();
    let before = files(&world.root());
    let drawn = world.run(&["tree"]);
    assert_eq!(
        stdout(&drawn),
        "(parent unknown)\n├── a1b2 (10.74GB)\n│   └── web (21.47GB)\n└── a1b2-init (10.74GB)\n"
    );
    let ascii = world.command(&["tree"]).env("LC_ALL", "C").output().unwrap();
    assert!(stdout(&ascii).is_ascii() && stdout(&ascii).contains("`-- a1b2-init"));
    let nodes: Value = serde_json::from_str(stdout(&world.run(&["tree", "--json"]))).unwrap();
    assert_eq!(nodes[1]["standing"], "on-parent");

    let layer: Value = serde_json::from_str(stdout(&world.run(&["inspect", "--json", "web"]))).unwrap();
    assert_eq!((&layer["DeviceId"], &layer["DeviceSize"]), (&json!("5"), &json!("21474836480")));
    assert!(layer["DeviceName"].as_str().unwrap().ends_with("-web"));
    assert!(stdout(&world.run(&["inspect", "a1b2"])).contains("DeviceId: 2\n"));
    world.refused(&["inspect", "nobody"], 3);
    // Removed, only its blocks are not given back yet.
    world.refused(&["inspect", "gone"], 3);

    assert_eq!(stdout(&world.run(&["exists", "web"])), "");
    for absent in ["nobody", "gone"] {
        let output = world.run(&["exists", absent]);
        assert_eq!(
            (output.status.code(), output.stdout.len(), output.stderr.len()),
            (Some(1), 0, 0),
            "{output:?}"
        );
    }
    let output = world.run(&["exists", "--json", "nobody"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), answer), (Some(1), json!({ "id": "nobody", "exists": false })));
    assert_eq!(files(&world.root()), before, "looking has changed something");
}

#[test]
fn a_damaged_record_hides_no_other_layer() {
    let world = World::with_docker_records();
    std::fs::write(world.root().join("metadata/torn"), r#"{"device_id":9,"si"#).unwrap();
    std::fs::write(world.root().join("metadata/.stray"), "stray").unwrap();
    std::fs::create_dir(world.root().join("metadata/folder")).unwrap();
    let before = files(&world.root());
    let output = world.run(&["ls"]);
    assert!(stdout(&output).contains("web") && !stdout(&output).contains("torn"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("thinlayer: warning: ") && said.contains("torn"), "{said}");
    assert!(stdout(&world.run(&["inspect", "web"])).contains("Id: web"));
    let output = world.run(&["inspect", "torn", "--log-level", "error"]);
    assert!(refused(&output, 7).contains("torn"));
    assert_eq!(files(&world.root()), before, "looking has changed something");
}

#[test]
fn what_makes_no_sense_is_a_usage_error_and_touches_nothing() {
    let world = World::new();
    let long = "x".repeat(300);
    for (words, part) in [
        (&["create", "a/b"][..], "a/b"),
        (&["create", "base"], "base"),
        (&["create", ""], "empty"),
        (&["create", &long], "300 bytes"),
        (&["create", "x", "--parent", "a/b"], "a/b"),
        (&["create", "x", "--size", "10Q"], "10Q"),
        (&["create", "x", "--size", "0"], "zero"),
        (&["resize", "x", "10Q"], "10Q"),
        (&["rm", "x", "base"], "base"),
        (&["mount", &long], "300 bytes"),
        (&["inspect", "a/b"], "a/b"),
        (&["exists", "base"], "base"),
        (&["create", "x", "--storage-opt", "dm.nonsense=1"], "dm.nonsense"),
        (&["create", "x", "--storage-opt", "dm.thinp_percent=95"], "dm.directlvm_device"),
        (&["ls", "--storage-opt", "dm.basesize=10Q"], "10Q"),
        (&["ls", "--storage-opt", "size"], "size"),
        (&["create", "x", "--read-only"], "--read-only"),
        (&["serve", "--read-only"], "--read-only"),
        (&["diff", "x"], "diff"),
        (&["check", "--dry-run"], "--repair"),
        (&["check", "--repair", "--read-only"], "--read-only"),
        (&["ls", "--root", ""], "root"),
    ] {
        let said = world.refused(words, 2);
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!world.root().exists());
}

#[test]
fn a_root_that_nobody_has_set_up_is_not_found_and_not_made() {
    let world = World::new();
    for words in [
        &["ls"][..],
        &["tree"],
        &["inspect", "x"],
        &["exists", "x"],
        &["status"],
        &["check"],
        &["stop"],
        &["mount", "x"],
        &["umount", "x"],
        &["rm", "x"],
        &["resize", "x", "1G"],
    ] {
        let said = world.refused(words, 3);
        assert!(said.contains("does not exist"), "{said}");
    }
    assert!(!world.root().exists());
    std::fs::create_dir(world.root()).unwrap();
    assert!(world.refused(&["ls"], 3).contains("holds no layers"));
    assert_eq!(files(&world.root()), []);
}

#[test]
fn a_file_is_no_root() {
    let world = World::new();
    std::fs::write(world.root(), "").unwrap();
    world.refused(&["create", "x", NO_POOL], 9);
    let output = world.run(&["ls"]);
    assert!(!output.status.success());
    refused(&output, output.status.code().unwrap());
}

#[test]
fn the_configuration_file_names_its_mistakes() {
    let world = World::with_docker_records();
    let config = world.folder.path().join("config.toml");
    std::fs::write(&config, "wait = 1\ncolour = \"red\"\n").unwrap();
    let said = world.refused(&["ls"], 2);
    assert!(said.contains("config.toml line 2") && said.contains("colour"), "{said}");
    std::fs::write(&config, format!("root = {:?}\n", world.root())).unwrap();
    let output = thinlayer().arg("ls").arg("--config").arg(&config).output().unwrap();
    assert!(stdout(&output).contains("a1b2"));
}

/// `ls | head`: the reader goes away.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::with_docker_records();
    for id in 0..2000 {
        let record = format!(
            r#"{{"device_id":{},"size":1,"transaction_id":1,"initialized":false,"deleted":false}}"#,
            id + 10
        );
        std::fs::write(world.root().join(format!("metadata/{}-{id}", "l".repeat(60))), record).unwrap();
    }
    for words in [&["ls"][..], &["ls", "--json"], &["tree"]] {
        let mut child = world.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let world = World::with_docker_records();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = world.command(&["ls"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert!(refused(&output, 9).contains("standard output"));
}

#[test]
fn a_root_that_is_held_too_long_is_busy_and_its_holder_is_named() {
    let world = World::new();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "create" }));
    let begin = Instant::now();
    let said = world.refused(&["create", "x", "--wait", "0.5", NO_POOL], 5);
    assert!(said.contains("thinlayer create (pid 4711)") && said.contains("--wait"), "{said}");
    assert!(begin.elapsed() >= Duration::from_millis(500));
    let said = world.refused(&["serve", "--wait", "0", NO_POOL], 5);
    assert!(said.contains("pid 4711"), "{said}");
}

#[test]
fn a_second_serve_does_not_wait_for_one_that_answers() {
    let world = World::new();
    let socket = world.folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let begin = Instant::now();
    let said = world.refused(&["serve", "--wait", "60", NO_POOL], 5);
    assert!(said.contains("thinlayer serve (pid 4711)"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn wait_for_line(child: &mut Child, part: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains(part)), "no line with {part}");
}

#[test]
fn signals_end_a_command_that_waits() {
    let world = World::new();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "create" }));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = world
            .command(&["create", "x", "--wait", "60", "--log-level", "debug", NO_POOL])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_line(&mut child, "begin");
        // The handlers are in place right after that line.
        std::thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn signals_end_a_serve_that_waits() {
    let world = World::new();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "create" }));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = world
            .command(&["serve", "--wait", "3600", "--log-level", "debug", NO_POOL])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_line(&mut child, "begin");
        // The handlers are in place right after that line.
        std::thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                child.kill().unwrap();
                panic!("the signal has no effect");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the root was not taken"), "{output:?}");
    }
}

/// The next client; one that does not come is a failure.
fn next_client(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "nobody asks: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Plays an owner that answers each connection with these lines, and gives back what it was asked.
fn play_owner(listener: &UnixListener, replies: &[Value]) -> Value {
    let stream = next_client(listener);
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    for reply in replies {
        writeln!(&stream, "{reply}").unwrap();
    }
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_command_works_through_the_owner() {
    let world = World::with_docker_records();
    let socket = world.folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let accepted = json!({ "reply": "accepted", "version": 1 });
    let play = |words: &[&str], replies: &[Value]| {
        std::thread::scope(|scope| {
            let owner = scope.spawn(|| play_owner(&listener, replies));
            let output = world.run(words);
            (owner.join().unwrap(), output)
        })
    };

    let mounted = json!({ "reply": "done", "answer": { "answer": "mounted", "id": "web", "path": "/r/mnt/web/rootfs", "uses": 2 } });
    let replies = [
        accepted.clone(),
        json!({ "reply": "step", "what": "thinking", "state": "started" }),
        json!({ "reply": "alive" }),
        mounted,
    ];
    let (asked, output) = play(&["mount", "web"], &replies);
    assert_eq!(asked, json!({ "version": 1, "options": [], "request": { "command": "mount", "id": "web" } }));
    assert_eq!(stdout(&output), "/r/mnt/web/rootfs\n");
    assert!(output.stderr.is_empty(), "{output:?}");

    let busy = json!({ "reply": "failed", "failure": { "kind": "busy", "message": "layer web is busy" } });
    let (asked, output) =
        play(&["umount", "--all", "web", "--storage-opt", "dm.fs=xfs"], &[accepted.clone(), busy]);
    assert_eq!(asked["options"], json!(["dm.fs=xfs"]));
    assert_eq!(refused(&output, 5), "thinlayer: layer web is busy");

    let partly = json!({ "reply": "done", "answer": {
        "answer": "removed",
        "removed": [{ "id": "b", "deferred": true }],
        "failures": [{ "id": "a", "kind": "not-found", "message": "no layer a" }, { "id": "c", "kind": "busy", "message": "c is busy" }],
    } });
    let (_, output) = play(&["rm", "a", "b", "c"], &[accepted.clone(), partly]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "thinlayer: no layer a\nthinlayer: c is busy\n");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));

    // An owner that goes away in the middle: nobody knows what became of the request.
    let (_, output) = play(&["create", "new"], std::slice::from_ref(&accepted));
    assert!(refused(&output, 9).contains("ended before it answered"));
    let (_, output) = play(&["create", "new"], &[json!("nonsense")]);
    refused(&output, 9);
}

/// What an owner answers to these ids.
type Replies = fn(&[Value]) -> Vec<Value>;

/// Plays the owner for an `rm` of 2500 layers, one connection after the other; an answer is made from the ids that are asked for.
fn remove_many(answers: &[Replies]) -> (Vec<Vec<Value>>, Output) {
    let world = World::with_docker_records();
    let socket = world.folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let ids: Vec<String> = (0..2500).map(|n| format!("layer-{n}")).collect();
    let mut words = vec!["--json", "rm"];
    words.extend(ids.iter().map(String::as_str));
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| {
            let mut asked = Vec::new();
            for answer in answers {
                let stream = next_client(&listener);
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let ask: Value = serde_json::from_str(&line).unwrap();
                let ids = ask["request"]["ids"].as_array().unwrap().clone();
                for reply in answer(&ids) {
                    writeln!(&stream, "{reply}").unwrap();
                }
                asked.push(ids);
            }
            asked
        });
        let output = world.run(&words);
        (owner.join().unwrap(), output)
    })
}

fn all_removed(ids: &[Value]) -> Vec<Value> {
    let removed: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "deferred": false })).collect();
    vec![
        json!({ "reply": "accepted", "version": 1 }),
        json!({ "reply": "done", "answer": { "answer": "removed", "removed": removed, "failures": [] } }),
    ]
}

/// What was answered is not asked for again: the ids are gone, and would come back as not found.
#[test]
fn many_layers_go_in_several_requests_each_of_them_once() {
    let full: Replies = |_| vec![json!({ "reply": "full" })];
    let gone: Replies = |_| vec![];
    for between in [full, gone] {
        let (asked, output) = remove_many(&[all_removed, between, all_removed, all_removed]);
        let lengths: Vec<usize> = asked.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1000, 1000, 1000, 500]);
        assert_eq!((&asked[1], &asked[3][0]), (&asked[2], &json!("layer-2000")));
        let answer: Value = serde_json::from_str(stdout(&output)).unwrap();
        assert_eq!(answer["removed"].as_array().unwrap().len(), 2500);
    }
}

#[test]
fn an_owner_that_is_lost_on_the_way_loses_no_answer() {
    let lost: Replies = |_| vec![json!({ "reply": "accepted", "version": 1 })];
    let (asked, output) = remove_many(&[all_removed, lost, all_removed]);
    assert_eq!(asked[2].len(), 500);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(9), 0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1001);
    let first = said.lines().next().unwrap();
    assert!(first.contains("layer layer-1000: ") && first.contains("ended before it answered"), "{first}");
    let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(told["removed"].as_array().unwrap().len(), 1500);
}

#[test]
fn an_owner_that_never_answers_is_busy() {
    let world = World::with_docker_records();
    let socket = world.folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let _lock = world.held_by(json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let said = world.refused(&["rm", "web", "--wait", "0.3"], 5);
    assert!(said.contains("pid 4711") && said.contains("does not answer"), "{said}");
    // What only looks does not need it.
    assert!(stdout(&world.run(&["ls"])).contains("web"));
}
