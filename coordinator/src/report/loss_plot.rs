//! A plot of a training: loss by step.

use super::PlotError;
use super::page::{self, Failure, Page, whole};
use super::palette::{SEARCHED, other};
use plotters::prelude::*;

/// Mean losses of one step, in nats a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// The step, from 1.
    pub step: u32,
    /// Of all its sequences.
    pub all: f64,
    /// Of long windows.
    pub long: Option<f64>,
    /// Of short windows.
    pub short: Option<f64>,
}

type Points = Vec<(f64, f64)>;

/// An SVG of the losses of all steps. Where a training mixes windows, each has a line of its own.
///
/// # Errors
/// [`PlotError`] when no step has a finite loss.
pub fn loss_plot(title: &str, curve: &[Losses]) -> Result<String, PlotError> {
    let series = |value: &dyn Fn(&Losses) -> Option<f64>| -> Points {
        let points = curve.iter().filter_map(|losses| Some((f64::from(losses.step), value(losses)?)));
        points.filter(|(_, loss)| loss.is_finite()).collect()
    };
    let mut lines = vec![("long windows", series(&|losses| losses.long)), ("short windows", series(&|l| l.short))];
    if lines.iter().any(|(_, points)| points.is_empty()) {
        lines = vec![("all sequences", series(&|losses| Some(losses.all)))];
    }
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, loss)| *loss));
    if values().next().is_none() {
        return Err(PlotError::Nothing("no step has a finite loss"));
    }
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.06).max(high.abs() * 0.002).max(1e-6);
    let last = curve.last().map_or(1, |losses| losses.step);
    let axes = (0.0..f64::from(last) * 1.02, low - margin..high + margin);
    page::svg(|page| draw(page, title, &lines, axes))
}

type Axes = (std::ops::Range<f64>, std::ops::Range<f64>);

fn draw(page: &Page<'_>, title: &str, lines: &[(&str, Points)], (x, y): Axes) -> Result<(), Failure> {
    let mut chart = page::chart(page, title).build_cartesian_2d(x, y)?;
    page::draw_mesh(
        chart.configure_mesh().x_desc("step").y_desc("loss (nats a token)").x_label_formatter(&|step| whole(*step)),
    )?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let style = if index == 0 { SEARCHED.stroke_width(2) } else { other(index - 1).stroke_width(2) };
        let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        page::name(drawn, name, style);
    }
    page::draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_lines_of_their_own_where_both_were_trained() {
        let at = |step, short| Losses { step, all: 3.0, long: Some(3.2), short };
        let mixed = loss_plot("Loss", &[at(1, Some(2.0)), at(2, None), at(3, Some(1.9))]).unwrap();
        assert!(mixed.contains("long windows") && mixed.contains("short windows") && !mixed.contains("all sequences"));
        let long = loss_plot("Loss", &[at(1, None), at(2, None)]).unwrap();
        assert!(long.contains("all sequences") && !long.contains("long windows"));
        assert!(loss_plot("Loss", &[at(1, None)]).is_ok());
        assert!(matches!(loss_plot("Loss", &[]), Err(PlotError::Nothing(_))));
    }
}
