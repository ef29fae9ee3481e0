//! From the command line to the exit code.

use crate::adopt::adopt;
use crate::args::{Command, Parsed, Pool, parse};
use crate::backend::{Session, holds_nothing, nothing_here, tell};
use crate::config::Settings;
use crate::console;
use crate::facts::LayerFacts;
use crate::failure::{Failure, NO};
use crate::render::{answer, inspect, json, ls, tree};
use crate::request::{Answer, Request, known_id, pool_size, size};
use crate::serve::serve;
use crate::signals::Signals;
use serde_json::json;
use std::ffi::OsString;
use thinlayer_graphdriver::{Machine, View};

/// Runs the program; the result is its exit code.
pub(crate) fn run(words: Vec<OsString>) -> u8 {
    let (command, global) = match parse(words) {
        Parsed::Run(command, global) => (*command, *global),
        Parsed::Text(text) => return ended(console::print(text.as_bytes()).map(|()| 0), false),
        Parsed::Wrong { failure, json } => return ended(Err(failure), json),
    };
    let json = global.json;
    ended(Settings::load(&global).and_then(|settings| dispatch(command, settings)), json)
}

/// The exit code; a failure is told on standard error.
fn ended(result: Result<u8, Failure>, json: bool) -> u8 {
    result.unwrap_or_else(|failure| {
        console::complain(&format!("thinlayer: {failure}"));
        if json {
            console::complain(&answer::error(&failure, None));
        }
        failure.kind.code()
    })
}

fn dispatch(command: Command, settings: Settings) -> Result<u8, Failure> {
    let bars = if matches!(command, Command::Serve(_)) { None } else { console::bars() };
    console::start_log(settings.log_level, bars.clone());
    tracing::debug!(command = command.name(), root = %settings.root.display(), "begin");
    let request = match command {
        Command::Serve(_) => return serve(settings).map(|()| 0),
        Command::Adopt(with) => {
            return adopt(settings, &with.own, crate::progress::progress(bars.as_ref()));
        }
        Command::Ls(_) => {
            return list(
                &settings,
                |layers, settings| if settings.json { json(&layers) } else { ls::text(layers) },
            );
        }
        Command::Tree(_) => {
            return list(&settings, |layers, settings| {
                if settings.json {
                    tree::as_json(layers)
                } else {
                    tree::text(layers, !tree::is_utf8_locale())
                }
            });
        }
        Command::Inspect(with) => return look_at(&settings, &with.own.id),
        Command::Exists(with) => return exists(&settings, &with.own.id),
        Command::Create(with) => Request::Create {
            id: with.own.id,
            parent: with.own.parent,
            size: with.own.size.as_deref().map(size).transpose()?,
        },
        Command::Mount(with) => Request::Mount { id: with.own.id },
        Command::Umount(with) => Request::Umount { id: with.own.id, all: with.own.all },
        Command::Rm(with) => Request::Rm { ids: with.own.ids },
        Command::Resize(with) => Request::Resize { id: with.own.id, size: size(&with.own.size)? },
        Command::Status(_) => Request::Status,
        Command::Check(with) => Request::Check { repair: with.own.repair, dry_run: with.own.dry_run },
        Command::Pool(Pool::Grow(with)) => Request::PoolGrow {
            data: with.own.data.as_deref().map(pool_size).transpose()?,
            metadata: with.own.metadata.as_deref().map(pool_size).transpose()?,
        },
        Command::Stop(_) => Request::Stop,
    };
    let signals =
        Signals::catch().map_err(|error| Failure::other(format!("cannot catch signals: {error}")))?;
    let progress = crate::progress::progress(bars.as_ref());
    carry_out(&Session { settings, signals, progress }, &request)
}

/// A request to the owner of the root, from its begin to the last deferred work.
fn carry_out(session: &Session, request: &Request) -> Result<u8, Failure> {
    let (result, local) = session.run(request);
    let as_json = session.settings.json;
    let code = match &result {
        Ok(answer) if answer.failure().is_some() => {
            failed_in_part(answer, as_json);
            answer.code()
        }
        Ok(answer) => {
            for warning in answer::warnings(answer) {
                tracing::warn!("{warning}");
            }
            console::print(&answer::output(answer, as_json))?;
            answer.code()
        }
        Err(_) => 0,
    };
    // The root is given up only after this, and what a failed command or a killed one left is given back too.
    let finished = match local {
        Some(local) if !request.only_looks() => session.finish(local),
        _ => Ok(()),
    };
    result?;
    match finished {
        // The first failure is the one that counts.
        Err(failure) if code == 0 => Err(failure),
        _ => Ok(code),
    }
}

/// `rm` of several layers, of which some stay: each is named.
fn failed_in_part(answer: &Answer, as_json: bool) {
    let Answer::Removed { failures, .. } = answer else { return };
    for failed in failures {
        console::complain(&format!("thinlayer: {}", failed.failure));
    }
    if as_json && let Some(failure) = answer.failure() {
        console::complain(&answer::error(failure, Some(answer)));
    }
}

/// A look at the root that waits for nobody and touches nothing.
fn view(settings: &Settings) -> Result<View, Failure> {
    if holds_nothing(&settings.root) {
        return Err(nothing_here(&settings.root));
    }
    let (view, notices) = View::open(&Machine::looking(&settings.root)?)?;
    tell(&notices);
    Ok(view)
}

fn list(settings: &Settings, render: impl Fn(&[LayerFacts], &Settings) -> String) -> Result<u8, Failure> {
    let layers: Vec<LayerFacts> = view(settings)?.layers()?.iter().map(LayerFacts::from).collect();
    console::print(render(&layers, settings).as_bytes())?;
    Ok(0)
}

fn look_at(settings: &Settings, id: &str) -> Result<u8, Failure> {
    let id = known_id(id)?;
    let facts = LayerFacts::from(&view(settings)?.inspect(&id)?);
    console::print(if settings.json { inspect::as_json(&facts) } else { inspect::text(&facts) }.as_bytes())?;
    Ok(0)
}

fn exists(settings: &Settings, id: &str) -> Result<u8, Failure> {
    let id = known_id(id)?;
    let exists = view(settings)?.exists(&id)?;
    if settings.json {
        console::print(json(&json!({ "id": id.to_string(), "exists": exists })).as_bytes())?;
    }
    Ok(if exists { 0 } else { NO })
}
