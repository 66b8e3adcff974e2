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
