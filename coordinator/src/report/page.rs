//! The page that all plots are drawn on, and the parts that they share.

use super::PlotError;
use super::palette::{FONT, GRID, INK};
use plotters::chart::{MeshStyle, SeriesAnno};
use plotters::coord::CoordTranslate;
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;

/// Size of a plot in pixels.
pub const SIZE: (u32, u32) = (900, 560);

/// A white page of [`SIZE`].
pub type Page<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What drawing says when it fails.
pub type Failure = Box<dyn std::error::Error>;

/// An SVG of what is drawn on a page.
///
/// # Errors
/// [`PlotError::Drawing`] when something could not be drawn.
pub fn svg(draw: impl FnOnce(&Page<'_>) -> Result<(), Failure>) -> Result<String, PlotError> {
    let mut svg = String::new();
    let drawn = || -> Result<(), Failure> {
        let page = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        page.fill(&WHITE)?;
        draw(&page)?;
        Ok(page.present()?)
    };
    drawn().map_err(|error| PlotError::Drawing(error.to_string()))?;
    Ok(svg)
}

/// A chart with a title that fills the page.
pub fn chart<'a, DB: DrawingBackend>(page: &'a DrawingArea<DB, Shift>, title: &str) -> ChartBuilder<'a, 'static, DB> {
    let mut chart = ChartBuilder::on(page);
    chart.caption(title, (FONT, 22).into_font().color(&INK)).margin(16).x_label_area_size(48).y_label_area_size(72);
    chart
}

/// Draws axes and grid.
///
/// # Errors
/// When they could not be drawn.
pub fn draw_mesh<'b, X, Y, XValue, YValue, DB>(
    mesh: &mut MeshStyle<'_, 'b, X, Y, DB>,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>>
where
    X: Ranged<ValueType = XValue> + ValueFormatter<XValue>,
    Y: Ranged<ValueType = YValue> + ValueFormatter<YValue>,
    DB: DrawingBackend,
{
    mesh.label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 17).into_font().color(&INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .draw()
}

/// The round numbers 1, 2, 5, 10, … inside a range: a logarithmic axis of one decade needs more than powers of ten.
pub fn ticks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let wide = range.end / range.start > 1e3;
    let narrow = range.end / range.start < 4.0;
    let close = range.end / range.start < 1.5;
    let steps: &[f64] = if wide {
        &[1.0]
    } else if close {
        &[
            1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.2, 2.5, 2.8, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0,
            7.5, 8.0, 8.5, 9.0, 9.5,
        ]
    } else if narrow {
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
    } else {
        &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
    };
    let powers = (-6..12).flat_map(|power| steps.iter().map(move |step| (power, step)));
    // Division keeps decimals such as 0.2 exact where multiplication by 0.1 does not.
    let value = |(power, step): (i32, &f64)| {
        if power < 0 { step / 10f64.powi(-power) } else { step * 10f64.powi(power) }
    };
    powers.map(value).filter(|tick| range.contains(tick)).collect()
}

/// The label of a count: a tick between two of them has none.
pub fn whole(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count}") } else { String::new() }
}

/// Gives a curve a place in the legend.
pub fn name<'a, DB: DrawingBackend + 'a>(curve: &mut SeriesAnno<'a, DB>, name: &str, style: ShapeStyle) {
    curve.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
}

/// Draws the legend of all curves that have a name.
///
/// # Errors
/// When it could not be drawn.
pub fn draw_legend<'a, DB: DrawingBackend + 'a, CT: CoordTranslate>(
    chart: &mut ChartContext<'a, DB, CT>,
    position: SeriesLabelPosition,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    chart
        .configure_series_labels()
        .position(position)
        .legend_area_size(32)
        .margin(14)
        .label_font((FONT, 16).into_font().color(&INK))
        .background_style(WHITE)
        .border_style(GRID)
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_not_too_many() {
        assert_eq!(ticks(&(0.9..12.0)), [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0]);
        for end in [1.3, 2.0, 10.0, 80.0, 640.0, 5000.0] {
            let count = ticks(&(0.92..end)).len();
            assert!((2..=18).contains(&count), "{end}: {count}");
        }
    }
}
