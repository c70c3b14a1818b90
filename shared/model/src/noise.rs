//! Noise that depends on nothing but seed, role, position and id, so that a repeated attempt, a
//! rebuilt session and a draft draw what undisturbed decoding draws. No generator state anywhere.
//!
//! The formula is part of the wire protocol: a change is a new protocol version, and
//! `tests/vectors/noise.json` must then change with it.

/// Who draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The small model at the edge, for its own text.
    Slm,
    /// The large model in the cloud, and drafts of what it will say.
    Llm,
    /// A policy that decides by chance.
    Policy,
}

impl Role {
    fn code(self) -> u8 {
        match self {
            Self::Slm => 0,
            Self::Llm => 1,
            Self::Policy => 2,
        }
    }
}

/// What every draw at one position has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseKey(u64);

impl NoiseKey {
    /// The key of one position, 0-based in the drawing author's own view.
    pub fn new(seed: u64, role: Role, position: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.v1.noise");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&[role.code()]);
        hasher.update(&position.to_le_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }

    /// A uniform draw in (0, 1] for one id.
    pub fn uniform(self, id: u32) -> f64 {
        unit_interval(self.bits(id))
    }

    /// A standard Gumbel draw for one id: −ln(−ln u).
    pub fn gumbel(self, id: u32) -> f64 {
        -(-self.uniform(id).ln()).ln()
    }

    /// A cheap upper bound of [`NoiseKey::gumbel`]: −ln(−ln u) ≤ −ln(1 − u), and the leading ones
    /// of the draw say how small 1 − u can be. The last term covers rounding.
    pub(crate) fn gumbel_at_most(self, id: u32) -> f64 {
        let leading_ones = self.bits(id).leading_ones();
        if leading_ones >= 53 {
            return f64::INFINITY;
        }
        f64::from(leading_ones + 1) * std::f64::consts::LN_2 + 1e-9
    }

    fn bits(self, id: u32) -> u64 {
        let stepped = self.0.wrapping_add(u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        finalise(stepped)
    }
}

/// The output function of `SplitMix64`.
fn finalise(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 53 bits, in the middle of their interval, so that 0 never comes out. The very last interval's
/// middle rounds to 1, whose noise is infinite: it wins, once in 2^53 draws.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
fn unit_interval(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_a_bound_and_close() {
        let key = NoiseKey::new(7, Role::Slm, 0);
        for id in 0..200_000 {
            let (draw, bound) = (key.gumbel(id), key.gumbel_at_most(id));
            assert!(draw <= bound, "id {id}: {draw} > {bound}");
        }
        let total: f64 = (0..1000).map(|id| key.gumbel_at_most(id)).sum();
        assert!(total / 1000.0 < 1.5, "a bound this loose saves nothing");
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        draws: Vec<Draw>,
    }

    #[derive(serde::Deserialize)]
    struct Draw {
        seed: String,
        role: String,
        position: u32,
        id: u32,
        uniform_bits: String,
        gumbel: f64,
    }

    /// The vectors come from another implementation, BLAKE3 included.
    #[test]
    fn draws_are_the_committed_ones() {
        let vectors = include_str!("../tests/vectors/noise.json");
        let vectors: Vectors = serde_json::from_str(vectors).unwrap();
        assert!(vectors.draws.len() > 50);
        for draw in vectors.draws {
            let role = match draw.role.as_str() {
                "slm" => Role::Slm,
                "llm" => Role::Llm,
                _ => Role::Policy,
            };
            let key = NoiseKey::new(draw.seed.parse().unwrap(), role, draw.position);
            assert_eq!(key.uniform(draw.id).to_bits().to_string(), draw.uniform_bits);
            assert!((key.gumbel(draw.id) - draw.gumbel).abs() < 1e-12 * draw.gumbel.abs().max(1.0));
        }
    }

    #[test]
    fn extreme_bits_give_a_draw() {
        assert!(unit_interval(0) > 0.0);
        assert!(unit_interval(u64::MAX) <= 1.0);
    }

    #[test]
    fn seed_role_position_and_id_all_matter() {
        let base = NoiseKey::new(1, Role::Slm, 2);
        assert_ne!(base, NoiseKey::new(2, Role::Slm, 2));
        assert_ne!(base, NoiseKey::new(1, Role::Llm, 2));
        assert_ne!(base, NoiseKey::new(1, Role::Policy, 2));
        assert_ne!(base, NoiseKey::new(1, Role::Slm, 3));
        assert!((base.uniform(0) - base.uniform(1)).abs() > 1e-9);
    }
}
