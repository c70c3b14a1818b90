//! From logits to the next token: Gumbel-max with noise that depends on position and id alone.
//!
//! Pure functions; the same logits, parameters and key always give the same token. The order of
//! the steps is part of the wire protocol: mask, temperature, top-k, top-p, min-p, then the argmax
//! of logit / T + noise, ties to the lower id.

use std::cmp::Ordering;

use relay_kernels::{Cpu, LOGIT_BLOCK, SoftmaxSums, block_maxima, softmax_sums};

use crate::banned_text::TokenMask;
use crate::noise::NoiseKey;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token, without noise or truncation.
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens that reaches this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the most likely one; 0 keeps all.
    pub min_p: f32,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Plain sampling at a temperature, nothing cut off.
    pub fn at_temperature(temperature: f32) -> Self {
        Self { temperature, ..Self::GREEDY }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self::GREEDY
    }
}

/// A token and how likely the model thought it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability in the softmax of the raw logits.
    pub logprob: f32,
}

/// Chooses a token from `logits`, `[vocabulary]`. A logit that is not a number is never chosen
/// and neither is a masked id; if nothing is left the most likely token is taken whatever the mask
/// says, because something has to be. `None` if no id has a logit that can be chosen at all: the
/// model is broken, and any token would be made up.
pub fn sample(
    logits: &[f32],
    sampling: &Sampling,
    key: NoiseKey,
    masked: &TokenMask,
) -> Option<Sampled> {
    let chosen = if sampling.temperature > 0.0 {
        draw(logits, sampling, key, masked)
    } else {
        most_likely(logits, masked)
    };
    let id = chosen.or_else(|| most_likely(logits, &TokenMask::none()))?;
    Some(Sampled { id, logprob: log_probability(logits, id) })
}

/// Entropy in nats of the softmax of the raw logits.
pub fn entropy_nats(logits: &[f32]) -> f64 {
    let SoftmaxSums { weights, weighted } = sums(logits, max_logit(logits), 1.0);
    if weights > 0.0 { (weights.ln() - weighted / weights).max(0.0) } else { 0.0 }
}

/// The `k` most likely ids with their log-probabilities (of the softmax of the raw logits), most
/// likely first, ties by id.
pub fn top_log_probabilities(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let normaliser = log_normaliser(logits);
    let mut candidates = candidates(logits, &TokenMask::none(), k);
    keep_top(&mut candidates, k);
    candidates.iter().map(|c| (c.id, narrow(f64::from(c.logit) - normaliser))).collect()
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Most likely first, then the lower id.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "sorting compares references")]
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

fn draw(logits: &[f32], sampling: &Sampling, key: NoiseKey, masked: &TokenMask) -> Option<u32> {
    let temperature = f64::from(sampling.temperature);
    let wanted = if sampling.top_k > 0 { sampling.top_k as usize } else { usize::MAX };
    let mut candidates = candidates(logits, masked, wanted);
    if sampling.top_k > 0 {
        keep_top(&mut candidates, wanted);
    }
    if sampling.top_p < 1.0 {
        keep_probable(&mut candidates, temperature, f64::from(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        keep_near_best(&mut candidates, temperature, f64::from(sampling.min_p));
    }
    noisiest(&candidates, temperature, key)
}

/// Ids that may be drawn, by rising id; only such as may be among the `wanted` best.
fn candidates(logits: &[f32], masked: &TokenMask, wanted: usize) -> Vec<Candidate> {
    let maxima = block_maxima(Cpu::of_process(), logits);
    let bound = bound_of_best(&maxima, wanted.saturating_add(masked.ids().len()));
    let mut kept = Vec::new();
    for ((first, block), maximum) in blocks(logits).zip(&maxima) {
        if *maximum < bound {
            continue;
        }
        let masked = masked_in_block(masked, first);
        for (id, &logit) in (first..).zip(block) {
            if logit >= bound && logit > f32::NEG_INFINITY && !masked.contains(&id) {
                // Adding zero makes −0 the equal of 0, as comparing floats has it.
                kept.push(Candidate { id, logit: logit + 0.0 });
            }
        }
    }
    kept
}

/// Blocks of logits, each with its first id.
fn blocks(logits: &[f32]) -> impl Iterator<Item = (u32, &[f32])> {
    (0..).step_by(LOGIT_BLOCK).zip(logits.chunks(LOGIT_BLOCK))
}

/// The masked ids of the block that begins with `first`: mostly none.
fn masked_in_block(masked: &TokenMask, first: u32) -> &[u32] {
    let ids = masked.ids();
    let from = ids.partition_point(|id| *id < first);
    let behind = |id: &u32| (*id - first) as usize >= LOGIT_BLOCK;
    let to = from + ids[from..].partition_point(|id| !behind(id));
    &ids[from..to]
}

/// What at least `count` logits reach: as many blocks have their highest there.
fn bound_of_best(maxima: &[f32], count: usize) -> f32 {
    if count == 0 || count > maxima.len() {
        return f32::NEG_INFINITY;
    }
    let mut sorted = maxima.to_vec();
    *sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

/// Keeps the `k` best, best first.
fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        candidates.clear();
    } else if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::rank);
}

/// Keeps the smallest set of best candidates whose probability reaches `p`, best first. Only as
/// much is sorted as the set needs.
fn keep_probable(candidates: &mut Vec<Candidate>, temperature: f64, p: f64) {
    let best = best_logit(candidates);
    let weight = |c: &Candidate| ((f64::from(c.logit) - f64::from(best)) / temperature).exp();
    let goal = p * sum_by_id(candidates, best, temperature);
    let mut sorted = 256;
    loop {
        let mut head = candidates.clone();
        keep_top(&mut head, sorted.max(1));
        let mut reached = 0.0;
        for (index, candidate) in head.iter().enumerate() {
            reached += weight(candidate);
            if reached >= goal {
                head.truncate(index + 1);
                *candidates = head;
                return;
            }
        }
        if sorted >= candidates.len() {
            *candidates = head;
            return;
        }
        sorted *= 8;
    }
}

/// Σ weights in the order of ids, whatever order the candidates have come to.
fn sum_by_id(candidates: &[Candidate], best: f32, temperature: f64) -> f64 {
    let mut by_id = candidates.to_vec();
    by_id.sort_unstable_by_key(|candidate| candidate.id);
    let logits: Vec<f32> = by_id.iter().map(|candidate| candidate.logit).collect();
    sums(&logits, best, narrow(temperature)).weights
}

/// Keeps candidates at least `min_p` times as likely as the best.
fn keep_near_best(candidates: &mut Vec<Candidate>, temperature: f64, min_p: f64) {
    let best = f64::from(best_logit(candidates));
    candidates.retain(|c| ((f64::from(c.logit) - best) / temperature).exp() >= min_p);
}

fn best_logit(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// The argmax of logit / T + noise; ties to the lower id. Noise that cannot win is not computed.
fn noisiest(candidates: &[Candidate], temperature: f64, key: NoiseKey) -> Option<u32> {
    let mut best: Option<(f64, u32)> = None;
    for candidate in candidates {
        let scaled = f64::from(candidate.logit) / temperature;
        let top = best.map_or(f64::NEG_INFINITY, |(score, _)| score);
        if scaled + key.gumbel_at_most(candidate.id) < top {
            continue;
        }
        let score = scaled + key.gumbel(candidate.id);
        let wins = score > top || best.is_none_or(|(_, id)| score >= top && candidate.id < id);
        if wins {
            best = Some((score, candidate.id));
        }
    }
    best.map(|(_, id)| id)
}

fn most_likely(logits: &[f32], masked: &TokenMask) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    let maxima = block_maxima(Cpu::of_process(), logits);
    for ((first, block), maximum) in blocks(logits).zip(&maxima) {
        let top = best.map_or(f32::NEG_INFINITY, |(_, top)| top);
        if *maximum <= top {
            continue;
        }
        let masked = masked_in_block(masked, first);
        for (id, &logit) in (first..).zip(block) {
            let beats = best.is_none_or(|(_, top)| logit > top);
            if beats && logit > f32::NEG_INFINITY && !masked.contains(&id) {
                best = Some((id, logit));
            }
        }
    }
    best.map(|(id, _)| id)
}

fn max_logit(logits: &[f32]) -> f32 {
    block_maxima(Cpu::of_process(), logits).into_iter().fold(f32::NEG_INFINITY, f32::max)
}

fn sums(logits: &[f32], highest: f32, temperature: f32) -> SoftmaxSums {
    softmax_sums(Cpu::of_process(), logits, highest, temperature)
}

fn log_normaliser(logits: &[f32]) -> f64 {
    let highest = max_logit(logits);
    f64::from(highest) + sums(logits, highest, 1.0).weights.ln()
}

fn log_probability(logits: &[f32], id: u32) -> f32 {
    let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    narrow(f64::from(logit) - log_normaliser(logits))
}

#[expect(clippy::cast_possible_truncation, reason = "a log-probability is reported as f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Role;
    use proptest::prelude::*;

    fn key(position: u32) -> NoiseKey {
        NoiseKey::new(11, Role::Slm, position)
    }

    /// The protocol's order of steps, written out without any shortcut.
    fn naive(logits: &[f32], sampling: &Sampling, key: NoiseKey, masked: &TokenMask) -> u32 {
        let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().copied().map(f64::from)).collect();
        kept.retain(|(id, logit)| !masked.contains(*id) && !logit.is_nan());
        kept.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        if sampling.temperature == 0.0 {
            return kept[0].0;
        }
        let temperature = f64::from(sampling.temperature);
        if sampling.top_k > 0 {
            kept.truncate(sampling.top_k as usize);
        }
        let weight = |logit: f64| ((logit - kept[0].1) / temperature).exp();
        let mut by_id: Vec<(u32, f64)> = kept.clone();
        by_id.sort_by_key(|(id, _)| *id);
        let total: f64 = by_id.iter().map(|(_, logit)| weight(*logit)).sum();
        let mut reached = 0.0;
        let mut nucleus = 0;
        while nucleus < kept.len() && (nucleus == 0 || reached < f64::from(sampling.top_p) * total)
        {
            reached += weight(kept[nucleus].1);
            nucleus += 1;
        }
        let best = kept[0].1;
        if sampling.top_p < 1.0 {
            kept.truncate(nucleus);
        }
        kept.retain(|(_, logit)| ((logit - best) / temperature).exp() >= f64::from(sampling.min_p));
        let score = |(id, logit): &(u32, f64)| logit / temperature + key.gumbel(*id);
        kept.sort_by(|a, b| score(b).partial_cmp(&score(a)).unwrap().then(a.0.cmp(&b.0)));
        kept[0].0
    }

    fn samplings() -> impl Strategy<Value = Sampling> {
        let temperature = prop_oneof![Just(0.0_f32), Just(1.0), 0.1_f32..3.0];
        let top_p = prop_oneof![Just(1.0_f32), 0.0_f32..1.0];
        let min_p = prop_oneof![Just(0.0_f32), 0.0_f32..1.0];
        (temperature, 0_u32..8, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| {
            Sampling { temperature, top_k, top_p, min_p }
        })
    }

    #[test]
    fn what_is_forced_samples_too() {
        if std::env::var_os("RELAY_CPU").is_some() {
            assert_eq!(Cpu::of_process(), Cpu::from_environment().unwrap());
            return;
        }
        // The environment is read once: a process of its own has another.
        let own = std::env::current_exe().unwrap();
        let mut forced = std::process::Command::new(own);
        forced.args(["--exact", "sampler::tests::what_is_forced_samples_too"]);
        let output = forced.env("RELAY_CPU", "portable").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    proptest! {
        #[test]
        fn is_the_naive_sampler(
            steps in prop::collection::vec(-12_i8..12, 1..40), sampling in samplings(),
            masked in prop::collection::vec(1_u32..40, 0..6), position: u32,
        ) {
            // Coarse steps, so that ties occur.
            let logits: Vec<f32> = steps.iter().map(|step| f32::from(*step) / 2.0).collect();
            let masked = TokenMask::from_ids(masked);
            let ours = sample(&logits, &sampling, key(position), &masked).unwrap();
            prop_assert_eq!(ours.id, naive(&logits, &sampling, key(position), &masked));
        }

        #[test]
        fn never_panics_and_stays_in_range(
            bits in prop::collection::vec(any::<u32>(), 0..20), temperature: f32, top_k: u32,
            top_p: f32, min_p: f32,
        ) {
            let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let sampling = Sampling { temperature, top_k, top_p, min_p };
            let sampled = sample(&logits, &sampling, key(0), &TokenMask::from_ids(vec![0, 3]));
            prop_assert_eq!(sampled.is_some(), logits.iter().any(|&l| l > f32::NEG_INFINITY));
            prop_assert!(sampled.is_none_or(|sampled| (sampled.id as usize) < logits.len()));
            top_log_probabilities(&logits, 5);
            entropy_nats(&logits);
        }
    }

    #[test]
    fn a_large_vocabulary_is_cut_as_a_small_one() {
        let logits: Vec<f32> = (0..5000_u32)
            .map(|id| f32::from(u16::try_from(id * 7 % 4999).unwrap()) / 900.0)
            .collect();
        let none = TokenMask::none();
        for position in 0..40 {
            for top_p in [0.05, 0.5, 0.9, 0.999, 1.0] {
                let sampling = Sampling { top_p, ..Sampling::at_temperature(0.9) };
                let ours = sample(&logits, &sampling, key(position), &none).unwrap().id;
                assert_eq!(ours, naive(&logits, &sampling, key(position), &none));
            }
        }
    }

    #[test]
    fn the_best_of_many_are_found_whatever_is_masked() {
        let value = |id: u32| f32::from(u16::try_from(id * 31 % 4001).unwrap() / 3);
        let logits: Vec<f32> = (0..4001).map(value).collect();
        let mut by_rank: Vec<u32> = (0..4001).collect();
        by_rank.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
        for masked in [0, 1, 20, 70] {
            let mask = TokenMask::from_ids(by_rank[..masked].to_vec());
            let rest = &by_rank[masked..];
            assert_eq!(most_likely(&logits, &mask), rest.first().copied());
            for k in [1, 5, 63, 64, 4000] {
                let mut kept = candidates(&logits, &mask, k);
                keep_top(&mut kept, k);
                let ids: Vec<u32> = kept.iter().map(|candidate| candidate.id).collect();
                assert_eq!(ids, rest[..k.min(rest.len())]);
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [1.0_f32, 0.0, 2.0, -1.0];
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let mut counts = [0_u16; 4];
        for position in 0..20_000 {
            let sampling = Sampling::at_temperature(1.0);
            let sampled = sample(&logits, &sampling, key(position), &TokenMask::none()).unwrap();
            counts[sampled.id as usize] += 1;
            let expected = (logits[sampled.id as usize].exp() / total).ln();
            assert!((sampled.logprob - expected).abs() < 1e-5);
        }
        for (count, logit) in counts.iter().zip(logits) {
            let share = f32::from(*count) / 20_000.0;
            assert!((share - logit.exp() / total).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn masked_and_unusable_logits_are_not_chosen() {
        let logits = [f32::NAN, 3.0, 2.0, f32::NEG_INFINITY];
        for temperature in [0.0, 1.0] {
            let sampling = Sampling::at_temperature(temperature);
            let masked = TokenMask::from_ids(vec![1]);
            let id = |masked| sample(&logits, &sampling, key(0), &masked).map(|chosen| chosen.id);
            assert_eq!(id(masked), Some(2));
            let all = TokenMask::from_ids(vec![0, 1, 2, 3]);
            assert_eq!(id(all), Some(1));
            for broken in [&[f32::NAN; 4][..], &[f32::NEG_INFINITY, f32::NAN], &[]] {
                assert_eq!(sample(broken, &sampling, key(0), &TokenMask::none()), None);
            }
        }
    }

    #[test]
    fn entropy_and_top_log_probabilities_are_their_formulas() {
        assert!((entropy_nats(&[0.0; 8]) - 8_f64.ln()).abs() < 1e-12);
        assert!(entropy_nats(&[100.0, 0.0]) < 1e-12);
        assert!(entropy_nats(&[]) < 1e-12);
        let (p, q) = (0.25_f64, 0.75_f64);
        let exact = -(p * p.ln() + q * q.ln());
        assert!((entropy_nats(&[0.0, 3_f32.ln()]) - exact).abs() < 1e-6);
        let top = top_log_probabilities(&[0.0, 1.0, 0.0, 2.0], 3);
        assert_eq!(top.iter().map(|top| top.0).collect::<Vec<_>>(), [3, 1, 0]);
        let total = 2.0 + 1_f32.exp() + 2_f32.exp();
        assert!((top[0].1 - (2.0 - total.ln())).abs() < 1e-6);
        assert_eq!(top_log_probabilities(&[1.0], 9).len(), 1);
    }
}
