//! Nothing but a test, `tests/compare.rs`: the committed bindings of `thinlayer-dm` against those that `devicemapper-sys`
//! makes from the headers of this machine.
//!
//! ```text
//! apt-get install libdevmapper-dev libclang-dev pkg-config
//! cargo test --manifest-path crates/dm/compare-sys/Cargo.toml
//! ```
