//! `status` and `check`.

use crate::facts::{CheckFacts, StatusFacts};
use crate::failure::one_line;

/// Docker's rows, in Docker's order.
pub(crate) fn status(facts: &StatusFacts) -> String {
    facts.rows.iter().map(|(key, value)| format!("{key}: {}\n", one_line(value))).collect()
}

/// One line for each finding, and a last one that says how much was compared.
pub(crate) fn check(facts: &CheckFacts) -> String {
    let mut text = String::new();
    for finding in &facts.findings {
        text.push_str(&format!("{}: {}: {}\n", finding.kind, finding.subject, finding.text));
    }
    let looked = facts.looked_at;
    let found = match facts.findings.len() {
        0 => "all agree".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    text + &format!(
        "{} records, {} active devices, {} mounts: {found}\n",
        looked.records, looked.devices, looked.mounts
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::samples;

    #[test]
    fn rows_are_dockers() {
        assert_eq!(
            status(&samples::status()),
            "Pool Name: docker-253:1-4711-pool\nPool Blocksize: 65.54kB\n"
        );
    }

    #[test]
    fn findings_are_lines() {
        let mut report = samples::check();
        assert_eq!(
            check(&report),
            "orphan-device: docker-x: it is active\n2 records, 1 active devices, 0 mounts: 1 finding\n"
        );
        report.findings.clear();
        assert_eq!(check(&report), "2 records, 1 active devices, 0 mounts: all agree\n");
    }
}
