//! Attention of one row's new tokens to its cache, as operations on tensors.

use candle_core::{D, DType, Device, Result, Tensor};
use relay_kernels::AttentionShape;

use crate::slab::Stretch;

/// What is added where a token may not look. Not infinity: fast arithmetic on a device need not
/// respect it. Its exponential is 0 all the same.
const UNSEEN: f32 = -1e30;

/// What each token of a stretch may not see: `[1, tokens, 1, positions]`; `None` if it sees all.
pub(super) fn mask(stretch: &Stretch, device: &Device) -> Result<Option<Tensor>> {
    let positions = stretch.positions();
    if positions.len() == 1 {
        return Ok(None);
    }
    let (tokens, seen) = (positions.len(), positions.end);
    let of_token = |at| (0..seen).map(move |key| if key <= at { 0.0 } else { UNSEEN });
    let values: Vec<f32> = positions.flat_map(of_token).collect();
    Tensor::from_vec(values, (1, tokens, 1, seen), device).map(Some)
}

/// What queries `[tokens, heads, head_width]`, scaled already, find in keys and values
/// `[positions, 2 · kv_heads · head_width]`: `[tokens, heads · head_width]`.
pub(super) fn attend(
    shape: AttentionShape,
    queries: &Tensor,
    keys_values: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_width } = shape;
    let (tokens, positions) = (queries.dim(0)?, keys_values.dim(0)?);
    let group = heads / kv_heads;
    let half = |index: usize| {
        let half = keys_values.narrow(1, index * kv_heads * head_width, kv_heads * head_width)?;
        half.reshape((positions, kv_heads, head_width))?.transpose(0, 1)?.contiguous()
    };
    let (keys, values) = (half(0)?, half(1)?);
    let queries = queries.reshape((tokens, kv_heads, group * head_width))?.transpose(0, 1)?;
    let queries = queries.reshape((kv_heads, tokens * group, head_width))?;
    let scores = queries.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
    let scores = match mask {
        Some(mask) => {
            let by_token = scores.reshape((kv_heads, tokens, group, positions))?;
            by_token.broadcast_add(mask)?.reshape(scores.shape())?
        }
        None => scores,
    };
    let mixed = softmax(&scores)?.to_dtype(values.dtype())?.matmul(&values)?;
    let by_token = mixed.reshape((kv_heads, tokens, group * head_width))?.transpose(0, 1)?;
    by_token.reshape((tokens, heads * head_width))
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    let largest = scores.max_keepdim(D::Minus1)?;
    let weights = scores.broadcast_sub(&largest)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}
