//! Images as the tools of the field lay them out, built here by code, and read back.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

mod archives;
mod docker;
mod hostile;
mod hostile_archives;
mod layouts;
mod programs;
mod records;
mod support;
mod writing;
