//! The lowest point of a function of one whole number that falls and then rises, such as the loss by attention factor.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The part of the longer side that golden section steps into it.
const GOLDEN: f64 = 0.381_966;

/// Where a function was found lowest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lowest {
    /// The point.
    pub at: u32,
    /// Its value.
    pub value: f64,
    /// Points at which the function was asked.
    pub asked: usize,
}

/// Finds the lowest point within `range`: looks every `stride` points, then closes in on the lowest of them by golden section.
///
/// Neither neighbour of the point found is lower. Of several valleys that are each wider than two strides the lowest is found,
/// narrower ones may be missed. What is no number counts as infinitely high.
///
/// # Errors
/// Those of `function`.
pub fn lowest<E>(
    range: RangeInclusive<u32>,
    stride: u32,
    mut function: impl FnMut(u32) -> Result<f64, E>,
) -> Result<Lowest, E> {
    let (low, high) = (*range.start(), *range.end().max(range.start()));
    let mut known: BTreeMap<u32, f64> = BTreeMap::new();
    let mut value = |at: u32| -> Result<f64, E> {
        if let Some(&value) = known.get(&at) {
            return Ok(value);
        }
        let value = function(at)?;
        let value = if value.is_nan() { f64::INFINITY } else { value };
        known.insert(at, value);
        Ok(value)
    };
    let stride = stride.max(1);
    let mut middle = (low, value(low)?);
    for at in (low..high).step_by(stride as usize).skip(1).chain([high]) {
        let reached = value(at)?;
        if reached < middle.1 {
            middle = (at, reached);
        }
    }
    let (mut left, mut right) = (middle.0.saturating_sub(stride).max(low), middle.0.saturating_add(stride).min(high));
    loop {
        let (to_left, to_right) = (middle.0 - left, right - middle.0);
        if to_left <= 1 && to_right <= 1 {
            break;
        }
        let step = |side: u32| ((f64::from(side) * GOLDEN).round() as u32).max(1);
        let goes_right = to_right > to_left;
        let at = if goes_right { middle.0 + step(to_right) } else { middle.0 - step(to_left) };
        let reached = value(at)?;
        match (reached < middle.1, goes_right) {
            (true, true) => (left, middle) = (middle.0, (at, reached)),
            (true, false) => (right, middle) = (middle.0, (at, reached)),
            (false, true) => right = at,
            (false, false) => left = at,
        }
    }
    Ok(Lowest { at: middle.0, value: middle.1, asked: known.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn of(range: RangeInclusive<u32>, stride: u32, function: impl Fn(f64) -> f64) -> Lowest {
        lowest::<Infallible>(range, stride, |at| Ok(function(f64::from(at)))).unwrap()
    }

    #[test]
    fn every_minimum_of_a_parabola_and_of_a_lopsided_valley_is_met_exactly() {
        for target in (800..=2000).step_by(7).chain([801, 1999]) {
            let at = f64::from(target);
            for found in [
                of(800..=2000, 200, |x| (x - at).powi(2)),
                of(800..=2000, 200, |x| if x < at { 50.0 * (at - x) } else { (x / at).ln() }),
            ] {
                assert_eq!((found.at, found.value), (target, 0.0));
                assert!(found.asked <= 24, "{found:?}");
            }
        }
    }

    #[test]
    fn a_slope_ends_at_the_bound() {
        assert_eq!(of(800..=2000, 200, |x| x).at, 800);
        assert_eq!(of(800..=2000, 200, |x| -x).at, 2000);
        assert_eq!(of(5..=5, 200, |x| x), Lowest { at: 5, value: 5.0, asked: 1 });
    }

    #[test]
    fn of_two_wide_valleys_the_lower_one_is_found() {
        let valleys = |x: f64| (x - 1000.0).abs().min((x - 1800.0).abs() - 20.0);
        assert_eq!(of(800..=2000, 200, valleys).at, 1800);
    }

    #[test]
    fn no_number_is_no_minimum_and_errors_come_back() {
        assert_eq!(of(0..=100, 10, |x| if x < 50.0 { f64::NAN } else { x }).at, 50);
        assert_eq!(lowest(0..=100, 10, |at| if at == 20 { Err("cut off") } else { Ok(1.0) }), Err("cut off"));
    }
}
