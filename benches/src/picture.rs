//! A picture of the medians, step by step: bars in an SVG.

use std::fmt::Write;

use crate::cycle::{Cycles, Step};
use crate::latency::Latency;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// Where the axes cross, and how much room is above and to the right.
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 300.0;
const TOP: f64 = 60.0;
const RIGHT: f64 = 20.0;
/// Told apart in grey, too.
const COLOURS: [&str; 3] = ["#9aa5b1", "#1f6feb", "#0b2e66"];

/// Medians of each step and of the whole cycle, a bar for each side.
pub(crate) fn bars(latency: &Latency) -> String {
    let sides = latency.sides();
    let value = |cycles: &Cycles, group: usize| match Step::ALL.get(group) {
        Some(&step) => cycles.step(step).median(),
        None => cycles.whole.median(),
    };
    let groups = Step::ALL.len() + 1;
    let most = sides.iter().map(|(_, cycles)| cycles.whole.median()).fold(1.0, f64::max);
    let unit = grid(most);
    let scale = (BOTTOM - TOP) / ((most / unit).ceil() * unit);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">A layer's life: the driver beside the bare kernel calls (medians, ms; driver / floor {:.2})</text>\n",
        latency.ratio()
    );
    let mut line = 0.0;
    while line <= (BOTTOM - TOP) / scale + 0.5 {
        let y = BOTTOM - line * scale;
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d0d7de\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{line:.0}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
        );
        line += unit;
    }
    let group_width = (WIDTH - LEFT - RIGHT) / count(groups);
    let bar = group_width * 0.8 / count(sides.len());
    for group in 0..groups {
        let x0 = LEFT + group_width * (count(group) + 0.1);
        for (side, (_, cycles)) in sides.iter().enumerate() {
            let (x, height) = (x0 + bar * count(side), value(cycles, group) * scale);
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\" text-anchor=\"middle\">{:.0}</text>",
                BOTTOM - height,
                bar - 2.0,
                COLOURS[side],
                x + bar / 2.0 - 1.0,
                BOTTOM - height - 3.0,
                value(cycles, group),
            );
        }
        let name = Step::ALL.get(group).map_or("whole cycle", |step| step.name());
        let middle = x0 + group_width * 0.4;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            BOTTOM + 18.0
        );
    }
    for (side, (name, _)) in sides.iter().enumerate() {
        let x = LEFT + 170.0 * count(side);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            BOTTOM + 32.0,
            COLOURS[side],
            x + 18.0,
            BOTTOM + 42.0,
        );
    }
    svg + "</svg>\n"
}

/// The distance of the lines: 1, 2 or 5 with zeros, so that there are about five.
fn grid(most: f64) -> f64 {
    let power = 10_f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|unit| most / unit <= 6.0)
        .unwrap_or(most)
}

#[expect(clippy::cast_precision_loss, reason = "a handful of bars")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn a_handful_of_lines() {
        for most in [1.0, 7.0, 99.0, 210.0, 846.0, 12_000.0] {
            let lines = most / grid(most);
            assert!((2.0..=6.0).contains(&lines), "{most} has {lines} lines");
        }
    }
}
