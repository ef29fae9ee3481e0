//! The package's examples do what they say.

#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../examples/crash.rs"]
mod crash;

#[test]
fn an_interrupted_creation_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    crash::run(folder.path()).unwrap();
}
