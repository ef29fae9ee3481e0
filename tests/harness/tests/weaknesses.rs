//! `docs/weaknesses.md` names a test for each weakness of Docker's driver: each of them has to exist.
#![expect(clippy::unwrap_used, reason = "a failure here is the test's")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text of all sources under a folder, or of a file.
fn text(at: &Path) -> String {
    let mut files = Vec::new();
    if at.is_dir() {
        sources(at, &mut files)
    } else {
        files.push(at.to_owned())
    }
    files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// What the last column of a row has in back-quotes.
fn names(row: &str) -> Vec<&str> {
    let cells: Vec<&str> = row.trim().trim_matches('|').split(" | ").collect();
    cells.last().unwrap().split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(top.join("docs/weaknesses.md")).unwrap();
    let crates = text(&top.join("crates"));
    let suites = top.join("tests/suites/src/bin");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| {
            let id = line.strip_prefix("| ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            id.len() > 1 && id.starts_with(['I', 'C']) && id[1..].chars().all(|c| c.is_ascii_digit())
        })
        .collect();
    assert_eq!(rows.len(), 18 + 25, "I1 to I18 and C1 to C25");
    let mut wrong = Vec::new();
    for row in rows {
        let names = names(row);
        // Diffs come later.
        if names.is_empty() && !row.starts_with("| C16 ") {
            wrong.push(format!("no test in: {row}"));
        }
        for name in names {
            let there = match name.split_once(": ") {
                Some((suite, test)) => {
                    let (folder, file) = (suites.join(suite), suites.join(format!("{suite}.rs")));
                    let text = if folder.is_dir() { text(&folder) } else { text(&file) };
                    text.contains(&format!("\"{test}\""))
                }
                None => crates.contains(&format!("fn {name}(")),
            };
            if !there {
                wrong.push(format!("no such test: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
