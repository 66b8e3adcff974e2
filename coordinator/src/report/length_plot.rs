//! A plot of perplexity by length, a curve for each set of factors.

use super::PlotError;
use super::page::{self, Failure, Page, ticks};
use super::palette::{SEARCHED, other};
use plotters::prelude::*;

/// A set of factors: its name and its perplexity at each length, the shortest first.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthCurve {
    /// For the legend.
    pub name: String,
    /// Tokens, and the perplexity there; what is not finite is left out.
    pub points: Vec<(u32, f64)>,
}

/// Perplexities this many times the lowest and more are not drawn: they would press all others into a line.
const CEILING: f64 = 12.0;

/// An SVG of all curves over the length, both axes logarithmic. The last one is the result.
///
/// # Errors
/// [`PlotError`] when there is no point to draw.
pub fn length_plot(title: &str, curves: &[LengthCurve]) -> Result<String, PlotError> {
    let all =
        || curves.iter().flat_map(|curve| &curve.points).filter(|(length, value)| *length > 0 && value.is_finite());
    let lowest = all().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    if !(lowest.is_finite() && lowest > 0.0) {
        return Err(PlotError::Nothing("no set of factors has a perplexity"));
    }
    let ceiling = lowest * CEILING;
    let shown = || all().filter(|(_, value)| *value <= ceiling);
    let highest = shown().map(|(_, value)| *value).fold(lowest, f64::max);
    let shortest = all().map(|(length, _)| f64::from(*length)).fold(f64::INFINITY, f64::min);
    let longest = all().map(|(length, _)| f64::from(*length)).fold(0.0, f64::max);
    let axes = (shortest / 1.1..longest * 1.1, lowest / 1.05..highest * 1.05);
    let drawn: Vec<LengthCurve> = curves.iter().map(|curve| curve.below(ceiling)).collect();
    page::svg(|page| draw(page, title, &drawn, axes))
}

impl LengthCurve {
    fn below(&self, ceiling: f64) -> Self {
        let points = self.points.iter().copied().filter(|(length, value)| *length > 0 && *value <= ceiling).collect();
        Self { name: self.name.clone(), points }
    }
}

fn draw(
    page: &Page<'_>,
    title: &str,
    curves: &[LengthCurve],
    (x, y): (std::ops::Range<f64>, std::ops::Range<f64>),
) -> Result<(), Failure> {
    let labels = ticks(&y);
    let mut chart =
        page::chart(page, title).build_cartesian_2d(x.log_scale().base(2.0), y.log_scale().with_key_points(labels))?;
    page::draw_mesh(
        chart
            .configure_mesh()
            .x_desc("length (tokens)")
            .y_desc("perplexity on documents that no search saw")
            .x_label_formatter(&|length| format!("{length:.0}"))
            .y_label_formatter(&|value| format!("{value}")),
    )?;
    for (index, curve) in curves.iter().enumerate() {
        let result = index + 1 == curves.len();
        let style = if result { SEARCHED.stroke_width(3) } else { other(index).stroke_width(2) };
        let points: Vec<(f64, f64)> = curve.points.iter().map(|&(length, value)| (f64::from(length), value)).collect();
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        page::name(line, &curve.name, style);
        chart.draw_series(points.into_iter().map(|at| Circle::new(at, 3, style.filled())))?;
    }
    page::draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, points: &[(u32, f64)]) -> LengthCurve {
        LengthCurve { name: name.to_owned(), points: points.to_vec() }
    }

    #[test]
    fn every_set_is_drawn_and_what_is_off_the_scale_left_out() {
        let curves = [
            curve("original", &[(256, 19.0), (2048, 1e9), (16384, f64::INFINITY)]),
            curve("extended", &[(256, 19.2), (2048, 14.0), (16384, 13.0)]),
        ];
        let svg = length_plot("a < b", &curves).unwrap();
        assert_eq!(svg, length_plot("a < b", &curves).unwrap());
        for text in ["original", "extended", "a &lt; b", "16384"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        // One point of the first set is drawn, and three of the second.
        assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
    }

    #[test]
    fn the_axis_is_labelled_whatever_it_spans() {
        for (low, high, labels) in
            [(2.2, 5.5, [">3<", ">5<"]), (7.2, 9.0, [">7<", ">8<"]), (11.0, 18.0, [">12<", ">15<"])]
        {
            let svg = length_plot("", &[curve("x", &[(300, low), (5000, high)])]).unwrap().replace(['\n', ' '], "");
            for label in labels {
                assert!(svg.contains(label), "{low} to {high}: {label} in {svg}");
            }
        }
    }

    #[test]
    fn nothing_is_an_error() {
        assert!(matches!(length_plot("", &[]), Err(PlotError::Nothing(_))));
        assert!(matches!(length_plot("", &[curve("x", &[(256, f64::NAN)])]), Err(PlotError::Nothing(_))));
    }
}
