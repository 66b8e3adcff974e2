//! A heat map of retrieval: exact answers by length and depth.

use super::page::{self, Failure, Page, SIZE};
use super::palette::{FONT, GRID, INK, SEARCHED};
use super::{PlotError, Retrieval};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Room for the title and what stands beside and below the cells, in pixels.
const LEFT: i32 = 100;
const TOP: i32 = 64;
const RIGHT: i32 = 24;
const BOTTOM: i32 = 76;

/// An SVG with a cell for every length (across) and depth (down), the darker the more answers were exact.
///
/// The same numbers give the same bytes.
///
/// # Errors
/// [`PlotError`] when there are no cells, or lengths with different numbers of depths.
pub fn heat_map(title: &str, lengths: &[&Retrieval]) -> Result<String, PlotError> {
    let depths = lengths.first().map_or(0, |first| first.depths.len());
    if depths == 0 {
        return Err(PlotError::Nothing("there are no lengths, or no depths"));
    }
    if lengths.iter().any(|length| length.depths.len() != depths) {
        return Err(PlotError::Nothing("lengths have different numbers of depths"));
    }
    page::svg(|page| draw(page, title, lengths, depths))
}

fn draw(page: &Page<'_>, title: &str, lengths: &[&Retrieval], depths: usize) -> Result<(), Failure> {
    let (width, height) = (SIZE.0 as i32 - LEFT - RIGHT, SIZE.1 as i32 - TOP - BOTTOM);
    let x = |column: usize| LEFT + (width as i64 * column as i64 / lengths.len() as i64) as i32;
    let y = |row: usize| TOP + (height as i64 * row as i64 / depths as i64) as i32;
    let middle = |low: i32, high: i32| i32::midpoint(low, high);
    let style = |size: i32, colour: &'static RGBColor, h: HPos, v: VPos| {
        TextStyle::from((FONT, size)).color(colour).pos(Pos::new(h, v))
    };

    let centred = |size| style(size, &INK, HPos::Center, VPos::Center);
    page.draw(&Text::new(title, (SIZE.0 as i32 / 2, TOP / 2), centred(22)))?;
    page.draw(&Text::new("length (tokens)", (LEFT + width / 2, SIZE.1 as i32 - 26), centred(17)))?;
    let turned = centred(17).transform(FontTransform::Rotate270);
    page.draw(&Text::new("depth of the number", (26, TOP + height / 2), turned))?;

    // Text in narrow cells would run into the next one.
    let labelled = width / lengths.len() as i32 >= 44 && height / depths as i32 >= 18;
    let beside = style(15, &INK, HPos::Right, VPos::Center);
    let every = depths.div_ceil(16);
    for (row, at) in lengths[0].depths.iter().enumerate().step_by(every) {
        let label = format!("{:.0} %", at.depth * 100.0);
        page.draw(&Text::new(label, (LEFT - 8, middle(y(row), y(row + 1))), beside.clone()))?;
    }
    let every = lengths.len().div_ceil(12);
    for (column, of) in lengths.iter().enumerate() {
        let (left, right) = (x(column), x(column + 1));
        if column % every == 0 {
            let at = (middle(left, right), SIZE.1 as i32 - BOTTOM + 16);
            page.draw(&Text::new(of.length.to_string(), at, centred(15)))?;
        }
        for (row, cell) in of.depths.iter().enumerate() {
            let (share, top, bottom) = (cell.accuracy(), y(row), y(row + 1));
            let corners = [(left, top), (right, bottom)];
            page.draw(&Rectangle::new(corners, colour(share).filled()))?;
            page.draw(&Rectangle::new(corners, GRID.stroke_width(1)))?;
            if labelled {
                let ink = if share > 0.5 { &WHITE } else { &INK };
                let at = (middle(left, right), middle(top, bottom));
                let text = style(15, ink, HPos::Center, VPos::Center);
                page.draw(&Text::new(format!("{:.0} %", share * 100.0), at, text))?;
            }
        }
    }
    Ok(())
}

/// From white (no exact answer) to the colour of results (all).
fn colour(share: f64) -> RGBColor {
    let mix = |full: u8| (255.0 + (f64::from(full) - 255.0) * share.clamp(0.0, 1.0)).round() as u8;
    RGBColor(mix(SEARCHED.0), mix(SEARCHED.1), mix(SEARCHED.2))
}

#[cfg(test)]
mod tests {
    use super::super::retrieval::AtDepth;
    use super::*;

    fn at(length: u32, exact: &[u64]) -> Retrieval {
        let depth = |(row, &exact)| AtDepth { depth: row as f64 / 4.0, prompts: 4, exact };
        Retrieval {
            length,
            factors: "yarn".into(),
            attention_factor: 1.0,
            start_tokens: 0,
            prompts: 4 * exact.len() as u64,
            exact: exact.iter().sum(),
            accuracy: 0.5,
            answer_nll: 0.1,
            seconds: 1.0,
            depths: exact.iter().enumerate().map(depth).collect(),
        }
    }

    #[test]
    fn every_cell_is_drawn_with_its_share() {
        let (short, long) = (at(256, &[4, 4]), at(1024, &[1, 0]));
        let svg = heat_map("a < b", &[&short, &long]).unwrap();
        assert_eq!(svg, heat_map("a < b", &[&short, &long]).unwrap());
        for text in ["256", "1024", "100 %", "25 %", "a &lt; b", "#005AB5", "#BFD6ED"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }

    #[test]
    fn what_has_no_cells_is_an_error() {
        assert!(matches!(heat_map("", &[]), Err(PlotError::Nothing(_))));
        assert!(matches!(heat_map("", &[&at(256, &[])]), Err(PlotError::Nothing(_))));
        assert!(matches!(heat_map("", &[&at(256, &[1]), &at(512, &[1, 2])]), Err(PlotError::Nothing(_))));
    }
}
