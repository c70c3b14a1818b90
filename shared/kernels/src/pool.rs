//! The threads of one engine: they share out each operation, spin between two of them for a
//! moment, and sleep when none comes.
//!
//! What a thread's share is does not depend on who does it: a share whose thread has no core just
//! then is done by the caller, who waits only for shares that others are in the middle of.
//!
//! A pool belongs to its engine and knows of no other: two of them never wait for each other.
//! Knows nothing of what is computed.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    const _: () = assert!(AWAKE_MAX.as_micros() <= 1000, "idle threads would hold cores");
    /// How long a caller looks whether the others' shares are done before it sleeps: one of them
    /// may need its core.
    pub(super) const CALLER_AWAKE_MAX: Duration = Duration::from_micros(150);
    /// Below this many values, or products of attention, a second thread costs more than it saves.
    pub(super) const VALUES_IN_PARALLEL_MIN: usize = 1 << 13;
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
    /// Counts operations: a worker that sees a number it has not looked at, looks for work.
    turn: AtomicUsize,
    /// The workers' shares of the current one that are not done, whoever does them.
    unfinished: AtomicUsize,
    /// Where the operation lies. Written only while all shares of the one before are done.
    operation: Mutex<Option<Operation>>,
    places: Vec<Place>,
    stop: AtomicBool,
    /// Of an operation. They stay until all its shares are done: a panic may panic when it is
    /// dropped.
    panics: Mutex<Vec<Box<dyn Any + Send>>>,
    /// The caller, while it sleeps.
    caller: Mutex<Option<Thread>>,
}

/// What a worker and the caller know of each other.
#[derive(Debug, Default)]
struct Place {
    /// The last turn for which someone took the worker's share: the worker, or the caller.
    claimed: AtomicUsize,
    asleep: AtomicBool,
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
        let shared = Arc::new(Shared::new(workers));
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

    /// Runs `work` once for each share and waits for all. The calling thread does the first, and
    /// each that no other thread has begun by then.
    ///
    /// A call from inside of another, or while another thread has the pool, runs all shares on
    /// the calling thread: it waits for nobody.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run(&self, work: &(dyn Fn(Share) + Sync)) {
        let of = self.threads();
        // Only a pool of one thread unwinds while it holds the lock, and that one never needs it.
        let busy = self.busy.try_lock().ok();
        if of == 1 || busy.is_none() {
            return (0..of).for_each(|index| work(Share { index, of }));
        }
        let turn = self.publish(work);
        // From here until all is done nothing may unwind: the workers look at `work`.
        // SAFETY: the first share is the caller's, who is here until all is done.
        unsafe { self.shared.do_share(0) };
        self.do_unclaimed(turn);
        self.shared.await_others();
        let mut panics = std::mem::take(&mut *lock(&self.shared.panics)).into_iter();
        drop(busy);
        let first = panics.next();
        // Before anything unwinds: one that panics when it is dropped would end the process then.
        drop(panics);
        if let Some(first) = first {
            resume_unwind(first);
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

    /// As [`Self::run_kernel`], over so many values: few stay whole, on the calling thread.
    pub(crate) fn run_kernel_over<K: Kernel>(
        &self,
        values: usize,
        kernel: impl Fn(Share) -> K + Sync,
    ) {
        if values < limits::VALUES_IN_PARALLEL_MIN {
            self.cpu.run(kernel(Share::WHOLE));
        } else {
            self.run_kernel(kernel);
        }
    }

    /// Shows `work` to the workers; the number of its turn.
    #[expect(clippy::transmute_ptr_to_ptr, reason = "a cast cannot change a lifetime")]
    fn publish(&self, work: &Work<'_>) -> usize {
        let work: *const Work<'_> = work;
        // SAFETY: only the lifetime changes. Whoever follows this pointer has claimed a share of
        // this turn, and `run` does not return before every claimed share is done (see `do_share`).
        let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        *lock(&self.shared.operation) = Some(Operation { work, shares: self.threads() });
        self.shared.unfinished.store(self.workers.len(), Ordering::SeqCst);
        let turn = self.shared.turn.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.wake();
        turn
    }

    /// Does the shares that no worker has begun.
    fn do_unclaimed(&self, turn: usize) {
        let workers = 0..self.workers.len();
        for worker in workers.filter(|worker| self.shared.claim(*worker, turn)) {
            // SAFETY: just claimed, and counted until the next line.
            unsafe { self.shared.do_share(worker + 1) };
            self.shared.unfinished.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn wake(&self) {
        for (worker, place) in self.workers.iter().zip(&self.shared.places) {
            if place.asleep.swap(false, Ordering::SeqCst) {
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
    fn new(workers: usize) -> Self {
        Self {
            turn: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            operation: Mutex::new(None),
            places: (0..workers).map(|_| Place::default()).collect(),
            stop: AtomicBool::new(false),
            panics: Mutex::new(Vec::new()),
            caller: Mutex::new(None),
        }
    }

    /// A worker's life.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            // Turns that went by without this worker are not made up for.
            seen = self.await_turn(worker, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.come_to_turn(worker, seen);
        }
    }

    /// A worker's part of a turn: its share, unless the caller has it.
    fn come_to_turn(&self, worker: usize, turn: usize) {
        if !self.claim(worker, turn) {
            return;
        }
        // SAFETY: just claimed, and counted until the next line.
        unsafe { self.do_share(worker + 1) };
        if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The caller shows itself before it looks at the count for the last time, so it is
            // seen here, or has seen that nothing is left.
            if let Some(caller) = lock(&self.caller).as_ref() {
                caller.unpark();
            }
        }
    }

    /// Whether it falls to who asks to do the worker's share in this turn.
    fn claim(&self, worker: usize, turn: usize) -> bool {
        let before = turn.wrapping_sub(1);
        let claimed = &self.places[worker].claimed;
        claimed.compare_exchange(before, turn, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Does a share of the current operation. Does not unwind.
    ///
    /// # Safety
    /// The share is the first and [`Pool::run`] calls, or it was claimed with a turn that `turn` or
    /// `publish` said, and is counted in `unfinished` until this returns.
    unsafe fn do_share(&self, index: usize) {
        let operation = *lock(&self.operation);
        let Some(Operation { work, shares }) = operation else { return };
        let share = Share { index, of: shares };
        // SAFETY: `work` lives until `Pool::run` returns. That is after the first share, which is
        // done in it. Any other was claimed: a claim of turn t succeeds once, and only where t - 1
        // was claimed before, which is from when t was published (nobody knows t before `turn` says
        // so) until `run` has claimed what is left of it; a worker that comes later, with a turn
        // that is over, claims nothing and does not come here. Between a claim and the end of its
        // share `unfinished` is not 0, for which `run` waits; so the operation read above is that
        // of the turn that was claimed.
        let work = unsafe { &*work };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(share))) {
            lock(&self.panics).push(panic);
        }
    }

    /// Returns when all shares are done.
    fn await_others(&self) {
        let is_done = || self.unfinished.load(Ordering::SeqCst) == 0;
        if spin(&is_done, limits::CALLER_AWAKE_MAX) {
            return;
        }
        *lock(&self.caller) = Some(std::thread::current());
        while !is_done() {
            std::thread::park();
        }
        *lock(&self.caller) = None;
    }

    /// Waits until the count of operations is not `seen`; what it is.
    fn await_turn(&self, worker: usize, seen: usize) -> usize {
        let Place { asleep, .. } = &self.places[worker];
        let came = || self.turn.load(Ordering::SeqCst) != seen;
        while !spin(&came, limits::AWAKE_MAX) {
            asleep.store(true, Ordering::SeqCst);
            // Looked at again after the flag is up: whoever comes later sees the flag and wakes.
            while !came() && asleep.load(Ordering::SeqCst) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
        self.turn.load(Ordering::SeqCst)
    }
}

/// A lock's value. No code that holds one here can leave it half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks until `is_so`, or not much longer than `limit`; whether it became so. Offers its core to
/// others from time to time, since what it waits for may be waiting for a core.
fn spin(is_so: &impl Fn() -> bool, limit: Duration) -> bool {
    let mut since = None;
    loop {
        for _ in 0..limits::SPINS {
            if is_so() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.get_or_insert_with(Instant::now).elapsed() > limit {
            return is_so();
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests;
