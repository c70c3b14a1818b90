//! A drawing as PNG: lines, discs and letters of five by seven dots on white. Knows no figure.

use std::io::Write;

use anyhow::Context;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

use super::plot::{Anchor, Colour, SIZE, Shape};

/// Dots a point, so that letters stay readable.
const SCALE: f64 = 2.0;
/// Dots that a dot of a letter is wide and high.
const LETTER_DOT: i32 = 2;
/// A letter's dots, and the gap behind it.
const LETTER: (i32, i32) = (5, 7);
const LETTER_STEP: i32 = 6;

/// A drawing as a PNG file of eight bits a channel.
pub fn png(shapes: &[Shape]) -> anyhow::Result<Vec<u8>> {
    let mut canvas = Canvas::white();
    for shape in shapes {
        canvas.draw(shape);
    }
    canvas.encode().context("the plot cannot be packed")
}

/// Dots, row by row.
struct Canvas {
    width: i32,
    height: i32,
    dots: Vec<Colour>,
}

impl Canvas {
    fn white() -> Self {
        let (width, height) = (to_dot(SIZE.0), to_dot(SIZE.1));
        let count = usize::try_from(width * height).unwrap_or(0);
        Self { width, height, dots: vec![Colour(255, 255, 255); count] }
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Line { from, to, colour } => self.line(*from, *to, *colour),
            Shape::Disc { at, radius, colour } => self.disc(*at, *radius, *colour),
            Shape::Text { at, anchor, text, colour } => self.text(*at, *anchor, text, *colour),
        }
    }

    /// What lies outside is left out.
    fn set(&mut self, x: i32, y: i32, colour: Colour) {
        if (0..self.width).contains(&x) && (0..self.height).contains(&y) {
            let place = usize::try_from(y * self.width + x).unwrap_or(0);
            self.dots[place] = colour;
        }
    }

    fn fill(&mut self, (x, y): (i32, i32), side: i32, colour: Colour) {
        for down in 0..side {
            for right in 0..side {
                self.set(x + right, y + down, colour);
            }
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Colour) {
        let length = (to.0 - from.0).abs().max((to.1 - from.1).abs());
        let steps = to_dot(length).max(1);
        for step in 0..=steps {
            let share = f64::from(step) / f64::from(steps);
            let at = |from: f64, to: f64| to_dot(from + share * (to - from));
            self.fill((at(from.0, to.0), at(from.1, to.1)), 2, colour);
        }
    }

    fn disc(&mut self, at: (f64, f64), radius: f64, colour: Colour) {
        let (x, y, radius) = (to_dot(at.0), to_dot(at.1), to_dot(radius));
        for down in -radius..=radius {
            for right in -radius..=radius {
                if right * right + down * down <= radius * radius {
                    self.set(x + right, y + down, colour);
                }
            }
        }
    }

    fn text(&mut self, at: (f64, f64), anchor: Anchor, text: &str, colour: Colour) {
        let letters = i32::try_from(text.chars().count()).unwrap_or(0);
        let width = (letters * LETTER_STEP - 1).max(0) * LETTER_DOT;
        let left = match anchor {
            Anchor::Start => 0,
            Anchor::Middle => width / 2,
            Anchor::End => width,
        };
        let (mut x, y) = (to_dot(at.0) - left, to_dot(at.1) - LETTER.1 * LETTER_DOT);
        for letter in text.chars() {
            for (right, column) in (0..LETTER.0).zip(columns(letter)) {
                for down in (0..LETTER.1).filter(|down| column >> down & 1 == 1) {
                    let place = (x + right * LETTER_DOT, y + down * LETTER_DOT);
                    self.fill(place, LETTER_DOT, colour);
                }
            }
            x += LETTER_STEP * LETTER_DOT;
        }
    }

    fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let width = usize::try_from(self.width)?;
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        for row in self.dots.chunks(width.max(1)) {
            // Each row begins with how it is filtered: not at all.
            let dots = row.iter().flat_map(|Colour(red, green, blue)| [*red, *green, *blue]);
            let bytes: Vec<u8> = std::iter::once(0).chain(dots).collect();
            packed.write_all(&bytes)?;
        }
        // Eight bits, three channels; the usual packing, filter and no interlacing.
        let header = [
            &u32::try_from(self.width)?.to_be_bytes()[..],
            &u32::try_from(self.height)?.to_be_bytes(),
            &[8, 2, 0, 0, 0],
        ];
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        push_chunk(&mut file, *b"IHDR", &header.concat())?;
        push_chunk(&mut file, *b"IDAT", &packed.finish()?)?;
        push_chunk(&mut file, *b"IEND", &[])?;
        Ok(file)
    }
}

fn push_chunk(file: &mut Vec<u8>, name: [u8; 4], content: &[u8]) -> anyhow::Result<()> {
    let mut sum = Crc::new();
    sum.update(&name);
    sum.update(content);
    file.extend(u32::try_from(content.len())?.to_be_bytes());
    file.extend(name);
    file.extend(content);
    file.extend(sum.sum().to_be_bytes());
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "a drawing is some hundred points wide")]
fn to_dot(points: f64) -> i32 {
    (points * SCALE).round() as i32
}

/// A letter's columns from left to right, the lowest bit on top. What names and numbers have;
/// anything else is a box.
fn columns(letter: char) -> [u8; 5] {
    match letter {
        ' ' => [0; 5],
        '%' => [0b100_0110, 0b010_0110, 0b000_1000, 0b011_0010, 0b011_0001],
        '.' => [0, 0b110_0000, 0b110_0000, 0, 0],
        ':' => [0, 0b011_0110, 0b011_0110, 0, 0],
        '-' => [0b000_1000; 5],
        '_' => [0b100_0000; 5],
        '0' => [0b011_1110, 0b100_0001, 0b100_0001, 0b100_0001, 0b011_1110],
        '1' => [0b000_0000, 0b100_0010, 0b111_1111, 0b100_0000, 0b000_0000],
        '2' => [0b110_0010, 0b101_0001, 0b100_1001, 0b100_1001, 0b100_0110],
        '3' => [0b010_0010, 0b100_0001, 0b100_1001, 0b100_1001, 0b011_0110],
        '4' => [0b001_1000, 0b001_0100, 0b001_0010, 0b111_1111, 0b001_0000],
        '5' => [0b010_0111, 0b100_0101, 0b100_0101, 0b100_0101, 0b011_1001],
        '6' => [0b011_1110, 0b100_1001, 0b100_1001, 0b100_1001, 0b011_0010],
        '7' => [0b000_0001, 0b111_0001, 0b000_1001, 0b000_0101, 0b000_0011],
        '8' => [0b011_0110, 0b100_1001, 0b100_1001, 0b100_1001, 0b011_0110],
        '9' => [0b010_0110, 0b100_1001, 0b100_1001, 0b100_1001, 0b011_1110],
        'a' => [0b010_0000, 0b101_0100, 0b101_0100, 0b101_0100, 0b111_1000],
        'b' => [0b111_1111, 0b100_0100, 0b100_0100, 0b100_0100, 0b011_1000],
        'c' => [0b011_1000, 0b100_0100, 0b100_0100, 0b100_0100, 0b010_1000],
        'd' => [0b011_1000, 0b100_0100, 0b100_0100, 0b100_0100, 0b111_1111],
        'e' => [0b011_1000, 0b101_0100, 0b101_0100, 0b101_0100, 0b001_1000],
        'f' => [0b000_1000, 0b111_1110, 0b000_1001, 0b000_0001, 0b000_0010],
        'g' => [0b000_1100, 0b101_0010, 0b101_0010, 0b101_0010, 0b011_1110],
        'h' => [0b111_1111, 0b000_0100, 0b000_0100, 0b000_0100, 0b111_1000],
        'i' => [0b000_0000, 0b100_0100, 0b111_1101, 0b100_0000, 0b000_0000],
        'j' => [0b010_0000, 0b100_0000, 0b100_0100, 0b011_1101, 0b000_0000],
        'k' => [0b111_1111, 0b001_0000, 0b010_1000, 0b100_0100, 0b000_0000],
        'l' => [0b000_0000, 0b100_0001, 0b111_1111, 0b100_0000, 0b000_0000],
        'm' => [0b111_1100, 0b000_0100, 0b111_1000, 0b000_0100, 0b111_1000],
        'n' => [0b111_1100, 0b000_0100, 0b000_0100, 0b000_0100, 0b111_1000],
        'o' => [0b011_1000, 0b100_0100, 0b100_0100, 0b100_0100, 0b011_1000],
        'p' => [0b111_1110, 0b001_0010, 0b001_0010, 0b001_0010, 0b000_1100],
        'q' => [0b000_1100, 0b001_0010, 0b001_0010, 0b001_0010, 0b111_1110],
        'r' => [0b111_1100, 0b000_1000, 0b000_0100, 0b000_0100, 0b000_1000],
        's' => [0b100_1000, 0b101_0100, 0b101_0100, 0b101_0100, 0b010_0100],
        't' => [0b000_0100, 0b011_1111, 0b100_0100, 0b100_0000, 0b010_0000],
        'u' => [0b011_1100, 0b100_0000, 0b100_0000, 0b100_0000, 0b111_1100],
        'v' => [0b001_1100, 0b010_0000, 0b100_0000, 0b010_0000, 0b001_1100],
        'w' => [0b011_1100, 0b100_0000, 0b011_0000, 0b100_0000, 0b011_1100],
        'x' => [0b100_0100, 0b010_1000, 0b001_0000, 0b010_1000, 0b100_0100],
        'y' => [0b000_1110, 0b101_0000, 0b101_0000, 0b101_0000, 0b011_1110],
        'z' => [0b100_0100, 0b110_0100, 0b101_0100, 0b100_1100, 0b100_0100],
        _ => [0b111_1111, 0b100_0001, 0b100_0001, 0b100_0001, 0b111_1111],
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;

    /// Width, height and the dots' bytes, each chunk's checksum looked at.
    fn decode(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
        let (mut size, mut packed) = ((0, 0), Vec::new());
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        while !rest.is_empty() {
            let length = usize::try_from(word(rest)).unwrap();
            let (name, content) = (&rest[4..8], &rest[8..8 + length]);
            let mut sum = Crc::new();
            sum.update(&rest[4..8 + length]);
            assert_eq!(sum.sum(), word(&rest[8 + length..]), "{name:?}");
            match name {
                b"IHDR" => size = (word(content), word(&content[4..])),
                b"IDAT" => packed.extend(content),
                _ => assert_eq!(name, b"IEND"),
            }
            rest = &rest[12 + length..];
        }
        let mut dots = Vec::new();
        ZlibDecoder::new(packed.as_slice()).read_to_end(&mut dots).unwrap();
        (size.0, size.1, dots)
    }

    #[test]
    fn shapes_are_where_they_should_be() {
        let (red, blue) = (Colour(200, 0, 0), Colour(0, 0, 200));
        let shapes = [
            Shape::Disc { at: (100.0, 50.0), radius: 4.0, colour: red },
            Shape::Line { from: (10.0, 300.0), to: (30.0, 300.0), colour: blue },
            Shape::Text {
                at: (200.0, 200.0),
                anchor: Anchor::Start,
                text: "l".into(),
                colour: red,
            },
            Shape::Disc { at: (9999.0, -50.0), radius: 4.0, colour: red },
        ];
        let (width, height, dots) = decode(&png(&shapes).unwrap());
        assert_eq!((width, height), (1280, 800));
        assert_eq!(dots.len(), 800 * (1 + 1280 * 3));
        let dot = |x: usize, y: usize| {
            let at = y * (1 + 1280 * 3) + 1 + x * 3;
            Colour(dots[at], dots[at + 1], dots[at + 2])
        };
        assert_eq!(
            (dot(200, 100), dot(200, 107), dot(200, 110)),
            (red, red, Colour(255, 255, 255))
        );
        assert_eq!((dot(40, 600), dot(70, 600)), (blue, Colour(255, 255, 255)));
        // The letter's stem is its third column, seven dots above the base line.
        assert_eq!((dot(404, 390), dot(404, 384)), (red, Colour(255, 255, 255)));
    }

    #[test]
    fn every_letter_of_a_name_has_a_shape_of_its_own() {
        let letters = "abcdefghijklmnopqrstuvwxyz0123456789%.:-_ ";
        let shapes: std::collections::HashSet<[u8; 5]> = letters.chars().map(columns).collect();
        assert_eq!(shapes.len(), letters.len());
        assert!(!shapes.contains(&columns('Ж')));
    }
}
