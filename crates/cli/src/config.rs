//! The settings of one run: the command line over the configuration file over the defaults.

use crate::args::{Global, LogLevel};
use crate::failure::Failure;
use serde::Deserialize;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thinlayer_graphdriver::Options;

const DEFAULT_FILE: &str = "/etc/thinlayer/config.toml";
const DEFAULT_ROOT: &str = "/var/lib/thinlayer";
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// What a run goes by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// The graph directory, absolute.
    pub(crate) root: PathBuf,
    /// All storage options, as items.
    pub(crate) items: Vec<String>,
    /// The same, read.
    pub(crate) options: Options,
    /// Those of the command line alone: an owner that has others refuses the command.
    pub(crate) given: Vec<String>,
    /// How much is told.
    pub(crate) log_level: LogLevel,
    /// How long to wait for another owner.
    pub(crate) wait: Duration,
    /// JSON instead of text.
    pub(crate) json: bool,
    /// Write nothing.
    pub(crate) read_only: bool,
}

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    root: Option<PathBuf>,
    #[serde(default)]
    storage_opts: Vec<String>,
    log_level: Option<Level>,
    wait: Option<Seconds>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(try_from = "f64")]
struct Seconds(Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        crate::args::seconds(&seconds.to_string()).map(Self)
    }
}

impl Settings {
    /// Reads the configuration file and puts the command line over it.
    ///
    /// A file named with `--config` has to be there; the default one need not.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        let path = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let file = match std::fs::read_to_string(path) {
            Ok(text) => File::parse(path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound && global.config.is_none() => File::default(),
            Err(error) => {
                return Err(Failure::usage(format!(
                    "{}: cannot read the configuration: {error}",
                    path.display()
                )));
            }
        };
        Self::merge(global, file)
    }

    fn merge(global: &Global, file: File) -> Result<Self, Failure> {
        let root = global.root.clone().or(file.root).unwrap_or_else(|| DEFAULT_ROOT.into());
        if root.as_os_str().is_empty() {
            return Err(Failure::usage("--root must not be empty; name a folder"));
        }
        let root = std::path::absolute(&root)
            .map_err(|error| Failure::usage(format!("{}: {error}", root.display())))?;
        let items = overlay(&file.storage_opts, &global.storage_opts);
        Ok(Self {
            root,
            options: Options::parse(&items)?,
            items,
            given: global.storage_opts.clone(),
            log_level: global.log_level.or(file.log_level.map(Level::as_argument)).unwrap_or(LogLevel::Warn),
            wait: global.wait.or(file.wait.map(|seconds| seconds.0)).unwrap_or(DEFAULT_WAIT),
            json: global.json,
            read_only: global.read_only,
        })
    }
}

impl Level {
    fn as_argument(self) -> LogLevel {
        match self {
            Self::Error => LogLevel::Error,
            Self::Warn => LogLevel::Warn,
            Self::Info => LogLevel::Info,
            Self::Debug => LogLevel::Debug,
            Self::Trace => LogLevel::Trace,
        }
    }
}

impl File {
    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let wrong = |line: usize, why: &str| Failure::usage(format!("{} line {line}: {why}", path.display()));
        let file: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            wrong(before.matches('\n').count() + 1, error.message())
        })?;
        if let Some(root) = &file.root
            && !root.is_absolute()
        {
            return Err(wrong(line_of(text, "root"), "root must be an absolute path"));
        }
        // What is wrong with the file by itself is said with the file's name.
        Options::parse(&file.storage_opts).map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.kind, wrong(line_of(text, "storage-opts"), &failure.message).message)
        })?;
        Ok(file)
    }
}

/// The line that a key of the file stands on.
fn line_of(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.trim_start().starts_with(key)).unwrap_or(0) + 1
}

/// An item's key, as the driver reads it.
pub(crate) fn key(item: &str) -> String {
    item.split_once('=').map_or(item, |(key, _)| key).trim().to_ascii_lowercase()
}

/// The later items take the place of all earlier ones with the same key.
pub(crate) fn overlay(earlier: &[String], later: &[String]) -> Vec<String> {
    let replaced: HashSet<String> = later.iter().map(|item| key(item)).collect();
    earlier.iter().filter(|item| !replaced.contains(&key(item))).chain(later).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    fn load(text: &str, global: Global) -> Result<Settings, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Settings::load(&Global { config: Some(file), ..global })
    }

    fn refused(text: &str) -> String {
        let failure = load(text, Global::default()).unwrap_err();
        assert_eq!(failure.kind.code(), 2, "{failure}");
        assert!(failure.message.contains("config.toml line "), "{failure}");
        failure.message
    }

    #[test]
    fn defaults() {
        let settings = load("", Global::default()).unwrap();
        assert_eq!(settings.root, Path::new("/var/lib/thinlayer"));
        assert_eq!(settings.wait, Duration::from_secs(10));
        assert_eq!(settings.log_level, LogLevel::Warn);
        assert_eq!(settings.options, Options::default());
    }

    #[test]
    fn the_file_counts_unless_the_command_line_says_otherwise() {
        let text = "root = \"/srv/layers\"\nstorage-opts = [\"dm.fs=xfs\", \"dm.mkfsarg=-q\", \"dm.mkfsarg=-f\", \"dm.basesize=1G\"]\n\
                    log-level = \"info\"\nwait = 2.5\n";
        let settings = load(text, Global::default()).unwrap();
        assert_eq!(settings.root, Path::new("/srv/layers"));
        assert_eq!(settings.wait, Duration::from_millis(2500));
        assert_eq!(settings.log_level, LogLevel::Info);
        assert_eq!(settings.options.mkfs_args, ["-q", "-f"]);
        assert!(settings.given.is_empty());

        let global = Global {
            root: Some("/other".into()),
            storage_opts: strings(&["dm.basesize=2G", " DM.MkfsArg = -L x"]),
            wait: Some(Duration::ZERO),
            log_level: Some(LogLevel::Error),
            ..Global::default()
        };
        let settings = load(text, global).unwrap();
        assert_eq!(settings.root, Path::new("/other"));
        assert_eq!((settings.wait, settings.log_level), (Duration::ZERO, LogLevel::Error));
        assert_eq!(settings.items, ["dm.fs=xfs", "dm.basesize=2G", " DM.MkfsArg = -L x"]);
        assert_eq!(settings.options.mkfs_args, ["-L x"]);
        assert_eq!(settings.given.len(), 2);
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let said = refused("root = \"/a\"\n\ncolour = 3\n");
        assert!(said.contains("line 3") && said.contains("colour"), "{said}");
        let said = refused("wait = -1");
        assert!(said.contains("line 1"), "{said}");
        let said = refused("root = \"relative\"\n");
        assert!(said.contains("line 1") && said.contains("absolute"), "{said}");
        let said = refused("root = \"/a\"\nstorage-opts = [\"dm.nonsense=1\"]");
        assert!(said.contains("line 2") && said.contains("dm.nonsense"), "{said}");
        let said = refused("log-level = \"loud\"");
        assert!(said.contains("loud"), "{said}");
        assert!(refused("root = [").contains("line 1"));
        assert!(refused("storage-opts = \"dm.fs=xfs\"").contains("line 1"));
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let global = Global { config: Some("/nonexistent/config.toml".into()), ..Global::default() };
        let failure = Settings::load(&global).unwrap_err();
        assert!(
            failure.kind.code() == 2 && failure.message.contains("/nonexistent/config.toml"),
            "{failure}"
        );
    }

    #[test]
    fn bad_options_of_the_command_line_are_usage_errors() {
        for (item, code) in
            [("dm.nonsense=1", 2), ("dm.basesize=10Q", 2), ("nonsense", 2), ("dm.thinp_percent=95", 2)]
        {
            let global = Global { storage_opts: strings(&[item]), ..Global::default() };
            let failure = Settings::merge(&global, File::default()).unwrap_err();
            assert_eq!(failure.kind.code(), code, "{failure}");
        }
    }

    #[test]
    fn a_relative_root_is_made_absolute() {
        let global = Global { root: Some("layers".into()), ..Global::default() };
        let settings = Settings::merge(&global, File::default()).unwrap();
        assert!(settings.root.is_absolute() && settings.root.ends_with("layers"));
    }
}
