//! The threads of one engine: they share out each operation, spin between two of them for a
//! moment, and sleep when none comes.
//!
//! A pool belongs to its engine and knows of no other: two of them never wait for each other.
//! Knows nothing of what is computed.

use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::cpu::{Cpu, Kernel};
use crate::disjoint::Disjoint;

mod limits {
    use std::time::Duration;

    /// Threads of a pool.
    pub(super) const THREADS_MAX: usize = 256;
    /// Looks at a flag before the core is offered to others.
    pub(super) const SPINS: usize = 2000;
    /// How long a thread without work goes on looking before it sleeps.
    pub(super) const AWAKE_MAX: Duration = Duration::from_micros(300);
    /// Below this many values a second thread costs more than it saves.
    pub(super) const VALUES_IN_PARALLEL_MIN: usize = 1 << 13;
    /// Cores that are looked for.
    pub(super) const CORES_MAX: usize = 1024;
}

/// One thread's part of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: usize,
    of: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// This share of `len` things, in whole grains but for the last.
    pub fn part(self, len: usize, grain: usize) -> Range<usize> {
        let grain = grain.max(1);
        let grains = len.div_ceil(grain);
        let at = |index: usize| (grains * index / self.of * grain).min(len);
        at(self.index)..at(self.index + 1)
    }

    /// This share of things with different costs: about as much as the others'.
    pub(crate) fn part_by_cost(self, costs: &[usize]) -> Range<usize> {
        let total: usize = costs.iter().sum();
        let at = |index: usize| {
            let mut before = 0;
            // A thing belongs to the share in which its middle lies.
            let is_earlier = |cost: &&usize| {
                let middle = before + **cost / 2;
                before += **cost;
                middle * self.of < total * index
            };
            if index == self.of { costs.len() } else { costs.iter().take_while(is_earlier).count() }
        };
        at(self.index)..at(self.index + 1)
    }
}

/// An engine's threads, and the instruction set that they compute with.
#[derive(Debug)]
pub struct Pool {
    cpu: Cpu,
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held while an operation is shared out.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Worker {
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Counts operations: a worker that sees a number it has not worked for, works.
    turn: AtomicUsize,
    /// Workers that have not finished the current one.
    unfinished: AtomicUsize,
    /// Where the operation lies. Written only while no worker looks at it.
    operation: Mutex<Option<Operation>>,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

type Work<'a> = dyn Fn(Share) + Sync + 'a;

/// A borrowed operation whose lifetime is forgotten; [`Pool::run`] upholds it.
#[derive(Debug, Clone, Copy)]
struct Operation {
    work: *const Work<'static>,
    shares: usize,
}

// SAFETY: what it points to is `Sync`, and used only while `Pool::run` keeps it alive.
unsafe impl Send for Operation {}

impl Pool {
    /// A pool of `threads` threads, the caller's among them: at least 1.
    pub fn new(cpu: Cpu, threads: usize) -> Self {
        let workers = threads.clamp(1, limits::THREADS_MAX) - 1;
        let shared = Arc::new(Shared {
            turn: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            operation: Mutex::new(None),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // A thread that cannot be had is one less: its share goes to the others.
        let workers = (0..workers).map_while(|index| Worker::start(&shared, index)).collect();
        Self { cpu, shared, workers, busy: Mutex::new(()) }
    }

    /// Threads that share an operation, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set they compute with.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Runs `work` once for each share, the first on the calling thread, and waits for all.
    ///
    /// A call from inside of another, or while another thread has the pool, runs all shares on
    /// the calling thread: it waits for nobody.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run(&self, work: &(dyn Fn(Share) + Sync)) {
        let of = self.threads();
        let busy = match self.busy.try_lock() {
            Ok(busy) => Some(busy),
            // An earlier operation panicked, but it was waited for.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if of == 1 || busy.is_none() {
            return (0..of).for_each(|index| work(Share { index, of }));
        }
        self.publish(work);
        // Waits even if the caller's share panics, since the workers look at `work`.
        let waiting = Waiting(&self.shared);
        work(Share { index: 0, of });
        drop(waiting);
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(busy);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `work` on shares of `values`, whole rows of `row_len` each: it gets a share's first row
    /// and the share itself. Few values stay on the calling thread.
    ///
    /// # Panics
    /// If `work` does.
    pub fn share_rows<T: Send>(
        &self,
        values: &mut [T],
        row_len: usize,
        work: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        if values.len() < limits::VALUES_IN_PARALLEL_MIN {
            return work(0, values);
        }
        let rows = values.len().div_ceil(row_len.max(1));
        let values = Disjoint::new(values);
        self.run(&|share| {
            let part = share.part(rows, 1);
            let range = part.start * row_len..(part.end * row_len).min(values.len());
            // SAFETY: shares do not overlap.
            work(part.start, unsafe { values.part(range) });
        });
    }

    /// Runs one share of a kernel for each thread; `kernel` makes it.
    pub(crate) fn run_kernel<K: Kernel>(&self, kernel: impl Fn(Share) -> K + Sync) {
        self.run(&|share| {
            self.cpu.run(kernel(share));
        });
    }

    #[expect(clippy::transmute_ptr_to_ptr, reason = "a cast cannot change a lifetime")]
    fn publish(&self, work: &Work<'_>) {
        let work: *const Work<'_> = work;
        // SAFETY: only the lifetime changes. `run` does not return before every worker has
        // finished, so none looks at `work` after its life.
        let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        let operation = Operation { work, shares: self.threads() };
        *self.shared.operation.lock().unwrap_or_else(PoisonError::into_inner) = Some(operation);
        // One may be left where the caller's own share panicked too.
        *self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.unfinished.store(self.workers.len(), Ordering::SeqCst);
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for (worker, asleep) in self.workers.iter().zip(&self.shared.asleep) {
            if asleep.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for handle in self.workers.iter_mut().filter_map(|worker| worker.handle.take()) {
            // A worker catches every panic: there is nothing to learn here.
            drop(handle.join());
        }
    }
}

impl Worker {
    fn start(shared: &Arc<Shared>, index: usize) -> Option<Self> {
        let shared = Arc::clone(shared);
        let name = format!("kernels-{}", index + 1);
        let builder = std::thread::Builder::new().name(name);
        let handle = builder.spawn(move || shared.work(index)).ok()?;
        Some(Self { thread: handle.thread().clone(), handle: Some(handle) })
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, worker: usize) {
        let mut done = 0;
        loop {
            self.await_turn(worker, done);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            done += 1;
            self.do_share(worker);
        }
    }

    fn do_share(&self, worker: usize) {
        let operation = *self.operation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Operation { work, shares }) = operation {
            let share = Share { index: worker + 1, of: shares };
            // SAFETY: `Pool::run` keeps what it points to alive until `unfinished` is 0, and this
            // worker lowers it only below.
            let work = unsafe { &*work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(share))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns when the count of operations has passed `done`.
    fn await_turn(&self, worker: usize, done: usize) {
        let came = || self.turn.load(Ordering::SeqCst) != done;
        while !spin(&came, Some(limits::AWAKE_MAX)) {
            self.asleep[worker].store(true, Ordering::SeqCst);
            // Looked at again after the flag is up: whoever comes later sees the flag and wakes.
            while !came() && self.asleep[worker].load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep[worker].store(false, Ordering::SeqCst);
        }
    }
}

/// Waits for the workers when dropped.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        spin(&|| self.0.unfinished.load(Ordering::SeqCst) == 0, None);
    }
}

/// Looks until `is_so`, or not much longer than `limit`; whether it became so. Offers its core to
/// others from time to time, since what it waits for may be waiting for a core.
fn spin(is_so: &impl Fn() -> bool, limit: Option<Duration>) -> bool {
    let mut since = None;
    loop {
        for _ in 0..limits::SPINS {
            if is_so() {
                return true;
            }
            std::hint::spin_loop();
        }
        let since = *since.get_or_insert_with(Instant::now);
        if limit.is_some_and(|limit| since.elapsed() > limit) {
            return is_so();
        }
        std::thread::yield_now();
    }
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
    use std::sync::atomic::AtomicU64;

    fn pool(threads: usize) -> Pool {
        Pool::new(Cpu::best(), threads)
    }

    #[test]
    fn shares_cover_everything_once() {
        for (len, grain, of) in [(0, 1, 3), (1, 8, 2), (17, 4, 3), (100, 8, 7), (5, 0, 9)] {
            let mut next = 0;
            for index in 0..of {
                let part = Share { index, of }.part(len, grain);
                assert_eq!(part.start, next);
                assert!(part.end == len || part.end.is_multiple_of(grain.max(1)));
                next = part.end;
            }
            assert_eq!(next, len);
        }
        assert_eq!(Share::WHOLE.part(9, 4), 0..9);
    }

    #[test]
    fn shares_by_cost_cover_everything_once_and_evenly() {
        for (costs, of, expected) in [
            (vec![1, 1, 1, 1], 2, vec![2, 4]),
            (vec![3, 1, 1, 1], 2, vec![1, 4]),
            (vec![0, 0], 3, vec![0, 0, 2]),
            (vec![], 2, vec![0, 0]),
            (vec![1, 2, 3, 4, 5, 6, 7, 8], 2, vec![5, 8]),
        ] {
            let mut next = 0;
            for (index, end) in expected.into_iter().enumerate() {
                assert_eq!(Share { index, of }.part_by_cost(&costs), next..end, "{costs:?}");
                next = end;
            }
        }
    }

    #[test]
    fn every_share_runs_once_in_each_of_many_operations() {
        for threads in [1, 2, 5] {
            let pool = pool(threads);
            let counts: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
            for _ in 0..2000 {
                pool.run(&|share| {
                    assert_eq!(share.of, threads);
                    counts[share.index].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 2000));
        }
    }

    #[test]
    fn rows_are_shared_whole() {
        for (len, row_len) in [(0, 3), (10, 3), (20_000, 7), (9_000, 9_000)] {
            let mut values = vec![0; len];
            pool(3).share_rows(&mut values, row_len, &|first, rows| {
                for (index, row) in rows.chunks_mut(row_len).enumerate() {
                    for value in row {
                        *value += first + index;
                    }
                }
            });
            assert!(values.iter().enumerate().all(|(at, value)| *value == at / row_len));
        }
    }

    #[test]
    fn a_sleeping_worker_is_woken() {
        let pool = pool(3);
        let count = AtomicU64::new(0);
        for _ in 0..20 {
            let asleep = || pool.shared.asleep.iter().all(|asleep| asleep.load(Ordering::SeqCst));
            while !asleep() {
                std::thread::yield_now();
            }
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.load(Ordering::Relaxed), 60);
    }

    #[test]
    fn a_panic_in_any_share_reaches_the_caller_and_the_pool_goes_on() {
        let pool = pool(3);
        for bad in 0..3 {
            let run = || pool.run(&|share| assert!(share.index < bad, "share {}", share.index));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        }
        let count = AtomicU64::new(0);
        let caller = std::thread::current().id();
        pool.run(&|_| {
            let elsewhere = std::thread::current().id() != caller;
            count.fetch_add(if elsewhere { 10 } else { 1 }, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 21);
    }

    #[test]
    fn a_call_inside_of_a_call_runs_all_shares_where_it_is() {
        let pool = pool(2);
        let count = AtomicU64::new(0);
        pool.run(&|_| {
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn two_pools_work_at_the_same_time() {
        let (first, second) = (pool(2), pool(2));
        let met = AtomicU64::new(0);
        let wait_for_all = |_| {
            met.fetch_add(1, Ordering::SeqCst);
            // Ends only if the shares of both pools run side by side.
            while met.load(Ordering::SeqCst) < 4 {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| first.run(&wait_for_all));
            scope.spawn(|| second.run(&wait_for_all));
        });
    }

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
