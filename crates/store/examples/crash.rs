//! A store through a creation that is interrupted: what the next opening finds, and what it decides to do.
//!
//! `cargo run -p thinlayer-store --example crash -- FOLDER`, with a folder that holds nothing. No kernel is asked: the pool here is a number.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use thinlayer_store::{DeviceFacts, Folder, LayerId, Mode, Operation, Record, Recovery, Step, Store, decide};

fn main() -> Result<(), Box<dyn Error>> {
    run(Path::new(&std::env::args_os().nth(1).ok_or("usage: crash FOLDER")?))
}

/// What the interrupted creation left is gone at the end, and the layer before it is there.
pub(crate) fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let open = || -> Result<_, Box<dyn Error>> {
        Ok(Store::open(Arc::new(Folder::open(folder)?), Mode::ReadWrite)?)
    };
    let (base, web) = (LayerId::given("debian")?, LayerId::given("web")?);
    let mut pool = 0; // the pool's transaction id, which moves last

    let (store, _) = open()?;
    if store.recovery(pool) != Recovery::Clean {
        return Err(format!("{} is the root of another pool", folder.display()).into());
    }
    let device_id = store.propose_device_id()?;
    let transaction = store.begin(&[Operation::create(base.clone(), device_id)])?;
    // ... here the pool is sent `create_thin` ...
    store.put(&base, &Record::new(device_id, 10 << 30, transaction.id()))?;
    pool = transaction.id(); // ... `set_transaction_id` ...
    store.close(transaction);
    println!("{base} is made: thin device {device_id}, transaction {pool}");

    // The same once more, but the power goes before the pool's id has moved.
    let device_id = store.propose_device_id()?;
    let transaction = store.begin(&[Operation::create(web.clone(), device_id)])?;
    store.put(&web, &Record::new(device_id, 10 << 30, transaction.id()))?;
    drop((transaction, store));

    let (store, findings) = open()?;
    for finding in findings {
        println!("found: {finding}");
    }
    let Recovery::Open(pending) = store.recovery(pool) else { return Err("nothing was interrupted".into()) };
    for pending in &pending {
        // What the pool has to say: the device is there, nobody has it open, and nobody else makes devices here.
        let facts = DeviceFacts {
            present: true,
            in_use_by_other_record: store.is_named_by_other(&pending.layer, pending.device_id),
            active: false,
            pool_is_ours: true,
        };
        let decision = decide(pending, &facts);
        println!("{}", decision.sentence);
        for step in decision.steps {
            match step {
                Step::DeleteDevice(device) => println!("  the pool is sent `delete {device}`"),
                Step::RemoveRecord(layer) => store.remove(&layer)?,
                other => return Err(format!("{other:?} was not to be expected").into()),
            }
        }
    }
    store.finish_recovery(pool)?;
    let left: Vec<String> = store.layers().into_iter().map(|(layer, _)| layer.to_string()).collect();
    println!("what is there: {}", left.join(", "));
    if left == ["debian"] { Ok(()) } else { Err("the interrupted creation left something".into()) }
}
