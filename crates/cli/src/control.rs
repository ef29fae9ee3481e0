//! The control socket: how commands work through the process that owns a root.

pub(crate) mod client;
mod lines;
pub(crate) mod protocol;
pub(crate) mod server;
