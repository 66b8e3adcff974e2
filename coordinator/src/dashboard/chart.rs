//! Curves as SVG inside of a page, coloured by its style sheet so that they follow dark and light.

use maud::{Markup, html};
use std::ops::Range;

/// Size of the picture; a phone shows it at three quarters.
const SIZE: (f64, f64) = (480.0, 270.0);
/// What is left free for labels: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (52.0, 12.0, 14.0, 42.0);
/// Points drawn of one curve; of more, evenly chosen ones.
const MOST_POINTS: usize = 400;

/// A curve.
pub(super) struct Series {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// Curves over one axis.
pub(super) struct Chart {
    /// What it shows, for those who do not see it.
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    /// Whether the vertical axis is logarithmic.
    pub log: bool,
    /// Whether each point of the first curve is marked.
    pub dots: bool,
    pub series: Vec<Series>,
}

/// One axis: what it spans, and where on the picture.
struct Axis {
    range: Range<f64>,
    place: (f64, f64),
    log: bool,
}

// === impl Axis ===

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.ln() } else { value };
        let (start, end) = (scale(self.range.start), scale(self.range.end));
        self.place.0 + (scale(value) - start) / (end - start) * (self.place.1 - self.place.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log { log_ticks(&self.range) } else { ticks(&self.range) }
    }
}

// === impl Chart ===

impl Chart {
    /// The picture; nothing where there is no point to show.
    pub fn draw(mut self) -> Option<Markup> {
        let (log, usable) = (self.log, |value: f64| value.is_finite());
        for series in &mut self.series {
            series.points.retain(|&(x, y)| usable(x) && usable(y) && (!log || y > 0.0));
            series.points = thinned(&series.points);
        }
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (mut x, mut y) = (span(points().map(|at| at.0))?, span(points().map(|at| at.1))?);
        if self.log {
            y = y.start / 1.08..y.end * 1.08;
        } else {
            let margin = ((y.end - y.start) * 0.06).max(y.end.abs() * 1e-3).max(1e-9);
            y = y.start - margin..y.end + margin;
        }
        if x.start == x.end {
            x = x.start - 0.5..x.end + 0.5;
        }
        let x = Axis { range: x, place: (MARGIN.0, SIZE.0 - MARGIN.2), log: false };
        let y = Axis { range: y, place: (SIZE.1 - MARGIN.3, MARGIN.1), log };
        Some(self.markup(&x, &y))
    }

    fn markup(&self, x: &Axis, y: &Axis) -> Markup {
        let path = |series: &Series| {
            let at = series.points.iter().map(|&(a, b)| format!("{:.1},{:.1}", x.at(a), y.at(b)));
            at.collect::<Vec<_>>().join(" ")
        };
        html! {
            figure {
                svg viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img" aria-label=(self.title) {
                    @for tick in y.ticks() {
                        line class="grid" x1=(x.place.0) x2=(x.place.1) y1=(round(y.at(tick))) y2=(round(y.at(tick))) {}
                        text class="tick" x=(x.place.0 - 6.0) y=(round(y.at(tick) + 4.0)) text-anchor="end" { (label(tick)) }
                    }
                    @for tick in x.ticks() {
                        text class="tick" x=(round(x.at(tick))) y=(y.place.0 + 17.0) text-anchor="middle" { (label(tick)) }
                    }
                    line class="axis" x1=(x.place.0) x2=(x.place.1) y1=(y.place.0) y2=(y.place.0) {}
                    text class="tick" x=((x.place.0 + x.place.1) / 2.0) y=(SIZE.1 - 6.0) text-anchor="middle" { (self.x) }
                    @for (index, series) in self.series.iter().enumerate().rev() {
                        polyline class=(format!("curve c{index}")) points=(path(series)) {}
                    }
                    @if let Some(first) = self.series.first() {
                        @let marked = if self.dots || first.points.len() == 1 { first.points.as_slice() } else { &[] };
                        @for &(a, b) in marked { circle class="c0" cx=(round(x.at(a))) cy=(round(y.at(b))) r="2.5" {} }
                    }
                }
                figcaption {
                    (self.y)
                    @if self.series.len() > 1 {
                        ": "
                        @for (index, series) in self.series.iter().enumerate() {
                            span class=(format!("key c{index}")) { (series.name) } " "
                        }
                    }
                }
            }
        }
    }
}

fn span(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    values.fold(None, |span: Option<Range<f64>>, value| {
        let span = span.unwrap_or(value..value);
        Some(span.start.min(value)..span.end.max(value))
    })
}

/// So many points at most, the last one among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last).map(|(_, point)| *point).collect()
}

/// Round numbers, about five.
fn ticks(range: &Range<f64>) -> Vec<f64> {
    let rough = (range.end - range.start) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|of| of * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (range.start / step).ceil() as i64;
    let last = (range.end / step).floor() as i64;
    (first..=last.min(first.saturating_add(20))).map(|count| count as f64 * step).collect()
}

fn log_ticks(range: &Range<f64>) -> Vec<f64> {
    let wide = range.end / range.start > 4.0;
    let steps: &[f64] = if wide { &[1.0, 2.0, 5.0] } else { &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0] };
    let powers = (-4..7).map(|power| 10f64.powi(power));
    let ticks: Vec<f64> = powers.flat_map(|power| steps.iter().map(move |step| step * power)).collect();
    ticks.into_iter().filter(|tick| range.contains(tick)).collect()
}

/// A number on an axis, with the digits it needs.
fn label(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        _ if value.abs() >= 1e5 => format!("{value:.0e}"),
        _ => text.to_owned(),
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log: bool, points: Vec<(f64, f64)>) -> Chart {
        let series = vec![Series { name: "a", points: points.clone() }, Series { name: "<b>", points }];
        Chart { title: "best < & \"so far\"".into(), x: "x", y: "y", log, dots: false, series }
    }

    #[test]
    fn what_is_drawn_lies_on_the_picture_and_breaks_no_markup() {
        let points: Vec<(f64, f64)> = (0..5000).map(|at| (f64::from(at), 1.0 + 1.0 / f64::from(at + 1))).collect();
        let svg = chart(false, points).draw().unwrap().into_string();
        let line = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let at: Vec<(f64, f64)> = line
            .split(' ')
            .map(|point| point.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
            .collect();
        assert!(at.len() <= MOST_POINTS + 1 && at.len() > MOST_POINTS / 2, "{}", at.len());
        assert!(at.iter().all(|(x, y)| (0.0..SIZE.0).contains(x) && (0.0..SIZE.1).contains(y)), "{line}");
        assert!(svg.contains("best &lt; &amp; &quot;so far&quot;") && svg.contains("&lt;b&gt;"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(chart(false, vec![]).draw().is_none());
        assert!(chart(true, vec![(0.0, -1.0), (1.0, f64::NAN)]).draw().is_none());
        for log in [false, true] {
            let one = chart(log, vec![(3.0, 2.0)]).draw().unwrap().into_string();
            assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(&(0.0..300.0)), [0.0, 100.0, 200.0, 300.0]);
        assert_eq!(ticks(&(16.0..16.9)).len(), 5);
        assert_eq!(log_ticks(&(0.9..12.0)), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!((label(16.2), label(-0.0), label(120_000.0)), ("16.2".into(), "0".into(), "1e5".into()));
    }
}
