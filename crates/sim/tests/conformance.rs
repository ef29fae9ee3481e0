//! The simulation behaves as the cases say that machines do.

use thinlayer_sim::conformance::{SimLab, cases};

#[test]
fn the_simulation_behaves_like_a_machine() {
    let mut failed = Vec::new();
    for case in cases() {
        let lab = SimLab::new(1);
        if let Err(why) = case.run(&lab) {
            failed.push(format!("{}: {why}", case.name));
        }
        let world = lab.world();
        let left = (world.dm_names(), world.loop_files(), world.mount_points(), world.violations());
        if left != Default::default() && failed.is_empty() {
            failed.push(format!("{}: left behind or violated: {left:?}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = cases().iter().map(|c| c.name).collect();
    let count = names.len();
    assert!(count >= 100, "{count} cases");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
