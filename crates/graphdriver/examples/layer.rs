//! A layer, a snapshot of it, and what each of them sees.
//!
//! Run as root, with a folder that is to become a root or is one: `cargo run -p thinlayer-graphdriver --example layer -- /var/tmp/layers`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use thinlayer_graphdriver::{
    CreateRequest, Driver, Event, Holder, LayerId, Machine, Notice, Options, Ownership, Progress, Unmount,
};

/// Small enough for any machine.
const OPTIONS: [&str; 4] =
    ["dm.loopdatasize=1G", "dm.loopmetadatasize=16M", "dm.basesize=400M", "dm.fs=ext4"];
const USAGE: &str = "usage: layer ROOT\n\n\
    Sets up a root in the folder ROOT (made if absent), with a loop-backed pool of 1 GiB, makes the layers\n\
    \"parent\" and \"child\", removes them, and stops the pool. Run as root, where the kernel has device-mapper.";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(root), None) = (arguments.next(), arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(Path::new(&root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layer: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    // One owner at a time; the lock ends with the process.
    let _owner = Ownership::acquire(root, &Holder::this_process("example", None), Duration::from_secs(10))?;
    let machine = Machine::system(root)?;
    let (driver, notices) = Driver::open(machine, &Options::parse(&OPTIONS)?, Arc::new(Steps))?;
    tell(&notices);
    println!("opened {}: its pool is up", root.display());
    let told = tell_a_story(&driver);
    // Also after a failure: the example leaves nothing but files.
    let stopped = driver.stop();
    if let (Err(_), Err(error)) = (&told, &stopped) {
        eprintln!("layer: {error}");
    }
    told?;
    tell(&stopped?);
    println!(
        "stopped: nothing is mounted, and the pool is gone from the kernel; its files are still in {}",
        root.display()
    );
    Ok(())
}

fn tell_a_story(driver: &Driver) -> Result<(), Failure> {
    let (parent, child) = (LayerId::given("parent")?, LayerId::given("child")?);

    driver.create(&parent, &CreateRequest::empty())?;
    let tree = driver.get(&parent, None)?;
    std::fs::write(tree.join("note"), "written in the parent\n")?;
    println!("made layer {parent}, mounted at {}, and wrote a note in it", tree.display());

    // The parent is mounted: its writers are held back for the moment of the snapshot.
    driver.create(&child, &CreateRequest::on(parent.clone()))?;
    let tree_of_child = driver.get(&child, None)?;
    println!("made layer {child} as a snapshot of it, mounted at {}", tree_of_child.display());
    print!("  the child's note:  {}", std::fs::read_to_string(tree_of_child.join("note"))?);

    std::fs::write(tree_of_child.join("note"), "changed in the child\n")?;
    println!("changed the note in the child");
    print!("  the child's note:  {}", std::fs::read_to_string(tree_of_child.join("note"))?);
    let seen = std::fs::read_to_string(tree.join("note"))?;
    print!("  the parent's note: {seen}");
    if seen != "written in the parent\n" {
        return Err("the parent sees what its child wrote".into());
    }

    let status = driver.status()?;
    println!("the pool has {} of {} in use", mib(status.data_used.0), mib(status.data_total.0));
    for id in [&child, &parent] {
        driver.put(id, Unmount::Now)?;
        driver.remove(id)?;
        println!("unmounted and removed layer {id}");
    }
    let given_back = driver.work_off()?;
    println!("gave back the blocks of {given_back} layers; {} in use", mib(driver.status()?.data_used.0));
    Ok(())
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        println!("note: {}", notice.text);
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Tells of each long step when it begins.
#[derive(Debug)]
struct Steps;

impl Progress for Steps {
    fn event(&self, event: Event<'_>) {
        if let Event::Started { what } = event {
            println!("... {what}");
        }
    }
}
