//! A request carried out on an open driver, wherever that is: in a one-shot command or in `serve`.

use crate::facts::{LayerFacts, PathText};
use crate::failure::{Failure, FailureKind};
use crate::request::{
    Answer, Change, GivenBack, LayerFailure, PoolSize, RemovedLayer, Request, ended_early, known_id, new_id,
};
use thinlayer_graphdriver::{
    Bytes, CreateRequest, Driver, Error, GrowRequest, PutBack, Removed, SizeChange, Unmount,
};

/// Carries out a request. `ended` tells between two layers whether a signal came: then the rest is left undone, and said.
pub(crate) fn execute(
    driver: &Driver,
    request: &Request,
    ended: &dyn Fn() -> Option<FailureKind>,
) -> Result<Answer, Failure> {
    match request {
        Request::Create { id, parent, size } => {
            let id = new_id(id)?;
            let mut create = match parent {
                Some(parent) => CreateRequest::on(known_id(parent)?),
                None => CreateRequest::empty(),
            };
            if let Some(size) = size {
                create = create.size(Bytes(*size));
            }
            driver.create(&id, &create)?;
            Ok(Answer::Created { layer: LayerFacts::from(&driver.inspect(&id)?) })
        }
        Request::Mount { id } => {
            let id = known_id(id)?;
            let path = driver.get(&id, None)?;
            let uses = driver.inspect(&id).map_or(1, |layer| layer.uses);
            Ok(Answer::Mounted { id: id.to_string(), path: PathText::from(path.as_path()), uses })
        }
        Request::Umount { id, all } => {
            let id = known_id(id)?;
            let put =
                if *all { driver.put_all(&id, Unmount::Now)? } else { driver.put(&id, Unmount::Now)? };
            let (result, uses) = match put {
                PutBack::StillUsed(uses) => (GivenBack::StillUsed, uses),
                PutBack::Unmounted => (GivenBack::Unmounted, 0),
                PutBack::NotMounted => (GivenBack::NotMounted, 0),
            };
            Ok(Answer::GivenBack { id: id.to_string(), result, uses })
        }
        Request::Rm { ids } => Ok(remove(driver, ids, ended)),
        Request::Resize { id, size } => {
            let id = known_id(id)?;
            driver.resize(&id, Bytes(*size))?;
            Ok(Answer::Resized { layer: LayerFacts::from(&driver.inspect(&id)?) })
        }
        Request::Status => Ok(Answer::Status { status: driver.status()?.into() }),
        Request::Check { repair, dry_run } => {
            let report = match (repair, dry_run) {
                (true, false) => driver.repair()?,
                (true, true) => driver.check()?.planned(),
                (false, _) => driver.check()?,
            };
            Ok(Answer::Checked { report: report.into() })
        }
        Request::PoolGrow { data, metadata } => {
            let grown = driver.grow_pool(&GrowRequest::new(data.map(asked), metadata.map(asked)))?;
            let change = |change: SizeChange| Change { from: change.from.0, to: change.to.0 };
            Ok(Answer::Grown {
                data: change(grown.data),
                metadata: change(grown.metadata),
                notices: grown.notices.into_iter().map(|notice| notice.text).collect(),
            })
        }
        Request::Stop => {
            let notices = driver.stop()?.into_iter().map(|notice| notice.text).collect();
            Ok(Answer::Stopped { was_active: true, notices })
        }
    }
}

fn asked(size: PoolSize) -> thinlayer_graphdriver::PoolSize {
    match size {
        PoolSize::To(bytes) => thinlayer_graphdriver::PoolSize::To(Bytes(bytes)),
        PoolSize::By(bytes) => thinlayer_graphdriver::PoolSize::By(Bytes(bytes)),
    }
}

/// Removes one after the other; one that cannot go does not keep the others.
fn remove(driver: &Driver, ids: &[String], ended: &dyn Fn() -> Option<FailureKind>) -> Answer {
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for id in ids {
        let result = match ended() {
            Some(kind) => Err(not_removed(kind, id)),
            None => remove_one(driver, id),
        };
        match result {
            Ok(deferred) => removed.push(RemovedLayer { id: id.clone(), deferred }),
            Err(failure) => failures.push(LayerFailure { id: id.clone(), failure }),
        }
    }
    Answer::Removed { removed, failures }
}

/// A layer that a signal kept.
pub(crate) fn not_removed(kind: FailureKind, id: &str) -> Failure {
    ended_early(kind, &format!("layer {id} is not removed"))
}

fn remove_one(driver: &Driver, id: &str) -> Result<bool, Failure> {
    let id = known_id(id)?;
    match driver.remove(&id)? {
        Removed::Gone => Ok(false),
        Removed::Deferred => Ok(true),
        Removed::Absent => Err(Error::NotFound { id }.into()),
    }
}
