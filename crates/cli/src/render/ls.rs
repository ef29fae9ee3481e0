//! `ls`: one line for each layer.

use super::table::table;
use super::{ABSENT, UNKNOWN};
use crate::facts::{LayerFacts, ParentState, PathText};
use crate::failure::one_line;
use thinlayer_graphdriver::{Bytes, human_size};

/// The table.
pub(crate) fn text(layers: &[LayerFacts]) -> String {
    let rows: Vec<_> = layers
        .iter()
        .map(|layer| {
            [
                one_line(&layer.id),
                parent(layer),
                human_size(Bytes(layer.size)),
                layer.filesystem.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
                layer.created.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
                layer.mounted_at.as_ref().map_or_else(|| ABSENT.to_owned(), PathText::shown),
            ]
        })
        .collect();
    table(["ID", "PARENT", "SIZE", "FS", "CREATED", "MOUNTED"], &rows)
}

/// A parent in one word.
pub(crate) fn parent(layer: &LayerFacts) -> String {
    match (&layer.parent, layer.parent_state) {
        (Some(parent), _) => one_line(parent),
        (None, ParentState::None) => ABSENT.to_owned(),
        (None, _) => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::samples::layer;

    #[test]
    fn facts_that_are_not_known_are_shown_so() {
        let mut docker = layer("old\nlayer", Some("?"));
        (docker.filesystem, docker.created) = (None, None);
        let mut web = layer("web", Some("base1"));
        web.mounted_at = Some(PathText::Text("/r/mnt/web/rootfs".into()));
        let text = text(&[layer("base1", None), docker, web]);
        assert_eq!(
            text,
            "ID         PARENT  SIZE     FS    CREATED               MOUNTED\n\
             base1      -       10.74GB  ext4  2025-01-31T12:00:00Z  -\n\
             old layer  ?       10.74GB  ?     ?                     -\n\
             web        base1   10.74GB  ext4  2025-01-31T12:00:00Z  /r/mnt/web/rootfs\n"
        );
    }
}
