//! A pattern search over a few numbers, whole generations at a time.
//!
//! A round is two generations: a star (each number one step down and one step up from the centre), then combinations.
//! Along each number a parabola through its three values says how far to go and what that should gain. Combinations go
//! so far along the number that promises most, along the two, the three … that do, and half as far along all: numbers
//! interact, and behind a cliff the last ones are too many. The best point known is the next centre, and every number that
//! did not go far to it has its step halved.

use super::score::Score;
use serde::{Deserialize, Serialize};

/// Farthest move along one number, in steps: a parabola says little beyond its points.
const REACH: f64 = 1.5;
/// A number that moved by so many steps may have farther to go.
const FAR: f64 = 0.75;

/// A search under way. Where its centre lies, whoever asks it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Star {
    /// Of the centre.
    score: Score,
    /// Of each number.
    steps: Vec<f64>,
    /// Generations told.
    told: u32,
    /// The star's scores, once told: for each number one step down and one up; absent where there was none.
    star: Vec<[Option<Score>; 2]>,
}

/// How far to go along each number.
pub type Moves = Vec<f64>;

/// Points that a round over so many numbers asks: the star's, then the combinations'.
pub const fn round_candidates(numbers: u64) -> u64 {
    2 * numbers + numbers + 1
}

// === impl Star ===

impl Star {
    /// A search around a point with this score, with these steps at first.
    pub fn around(score: Score, steps: Vec<f64>) -> Self {
        Self { score, steps, told: 0, star: Vec::new() }
    }

    /// Rounds that are over.
    pub fn rounds(&self) -> u32 {
        self.told / 2
    }

    /// Whether the open generation is a star, and no combinations.
    pub fn is_at_star(&self) -> bool {
        self.told.is_multiple_of(2)
    }

    /// From the centre to the points of the open generation, of which the first `numbers` numbers take part: always the same
    /// number of points in the same order.
    pub fn moves(&self, numbers: usize) -> Vec<Moves> {
        let moves = if self.is_at_star() { self.singles(numbers) } else { self.combined() };
        moves.iter().map(|by| self.in_full(by)).collect()
    }

    /// Takes in what became of the points of the open generation; absent where one was not asked. From the old centre to
    /// the new one where a round is over.
    pub fn tell(&mut self, scores: &[Option<Score>]) -> Option<Moves> {
        if self.is_at_star() {
            let score = |two: &[Option<Score>], place: usize| two.get(place).copied().flatten();
            self.star = scores.chunks(2).map(|two| [score(two, 0), score(two, 1)]).collect();
            self.told += 1;
            return None;
        }
        // The star's best point may be better than every combination.
        let singles = self.best_single();
        let combined = self.combined().into_iter().zip(scores).filter_map(|(by, score)| Some((by, (*score)?)));
        let mut best = (self.score, self.nowhere());
        for (by, score) in singles.into_iter().chain(combined) {
            if score < best.0 {
                best = (score, by);
            }
        }
        let (score, by) = best;
        let moved = self.in_full(&by);
        for (step, by) in self.steps.iter_mut().zip(by) {
            if by.abs() < FAR {
                *step /= 2.0;
            }
        }
        self.score = score;
        self.star.clear();
        self.told += 1;
        Some(moved)
    }

    /// Whether it can have come from a search over so many numbers.
    pub fn is_sound(&self, numbers: usize) -> bool {
        let stars = if self.is_at_star() { 0 } else { numbers };
        self.steps.len() >= numbers && self.steps.iter().all(|step| step.is_finite()) && self.star.len() == stars
    }

    /// From steps to what they measure.
    fn in_full(&self, by: &[f64]) -> Moves {
        by.iter().zip(&self.steps).map(|(by, step)| by * step).collect()
    }

    /// In steps, as are those below.
    fn nowhere(&self) -> Moves {
        vec![0.0; self.steps.len()]
    }

    fn singles(&self, numbers: usize) -> Vec<Moves> {
        let single = |number: usize, by: f64| {
            let mut moves = self.nowhere();
            moves[number] = by;
            moves
        };
        (0..numbers).flat_map(|number| [single(number, -1.0), single(number, 1.0)]).collect()
    }

    fn combined(&self) -> Vec<Moves> {
        let here = self.height(self.score).unwrap_or(f64::INFINITY);
        let mut all = self.nowhere();
        let mut gains: Vec<(f64, usize)> = Vec::new();
        for (number, star) in self.star.iter().enumerate() {
            let [down, up] = star.map(|score| score.and_then(|score| self.height(score)));
            let (by, gain) = along(down, here, up);
            all[number] = by;
            gains.push((gain, number));
        }
        // Stable: of equal gains the first number stays in front.
        gains.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut by = self.nowhere();
        let mut moves: Vec<Moves> = gains
            .iter()
            .map(|&(_, number)| {
                by[number] = all[number];
                by.clone()
            })
            .collect();
        moves.push(all.iter().map(|by| by / 2.0).collect());
        moves
    }

    /// What is to be lowered: the value, and while the centre lies outside a limit, by how much a point does.
    fn height(&self, score: Score) -> Option<f64> {
        match self.score.excess() {
            None => score.value(),
            Some(_) => score.excess().or(score.value().map(|_| 0.0)),
        }
    }

    fn best_single(&self) -> Option<(Moves, Score)> {
        let scores = self.star.iter().flatten();
        let known = self.singles(self.star.len()).into_iter().zip(scores);
        known.filter_map(|(by, score)| Some((by, (*score)?))).min_by_key(|(_, score)| *score)
    }
}

/// How far to go along one number, in steps, and what that should gain, from the values one step down, here and up.
fn along(down: Option<f64>, here: f64, up: Option<f64>) -> (f64, f64) {
    let one_sided = |value: f64, by: f64| if value < here { (by, here - value) } else { (0.0, 0.0) };
    match (down, up) {
        (None, None) => (0.0, 0.0),
        (Some(down), None) => one_sided(down, -1.0),
        (None, Some(up)) => one_sided(up, 1.0),
        (Some(down), Some(up)) => {
            let (slope, curvature) = ((up - down) / 2.0, up + down - 2.0 * here);
            if curvature > 0.0 {
                let by = (-slope / curvature).clamp(-REACH, REACH);
                (by, -(slope * by + curvature * by * by / 2.0))
            } else if up < down {
                one_sided(up, 1.0)
            } else {
                one_sided(down, -1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parabolas_are_followed_to_their_minimum_and_not_beyond_their_reach() {
        // (x - 1/4)^2 at -1, 0, 1.
        let (by, gain) = along(Some(1.5625), 0.0625, Some(0.5625));
        assert!((by - 0.25).abs() < 1e-12 && (gain - 0.0625).abs() < 1e-12);
        assert_eq!(along(Some(30.0), 20.0, Some(10.5)).0, REACH);
        assert_eq!(along(Some(3.0), 2.0, Some(0.0)), (1.0, 2.0), "a hilltop: to the lower side");
        assert_eq!(along(None, 2.0, Some(3.0)), (0.0, 0.0));
        assert_eq!(along(Some(1.0), 2.0, None), (-1.0, 1.0));
    }
}
