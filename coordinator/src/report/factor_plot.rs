//! A plot of rescale factors, one curve a set.

use super::PlotError;
use super::page::{self, Failure, Page, ticks};
use super::palette::{SEARCHED, other};
use plotters::prelude::*;

/// A set of factors with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// One factor per rotary pair.
    pub factors: Vec<f64>,
}

/// An SVG of the searched factors (drawn bold, on top) and others, over the rotary pairs, with a logarithmic axis.
///
/// The same numbers give the same bytes.
///
/// # Errors
/// [`PlotError`] when there is no factor to show, or a factor is not above 0.
pub fn factor_plot(title: &str, searched: &Curve, others: &[Curve]) -> Result<String, PlotError> {
    let all = || others.iter().chain([searched]).flat_map(|curve| curve.factors.iter().copied());
    let pairs = others.iter().chain([searched]).map(|curve| curve.factors.len()).max().unwrap_or(0);
    if pairs == 0 || searched.factors.is_empty() {
        return Err(PlotError::Nothing("there are no factors"));
    }
    if !all().all(|factor| factor.is_finite() && factor > 0.0) {
        return Err(PlotError::Nothing("a factor is not above 0"));
    }
    let low = all().fold(1.0, f64::min) / 1.08;
    let high = all().fold(1.0, f64::max) * 1.15;
    page::svg(|page| draw(page, title, searched, others, (pairs, low..high)))
}

fn draw(
    page: &Page<'_>,
    title: &str,
    searched: &Curve,
    others: &[Curve],
    (pairs, factors): (usize, std::ops::Range<f64>),
) -> Result<(), Failure> {
    let ticks = ticks(&factors);
    let mut chart = page::chart(page, title)
        .build_cartesian_2d(-0.5..pairs as f64 - 0.5, factors.log_scale().with_key_points(ticks))?;
    page::draw_mesh(
        chart
            .configure_mesh()
            .x_desc("rotary pair (fast to slow)")
            .y_desc("rescale factor")
            .x_labels(pairs.min(17))
            .x_label_formatter(&|pair| format!("{pair:.0}"))
            .y_label_formatter(&|factor| format!("{factor}")),
    )?;
    let points = |curve: &Curve| -> Vec<(f64, f64)> { (0..).map(f64::from).zip(curve.factors.clone()).collect() };
    for (index, curve) in others.iter().enumerate() {
        let style = other(index).stroke_width(2);
        let drawn = chart.draw_series(LineSeries::new(points(curve), style))?;
        page::name(drawn, &curve.name, style);
    }
    let style = SEARCHED.stroke_width(3);
    let drawn = chart.draw_series(LineSeries::new(points(searched), style))?;
    page::name(drawn, &searched.name, style);
    chart.draw_series(points(searched).into_iter().map(|at| Circle::new(at, 4, SEARCHED.filled())))?;
    // Curves rise from the lower left to the upper right: this corner is free.
    page::draw_legend(&mut chart, SeriesLabelPosition::LowerRight)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, factors: &[f64]) -> Curve {
        Curve { name: name.into(), factors: factors.to_vec() }
    }

    #[test]
    fn a_plot_repeats_and_names_its_curves() {
        let searched = curve("searched", &[1.0, 1.19, 4.5, 9.7]);
        let others = [curve("PI", &[8.0; 4]), curve("NTK", &[1.0, 2.0, 4.0, 8.0])];
        let svg = factor_plot("Factors", &searched, &others).unwrap();
        assert_eq!(svg, factor_plot("Factors", &searched, &others).unwrap());
        for text in ["<svg", "searched", "PI", "NTK", "rescale factor", "rotary pair"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn names_cannot_break_the_markup() {
        let svg = factor_plot("a < b & \"c\"", &curve("<script>", &[1.0, 2.0]), &[]).unwrap();
        assert!(!svg.contains("<script>"), "{svg}");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        for factors in [&[][..], &[0.0], &[f64::NAN], &[1.0, f64::INFINITY]] {
            assert!(matches!(factor_plot("", &curve("", factors), &[]), Err(PlotError::Nothing(_))), "{factors:?}");
        }
        assert!(factor_plot("one pair", &curve("", &[1.0]), &[]).is_ok());
    }
}
