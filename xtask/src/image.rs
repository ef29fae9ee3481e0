//! The root image: Debian's packages, put together without mounts, as an ext4 file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::kernel::{Kernel, path_with_sbin};
use crate::{archive, command, paths};

/// What the tests and the agent use.
const TOOLS: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "dmsetup",
    "lvm2",
    "thin-provisioning-tools",
    "e2fsprogs",
    "xfsprogs",
    "util-linux",
    "mount",
    "kmod",
    "runc",
    "strace",
    "procps",
    "tar",
    "attr",
    "acl",
    "libcap2-bin",
    "iproute2",
    "file",
];

/// The programs that ours is measured against, and works with.
const PEERS: &[&str] =
    &["docker.io", "containerd", "podman", "skopeo", "libarchive-tools", "python3-minimal"];

/// Where the guest finds a small Debian: the packages marked essential, configured, as a tar.
const ESSENTIAL_TAR: &str = "thinlayer/debian-rootfs.tar";

/// Counts changes of this file that the package lists do not show.
const REVISION: u32 = 2;

/// The image with the modules of these kernels, out of the cache or made now.
pub(crate) fn ensure(kernels: &[Kernel]) -> Result<PathBuf> {
    let folder = paths::vm().join("images");
    fs::create_dir_all(&folder)?;
    let packages = [TOOLS, PEERS].concat().join(",");
    let key = key(&[&packages, archive::RELEASE, &archive::mirror(), &REVISION.to_string()]);
    let releases: Vec<&str> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    let image = folder.join(format!("root-{key}-{}.ext4", releases.join("-")));
    if image.is_file() {
        // Marks it as in use, see `prune`.
        File::options().write(true).open(&image)?.set_modified(SystemTime::now())?;
        return Ok(image);
    }
    let tar = folder.join(format!("root-{key}.tar"));
    if !tar.is_file() {
        eprintln!("xtask: making the VM's root file system from Debian's packages (about a minute, once)");
        bootstrap(&packages, &tar)?;
    }
    eprintln!("xtask: making the VM's root image (some seconds, once)");
    assemble(&tar, kernels, &image)?;
    fs::remove_file(&tar)?;
    for emptied in ["bootstrap", "stage"] {
        let _gone = fs::remove_dir_all(paths::vm().join(emptied));
    }
    prune(&folder)?;
    Ok(image)
}

/// Removes what no run of the last day has used. Younger ones may be another session's, which waits for its turn.
fn prune(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        let half_done = entry.file_name().to_string_lossy().contains(".new");
        // Under the lock of the set-up, nobody else is making one.
        if half_done || age > Duration::from_secs(24 * 3600) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn bootstrap(packages: &str, tar: &Path) -> Result<()> {
    // Names of this process's own: an interrupted run's children may still be about.
    let half_done = tar.with_extension(format!("{}.new.tar", std::process::id()));
    // Cleans up after itself if this process dies.
    let mut mmdebstrap = Command::new("setpriv");
    mmdebstrap.args(["--pdeathsig", "TERM", "mmdebstrap"]);
    if nix::unistd::geteuid().is_root() {
        // Beside the image, where there is room. Without root, mmdebstrap acts as users that may not enter this
        // folder.
        mmdebstrap.env("TMPDIR", new_folder("bootstrap")?);
    }
    mmdebstrap.args(["--quiet", "--variant=minbase", "--architectures=amd64", "--format=tar"]);
    // No mounts: the packages used here do without /proc, /sys and /dev while they are configured.
    mmdebstrap.arg("--skip=chroot/mount");
    mmdebstrap.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\""]);
    for folder in ["doc", "man", "locale", "info", "lintian"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    // At this point only the essential packages are there: that is the small Debian for layers.
    mmdebstrap.arg(format!(
        "--essential-hook=mkdir \"$1/thinlayer\" && tar -C \"$1\" --one-file-system --numeric-owner --exclude=./thinlayer \
         --exclude='./tmp/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude=./etc/resolv.conf \
         -cf \"$1/{ESSENTIAL_TAR}\" ."
    ));
    mmdebstrap.arg(
        "--customize-hook=rm -f \"$1/etc/resolv.conf\" && echo thinlayer > \"$1/etc/hostname\" \
         && mkdir -p \"$1/scratch\" \"$1/thinlayer/payload\" \
         && ln -s payload/bin \"$1/thinlayer/bin\" && ln -s payload/suites \"$1/thinlayer/suites\"",
    );
    // Services of the peers start when a test starts them, and only then.
    mmdebstrap.arg(
        "--customize-hook=for unit in docker.service docker.socket containerd.service podman.socket podman.service \
         podman-auto-update.timer podman-auto-update.service podman-restart.service lvm2-monitor.service dm-event.socket apt-daily.timer \
         apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer e2scrub_reap.service \
         systemd-networkd.service getty@tty1.service; do \
         find \"$1/etc/systemd/system\" -name \"$unit\" -path '*.wants/*' -delete; done",
    );
    mmdebstrap.arg(format!("--include={packages}"));
    mmdebstrap.arg(archive::RELEASE).arg(&half_done).args(archive::sources());
    command::run(&mut mmdebstrap)?;
    fs::rename(&half_done, tar).with_context(|| format!("cannot rename to {}", tar.display()))
}

/// Unpacks, adds the kernels' modules, and makes an ext4 image of the folder.
fn assemble(tar: &Path, kernels: &[Kernel], image: &Path) -> Result<()> {
    let stage = new_folder("stage")?;
    let half_done = image.with_extension(format!("{}.new", std::process::id()));
    let modules: String = kernels
        .iter()
        .map(|kernel| format!("cp -a {} \"$stage/usr/lib/modules/\"\n", quote(&kernel.modules())))
        .collect();
    // One script, so that one fakeroot can keep the owners where this user is not root.
    let script = format!(
        "set -e\n\
         stage={stage}\n\
         tar --numeric-owner --xattrs --xattrs-include='*' -xpf {tar} -C \"$stage\"\n\
         mkdir -p \"$stage/usr/lib/modules\"\n\
         {modules}\
         rm -f {image}\n\
         mkfs.ext4 -q -F -L root -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard \
         -d \"$stage\" {image} 4G >&2\n\
         rm -rf \"$stage\"\n",
        stage = quote(&stage),
        tar = quote(tar),
        image = quote(&half_done),
    );
    let mut shell = Command::new("setpriv");
    shell.args(["--pdeathsig", "TERM"]);
    if !nix::unistd::geteuid().is_root() {
        shell.arg("fakeroot");
    }
    command::run(shell.arg("sh").env("PATH", path_with_sbin()).args(["-c", &script]))
        .context("cannot make the root image")?;
    fs::rename(&half_done, image).with_context(|| format!("cannot rename to {}", image.display()))
}

/// A folder of this process's own under `target/vm/NAME`; what interrupted runs left there goes.
fn new_folder(name: &str) -> Result<PathBuf> {
    let all = paths::vm().join(name);
    let _old = fs::remove_dir_all(&all);
    let folder = all.join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A short name for what a cached file was made of (FNV-1a: stable across compilers).
fn key(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quote(Path::new("/a'b c")), r"'/a'\''b c'");
    }
}
