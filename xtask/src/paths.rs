//! Where things are in the checkout.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The VM's cache and results; in the checkout even if `CARGO_TARGET_DIR` sends cargo's own files elsewhere.
pub(crate) fn vm() -> PathBuf {
    workspace().join("target/vm")
}

/// Where cargo puts what it builds.
pub(crate) fn cargo_target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // Cargo reads a relative one from where it was started, and so does this program.
        Some(folder) => std::path::absolute(&folder).unwrap_or_else(|_| PathBuf::from(folder)),
        None => workspace().join("target"),
    }
}
