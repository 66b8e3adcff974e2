//! A plot of a search's progress: the best perplexity by evaluations.

use super::PlotError;
use super::page::{self, Failure, Page, whole};
use super::palette::{SEARCHED, other};
use crate::search::GenerationSummary;
use plotters::prelude::*;

/// A perplexity to compare with, drawn as a level line.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// For the legend.
    pub name: String,
    /// Its perplexity on the samples of the search.
    pub perplexity: f64,
}

/// An SVG of the best and the median perplexity of every generation, over the number of evaluations.
///
/// Levels far above everything the search saw are left out, so that its progress can be seen.
///
/// # Errors
/// [`PlotError`] when no generation has a usable score.
pub fn progress_plot(title: &str, history: &[GenerationSummary], levels: &[Level]) -> Result<String, PlotError> {
    let at = |generation: &GenerationSummary| generation.total_evaluated as f64;
    let best: Vec<(f64, f64)> = history.iter().filter_map(|g| Some((at(g), g.best.value()?))).collect();
    let (Some(first), Some(last)) = (best.first(), best.last()) else {
        return Err(PlotError::Nothing("no generation has a usable score"));
    };
    // What lies far above the first best would press the progress into a line.
    let ceiling = first.1 + (1.5 * (first.1 - last.1)).max(0.02 * first.1);
    let median: Vec<(f64, f64)> = history.iter().filter_map(|g| Some((at(g), g.median.value()?))).collect();
    let median: Vec<(f64, f64)> = median.into_iter().filter(|(_, value)| *value <= ceiling).collect();
    let levels: Vec<(usize, &Level)> = levels.iter().enumerate().filter(|(_, l)| l.perplexity <= ceiling).collect();
    let values = || best.iter().chain(&median).map(|(_, value)| *value).chain(levels.iter().map(|(_, l)| l.perplexity));
    let (low, high) = (values().fold(last.1, f64::min), values().fold(first.1, f64::max));
    let margin = ((high - low) * 0.06).max(high * 0.002);
    let axes = (0.0..last.0 * 1.02, low - margin..high + margin);
    page::svg(|page| draw(page, title, (&best, &median), &levels, axes))
}

type Points = [(f64, f64)];
type Axes = (std::ops::Range<f64>, std::ops::Range<f64>);

fn draw(
    page: &Page<'_>,
    title: &str,
    (best, median): (&Points, &Points),
    levels: &[(usize, &Level)],
    (x, y): Axes,
) -> Result<(), Failure> {
    let end = x.end;
    let mut chart = page::chart(page, title).build_cartesian_2d(x, y)?;
    page::draw_mesh(
        chart
            .configure_mesh()
            .x_desc("candidates evaluated")
            .y_desc("perplexity on the samples of the search")
            .x_labels((end as usize).clamp(2, 10))
            .x_label_formatter(&|count| whole(*count)),
    )?;
    for (index, level) in levels {
        let style = other(*index).stroke_width(2);
        let line = DashedLineSeries::new([(0.0, level.perplexity), (end, level.perplexity)], 8, 5, style);
        let drawn = chart.draw_series(line)?;
        page::name(drawn, &level.name, style);
    }
    let style = SEARCHED.mix(0.35).stroke_width(2);
    let drawn = chart.draw_series(LineSeries::new(median.iter().copied(), style))?;
    page::name(drawn, "median of a generation", style);
    let style = SEARCHED.stroke_width(3);
    let drawn = chart.draw_series(LineSeries::new(best.iter().copied(), style))?;
    page::name(drawn, "best so far", style);
    chart.draw_series(best.iter().map(|&at| Circle::new(at, 3, SEARCHED.filled())))?;
    page::draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Score;

    fn history(bests: &[f64]) -> Vec<GenerationSummary> {
        let mut history: Vec<GenerationSummary> = Vec::new();
        for (generation, &best) in bests.iter().enumerate() {
            let scores = [Score::new(best), Score::new(best * 1.2), Score::new(best * 40.0)];
            history.push(GenerationSummary::close(generation as u32, &scores, 0, history.last()));
        }
        history
    }

    #[test]
    fn progress_is_drawn_with_the_levels_near_it() {
        let level = |name: &str, perplexity| Level { name: name.into(), perplexity };
        let levels = [level("none", 75.0), level("yarn", 16.2), level("failed", f64::INFINITY)];
        let svg = progress_plot("Progress", &history(&[16.2, 15.0, 14.0]), &levels).unwrap();
        assert!(svg.contains("yarn") && svg.contains("best so far") && !svg.contains("none<"), "{svg}");
        assert_eq!(svg, progress_plot("Progress", &history(&[16.2, 15.0, 14.0]), &levels).unwrap());
    }

    #[test]
    fn a_search_without_scores_has_no_plot() {
        assert!(matches!(progress_plot("", &[], &[]), Err(PlotError::Nothing(_))));
        assert!(matches!(progress_plot("", &history(&[f64::NAN]), &[]), Err(PlotError::Nothing(_))));
        assert!(progress_plot("", &history(&[5.0]), &[]).is_ok());
    }
}
