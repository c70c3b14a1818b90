//! How many cores there are for this process.

use std::collections::BTreeSet;

mod limits {
    /// Cores that are looked for.
    pub(super) const CORES_MAX: usize = 1024;
}

/// Cores that this process may use, two threads of one core counted once where the system says
/// so.
pub fn physical_cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    };
    cores_of(threads, &allowed_cpus(&status), siblings)
}

/// No more than `threads`, and one for each group of siblings among the CPUs that are allowed. One
/// that is offline has no siblings to tell of.
fn cores_of(
    threads: usize,
    allowed: &[usize],
    siblings: impl Fn(usize) -> Option<String>,
) -> usize {
    let groups: BTreeSet<String> = allowed.iter().filter_map(|cpu| siblings(*cpu)).collect();
    match groups.len() {
        0 => threads,
        cores => cores.min(threads),
    }
}

/// The CPUs that the system's status of a process lists as allowed, such as `0-3,8`.
fn allowed_cpus(status: &str) -> Vec<usize> {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let ranges = allowed.unwrap_or_default().trim().split(',').filter_map(range);
    ranges.flatten().take_while(|cpu| *cpu < limits::CORES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_one_core_and_what_is_offline_or_not_allowed_is_none() {
        let status = "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\nMems_allowed:\t1\n";
        let allowed = allowed_cpus(status);
        assert_eq!(allowed, [0, 1, 2, 3, 8]);
        assert!(allowed_cpus("Name:\tx\n").is_empty());
        let pairs = |cpu: usize| Some(format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1));
        assert_eq!(cores_of(5, &allowed, pairs), 3);
        // A quota of two processors' time keeps two threads busy.
        assert_eq!(cores_of(2, &allowed, pairs), 2);
        // The second processor is offline.
        let offline = |cpu: usize| (cpu != 1).then(|| format!("{cpu}"));
        assert_eq!(cores_of(8, &allowed, offline), 4);
        assert_eq!(cores_of(6, &[], |_| None), 6);
        assert!(physical_cores() >= 1);
    }
}
