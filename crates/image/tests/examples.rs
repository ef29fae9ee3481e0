//! The package's examples do what they say.

#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../examples/images.rs"]
mod images;

use std::time::UNIX_EPOCH;
use thinlayer_image::{Addition, Compression, LayoutWriter, NewImage, Platform, new_config};

#[test]
fn an_image_is_shown_and_copied_into_an_archive() {
    let place = tempfile::tempdir().unwrap();
    let layout = place.path().join("layout");
    let mut writer = LayoutWriter::create(&layout).unwrap();
    let layer = writer.layer(&[0; 1024][..], Compression::Gzip, None).unwrap();
    let added = Addition {
        diff_id: layer.diff_id,
        created: UNIX_EPOCH,
        created_by: "by hand".into(),
        comment: String::new(),
    };
    let config = new_config(None, &Platform::host(), None, &[added]).unwrap();
    let names = ["web:1".parse().unwrap()];
    let written =
        writer.image(&NewImage { names: &names, config: &config, layers: &[layer], manifest: None }).unwrap();
    writer.finish().unwrap();

    let archive = place.path().join("web.tar");
    images::copy(&layout, "web:1", &archive).unwrap();
    for source in [layout, archive] {
        let mut shown = Vec::new();
        images::show(&source, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains(&written.id.to_string()) && shown.contains("Gzip") && shown.contains("web:1"),
            "{shown}"
        );
    }
}
