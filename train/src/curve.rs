//! A run's figures as pictures, from its log. Knows no training.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use crate::checkpoint::write_aside;

const SIZE: (u32, u32) = (800, 480);

/// Draws what `name` came to after each step, as SVG.
pub fn draw(points: &[(u64, f64)], name: &str, path: &Path) -> anyhow::Result<()> {
    let mut picture = String::new();
    plot(points, name, &mut picture).map_err(|error| anyhow!("no curve: {error}"))?;
    write_aside(path, picture.as_bytes()).context("the curve")
}

fn plot(
    points: &[(u64, f64)],
    name: &str,
    picture: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    // The axis is logarithmic: nothing is no point on it.
    let is_drawn = |value: &f64| value.is_finite() && *value > 0.0;
    let values = || points.iter().map(|(_, value)| *value).filter(is_drawn);
    let highest = values().fold(1e-3, f64::max);
    let lowest = values().fold(highest, f64::min).max(1e-6);
    let last = points.last().map_or(1, |(step, _)| *step).max(1);
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, (lowest * 0.9..highest * 1.1).log_scale())?;
    chart.configure_mesh().x_desc("step").y_desc(name).light_line_style(WHITE).draw()?;
    let line = points.iter().copied().filter(|(_, value)| is_drawn(value));
    chart.draw_series(LineSeries::new(line, &BLUE))?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.svg");
        for points in [&[(1, 4.0), (2, 1.0), (3, f64::NAN), (4, 0.5)][..], &[]] {
            draw(points, "loss", &path).unwrap();
            let picture = std::fs::read_to_string(&path).unwrap();
            assert!(picture.starts_with("<svg") && picture.contains("loss"), "{picture}");
        }
    }
}
