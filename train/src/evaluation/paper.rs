//! What the paper measured, to stand beside what is measured here: `RelayLLM`, tables 1 and 4,
//! Qwen3-1.7B calling Qwen3-8B, means of six mathematical benchmarks. Nothing of it is ours.

/// The paper's figures, as shares.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    /// Accuracy of the small model alone, untouched.
    pub slm_alone: f64,
    /// Of the large model alone.
    pub llm_alone: f64,
    /// Of relaying, with the difficulty-aware reward.
    pub relay: f64,
    /// Of the same small model with its commands masked.
    pub teacher_free: f64,
    /// Of the gap between the two models alone.
    pub gap_recovered: f64,
    /// Tokens of the large model over all.
    pub call_ratio: f64,
    /// Against the performance-matched random router.
    pub router_reduction: f64,
}

/// Its best pair.
pub const PAPER: Paper = Paper {
    slm_alone: 0.425,
    llm_alone: 0.5412,
    relay: 0.4952,
    teacher_free: 0.4415,
    gap_recovered: 0.604,
    call_ratio: 0.0107,
    router_reduction: 0.982,
};

/// Where these figures are from.
pub const SOURCE: &str = "RelayLLM, tables 1 and 4: Qwen3-1.7B calling Qwen3-8B, means of six \
                          mathematical benchmarks, not measured here";
