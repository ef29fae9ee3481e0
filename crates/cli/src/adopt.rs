//! `adopt`: what an existing graph directory holds, what opening it would change, and with `--yes` that.

use crate::args::Adopt;
use crate::backend::{busy, holds_nothing, nothing_here, tell};
use crate::config::Settings;
use crate::console;
use crate::failure::{Failure, NO, one_line};
use crate::render::json;
use serde::Serialize;
use std::mem::ManuallyDrop;
use std::path::Path;
use thinlayer_graphdriver::{
    Adoption, Driver, Family, Holder, Kind, Machine, Ownership, Progress, human_size,
};

/// What `adopt` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AdoptFacts {
    /// The graph directory.
    pub(crate) root: String,
    /// Whose names its devices have: `docker` or `containers`.
    pub(crate) family: Family,
    /// thinlayer has had it open before.
    pub(crate) known: bool,
    /// Where its pool is, in words.
    pub(crate) pool: String,
    /// The pool is up.
    pub(crate) pool_active: bool,
    /// The pool's transaction id.
    pub(crate) transaction_id: Option<u64>,
    /// Layers that can be used.
    pub(crate) layers: usize,
    /// Removed layers whose blocks are still in the pool.
    pub(crate) deferred: usize,
    /// Layers whose record cannot be read.
    pub(crate) damaged: usize,
    /// The base's file system.
    pub(crate) filesystem: String,
    /// The base's UUID.
    pub(crate) base_uuid: String,
    /// The base's size in bytes.
    pub(crate) base_size: u64,
    /// What opening it would change.
    pub(crate) changes: Vec<String>,
    /// What keeps it from being opened.
    pub(crate) obstacles: Vec<String>,
    /// It was opened (`--yes`).
    pub(crate) adopted: bool,
    /// What was said while it was opened.
    pub(crate) done: Vec<String>,
}

impl AdoptFacts {
    fn new(root: &Path, found: Adoption) -> Self {
        Self {
            root: root.display().to_string(),
            family: found.family,
            known: found.known,
            pool: found.pool,
            pool_active: found.active,
            transaction_id: found.transaction_id,
            layers: found.layers,
            deferred: found.deferred,
            damaged: found.damaged,
            filesystem: found.filesystem,
            base_uuid: found.base_uuid,
            base_size: found.base_size.0,
            changes: found.changes,
            obstacles: found.obstacles,
            adopted: false,
            done: Vec::new(),
        }
    }
}

/// Carries the command out.
///
/// # Errors
/// There is no graph directory, or with `--yes` it cannot be opened.
pub(crate) fn adopt(
    mut settings: Settings,
    own: &Adopt,
    progress: std::sync::Arc<dyn Progress>,
) -> Result<u8, Failure> {
    if let Some(from) = &own.from {
        settings.root = std::path::absolute(from)
            .map_err(|error| Failure::usage(format!("{}: {error}", from.display())))?;
        // A whole data root of Docker's, or a storage of Podman's.
        let inside = settings.root.join("devicemapper");
        if !settings.root.join("metadata").exists()
            && ["metadata", "devicemapper"].iter().any(|folder| inside.join(folder).exists())
        {
            settings.root = inside;
        }
    }
    let root = settings.root.clone();
    if holds_nothing(&root) {
        return Err(nothing_here(&root));
    }
    if own.yes && settings.read_only {
        return Err(Failure::usage(
            "adopt --yes would write, and --read-only forbids it; leave one of them out",
        ));
    }
    let mut facts = AdoptFacts::new(&root, Adoption::of(&root, &settings.options)?);
    if own.yes {
        facts.done = open(&settings, progress)?;
        facts.adopted = true;
        facts.obstacles.clear();
    }
    console::print(if settings.json { json(&facts) } else { text(&facts) }.as_bytes())?;
    Ok(if facts.obstacles.is_empty() { 0 } else { NO })
}

/// Opens the root once, as every command that works on it does.
fn open(settings: &Settings, progress: std::sync::Arc<dyn Progress>) -> Result<Vec<String>, Failure> {
    let Settings { root, wait, options, .. } = settings;
    let ownership = Ownership::acquire(root, &Holder::this_process("adopt", None), *wait);
    // Kept to the end: a call that outlived its deadline may still be at work.
    let _ownership = ManuallyDrop::new(ownership.map_err(|error| match Ownership::holder(root) {
        Some(holder) if error.kind() == Kind::Busy => busy(root, &holder, "owns it", *wait),
        _ => error.into(),
    })?);
    let (driver, notices) = Driver::open(Machine::system(root)?, options, progress)?;
    if let Err(error) = driver.work_off() {
        tracing::warn!("some removed layers keep their blocks for now: {error}");
    }
    tell(&notices);
    Ok(notices.into_iter().map(|notice| notice.text).collect())
}

fn text(facts: &AdoptFacts) -> String {
    let whose = match facts.family {
        Family::Docker => "Docker's names",
        Family::Containers => "names of containers/storage (Podman, Buildah)",
    };
    let state = if facts.pool_active { "active" } else { "not active" };
    let id = facts.transaction_id.map_or_else(String::new, |id| format!(", transaction id {id}"));
    let or_unknown = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
    let mut said = format!(
        "Root: {} ({whose})\nPool: {}, {state}{id}\nLayers: {}, {} removed and still in the pool, {} with a damaged record\n\
         Base: {}, {}, UUID {}\n",
        facts.root,
        facts.pool,
        facts.layers,
        facts.deferred,
        facts.damaged,
        or_unknown(&facts.filesystem),
        human_size(thinlayer_graphdriver::Bytes(facts.base_size)),
        or_unknown(&facts.base_uuid)
    );
    let mut part = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            said.push_str(&format!("{title}:\n"));
            lines.iter().for_each(|line| said.push_str(&format!("  - {}\n", one_line(line))));
        }
    };
    if facts.adopted {
        part("Said while it was opened", &facts.done);
    } else {
        part("Opening it would change", &facts.changes);
    }
    part("It cannot be opened", &facts.obstacles);
    said.push_str(match (facts.adopted, facts.obstacles.is_empty()) {
        (true, _) => "It is open now.\n",
        (false, true) => "Nothing was changed; --yes opens it.\n",
        (false, false) => "Nothing was changed.\n",
    });
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> AdoptFacts {
        AdoptFacts {
            root: "/var/lib/docker/devicemapper".into(),
            family: Family::Docker,
            known: false,
            pool: "the loop files in its devicemapper/ folder".into(),
            pool_active: false,
            transaction_id: Some(23),
            layers: 4,
            deferred: 1,
            damaged: 0,
            filesystem: "xfs".into(),
            base_uuid: String::new(),
            base_size: 10 << 30,
            changes: vec!["a record moves".into()],
            obstacles: vec![],
            adopted: false,
            done: vec![],
        }
    }

    #[test]
    fn what_would_change_is_listed() {
        assert_eq!(
            text(&facts()),
            "Root: /var/lib/docker/devicemapper (Docker's names)\n\
             Pool: the loop files in its devicemapper/ folder, not active, transaction id 23\n\
             Layers: 4, 1 removed and still in the pool, 0 with a damaged record\n\
             Base: xfs, 10.74GB, UUID ?\n\
             Opening it would change:\n  - a record moves\nNothing was changed; --yes opens it.\n"
        );
        let refused = AdoptFacts { obstacles: vec!["no\npool".into()], ..facts() };
        assert!(
            text(&refused).ends_with("It cannot be opened:\n  - no pool\nNothing was changed.\n"),
            "{}",
            text(&refused)
        );
    }

    /// The same keys in the same order as `docs/json.md` shows.
    #[test]
    fn the_documented_shape_is_the_real_one() {
        let page = include_str!("../../../docs/json.md");
        let section = page.split("\n## adopt\n").nth(1).unwrap();
        let example = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let keys = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|line| line.starts_with("  \""))
                .map(|line| line.split('"').nth(1).unwrap().to_owned())
                .collect()
        };
        assert_eq!(keys(example), keys(&json(&facts())));
        serde_json::from_str::<serde_json::Value>(example).unwrap();
    }
}
