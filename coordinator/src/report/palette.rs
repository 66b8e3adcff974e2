//! The look of all plots: light, large enough to read, and told apart without red against green.

use plotters::style::RGBColor;

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
