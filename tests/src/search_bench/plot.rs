//! Held-out perplexity against document passes, one curve for each run.

use super::results::{Results, Run};
use anyhow::Result;
use plotters::prelude::*;
use ropewalk_coordinator::report::page;
use ropewalk_coordinator::report::palette::{OTHERS, SEARCHED, other};

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
    let svg = page::svg(|page| {
        let mut chart = page::chart(page, &format!("Search from 1x to {ratio}x"))
            .build_cartesian_2d((first..last * 1.05).log_scale(), low - 0.3..high.min(12.0) + 0.5)?;
        page::draw_mesh(
            chart
                .configure_mesh()
                .x_desc("document passes")
                .y_desc("held-out perplexity, % above the yardstick's end")
                .x_label_formatter(&|passes| format!("{passes:.0}")),
        )?;
        let mut named: Vec<&str> = Vec::new();
        for (run, end) in &runs {
            let is_new = !named.contains(&run.strategy.as_str());
            if is_new {
                named.push(&run.strategy);
            }
            let index = named.iter().position(|name| *name == run.strategy).unwrap_or_default();
            let style = colour(index).stroke_width(2);
            let drawn = chart.draw_series(LineSeries::new(curve(run, *end), style))?;
            if is_new {
                page::name(drawn, &run.strategy, style);
            }
        }
        Ok(page::draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?)
    })?;
    Ok(svg)
}

/// The yardstick, which comes first, is drawn like what a result is compared with.
fn colour(index: usize) -> RGBColor {
    match index {
        0 => OTHERS[4],
        1 => SEARCHED,
        _ => other(index - 2),
    }
}
