//! Numbers about numbers, and about this process.

/// The middle one; 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2);
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2);
    upper.zip(lower).map_or(0.0, |(upper, lower)| f64::midpoint(*upper, *lower))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

/// The most bytes that this process ever had in memory, where the system says so.
pub(crate) fn resident_bytes_max() -> Option<u64> {
    resident_max_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_max_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, expected) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5)]
        {
            assert!((median(values.into_iter()) - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident_max_of("VmSize:\t 9 kB\nVmHWM:\t   12 kB\n"), Some(12_288));
        assert_eq!(resident_max_of("VmSize: 9 kB"), None);
    }
}
