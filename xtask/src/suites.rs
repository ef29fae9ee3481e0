//! What runs in the guest: building it, and asking the suites what tests they have.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::protocol::SuiteDescription;

use crate::{command, paths};

/// Programs of the package `suites` that are no suites.
const NOT_SUITES: &[&str] = &["demo"];

/// Everything in the guest is linked statically: it runs there whatever C library the host has.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What to build.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Programs of the package `suites`.
    pub(crate) suites: Vec<String>,
    /// Goes on without those that do not build.
    pub(crate) suites_that_build: bool,
    /// The program `thinlayer`.
    pub(crate) program: Program,
    /// The program `bench` of the package `benches`.
    pub(crate) bench: bool,
    /// As users build it, without debug assertions.
    pub(crate) release: bool,
}

/// Whether the program `thinlayer` is part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// Its failing build is an error.
    #[default]
    Needed,
    /// Where it does not build, the rest goes on with a warning: for work on one crate.
    Welcome,
}

/// What was built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) agent: PathBuf,
    /// Names and files below `/thinlayer/bin`.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Names and files below `/thinlayer/suites`.
    pub(crate) suites: Vec<(String, PathBuf)>,
}

/// All programs of the package `suites`, by their files.
pub(crate) fn names() -> Result<Vec<String>> {
    let folder = paths::workspace().join("tests/suites/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        // A suite is one file, or a folder with a main.rs.
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Those of them that are suites.
pub(crate) fn suite_names() -> Result<Vec<String>> {
    Ok(names()?.into_iter().filter(|name| !NOT_SUITES.contains(&name.as_str())).collect())
}

pub(crate) fn build(wanted: &Wanted) -> Result<Built> {
    let mut built = Built::default();
    let mut tests = vec!["--package", "guest", "--bin", "agent"];
    if !wanted.suites.is_empty() {
        tests.extend(["--package", "suites"]);
    }
    if wanted.bench {
        tests.extend(["--package", "benches", "--bin", "bench"]);
    }
    let bins: Vec<&str> = wanted.suites.iter().flat_map(|name| ["--bin", name]).collect();
    tests.extend(bins);
    if wanted.suites_that_build {
        tests.push("--keep-going");
    }
    let done = cargo_build(&tests, wanted.release, Stdio::inherit(), &mut built);
    match done {
        Err(error) if !wanted.suites_that_build => return Err(error),
        Err(_) => eprintln!("xtask: not all suites build; going on with those that do"),
        Ok(()) => {}
    }
    let program = ["--package", "thinlayer", "--bins"];
    match wanted.program {
        Program::Needed => cargo_build(&program, wanted.release, Stdio::inherit(), &mut built)?,
        Program::Welcome => {
            if cargo_build(&program, wanted.release, Stdio::null(), &mut built).is_err() {
                eprintln!("xtask: the program thinlayer does not build; going on without it");
            }
        }
    }
    if built.agent.as_os_str().is_empty() {
        bail!("cargo built no agent for the guest");
    }
    Ok(built)
}

fn cargo_build(arguments: &[&str], release: bool, messages: Stdio, built: &mut Built) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--message-format=json-render-diagnostics", "--target", TARGET]);
    // Apart from the host's builds, so that neither waits for the other's lock.
    cargo.arg("--target-dir").arg(paths::cargo_target().join("guest"));
    cargo.args(["--profile", if release { "release" } else { "vm" }]).args(arguments);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    cargo.env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static").trim_start());
    let output = cargo
        .stdin(Stdio::null())
        .stderr(messages)
        .output()
        .with_context(|| format!("cannot start `{}`", command::show(&cargo)))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(file) = message["executable"].as_str() else { continue };
        let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        let manifest = message["manifest_path"].as_str().unwrap_or_default();
        let file = PathBuf::from(file);
        if manifest.ends_with("tests/guest/Cargo.toml") {
            built.agent = file;
        } else if manifest.ends_with("tests/suites/Cargo.toml") {
            built.suites.push((name, file));
        } else {
            built.programs.push((name, file));
        }
    }
    if !output.status.success() {
        bail!("`{}` failed", command::show(&cargo));
    }
    Ok(())
}

/// Asks each suite for its tests. The programs are built for this processor, so they run here; only their tests
/// need the VM.
pub(crate) fn describe(built: &Built) -> Result<Vec<SuiteDescription>> {
    let mut described = Vec::new();
    for (name, file) in &built.suites {
        if NOT_SUITES.contains(&name.as_str()) {
            continue;
        }
        let text = command::text(Command::new(file).arg("--describe"))
            .with_context(|| format!("cannot ask the suite {name} for its tests"))?;
        let description: SuiteDescription = serde_json::from_str(&text).with_context(|| {
            format!("the suite {name} does not describe itself; does its main end in harness's?")
        })?;
        if description.suite != *name {
            bail!("the suite in {name}.rs calls itself {:?}; name and file must agree", description.suite);
        }
        let mut tests: Vec<&str> = description.tests.iter().map(|test| test.test.as_str()).collect();
        tests.sort_unstable();
        if let Some(twice) = tests.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("the suite {name} has two tests called {:?}", twice[0]);
        }
        described.push(description);
    }
    described.sort_by(|one, other| one.suite.cmp(&other.suite));
    Ok(described)
}
