//! The answer to a request: what goes to standard output, and what is to be said beside it.

use super::{inspect, json, status};
use crate::request::{Answer, GivenBack};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStringExt;

/// What goes to standard output. A command that only did what it was told says nothing in text.
pub(crate) fn output(answer: &Answer, as_json: bool) -> Vec<u8> {
    if as_json {
        return value(answer).into_bytes();
    }
    match answer {
        Answer::Mounted { path, .. } => {
            let mut line = path.to_path().into_os_string().into_vec();
            line.push(b'\n');
            line
        }
        Answer::Status { status } => status::status(status).into_bytes(),
        Answer::Checked { report } => status::check(report).into_bytes(),
        Answer::Created { .. }
        | Answer::GivenBack { .. }
        | Answer::Removed { .. }
        | Answer::Resized { .. }
        | Answer::Grown { .. }
        | Answer::Stopped { .. } => Vec::new(),
    }
}

fn value(answer: &Answer) -> String {
    match answer {
        Answer::Created { layer } | Answer::Resized { layer } => inspect::as_json(layer),
        Answer::Mounted { id, path, uses } => json(&json!({ "id": id, "path": path, "uses": uses })),
        Answer::GivenBack { id, result, uses } => json(&json!({ "id": id, "result": result, "uses": uses })),
        Answer::Removed { removed, .. } => json(&json!({ "removed": removed })),
        Answer::Status { status } => json(status),
        Answer::Checked { report } => json(report),
        Answer::Grown { data, metadata, notices } => {
            json(&json!({ "data": data, "metadata": metadata, "notices": notices }))
        }
        Answer::Stopped { was_active, notices } => {
            json(&json!({ "was_active": was_active, "notices": notices }))
        }
    }
}

/// What is worth a warning although it is no failure.
pub(crate) fn warnings(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::GivenBack { id, result: GivenBack::NotMounted, .. } => {
            vec![format!("layer {id} was not mounted")]
        }
        Answer::Status { status } => status.trouble.clone().into_iter().collect(),
        Answer::Grown { notices, .. } | Answer::Stopped { notices, .. } => notices.clone(),
        _ => Vec::new(),
    }
}

/// A failure as JSON for standard error. Of `rm` also what was done and what was not.
pub(crate) fn error(failure: &crate::failure::Failure, answer: Option<&Answer>) -> String {
    let mut object = json!({ "error": failure });
    if let (Some(Answer::Removed { removed, failures }), Value::Object(members)) = (answer, &mut object) {
        members.insert("removed".to_owned(), json!(removed));
        members.insert("failures".to_owned(), json!(failures));
    }
    object.to_string()
}

#[cfg(test)]
mod tests;
