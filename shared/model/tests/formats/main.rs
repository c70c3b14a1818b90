//! Every weight format against another implementation, bit for bit: `vectors.json` holds blocks
//! and what the `gguf` Python package makes of them, `make_vectors.py` is how it was made.
#![allow(clippy::unwrap_used, reason = "tests")]

use relay_kernels::{WeightFormat, Weights};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    format: String,
    bytes: String,
    first: String,
    last: String,
    hash: String,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn format_named(name: &str) -> WeightFormat {
    WeightFormat::ALL.into_iter().find(|format| format.name() == name).unwrap()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// FNV-1a, 64 bits, over the values' bytes.
fn hash_of(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[test]
fn every_format_has_the_bits_of_the_reference() {
    for (index, vector) in vectors().iter().enumerate() {
        let (format, bytes) = (format_named(&vector.format), bytes_of(&vector.bytes));
        let mut scratch = Vec::new();
        let values = Weights { format, bytes: &bytes }.values(&mut scratch);
        let bits = |value: Option<&f32>| format!("{:08x}", value.unwrap().to_bits());
        let name = &vector.format;
        assert_eq!(bits(values.first()), vector.first, "case {index}, {name}: first value");
        assert_eq!(bits(values.last()), vector.last, "case {index}, {name}: last value");
        assert_eq!(format!("{:016x}", hash_of(values)), vector.hash, "case {index}, {name}");
        assert!(format.is_finite(&bytes), "case {index}, {name}");
    }
}

#[test]
fn every_format_is_there() {
    let vectors = vectors();
    for format in WeightFormat::ALL {
        let cases = vectors.iter().filter(|vector| vector.format == format.name()).count();
        assert!(cases >= 12, "{}: {cases} cases", format.name());
    }
}
