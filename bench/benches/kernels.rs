//! The kernels of `relay-bench kernels` under criterion: how sure each figure is, and whether it
//! changed since the last run. Throughput is a fraction of what bounds the kernel.

#[path = "../src/cases.rs"]
mod cases;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput};
use relay_kernels::{Cpu, Pool};

use cases::{Case, Limit, Limits, show_all};

/// Time, whose throughput is a fraction of what bounds the kernel at hand, or of 1 GB/s.
struct OfLimit(Rc<Cell<Bound>>);

/// What bounds a kernel, and how many a second of it there are.
#[derive(Clone, Copy)]
struct Bound {
    name: &'static str,
    a_second: f64,
}

impl Bound {
    fn of(limits: Limits, limit: Option<Limit>) -> Self {
        let name = match limit {
            None => "GB/s",
            Some(Limit::Memory) => "of memory",
            Some(Limit::Codes) => "of codes",
            Some(Limit::Floats) => "of floats",
        };
        Self { name, a_second: limit.map_or(1e9, |limit| limits.of(limit)) }
    }
}

impl Measurement for OfLimit {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        WallTime.start()
    }

    fn end(&self, start: Self::Intermediate) -> Duration {
        WallTime.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for OfLimit {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    /// Values are nanoseconds of one call.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn scale_throughputs(
        &self,
        typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let Throughput::Elements(count) = throughput else {
            return WallTime.formatter().scale_throughputs(typical, throughput, values);
        };
        let Bound { name, a_second } = self.0.get();
        for value in values {
            *value = *count as f64 / (*value * 1e-9) / a_second;
        }
        name
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

fn main() -> anyhow::Result<()> {
    let pool = Pool::new(Cpu::from_environment()?, relay_kernels::physical_cores());
    let limits = Limits::measure(&pool);
    let bound = Rc::new(Cell::new(Bound::of(limits, None)));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .with_measurement(OfLimit(Rc::clone(&bound)))
        .configure_from_args();
    show_all(&pool, &mut |Case { name, count, of, kernel }| {
        bound.set(Bound::of(limits, of));
        let mut group = criterion.benchmark_group("kernels");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |bencher| bencher.iter(&mut *kernel));
        group.finish();
    });
    criterion.final_summary();
    Ok(())
}
