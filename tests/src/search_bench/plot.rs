//! Held-out perplexity against document passes, one curve for each run.

use super::results::{Results, Run};
use anyhow::{Result, anyhow};
use plotters::prelude::*;

const INK: RGBColor = RGBColor(40, 40, 40);
const COLOURS: [RGBColor; 6] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 90, 181),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

/// An SVG of all runs at one ratio: held-out perplexity relative to the yardstick's end with the same seed, so that
/// seeds (whose documents differ) can be laid over each other.
///
/// # Errors
/// When nothing can be drawn.
pub fn curves(results: &Results, ratio: u32) -> Result<String> {
    let runs: Vec<(&Run, f64)> = results
        .runs
        .iter()
        .filter(|run| run.ratio == ratio)
        .filter_map(|run| {
            let same =
                |other: &&Run| (other.ratio, other.seed, &other.strategy) == (ratio, run.seed, &results.yardstick);
            Some((run, results.runs.iter().find(same)?.course.end().1))
        })
        .collect();
    let curve = |run: &Run, end: f64| -> Vec<(f64, f64)> {
        let points = run.course.points.iter().filter_map(|point| Some((point.passes as f64, point.held_out?)));
        points.map(|(passes, value)| (passes, 100.0 * (value / end - 1.0))).collect()
    };
    let all: Vec<(f64, f64)> = runs.iter().flat_map(|(run, end)| curve(run, *end)).collect();
    let (low, high) = all.iter().fold((0.0f64, 0.0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let last = all.iter().fold(10.0f64, |last, (x, _)| last.max(*x));
    let first = all.iter().fold(last, |first, (x, _)| first.min(*x));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 560)).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("the plot cannot be drawn: {error}");
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("Search from 1x to {ratio}x"), ("sans-serif", 22).into_font().color(&INK))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d((first..last * 1.05).log_scale(), low - 0.3..high.min(12.0) + 0.5)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("document passes")
            .y_desc("held-out perplexity, % above the yardstick's end")
            .x_label_formatter(&|passes| format!("{passes:.0}"))
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| failed(&e))?;
        let mut named: Vec<&str> = Vec::new();
        for (run, end) in &runs {
            let index = named.iter().position(|name| *name == run.strategy).unwrap_or_else(|| {
                named.push(&run.strategy);
                named.len() - 1
            });
            let is_new = named.len() == index + 1
                && runs.iter().find(|(r, _)| r.strategy == run.strategy).is_some_and(|(r, _)| r.seed == run.seed);
            let style = COLOURS[index % COLOURS.len()].stroke_width(2);
            let drawn = chart.draw_series(LineSeries::new(curve(run, *end), style)).map_err(|e| failed(&e))?;
            if is_new {
                drawn.label(run.strategy.clone()).legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(32)
            .margin(14)
            .label_font(("sans-serif", 16).into_font().color(&INK))
            .background_style(WHITE)
            .draw()
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}
