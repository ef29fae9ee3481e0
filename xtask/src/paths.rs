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
