//! The built program beside an owner of the root, which the test plays.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod world;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use world::{NO_POOL, World, refused, stdout};

/// Holds the root's lock as another process would.
fn held_by(world: &World, holder: &Value) -> File {
    let folder = world.root().join("thinlayer");
    std::fs::create_dir_all(&folder).unwrap();
    let mut lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    lock.write_all(holder.to_string().as_bytes()).unwrap();
    lock
}

#[test]
fn a_root_that_is_held_too_long_is_busy_and_its_holder_is_named() {
    let world = World::new();
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "create" }));
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
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let begin = Instant::now();
    let said = world.refused(&["serve", "--wait", "60", NO_POOL], 5);
    assert!(said.contains("thinlayer serve (pid 4711)"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn wait_for_line(child: &mut Child, part: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains(part)), "no line with {part}");
}

/// A program that waits for the root, and gets a signal while it does.
fn signalled(world: &World, words: &[&str], signal: Signal) -> Child {
    let mut child = world.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_line(&mut child, "begin");
    // The handlers are in place right after that line.
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    child
}

#[test]
fn signals_end_a_command_that_waits() {
    let world = World::new();
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "create" }));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let child =
            signalled(&world, &["create", "x", "--wait", "60", "--log-level", "debug", NO_POOL], signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn signals_end_a_serve_that_waits() {
    let world = World::new();
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "create" }));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child =
            signalled(&world, &["serve", "--wait", "3600", "--log-level", "debug", NO_POOL], signal);
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
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "serve", "socket": socket }));
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
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "serve", "socket": socket }));
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
    let _lock = held_by(&world, &json!({ "pid": 4711, "command": "serve", "socket": socket }));
    let said = world.refused(&["rm", "web", "--wait", "0.3"], 5);
    assert!(said.contains("pid 4711") && said.contains("does not answer"), "{said}");
    // What only looks does not need it.
    assert!(stdout(&world.run(&["ls"])).contains("web"));
}
