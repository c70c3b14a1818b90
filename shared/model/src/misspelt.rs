//! Keys that a damaged file lacks because a bit of their name is another: one that may be left out
//! would not be missed.

/// What to say of the first of the `wanted` keys that is not among those `found`, where one that
/// differs from it in one bit is.
pub(crate) fn misspelt<'a, 'b>(
    found: impl Iterator<Item = &'a str>,
    wanted: impl IntoIterator<Item = &'b str>,
) -> Option<String> {
    let found: Vec<&str> = found.collect();
    wanted.into_iter().find_map(|wanted| {
        let near = found.iter().find(|key| differ_in_one_bit(key, wanted))?;
        let is_missing = !found.contains(&wanted);
        is_missing.then(|| format!("key {near} is one bit away from {wanted}"))
    })
}

fn differ_in_one_bit(left: &str, right: &str) -> bool {
    let bits = left.bytes().zip(right.bytes()).map(|(left, right)| (left ^ right).count_ones());
    left.len() == right.len() && bits.sum::<u32>() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_told_from_none_and_from_two() {
        for (found, wanted, is_misspelt) in [
            (vec!["a", "b"], "c", true),
            (vec!["c", "b"], "c", false),
            (vec!["d"], "c", false),
            (vec!["bc"], "c", false),
            (vec![], "c", false),
        ] {
            let told = misspelt(found.iter().copied(), [wanted]);
            assert_eq!(told.is_some(), is_misspelt, "{found:?} {told:?}");
        }
        let told = misspelt(["x", "b"].into_iter(), ["y", "c"]);
        assert_eq!(told.as_deref(), Some("key x is one bit away from y"));
    }
}
