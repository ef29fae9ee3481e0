//! `tree`: which layer stands on which.

use super::json;
use crate::facts::{LayerFacts, ParentState};
use crate::failure::one_line;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use thinlayer_graphdriver::{Bytes, human_size};

/// Where a layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    /// It was made empty.
    Root,
    /// On its parent, which is there.
    OnParent,
    /// On a parent that was removed.
    OnRemoved,
    /// Nobody knows.
    Unknown,
    /// The records go round in a circle.
    Circular,
}

/// One layer of the drawing, in the order of the drawing.
#[derive(Clone, Debug, Serialize)]
struct Node<'a> {
    id: &'a str,
    parent: Option<&'a str>,
    standing: Standing,
    /// How many layers it stands on, as far as they are there.
    depth: usize,
    size: u64,
    mounted: bool,
}

/// A group of drawings: under nothing, or under something that is no layer any more.
struct Group<'a> {
    title: Option<String>,
    nodes: Vec<Node<'a>>,
}

/// The drawing. `ascii` for terminals that show nothing else.
pub(crate) fn text(layers: &[LayerFacts], ascii: bool) -> String {
    let mut text = String::new();
    for group in groups(layers) {
        let below = usize::from(group.title.is_some());
        if let Some(title) = group.title {
            text.push_str(&title);
            text.push('\n');
        }
        draw(&group.nodes, below, ascii, &mut text);
    }
    text
}

/// The same as an array, one layer after the other.
pub(crate) fn as_json(layers: &[LayerFacts]) -> String {
    let nodes: Vec<Node<'_>> = groups(layers).into_iter().flat_map(|group| group.nodes).collect();
    json(&nodes)
}

/// Lines of one group. `below`: 1 if all of it hangs under a title.
fn draw(nodes: &[Node<'_>], below: usize, ascii: bool, text: &mut String) {
    let (go, branch, last, gap) =
        if ascii { ("|   ", "|-- ", "`-- ", "    ") } else { ("│   ", "├── ", "└── ", "    ") };
    // From the end: whether a node of a depth still follows below decides how its column is drawn.
    let mut lines = Vec::with_capacity(nodes.len());
    let mut follows: Vec<bool> = Vec::new();
    for node in nodes.iter().rev() {
        let depth = node.depth + below;
        follows.truncate(depth + 1);
        follows.resize(depth + 1, false);
        let mut line = String::new();
        for open in follows.get(1..depth).unwrap_or_default() {
            line.push_str(if *open { go } else { gap });
        }
        if depth > 0 {
            line.push_str(if follows[depth] { branch } else { last });
        }
        follows[depth] = true;
        let mounted = if node.mounted { ", mounted" } else { "" };
        lines.push(format!("{line}{} ({}{mounted})\n", one_line(node.id), human_size(Bytes(node.size))));
    }
    lines.iter().rev().for_each(|line| text.push_str(line));
}

fn groups(layers: &[LayerFacts]) -> Vec<Group<'_>> {
    let known: HashSet<&str> = layers.iter().map(|layer| layer.id.as_str()).collect();
    let mut children: HashMap<&str, Vec<&LayerFacts>> = HashMap::new();
    let mut removed: BTreeMap<&str, Vec<&LayerFacts>> = BTreeMap::new();
    let (mut empty, mut unknown) = (Vec::new(), Vec::new());
    for layer in layers {
        match (layer.parent.as_deref(), layer.parent_state) {
            (Some(parent), _) if known.contains(parent) => children.entry(parent).or_default().push(layer),
            (Some(parent), _) => removed.entry(parent).or_default().push(layer),
            (None, ParentState::None) => empty.push(layer),
            (None, _) => unknown.push(layer),
        }
    }
    let mut walk = Walk { children, seen: HashSet::new() };
    let mut groups = vec![Group { title: None, nodes: walk.below(&empty, Standing::Root) }];
    for (parent, orphans) in removed {
        groups.push(Group {
            title: Some(format!("{} (removed)", one_line(parent))),
            nodes: walk.below(&orphans, Standing::OnRemoved),
        });
    }
    if !unknown.is_empty() {
        groups.push(Group {
            title: Some("(parent unknown)".to_owned()),
            nodes: walk.below(&unknown, Standing::Unknown),
        });
    }
    let circular: Vec<&LayerFacts> =
        layers.iter().filter(|layer| !walk.seen.contains(layer.id.as_str())).collect();
    if !circular.is_empty() {
        groups.push(Group {
            title: Some("(each stands on another of these: damaged records)".to_owned()),
            nodes: circular.into_iter().map(|layer| node(layer, Standing::Circular, 0)).collect(),
        });
    }
    groups
}

struct Walk<'a> {
    children: HashMap<&'a str, Vec<&'a LayerFacts>>,
    seen: HashSet<&'a str>,
}

impl<'a> Walk<'a> {
    /// Layers and all that stand on them, parents first. Not by recursion: chains may be long.
    fn below(&mut self, tops: &[&'a LayerFacts], standing: Standing) -> Vec<Node<'a>> {
        let mut nodes = Vec::new();
        let mut waiting: Vec<(&LayerFacts, Standing, usize)> =
            tops.iter().rev().map(|layer| (*layer, standing, 0)).collect();
        while let Some((layer, standing, depth)) = waiting.pop() {
            self.seen.insert(&layer.id);
            nodes.push(node(layer, standing, depth));
            let children = self.children.get(layer.id.as_str()).map_or(&[][..], Vec::as_slice);
            waiting.extend(children.iter().rev().map(|child| (*child, Standing::OnParent, depth + 1)));
        }
        nodes
    }
}

fn node(layer: &LayerFacts, standing: Standing, depth: usize) -> Node<'_> {
    Node {
        id: &layer.id,
        parent: layer.parent.as_deref(),
        standing,
        depth,
        size: layer.size,
        mounted: layer.mounted_at.is_some(),
    }
}

/// Does the environment promise a terminal that shows UTF-8? The first of these that is set decides (locale(7)).
pub(crate) fn is_utf8_locale() -> bool {
    let value = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|key| std::env::var(key).ok().filter(|value| !value.is_empty()));
    value.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.ends_with("utf-8") || value.ends_with("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::PathText;
    use crate::facts::samples::layer;

    fn without_sizes(text: &str) -> String {
        text.replace(" (10.74GB)", "")
    }

    #[test]
    fn a_forest() {
        let mut web = layer("web", Some("base1"));
        web.mounted_at = Some(PathText::Text("/x".into()));
        let layers = [
            layer("base1", None),
            layer("base2", None),
            layer("db", Some("base1")),
            layer("db2", Some("db")),
            layer("db3", Some("db2")),
            layer("db4", Some("db")),
            web,
            layer("old", Some("?")),
            layer("older", Some("?")),
            layer("on-old", Some("old")),
            layer("orphan", Some("gone")),
        ];
        let drawn = text(&layers, false);
        assert_eq!(
            without_sizes(&drawn),
            "base1\n\
             ├── db\n\
             │   ├── db2\n\
             │   │   └── db3\n\
             │   └── db4\n\
             └── web (10.74GB, mounted)\n\
             base2\n\
             gone (removed)\n\
             └── orphan\n\
             (parent unknown)\n\
             ├── old\n\
             │   └── on-old\n\
             └── older\n"
        );
        let ascii = text(&layers, true);
        assert!(ascii.is_ascii(), "{ascii}");
        assert!(ascii.contains("|   |   `-- db3"), "{ascii}");
        assert_eq!(ascii.lines().count(), drawn.lines().count());
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert_eq!(text(&[], false), "");
        assert_eq!(as_json(&[]), "[]\n");
    }

    #[test]
    fn records_in_a_circle_are_shown_and_do_not_hang() {
        let layers = [layer("a", Some("b")), layer("b", Some("a")), layer("c", Some("c")), layer("d", None)];
        let drawn = without_sizes(&text(&layers, false));
        assert!(drawn.starts_with("d\n"), "{drawn}");
        for id in ["a", "b", "c"] {
            assert!(drawn.contains(&format!("── {id}\n")), "{drawn}");
        }
        assert!(as_json(&layers).contains("circular"));
    }

    #[test]
    fn long_chains_are_no_danger() {
        let layers: Vec<_> = (0..3000)
            .map(|n| layer(&n.to_string(), (n > 0).then(|| (n - 1).to_string()).as_deref()))
            .collect();
        assert_eq!(text(&layers, true).lines().count(), 3000);
    }

    #[test]
    fn json_has_each_layer_once_in_the_drawn_order() {
        let layers =
            [layer("a", None), layer("c", Some("a")), layer("b", Some("gone")), layer("d", Some("?"))];
        let nodes: Vec<serde_json::Value> = serde_json::from_str(&as_json(&layers)).unwrap();
        let said: Vec<_> = nodes
            .iter()
            .map(|node| format!("{} {} {}", node["id"], node["standing"], node["depth"]))
            .collect();
        assert_eq!(
            said,
            ["\"a\" \"root\" 0", "\"c\" \"on-parent\" 1", "\"b\" \"on-removed\" 0", "\"d\" \"unknown\" 0"]
        );
    }
}
