//! The command line.

use crate::failure::Failure;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "thinlayer",
    version,
    about = "Container layers as snapshots in a device-mapper thin pool",
    long_about = "Container layers as snapshots in a device-mapper thin pool: Docker's devicemapper graph driver as a program.\n\n\
                  A root is a folder with the layout of Docker's `devicemapper` folder. The first `create` sets it up: without pool options \
                  it makes a pool on loop devices in it.",
    after_help = "Exit codes: 0 ok or yes, 1 no or something found, 2 usage, 3 not found, 4 exists already, 5 busy, 6 no space, \
                  7 needs check, 8 unsupported, 9 anything else.",
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes, before or after its name.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The graph directory [default: /var/lib/thinlayer]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// One of Docker's dm.* options; may be given again
    #[arg(long = "storage-opt", value_name = "dm.KEY=VALUE")]
    pub(crate) storage_opts: Vec<String>,

    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    /// What is told on standard error [default: warn]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,

    /// Write nothing to the root: refuse every command that would, bring the pool up read-only for the others
    #[arg(long)]
    pub(crate) read_only: bool,

    /// How long to wait for another command that owns the root [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,

    /// The configuration file [default: /etc/thinlayer/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Global {
    /// What stands before the command and what stands after it; for single values the later one counts.
    fn merge(self, later: Self) -> Self {
        Self {
            root: later.root.or(self.root),
            storage_opts: [self.storage_opts, later.storage_opts].concat(),
            json: self.json || later.json,
            log_level: later.log_level.or(self.log_level),
            read_only: self.read_only || later.read_only,
            wait: later.wait.or(self.wait),
            config: later.config.or(self.config),
        }
    }
}

/// How much is told on standard error; each level tells what those before it do, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Arguments of a command together with the global ones.
#[derive(Args, Clone, Debug)]
pub(crate) struct With<T: Args> {
    #[command(flatten)]
    pub(crate) own: T,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a layer, empty or on top of another
    #[command(
        after_help = "Examples:\n  thinlayer create base1\n  thinlayer create --parent base1 web\n  thinlayer create --size 20G big"
    )]
    Create(With<Create>),

    /// Mount a layer and print the path of its tree
    #[command(
        long_about = "Mount a layer and print the path of its tree. A layer that is mounted already is counted as used once more; \
                      each use is given back with `umount`.\n\nThe mount is made in the mount namespace of the process that owns the root: \
                      of this command, or of `serve` where that runs.",
        after_help = "Examples:\n  cd \"$(thinlayer mount web)\""
    )]
    Mount(With<One>),

    /// Give back one use of a layer; the last one unmounts it
    #[command(after_help = "Examples:\n  thinlayer umount web\n  thinlayer umount --all web")]
    Umount(With<Umount>),

    /// Remove layers
    #[command(
        long_about = "Remove layers. Goes on after a failure; the exit code is that of the first failure.",
        after_help = "Examples:\n  thinlayer rm web\n  thinlayer rm web db cache"
    )]
    Rm(With<Rm>),

    /// Grow a layer and its file system
    #[command(
        long_about = "Grow a layer and its file system, mounted or not. Layers never shrink.",
        after_help = "Examples:\n  thinlayer resize web 20G"
    )]
    Resize(With<Resize>),

    /// List the layers
    #[command(after_help = "Examples:\n  thinlayer ls\n  thinlayer ls --json | jq -r '.[].id'")]
    Ls(With<Nothing>),

    /// Draw which layer stands on which
    #[command(
        after_help = "Examples:\n  thinlayer tree\n  thinlayer --root /var/lib/docker/devicemapper tree"
    )]
    Tree(With<Nothing>),

    /// Show everything that is known of a layer
    #[command(
        after_help = "Examples:\n  thinlayer inspect web\n  thinlayer inspect --json web | jq -r .DeviceName"
    )]
    Inspect(With<One>),

    /// Answer by the exit code whether there is such a layer: 0 yes, 1 no
    #[command(after_help = "Examples:\n  thinlayer exists web || thinlayer create web")]
    Exists(With<One>),

    /// Show the pool, in the words of Docker's own status table
    #[command(after_help = "Examples:\n  thinlayer status\n  thinlayer status --json | jq .data.used")]
    Status(With<Nothing>),

    /// Compare records, pool, devices and mounts; 0 if they agree, 1 if not
    #[command(
        long_about = "Compare records, the pool's own metadata, devices, mounts and loop devices, in both directions; 0 if they agree, 1 if not. \
                      A pool that is not active stays so: its metadata is read from its file or device. That of an active one is read through \
                      a metadata snapshot, which is released again.\n\nWith --repair, what is safe is mended, each step is told, and the rest stays a \
                      finding. Nothing is deleted that is not provably this root's, and nothing is done on a pool whose metadata is damaged: \
                      the findings name the tools for that.",
        after_help = "Examples:\n  thinlayer check\n  thinlayer check --repair --dry-run\n  thinlayer check --json | jq -r '.findings[].text'"
    )]
    Check(With<Check>),

    /// Tell what an existing graph directory holds and what opening it would change; with --yes, open it
    #[command(
        long_about = "Tell what an existing graph directory of Docker, Podman or Buildah holds, and what opening it would change. Nothing is changed \
                      without --yes, which opens it, as every other command would. The exit code is 1 if it cannot be opened.",
        after_help = "Examples:\n  thinlayer adopt --from /var/lib/docker\n  thinlayer adopt --from /var/lib/docker/devicemapper --yes"
    )]
    Adopt(With<Adopt>),

    /// Own the root, do its background work, and answer the other commands
    #[command(
        long_about = "Own the root, do its background work, and answer the other commands, until SIGTERM or SIGINT. Mounts and pool stay up \
                      at its end.\n\nLayers are mounted in the mount namespace where `serve` runs. It tells systemd when it is ready, and \
                      feeds systemd's watchdog.",
        after_help = "Examples:\n  thinlayer serve\n  thinlayer --storage-opt dm.thinpooldev=/dev/mapper/vg-pool serve"
    )]
    Serve(With<Nothing>),

    /// Work on the pool itself
    #[command(subcommand, after_help = "Examples:\n  thinlayer pool grow --data +20G")]
    Pool(Pool),

    /// Unmount all layers and remove the pool from the kernel (nothing is deleted)
    #[command(
        long_about = "Unmount all layers, remove their devices, and remove a pool that thinlayer made from the kernel. Nothing is deleted: \
                      the next command brings the pool up again. Layers in use stay, and the exit code is 5.",
        after_help = "Examples:\n  thinlayer stop"
    )]
    Stop(With<Nothing>),
}

impl Command {
    /// Its name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Mount(_) => "mount",
            Self::Umount(_) => "umount",
            Self::Rm(_) => "rm",
            Self::Resize(_) => "resize",
            Self::Ls(_) => "ls",
            Self::Tree(_) => "tree",
            Self::Inspect(_) => "inspect",
            Self::Exists(_) => "exists",
            Self::Status(_) => "status",
            Self::Check(_) => "check",
            Self::Adopt(_) => "adopt",
            Self::Serve(_) => "serve",
            Self::Pool(Pool::Grow(_)) => "pool grow",
            Self::Stop(_) => "stop",
        }
    }

    fn global(&self) -> &Global {
        match self {
            Self::Create(with) => &with.global,
            Self::Mount(with) | Self::Inspect(with) | Self::Exists(with) => &with.global,
            Self::Umount(with) => &with.global,
            Self::Check(with) => &with.global,
            Self::Rm(with) => &with.global,
            Self::Pool(Pool::Grow(with)) => &with.global,
            Self::Resize(with) => &with.global,
            Self::Adopt(with) => &with.global,
            Self::Ls(with) | Self::Tree(with) | Self::Status(with) | Self::Serve(with) | Self::Stop(with) => {
                &with.global
            }
        }
    }
}

/// `create`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Create {
    /// The layer that the new one starts as a copy of; without it, the new layer is empty
    #[arg(long, value_name = "ID")]
    pub(crate) parent: Option<String>,
    /// The new layer's size, at least its parent's, such as 20G
    #[arg(long)]
    pub(crate) size: Option<String>,
    /// The new layer's id: 1 to 80 letters, digits and #+.:=@_-
    pub(crate) id: String,
}

/// Commands on one layer.
#[derive(Args, Clone, Debug)]
pub(crate) struct One {
    /// The layer's id
    pub(crate) id: String,
}

/// `umount`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Umount {
    /// Give back all uses, not only one
    #[arg(long)]
    pub(crate) all: bool,
    /// The layer's id
    pub(crate) id: String,
}

/// `rm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Rm {
    /// The layers' ids
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// `resize`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Resize {
    /// The layer's id
    pub(crate) id: String,
    /// Its new size, such as 20G
    pub(crate) size: String,
}

/// `adopt`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Adopt {
    /// The graph directory, or the data root that it is in, in place of --root
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Open it
    #[arg(long)]
    pub(crate) yes: bool,
}

/// The commands on the pool.
#[derive(Clone, Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Pool {
    /// Give the pool more room
    #[command(
        long_about = "Give the pool more room, while layers are in use. SIZE is the new size in all, or with a plus sign so much more. Pools \
                      never shrink.\n\nWithout a size, the pool takes in what the devices below it have become: enlarge a device of \
                      dm.datadev or dm.metadatadev first, then run this.",
        after_help = "Examples:\n  thinlayer pool grow --data 200G\n  thinlayer pool grow --data +20G --metadata +64M\n  thinlayer pool grow"
    )]
    Grow(With<Grow>),
}

/// `pool grow`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Grow {
    /// The size of the data: 200G in all, or +20G more
    #[arg(long, value_name = "SIZE")]
    pub(crate) data: Option<String>,
    /// The size of the metadata: 4G in all, or +1G more
    #[arg(long, value_name = "SIZE")]
    pub(crate) metadata: Option<String>,
}

/// `check`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Mend what is safe, and say what was done
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair: only say what would be done
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
}

/// Commands without arguments of their own.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Nothing {}

/// Seconds, with a fraction if wanted.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim().parse().map_err(|_| "a number of seconds is expected, such as 10 or 0.5".to_owned())?;
    // A year is for ever.
    if !(0.0..=31_536_000.0).contains(&seconds) {
        return Err("a number of seconds from 0 to a year is expected".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// What became of the command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command to carry out.
    Run(Box<Command>, Box<Global>),
    /// Help or version was asked for.
    Text(String),
    /// It makes no sense; JSON was asked for or not.
    Wrong {
        /// What is wrong, in one line.
        failure: Failure,
        /// `--json` is somewhere in it.
        json: bool,
    },
}

/// Reads a command line, the program's name included.
pub(crate) fn parse(words: Vec<OsString>) -> Parsed {
    let json = words.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json");
    match CommandLine::try_parse_from(words) {
        Ok(CommandLine { global, command }) => {
            let global = global.merge(command.global().clone());
            Parsed::Run(Box::new(command), Box::new(global))
        }
        Err(error) if error.use_stderr() => {
            Parsed::Wrong { failure: Failure::usage(in_one_line(&error)), json }
        }
        Err(error) => Parsed::Text(error.to_string()),
    }
}

/// clap's message without its usage part.
fn in_one_line(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; `thinlayer --help` lists them".to_owned();
    }
    let text = error.to_string();
    let said = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut line = String::new();
    for part in said {
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part.strip_prefix("error: ").unwrap_or(part));
    }
    line + "; see --help"
}

#[cfg(test)]
mod tests;
