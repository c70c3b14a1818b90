//! At which entropy a rival calls, so that its call ratio is the wanted one. Where near-uniform
//! tokens stand close together no threshold brings it: then a coin thins the calls. Runs nothing
//! itself.

mod limits {
    /// Halvings of the range of thresholds.
    pub(super) const HALVINGS: u32 = 9;
    /// Nats above which no threshold is looked for.
    pub(super) const ENTROPY_NATS_MAX: f32 = 8.0;
    /// Likelihoods of the coin that are tried.
    pub(super) const COINS: u32 = 8;
    /// By how much of itself a call ratio may be above the wanted one.
    pub(super) const EXCESS_MAX: f64 = 0.03;
}

/// When to call, and what that brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibrated {
    /// The entropy from which on calls are made, in nats.
    pub threshold_nats: f32,
    /// How many of them the coin lets through.
    pub probability: f64,
    /// The call ratio found with these.
    pub call_ratio: f64,
}

/// The highest threshold whose call ratio is no lower than the wanted one, and the rarest calls
/// from there that still bring it: the rival gets no fewer tokens, and hardly more. `call_ratio`
/// tries a threshold with a coin of some likelihood.
///
/// # Errors
/// Those of `call_ratio`.
pub fn calibrate(
    wanted: f64,
    mut call_ratio: impl FnMut(f32, f64) -> anyhow::Result<f64>,
) -> anyhow::Result<Calibrated> {
    let is_near = |ratio: f64| ratio >= wanted && ratio <= wanted * (1.0 + limits::EXCESS_MAX);
    let (mut low, mut high) = (0.0, limits::ENTROPY_NATS_MAX);
    let mut reached = None;
    for _ in 0..limits::HALVINGS {
        let threshold = f32::midpoint(low, high);
        let found = call_ratio(threshold, 1.0)?;
        if found < wanted {
            high = threshold;
            continue;
        }
        (low, reached) = (threshold, Some(found));
        if is_near(found) {
            break;
        }
    }
    let found = reached.map_or_else(|| call_ratio(low, 1.0), Ok)?;
    let mut best = Calibrated { threshold_nats: low, probability: 1.0, call_ratio: found };
    // Between what brings too little and what brings enough, as if the ratio were a straight line.
    let (mut below, aim) = ((0.0, 0.0), wanted * (1.0 + limits::EXCESS_MAX / 2.0));
    for _ in 0..limits::COINS {
        if best.call_ratio < wanted || is_near(best.call_ratio) {
            break;
        }
        let (least, least_ratio) = below;
        let share = (aim - least_ratio) / (best.call_ratio - least_ratio);
        let probability = least + share.clamp(0.0, 1.0) * (best.probability - least);
        let found = call_ratio(low, probability)?;
        if found < wanted {
            below = (probability, found);
        } else {
            best = Calibrated { probability, call_ratio: found, ..best };
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A share of unsure tokens for each threshold, and two tokens a call.
    fn ratio_of(unsure: impl Fn(f32) -> f64) -> impl FnMut(f32, f64) -> anyhow::Result<f64> {
        move |threshold, probability| {
            let calls = unsure(threshold) * probability;
            Ok(2.0 * calls / (1.0 + calls))
        }
    }

    #[test]
    fn a_slope_needs_no_coin() {
        let found = calibrate(0.02, ratio_of(|threshold| f64::from((-threshold).exp()))).unwrap();
        assert!((0.02..=0.0206).contains(&found.call_ratio), "{found:?}");
        assert!(found.probability > 0.9, "{found:?}");
    }

    #[test]
    fn at_a_cliff_a_coin_brings_the_ratio() {
        for wanted in [0.001, 0.02, 0.1] {
            let cliff = |threshold| if threshold <= 2.48 { 0.12 } else { 0.0 };
            let found = calibrate(wanted, ratio_of(cliff)).unwrap();
            assert!((2.46..=2.48).contains(&found.threshold_nats), "{found:?}");
            assert!(found.call_ratio >= wanted && found.call_ratio <= 1.03 * wanted, "{found:?}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        let found = calibrate(0.5, ratio_of(|_| 0.1)).unwrap();
        assert!(found.threshold_nats < 0.01 && found.call_ratio < 0.2, "{found:?}");
        let none = calibrate(0.0, ratio_of(|threshold| if threshold < 1.0 { 1.0 } else { 0.0 }));
        assert!(none.unwrap().call_ratio.abs() < 1e-12);
        assert!(calibrate(0.1, |_, _| anyhow::bail!("gone")).is_err());
    }
}
