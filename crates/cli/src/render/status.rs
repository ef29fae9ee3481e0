//! `status` and `check`.

use crate::facts::{CheckFacts, RepairOutcome, StatusFacts};
use crate::failure::one_line;

/// Docker's rows, in Docker's order.
pub(crate) fn status(facts: &StatusFacts) -> String {
    facts.rows.iter().map(|(key, value)| format!("{key}: {}\n", one_line(value))).collect()
}

/// One line for each step of a repair and for each finding, and a last one that says how much was compared.
pub(crate) fn check(facts: &CheckFacts) -> String {
    let mut text = String::new();
    for repair in &facts.repairs {
        let word = match repair.outcome {
            RepairOutcome::Done => "mended",
            RepairOutcome::Failed => "not mended",
            RepairOutcome::Planned => "would mend",
        };
        text.push_str(&format!("{word}: {}: {}\n", repair.subject, repair.text));
    }
    for finding in &facts.findings {
        text.push_str(&format!("{}: {}: {}\n", finding.kind, finding.subject, finding.text));
    }
    if !facts.unnamed_thin_devices.is_empty() {
        let ids: Vec<String> = facts.unnamed_thin_devices.iter().map(u32::to_string).collect();
        text.push_str(&format!(
            "no finding: thin devices {} are in the pool, and no record names them: they are others', or were left over\n",
            ids.join(", ")
        ));
    }
    let looked = facts.looked_at;
    let removed = match facts.deferred {
        0 => String::new(),
        removed => format!(" ({removed} of removed layers, whose blocks are still to be given back)"),
    };
    let pool = match looked.thin_devices {
        Some(devices) => format!("{devices} thin devices in the pool"),
        None => "the pool's metadata not read".to_owned(),
    };
    let found = match facts.findings.len() {
        0 => "all agree".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    text + &format!(
        "{} records{removed}, {pool}, {} active devices, {} mounts: {found}\n",
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
            "would mend: docker-x: deactivate docker-x\norphan-device: docker-x: it is active\n\
             2 records, 2 thin devices in the pool, 1 active devices, 0 mounts: 1 finding\n"
        );
        report.findings.clear();
        report.repairs[0].outcome = RepairOutcome::Done;
        report.deferred = 1;
        report.looked_at.thin_devices = None;
        report.unnamed_thin_devices = vec![7, 9];
        assert_eq!(
            check(&report),
            "mended: docker-x: deactivate docker-x\n\
             no finding: thin devices 7, 9 are in the pool, and no record names them: they are others', or were left over\n\
             2 records (1 of removed layers, whose blocks are still to be given back), \
             the pool's metadata not read, 1 active devices, 0 mounts: all agree\n"
        );
    }
}
