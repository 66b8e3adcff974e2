//! The look of all plots: light, large enough to read, and told apart without red against green.

use plotters::coord::CoordTranslate;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{ChartContext, DrawingBackend, IntoFont as _, SeriesLabelPosition, WHITE};
use plotters::style::RGBColor;

/// Size of a plot in pixels.
pub const SIZE: (u32, u32) = (900, 560);
/// Font of all text.
pub const FONT: &str = "sans-serif";
/// Text and axes.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(228, 228, 228);
/// What the search found.
pub const SEARCHED: RGBColor = RGBColor(0, 90, 181);
/// What it is compared with (the palette of Okabe and Ito).
pub const OTHERS: [RGBColor; 6] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
    RGBColor(86, 180, 233),
];

/// The colour of the `index`-th thing the result is compared with.
pub fn other(index: usize) -> RGBColor {
    OTHERS[index % OTHERS.len()]
}

/// Draws the legend of all curves that have a label.
pub fn legend<'a, DB: DrawingBackend + 'a, CT: CoordTranslate>(
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
