//! The built program, on any machine: what needs no device-mapper, and what it says where there is none.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod world;

use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use world::{NO_POOL, World, refused, stdout, thinlayer};

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
