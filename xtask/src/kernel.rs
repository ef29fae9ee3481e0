//! Kernels: Debian's cloud images, downloaded and unpacked, never installed.

use std::cmp::Ordering;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::Archive;
use crate::{command, paths};

/// A kernel line that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Line {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// The newer one from the same archive.
    #[value(name = "6.12")]
    V6_12,
}

impl Line {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) line: Line,
    /// What `uname -r` says.
    pub(crate) release: String,
    folder: PathBuf,
}

impl Kernel {
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder of modules, with the indexes that depmod makes.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }
}

/// The kernels of all lines, out of the cache or the archive.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    let mut archive = None;
    Line::ALL
        .into_iter()
        .map(|line| match cached(line)? {
            Some(kernel) => Ok(kernel),
            None => {
                let archive = match &archive {
                    Some(archive) => archive,
                    None => archive.insert(Archive::update()?),
                };
                fetch(archive, line)
            }
        })
        .collect()
}

fn folder(line: Line) -> PathBuf {
    paths::vm().join("kernels").join(line.name())
}

fn cached(line: Line) -> Result<Option<Kernel>> {
    let folder = folder(line);
    if !folder.is_dir() {
        return Ok(None);
    }
    let release = fs::read_to_string(folder.join("release")).with_context(|| {
        format!("{} has no file `release`; delete the folder to have it made again", folder.display())
    })?;
    Ok(Some(Kernel { line, release: release.trim().to_owned(), folder }))
}

fn fetch(archive: &Archive, line: Line) -> Result<Kernel> {
    let names = archive.names(&format!(
        r"^linux-image-{}\.[0-9].*-cloud-amd64(-unsigned)?$",
        line.name().replace('.', r"\.")
    ))?;
    let package = newest(&names).with_context(|| {
        format!("Debian's archive has no package linux-image-{}.*-cloud-amd64", line.name())
    })?;
    eprintln!("xtask: downloading kernel {package}");
    let folder = folder(line);
    let half_done = folder.with_extension("new");
    let _old = fs::remove_dir_all(&half_done);
    fs::create_dir_all(&half_done)?;
    let file = archive.download(package, &half_done)?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&half_done))?;
    fs::remove_file(&file)?;
    let modules = half_done.join("lib/modules");
    let releases: Vec<String> = fs::read_dir(&modules)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let [release] = releases.as_slice() else {
        bail!("{package} holds modules of {releases:?}, not of one kernel")
    };
    command::run(
        Command::new("depmod").env("PATH", path_with_sbin()).arg("-b").arg(&half_done).arg(release),
    )?;
    fs::write(half_done.join("package"), package)?;
    fs::write(half_done.join("release"), release)?;
    fs::rename(&half_done, &folder).with_context(|| format!("cannot rename to {}", folder.display()))?;
    Ok(Kernel { line, release: release.clone(), folder })
}

/// The host's path, with the folders that only root's path may have.
pub(crate) fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// The highest version; of the same version the signed package.
fn newest(names: &[String]) -> Option<&str> {
    names.iter().map(String::as_str).max_by(|one, other| {
        compare_versions(one, other)
            .then_with(|| other.ends_with("-unsigned").cmp(&one.ends_with("-unsigned")))
    })
}

/// Compares the numbers in two names one after the other.
fn compare_versions(one: &str, other: &str) -> Ordering {
    let numbers = |name: &str| -> Vec<u64> {
        name.trim_end_matches("-unsigned")
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    numbers(one).cmp(&numbers(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_found() {
        let names = [
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.9+deb12.1-cloud-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(newest(&names), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(&names[..2]), Some("linux-image-6.12.117+deb12-cloud-amd64-unsigned"));
        let names =
            ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"].map(str::to_owned);
        assert_eq!(newest(&names), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(&[]), None);
    }
}
