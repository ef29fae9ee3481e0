//! What more than one suite needs: container engines, and trees of files to compare.

pub mod dockerd;
pub mod engine;
pub mod tree;
