//! What a layer's life costs: device-mapper calls, durable writes, mounts, processes (the table in `docs/how-it-works.md`).

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thinlayer_dm::{Call, Flush, Recorder};
use thinlayer_graphdriver::{Driver, Holder, LayerId, Machine, Options, Ownership, Removed, Silent, Unmount};
use thinlayer_store::{Disk, Entry};

use crate::fixture::Fixture;

/// Set in the process that `strace` looks at.
const CHILD: &str = "THINLAYER_BUDGET_ROOT";

/// A disk that counts what is made durable.
#[derive(Debug)]
struct Counting {
    disk: Arc<dyn Disk>,
    durable: AtomicUsize,
}

impl Disk for Counting {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(folder)
    }
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.make_folder(folder)
    }
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.disk.write(path, content)
    }
    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.durable.fetch_add(1, Ordering::SeqCst);
        self.disk.overwrite(path, content)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_file(path)
    }
    // Each durable change but the intent ends in one of these.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.durable.fetch_add(1, Ordering::SeqCst);
        self.disk.sync_folder(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
}

/// A driver whose calls are counted.
struct Counted {
    driver: Driver,
    calls: Arc<Recorder<Arc<dyn thinlayer_dm::DeviceMapper>>>,
    disk: Arc<Counting>,
    _ownership: Ownership,
}

impl Counted {
    fn open(fixture: &Fixture, extra: &str) -> Result<Self> {
        let ownership =
            Ownership::acquire(&fixture.root, &Holder::this_process("test", None), Duration::from_secs(5))?;
        let mut machine = Machine::system(&fixture.root)?;
        let calls = Arc::new(Recorder::new(machine.dm.clone()));
        let disk = Arc::new(Counting { disk: machine.disk.clone(), durable: AtomicUsize::new(0) });
        machine.dm = calls.clone();
        machine.disk = disk.clone();
        let mut items = fixture.options.clone();
        items.push(extra.to_owned());
        let (driver, _) = Driver::open(machine, &Options::parse(&items)?, Arc::new(Silent))?;
        let counted = Self { driver, calls, disk, _ownership: ownership };
        counted.spent();
        Ok(counted)
    }

    /// The device-mapper commands and durable writes since the last time.
    fn spent(&self) -> (Vec<&'static str>, usize) {
        let commands = self.calls.commands();
        self.calls.take();
        (commands, self.disk.durable.swap(0, Ordering::SeqCst))
    }

    fn expect(&self, what: &str, commands: &[&str], durable: usize) -> Result<()> {
        let (spent, writes) = self.spent();
        ensure!(spent == commands, "{what} sent {spent:?}, not {commands:?}");
        ensure!(writes == durable, "{what} made {writes} durable writes, not {durable}");
        Ok(())
    }
}

const STATUS: &str = "DM_TABLE_STATUS";
const MESSAGE: &str = "DM_TARGET_MSG";
const SUSPEND_RESUME: &str = "DM_DEV_SUSPEND";

pub(crate) fn a_life_keeps_its_budget(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    fixture.layer("parent", None)?;
    fixture.close();
    let counted = Counted::open(&fixture, "dm.blkdiscard=false")?;
    let driver = &counted.driver;
    let id = LayerId::given("child")?;
    let on_parent = thinlayer_graphdriver::CreateRequest::on(LayerId::found("parent")?);
    driver.create(&id, &on_parent)?;
    // Status; probe, create_snap and set_transaction_id; intent and record.
    counted.expect("create", &[STATUS, MESSAGE, MESSAGE, MESSAGE], 2)?;
    driver.get(&id, None)?;
    counted.expect("get", &["DM_DEV_CREATE", "DM_TABLE_LOAD", SUSPEND_RESUME], 0)?;
    driver.get(&id, None)?;
    counted.expect("a second get", &[], 0)?;
    driver.put(&id, Unmount::Now)?;
    counted.expect("a put that counts", &[], 0)?;
    driver.create(&LayerId::given("grandchild")?, &thinlayer_graphdriver::CreateRequest::on(id.clone()))?;
    counted.expect(
        "create on a layer in use",
        &[STATUS, MESSAGE, SUSPEND_RESUME, MESSAGE, SUSPEND_RESUME, MESSAGE],
        2,
    )?;
    driver.put(&id, Unmount::Now)?;
    counted.expect("put", &["DM_DEV_REMOVE"], 0)?;
    harness::eventually("the device is closed", Duration::from_secs(10), || {
        let name = driver.metadata(&id)?.device_name;
        Ok(if harness::try_run("dmsetup", ["info", &name])?.status.success() {
            Err("it is there".to_owned())
        } else {
            Ok(())
        })
    })?;
    ensure!(driver.exists(&id) && !driver.exists(&LayerId::given("absent")?), "exists is wrong");
    driver.metadata(&id)?;
    driver.layers()?;
    counted.expect("looking", &[], 0)?;
    ensure!(driver.remove(&id)? == Removed::Gone, "the removal was deferred");
    let (commands, writes) = counted.spent();
    // Where udev had the device open at the put, its removal was scheduled, and is asked for here again.
    let commands: Vec<&str> = commands.into_iter().filter(|command| *command != "DM_DEV_REMOVE").collect();
    ensure!(commands == [MESSAGE, MESSAGE], "remove sent {commands:?}");
    ensure!(writes == 2, "remove made {writes} durable writes");
    driver.status()?;
    // Without a flush: with one the kernel commits.
    let sent: Vec<Call> = counted.calls.calls().into_iter().map(|recorded| recorded.call).collect();
    ensure!(matches!(sent.as_slice(), [Call::Status { flush: Flush::No, .. }]), "status sent {sent:?}");
    counted.expect("status", &[STATUS], 0)?;
    drop(counted);
    // With discard on, the caller waits for one durable step alone.
    let counted = Counted::open(&fixture, "dm.blkdiscard=true")?;
    let grandchild = LayerId::given("grandchild")?;
    ensure!(counted.driver.remove(&grandchild)? == Removed::Deferred, "the removal was not deferred");
    let (commands, writes) = counted.spent();
    ensure!(commands.is_empty(), "a deferred remove sent {commands:?}");
    ensure!(writes == 1, "a deferred remove made {writes} durable steps, not the mark alone");
    ensure!(!counted.driver.exists(&grandchild), "it is still in sight");
    counted.driver.create(&grandchild, &on_parent)?;
    counted.driver.work_off()?;
    drop(counted);
    fixture.open()?;
    fixture.finish()
}

/// The second opinion: the same cycle in a process of its own, under `strace`.
pub(crate) fn a_life_under_strace(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::new(filesystem)?;
    fixture.layer("parent", None)?;
    fixture.close();
    let log = harness::scratch_dir()?.join("strace.log");
    let status = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=ioctl,execve,fork,vfork,clone,clone3,fsync,fdatasync,sync,syncfs,fsmount,mount,access,faccessat2", "-o"])
        .arg(&log)
        .arg(std::env::current_exe()?)
        .env(CHILD, format!("{}\n{}", fixture.root.display(), fixture.options.join("\n")))
        .stdin(Stdio::null())
        .status()
        .context("cannot start strace")?;
    ensure!(status.success(), "the traced cycle failed: {status}");
    let text = fs::read_to_string(&log)?;
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("/budget-begin"))
        .take_while(|line| !line.contains("/budget-end"))
        .collect();
    ensure!(!lines.is_empty(), "the cycle is not in the trace");
    let count = |wanted: &dyn Fn(&str) -> bool| lines.iter().filter(|line| wanted(line)).count();
    // A line that another thread interrupts is written in two parts; "resumed" is the second.
    let call = |name: &'static str| move |line: &str| line.contains(name) && !line.contains("resumed>");
    let device_mapper =
        count(&call("ioctl(")) - count(&|line: &str| line.contains("ioctl(") && !line.contains("DM_"));
    ensure!(count(&call("execve(")) == 0, "the cycle started a program");
    ensure!(
        count(&|line: &str| (line.contains("clone") || line.contains("fork("))
            && line.contains('(')
            && !line.contains("CLONE_THREAD")
            && !line.contains("resumed>"))
            == 0,
        "the cycle started a process"
    );
    ensure!(count(&call(" sync(")) == 0, "the cycle synced the whole machine");
    // An ext4 is written out before its last mount goes, which would write it out otherwise.
    let wanted = usize::from(filesystem == "ext4");
    let synced = count(&call("syncfs("));
    ensure!(synced == wanted, "the cycle synced {synced} file systems:\n{}", lines.join("\n"));
    // create 4, get 3, put 1, remove 2, and one more if udev had the device open at the put.
    ensure!(
        (10..=11).contains(&device_mapper),
        "the cycle sent {device_mapper} device-mapper ioctls:\n{}",
        lines.join("\n")
    );
    let synced = count(&call("fsync(")) + count(&call("fdatasync("));
    // Two intents, one record (file and folder), one unlink (folder).
    ensure!(synced == 5, "the cycle synced {synced} times:\n{}", lines.join("\n"));
    ensure!(count(&call("fsmount(")) + count(&call(" mount(")) == 1, "the cycle did not mount once");
    fixture.open()?;
    fixture.finish()
}

/// In the traced process: one cycle between two marks. `None`: this is not that process.
pub(crate) fn traced_cycle() -> Option<Result<()>> {
    let told = std::env::var(CHILD).ok()?;
    Some(cycle(&told))
}

fn cycle(told: &str) -> Result<()> {
    let mut lines = told.lines();
    let root = Path::new(lines.next().context("no root")?).to_owned();
    let options: Vec<String> = lines.map(str::to_owned).chain(["dm.blkdiscard=false".to_owned()]).collect();
    let _ownership = Ownership::acquire(&root, &Holder::this_process("test", None), Duration::from_secs(5))?;
    let (driver, _) = Driver::open(Machine::system(&root)?, &Options::parse(&options)?, Arc::new(Silent))?;
    let id = LayerId::given("traced")?;
    // A call that strace shows and that does nothing.
    let mark = |name: &str| {
        let _ = nix::unistd::access(name, nix::unistd::AccessFlags::F_OK);
    };
    mark("/budget-begin");
    driver.create(&id, &thinlayer_graphdriver::CreateRequest::on(LayerId::found("parent")?))?;
    let tree = driver.get(&id, None)?;
    fs::write(tree.join("file"), "12345")?;
    driver.put(&id, Unmount::Now)?;
    driver.remove(&id)?;
    mark("/budget-end");
    Ok(())
}
