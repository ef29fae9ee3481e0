use super::*;
use proptest::prelude::*;
use std::sync::Mutex;

fn sh(script: &str, deadline: Duration, alive: Alive<'_>) -> Ended {
    run(Path::new("/bin/sh"), &["-c".into(), script.into()], deadline, alive).unwrap()
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn exit_code_and_both_outputs_in_their_order() {
    let Ended::Exited(status, said) = sh("echo one; echo two >&2; echo three; exit 3", LONG, &|_| {}) else {
        panic!()
    };
    assert_eq!(status.code(), Some(3));
    assert_eq!(said, "one; two; three");
}

#[test]
fn input_is_empty_and_the_locale_plain() {
    let Ended::Exited(status, said) = sh("cat; echo $LC_ALL; pwd", LONG, &|_| {}) else { panic!() };
    assert!(status.success());
    assert_eq!(said, "C; /");
}

#[test]
fn only_the_beginning_and_the_end_of_much_output_are_kept() {
    let script = "echo mkfs: invalid option; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let Ended::Exited(_, said) = sh(script, LONG, &|_| {}) else { panic!() };
    assert!(said.starts_with("mkfs: invalid option; [...]; line 1"), "{said}");
    assert!(said.ends_with("line 19998; line 19999"), "{said}");
    assert!(said.len() < 200, "{said}");
}

#[test]
fn at_the_deadline_it_goes_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids");
    let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; echo waiting; wait", ids.display());
    let start = Instant::now();
    let Ended::Killed(said) = sh(&script, Duration::from_millis(700), &|_| {}) else { panic!() };
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(said, "waiting");
    let child = std::fs::read_to_string(&ids).unwrap();
    // Killed, though perhaps not collected yet by whoever inherited it.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        if status.is_empty() || status.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_caller_hears_that_it_is_alive() {
    let heard = Mutex::new(Vec::new());
    let ended = sh("sleep 2.5", LONG, &|spent| heard.lock().unwrap().push(spent));
    assert!(matches!(ended, Ended::Exited(..)));
    let heard = heard.into_inner().unwrap();
    assert!((1..=3).contains(&heard.len()), "{heard:?}");
    assert!(heard[0] >= BEAT && heard.is_sorted(), "{heard:?}");
}

#[test]
fn one_that_prints_without_end_is_still_killed() {
    let start = Instant::now();
    let ended = sh("yes", Duration::from_millis(300), &|_| {});
    assert!(matches!(ended, Ended::Killed(_)), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn output_left_open_by_a_grandchild_or_closed_early_holds_nobody() {
    let start = Instant::now();
    let Ended::Exited(_, said) = sh("sleep 5 & echo done", LONG, &|_| {}) else { panic!() };
    assert_eq!(said, "done");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let Ended::Exited(status, _) = sh("exec >&- 2>&-; sleep 0.3; exit 4", LONG, &|_| {}) else { panic!() };
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_program_that_is_none_is_an_error() {
    assert!(run(Path::new("/nonexistent/mkfs"), &[], LONG, &|_| {}).is_err());
}

#[test]
fn found_on_the_search_path_before_the_usual_folders() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("sh");
    std::fs::write(&fake, "#!/bin/true\n").unwrap();
    // Not executable: not a program.
    assert_ne!(find("sh", Some(folder.path().as_os_str())), Some(fake.clone()));
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(find("sh", Some(folder.path().as_os_str())), Some(fake));
    assert!(find("sh", None).unwrap().is_absolute());
    assert!(find("sh", Some(OsStr::new(".::relative"))).unwrap().is_absolute());
    assert_eq!(find("mkfs.surely-not-there", None), None);
}

#[test]
fn progress_is_read_as_a_terminal_would_show_it() {
    assert_eq!(
        in_one_line(b"tables: 0/8\x08\x08\x081/8\x08\x08\x08done\n\n\tx\x1b[1my\n"),
        "tables: done; x[1my"
    );
    assert_eq!(in_one_line(b"a\nb\nc\nd\ne\nf"), "a; b; c; d; e; f");
    assert_eq!(in_one_line(b""), "");
    assert_eq!(in_one_line(b"a\nb\nc\nd\ne\nf\ng\nh"), "a; [...]; d; e; f; g; h");
}

proptest! {
    #[test]
    fn any_output_is_one_line(output in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!in_one_line(&output).chars().any(char::is_control));
    }
}
