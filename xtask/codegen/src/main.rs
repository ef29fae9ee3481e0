//! `codegen HEADER`: bindings of one kernel header, as Rust text on standard output.
//!
//! `cargo xtask codegen` runs this and writes, or compares, the committed file. It is a package of its own
//! so that bindgen and libclang are needed by nobody who does not regenerate.

use std::path::PathBuf;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let header = std::env::args_os().nth(1).map(PathBuf::from).context("usage: codegen HEADER")?;
    let text = header.to_str().with_context(|| format!("the path {header:?} is not UTF-8"))?;
    let bindings = bindgen::Builder::default()
        .header(text)
        .allowlist_type("dm_.*")
        .allowlist_var("DM_.*")
        // Without this every command number would carry the name of the header's anonymous enum.
        .prepend_enum_name(false)
        .layout_tests(true)
        .generate_cstr(true)
        .generate_comments(false)
        .use_core()
        .wrap_unsafe_ops(true)
        .formatter(bindgen::Formatter::None)
        .disable_header_comment()
        .generate()
        .with_context(|| format!("bindgen failed on {}", header.display()))?;
    print!("{bindings}");
    Ok(())
}
