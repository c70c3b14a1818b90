//! Every kernel on its own: bytes or products a second, as a fraction of what this machine's memory
//! or registers allow, measured in the same run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use relay_kernels::{Cpu, Pool};
use serde::Serialize;

use crate::cases::{Case, Limit, Limits, show_all};
use crate::figures::{float, median};
use crate::{check_threads, print, threads_help};

mod limits {
    use std::time::Duration;

    /// How long each kernel is repeated at least.
    pub(super) const LEAST: Duration = Duration::from_millis(150);
    /// Runs, of which the median counts: at least.
    pub(super) const RUNS_MIN: usize = 5;
}

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, help = threads_help())]
    threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cpu: &'static str,
    threads: usize,
    bandwidth_gbps: f64,
    /// Billions of products a second, from registers.
    code_peak_gps: f64,
    float_peak_gps: f64,
    kernels: Vec<Figure>,
}

/// One kernel.
#[derive(Debug, Serialize)]
struct Figure {
    kernel: String,
    /// Billions a second of what its limit counts; without one, of bytes.
    rate: f64,
    of: Option<Limit>,
    fraction: Option<f64>,
}

impl Figure {
    fn measure(case: &mut Case<'_>, limits: Limits) -> Self {
        let rate = float(case.count) / median_seconds(case.kernel);
        let fraction = case.of.map(|of| rate / limits.of(of));
        Self { kernel: case.name.to_owned(), rate: rate / 1e9, of: case.of, fraction }
    }
}

/// Measures and prints.
pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    check_threads(options.threads)?;
    let threads = options.threads.unwrap_or_else(relay_kernels::physical_cores);
    let pool = Pool::new(Cpu::from_environment()?, threads);
    let limits = Limits::measure(&pool);
    let mut kernels = Vec::new();
    show_all(&pool, &mut |mut case| kernels.push(Figure::measure(&mut case, limits)));
    let report = Report {
        cpu: pool.cpu().name(),
        threads: pool.threads(),
        bandwidth_gbps: limits.bytes / 1e9,
        code_peak_gps: limits.codes / 1e9,
        float_peak_gps: limits.floats / 1e9,
        kernels,
    };
    let text = if options.json { serde_json::to_string_pretty(&report)? } else { table(&report) };
    print(&text)
}

fn median_seconds(kernel: &mut dyn FnMut()) -> f64 {
    kernel();
    let (mut runs, start) = (Vec::new(), Instant::now());
    while runs.len() < limits::RUNS_MIN || start.elapsed() < limits::LEAST {
        let start = Instant::now();
        kernel();
        runs.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
    }
    median(runs.into_iter())
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{}, {} threads: {:.1} GB/s from memory; {:.0} and {:.0} billion products a second of codes \
         and floats",
        report.cpu,
        report.threads,
        report.bandwidth_gbps,
        report.code_peak_gps,
        report.float_peak_gps
    );
    for Figure { kernel, rate, of, fraction } in &report.kernels {
        let is_bytes = matches!(of, None | Some(Limit::Memory));
        let unit = if is_bytes { "GB/s" } else { "G products/s" };
        let _ = write!(text, "\n{kernel:28} {rate:8.1} {unit}");
        if let (Some(of), Some(fraction)) = (of, fraction) {
            let room = 13 - unit.len();
            let _ = write!(text, "{:room$}{fraction:.2} of {of:?}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_by_its_limit() {
        let limits = Limits { bytes: 1e9, codes: 2e9, floats: 4e9 };
        let mut wait = || std::thread::sleep(Duration::from_millis(40));
        let mut case =
            Case { name: "a", count: 4_000_000, of: Some(Limit::Codes), kernel: &mut wait };
        let figure = Figure::measure(&mut case, limits);
        assert!((0.01..=0.1).contains(&figure.rate), "{figure:?}");
        assert!((figure.fraction.unwrap() - figure.rate / 2.0).abs() < 1e-9);
        let unbound = Figure::measure(&mut Case { of: None, ..case }, limits);
        assert_eq!(unbound.fraction, None);
        let report = Report {
            cpu: "portable",
            threads: 1,
            bandwidth_gbps: 1.0,
            code_peak_gps: 2.0,
            float_peak_gps: 4.0,
            kernels: vec![figure, unbound],
        };
        let table = table(&report);
        assert!(table.contains("of Codes") && table.ends_with("GB/s"), "{table}");
    }
}
