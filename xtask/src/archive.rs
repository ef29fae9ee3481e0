//! Debian's archive, through apt with settings and state of our own: the host's release, sources and package
//! lists play no part, and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, paths};

/// The release that kernels and root image come from.
pub(crate) const RELEASE: &str = "bookworm";

/// Debian's archive, or the mirror named by `THINLAYER_DEBIAN_MIRROR`.
pub(crate) fn mirror() -> String {
    std::env::var("THINLAYER_DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned())
}

fn security_mirror() -> String {
    std::env::var("THINLAYER_DEBIAN_SECURITY_MIRROR")
        .unwrap_or_else(|_| "http://deb.debian.org/debian-security".to_owned())
}

/// The lines of a `sources.list`.
pub(crate) fn sources() -> Vec<String> {
    let keys = "[arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let (mirror, security) = (mirror(), security_mirror());
    vec![
        format!("deb {keys} {mirror} {RELEASE} main"),
        format!("deb {keys} {mirror} {RELEASE}-updates main"),
        format!("deb {keys} {security} {RELEASE}-security main"),
    ]
}

/// Apt with a state folder under `target/vm`.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Package lists as they are on the network now.
    pub(crate) fn update() -> Result<Self> {
        let folder = paths::vm().join("apt");
        for below in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below))?;
        }
        fs::write(folder.join("sources.list"), sources().join("\n") + "\n")?;
        fs::write(folder.join("status"), "")?;
        let archive = Self { folder };
        command::run(archive.apt("apt-get").arg("update")).context("cannot read Debian's package lists")?;
        Ok(archive)
    }

    /// The packages whose names match, with their candidate versions.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let text = command::text(self.apt("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(text.lines().filter_map(|line| line.split(" - ").next()).map(str::to_owned).collect())
    }

    /// Downloads one package into a folder and returns the file.
    pub(crate) fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        command::run(self.apt("apt-get").args(["download", package]).current_dir(into))
            .with_context(|| format!("cannot download {package}"))?;
        let files: Vec<PathBuf> =
            fs::read_dir(into)?.flatten().map(|entry| entry.path()).filter(|path| is_package(path)).collect();
        match files.as_slice() {
            [file] => Ok(file.clone()),
            _ => anyhow::bail!("expected one package in {}, found {files:?}", into.display()),
        }
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |below: &str| self.folder.join(below).display().to_string();
        for (name, value) in [
            ("Dir::State", at("state")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            // The unprivileged download user cannot write into a checkout.
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
        ] {
            command.args(["-o", &format!("{name}={value}")]);
        }
        command.args(["-qq"]);
        command
    }
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "deb")
}
