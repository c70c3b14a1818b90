//! Accuracy against call ratio as a drawing, and the drawing as SVG. Computes no figure.

use std::fmt::Write;

use super::figures::Figures;
use super::table::by_accuracy;

/// The width and height of the plot, and the margin on each side.
pub const SIZE: (f64, f64) = (640.0, 400.0);
const MARGIN: f64 = 60.0;
/// Call ratios below this are drawn at it: the axis is logarithmic.
const RATIO_MIN: f64 = 1e-4;
/// The room of a point's name.
const NAME: (f64, f64) = (80.0, 13.0);

const GRID: Colour = Colour(0xdd, 0xdd, 0xdd);
const INK: Colour = Colour(0x2c, 0x3e, 0x50);
const RELAY: Colour = Colour(0xc0, 0x39, 0x2b);

/// Red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its first letter.
    Start,
    /// Its middle.
    Middle,
    /// Its last letter.
    End,
}

/// A part of a drawing; lengths in points, from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// From one place to the other.
    Line {
        /// The one.
        from: (f64, f64),
        /// The other.
        to: (f64, f64),
        /// Its colour.
        colour: Colour,
    },
    /// A filled circle.
    Disc {
        /// Its middle.
        at: (f64, f64),
        /// Its radius.
        radius: f64,
        /// Its colour.
        colour: Colour,
    },
    /// A line of text.
    Text {
        /// Where its base line is.
        at: (f64, f64),
        /// Which end of it.
        anchor: Anchor,
        /// Its letters.
        text: String,
        /// Its colour.
        colour: Colour,
    },
}

/// Accuracy with its interval against call ratio, one point a policy.
pub fn drawing(figures: &Figures) -> Vec<Shape> {
    let (width, height) = SIZE;
    let mut shapes = Vec::new();
    let mut write = |at, anchor, text: &str| {
        shapes.push(Shape::Text { at, anchor, text: text.to_owned(), colour: INK });
    };
    write((width / 2.0, height - 16.0), Anchor::Middle, "call ratio");
    write((MARGIN, MARGIN - 20.0), Anchor::Start, "accuracy");
    for (ratio, label) in
        [(RATIO_MIN, "none"), (1e-3, "0.1 %"), (1e-2, "1 %"), (1e-1, "10 %"), (1.0, "100 %")]
    {
        let (x, bottom) = (across(ratio), height - MARGIN);
        shapes.push(Shape::Line { from: (x, MARGIN), to: (x, bottom), colour: GRID });
        let at = (x, bottom + 18.0);
        shapes.push(Shape::Text { at, anchor: Anchor::Middle, text: label.into(), colour: INK });
    }
    for step in 0..=4 {
        let y = up(f64::from(step) / 4.0);
        shapes.push(Shape::Line { from: (MARGIN, y), to: (width - MARGIN, y), colour: GRID });
        let (at, text) = ((MARGIN - 6.0, y + 4.0), format!("{} %", step * 25));
        shapes.push(Shape::Text { at, anchor: Anchor::End, text, colour: INK });
    }
    let mut names = Vec::new();
    for (name, policy) in by_accuracy(figures) {
        let (x, y) = (across(policy.call_ratio), up(policy.accuracy));
        let colour = if name == "relay" { RELAY } else { INK };
        let (from, to) = ((x, up(policy.accuracy_low)), (x, up(policy.accuracy_high)));
        shapes.push(Shape::Line { from, to, colour });
        shapes.push(Shape::Disc { at: (x, y), radius: 4.0, colour });
        // At the right edge there is no room behind the point.
        let (anchor, side) =
            if policy.call_ratio > 0.5 { (Anchor::End, -7.0) } else { (Anchor::Start, 7.0) };
        let at = free_place((x + side, y - 5.0), &names);
        names.push(at);
        shapes.push(Shape::Text { at, anchor, text: name.clone(), colour });
    }
    shapes
}

/// The first place from here downwards that none of these names takes.
fn free_place((x, mut y): (f64, f64), taken: &[(f64, f64)]) -> (f64, f64) {
    while taken.iter().any(|name| (name.0 - x).abs() < NAME.0 && (name.1 - y).abs() < NAME.1) {
        y += NAME.1;
    }
    (x, y)
}

/// A drawing as SVG.
pub fn svg(shapes: &[Shape]) -> String {
    let (width, height) = SIZE;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for shape in shapes {
        // Writing to a string cannot fail.
        let _ = match shape {
            Shape::Line { from, to, colour } => writeln!(
                text,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\"/>",
                from.0,
                from.1,
                to.0,
                to.1,
                hex(*colour)
            ),
            Shape::Disc { at, radius, colour } => writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{}\"/>",
                at.0,
                at.1,
                hex(*colour)
            ),
            Shape::Text { at, anchor, text: letters, colour } => writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\" fill=\"{}\">{letters}</text>",
                at.0,
                at.1,
                format!("{anchor:?}").to_lowercase(),
                hex(*colour)
            ),
        };
    }
    text + "</svg>\n"
}

fn hex(Colour(red, green, blue): Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn across(ratio: f64) -> f64 {
    let decades = -RATIO_MIN.log10();
    let share = (ratio.max(RATIO_MIN).log10() + decades) / decades;
    MARGIN + share * (SIZE.0 - 2.0 * MARGIN)
}

fn up(accuracy: f64) -> f64 {
    SIZE.1 - MARGIN - accuracy * (SIZE.1 - 2.0 * MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::figures::figures;
    use crate::evaluation::finished::sample;

    #[test]
    fn the_plot_has_a_point_for_each_policy() {
        let rows = [("slm_alone", false, 0), ("llm_alone", true, 100), ("relay", true, 1)];
        let rows = rows.map(|(policy, is_correct, tokens)| sample(policy, "", is_correct, tokens));
        let shapes = drawing(&figures(&rows, 1));
        let text = svg(&shapes);
        assert_eq!(text.matches("<circle").count(), 3);
        // 1 % is half-way on an axis from 0.01 % to 100 %; all right is at the upper margin.
        let disc = Shape::Disc { at: (320.0, 60.0), radius: 4.0, colour: RELAY };
        assert!(shapes.contains(&disc), "{shapes:?}");
        // The small model alone and with commands masked: one place, two names.
        assert_eq!(free_place((7.0, 5.0), &[(7.0, 5.0), (9.0, 16.0), (99.0, 31.0)]), (7.0, 31.0));
        assert!(text.ends_with("</svg>\n") && text.contains("fill=\"#c0392b\">relay</text>"));
    }
}
