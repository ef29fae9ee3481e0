//! What LVM reports, as values: `pvs`, `vgs` and `lvs` with `--reportformat json`.

use super::{Programs, must};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;
use thinlayer_dm::Bytes;

/// One row: field names and their texts. LVM prints every value as a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    fields: HashMap<String, String>,
    command: String,
}

#[derive(Deserialize)]
struct Report {
    report: Vec<HashMap<String, Vec<HashMap<String, String>>>>,
}

/// Asks `pvs`, `vgs` or `lvs` for some fields. Sizes are in bytes.
///
/// `select` is a condition in LVM's language; where nothing fits there are no rows, which is no error.
pub(super) fn report(
    programs: &dyn Programs,
    program: &str,
    fields: &[&str],
    select: Option<&str>,
    deadline: Duration,
) -> Result<Vec<Row>> {
    let fields = fields.join(",");
    let mut arguments = vec!["--reportformat", "json", "--units", "b", "--nosuffix", "--options", &fields];
    if program == "lvs" {
        arguments.push("--all");
    }
    if let Some(condition) = select {
        arguments.extend(["--select", condition]);
    }
    let command = [&[program], &arguments[..]].concat().join(" ");
    let text = must(programs, program, &arguments, deadline)?;
    parse(&text, &command)
}

fn parse(text: &str, command: &str) -> Result<Vec<Row>> {
    let report: Report = serde_json::from_str(text).map_err(|error| Error::Program {
        command: command.to_owned(),
        said: format!("its report cannot be read ({error})"),
        advice: "LVM from 2.02.158 on can report as JSON; see what it prints".into(),
    })?;
    let rows = report.report.into_iter().flat_map(HashMap::into_values).flatten();
    Ok(rows.map(|fields| Row { fields, command: command.to_owned() }).collect())
}

impl Row {
    /// A field's text; empty where LVM has nothing to say.
    pub(super) fn text(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// A whole number; none is 0.
    pub(super) fn number(&self, field: &str) -> Result<u64> {
        let text = self.text(field);
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| Error::Program {
            command: self.command.clone(),
            said: format!("field {field} is {text:?} and should be a number"),
            advice: String::new(),
        })
    }

    /// A size.
    pub(super) fn bytes(&self, field: &str) -> Result<Bytes> {
        self.number(field).map(Bytes)
    }
}

/// Tests of this crate make rows of texts.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_of_a_report() {
        let text = r#"  { "report": [ { "lv": [ {"lv_name":"thinpool", "lv_size":"1288490188", "thin_count":""} ] } ] }"#;
        let rows = parse(text, "lvs").unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].text("lv_name"), "thinpool");
        assert_eq!(rows[0].bytes("lv_size").unwrap(), Bytes(1_288_490_188));
        assert_eq!(rows[0].number("thin_count").unwrap(), 0);
        assert_eq!(rows[0].text("unheard_of"), "");
        assert!(rows[0].number("lv_name").is_err());
    }

    #[test]
    fn an_empty_report_has_no_rows_and_a_garbled_one_is_an_error() {
        assert!(parse(r#"{"report": [ {"lv": [] } ]}"#, "lvs").unwrap().is_empty());
        for text in ["", "{", "No volume groups found", r#"{"report": 3}"#] {
            let error = parse(text, "lvs -a").unwrap_err().to_string();
            assert!(error.contains("lvs -a") && error.contains("cannot be read"), "{error}");
        }
    }
}
