//! Rotary positions as operations on tensors, in the two layouts that model files have.

use candle_core::{Device, Result, Tensor};

use crate::config::{Rotary, RotaryLayout, rotary_angles};
use crate::slab::{self, Stretch};

/// Cosine and sine of each token's pairs, each `[tokens, 1, pairs]`, in f32.
#[derive(Debug)]
pub(super) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    pub(super) fn new(slab: &[Stretch], frequencies: &[f64], device: &Device) -> Result<Self> {
        let angles = rotary_angles(slab::positions(slab), frequencies);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.into_iter().unzip();
        let tensor = |values: Vec<f32>| {
            let tokens = values.len() / frequencies.len();
            Tensor::from_vec(values, (tokens, 1, frequencies.len()), device)
        };
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)? })
    }
}

/// Turns heads `[tokens, heads, head_width]` to their positions.
pub(super) fn turn(heads: &Tensor, rotary: &Rotary, angles: &Angles) -> Result<Tensor> {
    let pairs = rotary.pairs;
    let (first, second) = match rotary.layout {
        RotaryLayout::Halves => (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?),
        RotaryLayout::Interleaved => {
            let (tokens, count, _) = heads.dims3()?;
            let paired = heads.reshape((tokens, count, pairs, 2))?;
            (paired.narrow(3, 0, 1)?.squeeze(3)?, paired.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let times = |x: &Tensor, angle: &Tensor| x.broadcast_mul(angle);
    let turned_first = (times(&first, &angles.cos)? - times(&second, &angles.sin)?)?;
    let turned_second = (times(&first, &angles.sin)? + times(&second, &angles.cos)?)?;
    match rotary.layout {
        RotaryLayout::Halves => Tensor::cat(&[turned_first, turned_second], 2),
        RotaryLayout::Interleaved => {
            let paired = Tensor::stack(&[turned_first, turned_second], 3)?;
            paired.flatten_from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_each_pair() {
        let table = [
            (RotaryLayout::Interleaved, [0.0, 1.0, 0.0, -2.0]),
            (RotaryLayout::Halves, [0.0, 0.0, 1.0, -2.0]),
        ];
        for (layout, expected) in table {
            // A quarter turn of the first pair, a half turn of the second.
            let tensor = |values: [f32; 2]| Tensor::new(&[[values]], &Device::Cpu).unwrap();
            let angles = Angles { cos: tensor([0.0, -1.0]), sin: tensor([1.0, 0.0]) };
            let rotary = Rotary {
                layout,
                pairs: 2,
                base: 1.0,
                frequency_divisors: Vec::new(),
                scaling: None,
            };
            let heads = Tensor::new(&[[[1.0_f32, 0.0, 0.0, 2.0]]], &Device::Cpu).unwrap();
            let turned = turn(&heads, &rotary, &angles).unwrap();
            assert_eq!(turned.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
}
