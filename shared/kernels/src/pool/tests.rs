//! Shares, and who does them: every one once, whoever comes late, sleeps, panics or calls again.

use super::*;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;

fn pool(threads: usize) -> Pool {
    Pool::new(Cpu::best(), threads)
}

/// A pool of two threads, of which the second begins its life behind `gate`.
fn pool_behind(gate: &Arc<Barrier>) -> Pool {
    let shared = Arc::new(Shared::new(1));
    let (of_worker, gate) = (Arc::clone(&shared), Arc::clone(gate));
    let handle = std::thread::spawn(move || {
        gate.wait();
        of_worker.work(0);
    });
    let workers = vec![Worker { thread: handle.thread().clone(), handle: Some(handle) }];
    Pool { cpu: Cpu::best(), shared, workers, busy: Mutex::new(()) }
}

/// Runs an operation whose shares wait for each other, so that each thread does its own.
fn meet(pool: &Pool) -> BTreeSet<String> {
    let barrier = Barrier::new(pool.threads());
    let names = Mutex::new(BTreeSet::new());
    pool.run(&|_| {
        barrier.wait();
        names.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
    });
    names.into_inner().unwrap()
}

/// Waits for what another thread does, and fails where it does not.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} does not come");
        std::thread::yield_now();
    }
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
    for _ in 0..20 {
        wait_until("sleep", || {
            pool.shared.places.iter().all(|place| place.asleep.load(Ordering::SeqCst))
        });
        assert_eq!(meet(&pool).len(), 3);
    }
}

#[test]
fn the_caller_does_the_share_of_a_worker_that_does_not_come() {
    let gate = Arc::new(Barrier::new(2));
    let pool = pool_behind(&gate);
    let caller = std::thread::current().id();
    for _ in 0..3 {
        let shares = Mutex::new(vec![]);
        pool.run(&|share| shares.lock().unwrap().push((share.index, std::thread::current().id())));
        assert_eq!(*shares.lock().unwrap(), [(0, caller), (1, caller)]);
    }
    gate.wait();
    // It skips the turns that it missed, and takes part from then on.
    assert_eq!(meet(&pool).len(), 2);
}

#[test]
fn a_worker_that_comes_late_does_nothing() {
    let gate = Arc::new(Barrier::new(2));
    let pool = pool_behind(&gate);
    let count = AtomicU64::new(0);
    for turn in 1..=3 {
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        // What the worker would do if it saw a turn and had no core until this one was over.
        (0..=turn).for_each(|seen| pool.shared.come_to_turn(0, seen));
        assert_eq!(pool.shared.unfinished.load(Ordering::SeqCst), 0);
    }
    assert_eq!(count.load(Ordering::Relaxed), 6);
    gate.wait();
}

#[test]
fn a_caller_that_sleeps_is_woken_by_who_finishes_last() {
    let pool = pool(3);
    for _ in 0..20 {
        let begun = Barrier::new(3);
        let caller_sleeps = || pool.shared.caller.lock().unwrap().is_some();
        pool.run(&|share| {
            begun.wait();
            if share.index > 0 {
                wait_until("the caller's sleep", caller_sleeps);
            }
        });
        assert!(!caller_sleeps());
    }
}

#[test]
fn many_tiny_operations_on_more_threads_than_cores_are_each_done_when_they_return() {
    let pool = pool(8);
    for turn in 0..20_000 {
        // Of its own memory, which is gone when the next one runs.
        let done: Box<[AtomicU64]> = (0..8).map(|_| AtomicU64::new(0)).collect();
        pool.run(&|share| {
            // Shares of other lengths each time, so that threads meet in every order.
            let steps = (turn + 1) * (share.index as u64 + 7) * 7919 % 512;
            (0..steps).for_each(|_| std::hint::spin_loop());
            done[share.index].fetch_add(turn + 1, Ordering::Relaxed);
        });
        assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == turn + 1), "{done:?}");
    }
}

#[test]
fn a_panic_in_any_share_reaches_the_caller_when_all_are_done_and_the_pool_goes_on() {
    let gate = Arc::new(Barrier::new(2));
    for pool in [pool(3), pool_behind(&gate)] {
        let of = pool.threads();
        for bad in 0..of {
            let done = AtomicU64::new(0);
            let run = || {
                pool.run(&|share| {
                    assert!(share.index < bad, "share {}", share.index);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            };
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().starts_with("share"));
            assert_eq!(done.load(Ordering::SeqCst), u64::try_from(bad).unwrap());
        }
        if of == 2 {
            gate.wait();
        }
        assert_eq!(meet(&pool).len(), of);
    }
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

/// One of them has the threads, the other runs its shares alone: neither sees the other's work.
#[test]
fn two_threads_may_call_one_pool_at_the_same_time() {
    let pool = pool(3);
    let start = Barrier::new(2);
    let call = |caller: u64| {
        start.wait();
        for turn in 0..5000 {
            let done: Box<[AtomicU64]> = (0..3).map(|_| AtomicU64::new(0)).collect();
            pool.run(&|share| {
                done[share.index].fetch_add(caller + turn, Ordering::Relaxed);
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == caller + turn));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| call(1));
        scope.spawn(|| call(1_000_000));
    });
    assert_eq!(meet(&pool).len(), 3);
}

/// What a share panics with: counts where it is dropped while something unwinds.
struct Touchy(Arc<AtomicU64>);

impl Drop for Touchy {
    fn drop(&mut self) {
        self.0.fetch_add(u64::from(std::thread::panicking()), Ordering::SeqCst);
    }
}

/// One that panics when it is dropped would end the process while another unwinds.
#[test]
fn all_panics_but_the_first_are_dropped_before_it_unwinds() {
    let pool = pool(3);
    let dropped_late = Arc::new(AtomicU64::new(0));
    let run = || pool.run(&|_| std::panic::panic_any(Touchy(Arc::clone(&dropped_late))));
    drop(catch_unwind(AssertUnwindSafe(run)).unwrap_err());
    assert_eq!(dropped_late.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&dropped_late), 1);
}
