//! The built program in a folder of its own.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A pool that no machine has, so that no test makes one on a machine that has device-mapper.
pub(crate) const NO_POOL: &str = "--storage-opt=dm.thinpooldev=/dev/mapper/thinlayer-test-no-such-pool";

pub(crate) fn thinlayer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thinlayer"));
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// A folder with an empty configuration, so that no test depends on the machine's.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), "").unwrap();
        Self { folder }
    }

    /// With a root as Docker leaves it: three layers, and one that we made.
    pub(crate) fn with_docker_records() -> Self {
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

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = thinlayer();
        command
            .arg("--root")
            .arg(self.root())
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn refused(&self, words: &[&str], code: i32) -> String {
        refused(&self.run(words), code)
    }
}

pub(crate) fn stdout(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The one line of a failure; nothing is on standard output.
pub(crate) fn refused(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("thinlayer: "), "{text}");
    lines[0].to_owned()
}
