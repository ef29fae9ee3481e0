//! What can be seen of a root from outside: its files byte by byte, the kernel's tables, what is in the pool.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::fixture::Root;

/// What dmsetup says where nothing is.
const NOTHING: &str = "No devices found";

/// The files of a root's records and the kernel's tables; of the pool's metadata its transaction id if a pool is up, and else the whole file.
#[derive(PartialEq, Eq)]
pub(crate) struct Found {
    files: BTreeMap<PathBuf, Vec<u8>>,
    tables: String,
    loops: String,
}

impl Found {
    pub(crate) fn at(home: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(home.join("metadata"))? {
            let path = entry?.path();
            files.insert(path.clone(), fs::read(&path)?);
        }
        let tables = harness::run("dmsetup", ["table"])?.stdout_text();
        let metadata = home.join("devicemapper/metadata");
        let said = if tables == NOTHING {
            harness::run("sha256sum", [&metadata])?.stdout
        } else {
            // Of several pools, too: name, and the number behind the target's type.
            let lines =
                harness::run("dmsetup", ["status", "--noflush", "--target", "thin-pool"])?.stdout_text();
            let words = |line: &str| line.split_whitespace().take(5).collect::<Vec<_>>().join(" ");
            lines.lines().map(words).collect::<Vec<_>>().join("\n").into_bytes()
        };
        files.insert(metadata, said);
        let loops =
            harness::run("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-INO"])?.stdout_text();
        Ok(Self { files, tables, loops })
    }

    /// Is no device-mapper device there?
    pub(crate) fn is_at_rest(&self) -> bool {
        self.tables == NOTHING
    }

    /// Nothing has changed since, or an error that says what.
    pub(crate) fn unchanged(&self, home: &Path, what: &str) -> Result<()> {
        let now = Self::at(home)?;
        ensure!(
            now.tables == self.tables,
            "{what}: the tables were\n{}\nand are\n{}",
            self.tables,
            now.tables
        );
        ensure!(
            now.loops == self.loops,
            "{what}: the loop devices were\n{}\nand are\n{}",
            self.loops,
            now.loops
        );
        let changed: Vec<_> = self
            .files
            .keys()
            .chain(now.files.keys())
            .filter(|path| self.files.get(*path) != now.files.get(*path))
            .collect();
        ensure!(changed.is_empty(), "{what}: changed: {changed:?}");
        Ok(())
    }
}

/// The names of the records in a root, the base's among them.
pub(crate) fn records(home: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(home.join("metadata"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let other = name.starts_with('.') || ["deviceset-metadata", "transaction-metadata"].contains(&&*name);
        if !other {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The rows of `thinlayer status`.
pub(crate) fn rows(root: &Root) -> Result<Vec<(String, String)>> {
    Ok(serde_json::from_value(root.json(&["status"])?["rows"].clone())?)
}

/// A row by its key.
pub(crate) fn row<'a>(rows: &'a [(String, String)], key: &str) -> Result<&'a str> {
    let found = rows.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    found.with_context(|| format!("no row {key} in {rows:?}"))
}

/// Two tables with the same keys in the same order, and the same values but for these keys.
pub(crate) fn same_rows(
    theirs: &[(String, String)],
    ours: &[(String, String)],
    except: &[&str],
) -> Result<()> {
    let keys = |rows: &[(String, String)]| rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    ensure!(keys(theirs) == keys(ours), "the rows are {:?} and {:?}", keys(theirs), keys(ours));
    for ((key, theirs), (_, ours)) in theirs.iter().zip(ours) {
        ensure!(
            theirs == ours || except.contains(&&**key),
            "{key}: the engine says {theirs:?}, thinlayer {ours:?}"
        );
    }
    Ok(())
}

/// The pool's transaction id, out of its status line.
pub(crate) fn transaction_id(pool: &str) -> Result<u64> {
    let line = harness::run("dmsetup", ["status", pool])?.stdout_text();
    Ok(line.split_whitespace().nth(3).with_context(|| format!("no status: {line}"))?.parse()?)
}

/// A process in a mount namespace of its own whose working folder is inside a mount: what a program that leaked is to an engine (I1).
pub(crate) struct Leak(Child);

impl Leak {
    pub(crate) fn into(folder: &Path) -> Result<Self> {
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "cd \"$0\" && echo ready && exec sleep 900",
            ])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the leaked process did not get into {}", folder.display());
        Ok(Self(child))
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Leak {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
