//! A pattern search over the numbers of a [`Curve`], whole generations at a time.
//!
//! A round is two generations: a star (each number one step down and one step up from the centre), then combinations.
//! Along each number a parabola through its three values says how far to go and what that should gain. Combinations go
//! so far along the number that promises most, along the two, the three … that do, and half as far along all: numbers
//! interact, and behind a cliff the last ones are too many. The best curve known is the next centre, and every number that
//! did not go far to it has its step halved.

use super::curve::{Curve, NUMBERS};
use crate::search::score::Score;
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// Rounds of a search.
pub const ROUNDS: u32 = 3;
/// Candidates of a star and of the combinations after it, where the attention factor is fixed.
pub const ROUND_CANDIDATES: u64 = 8 + 5;
/// Farthest move along one number, in steps: a parabola says little beyond its points.
const REACH: f64 = 1.5;
/// A number that moved by so many steps may have farther to go.
const FAR: f64 = 0.75;
/// Number of the attention factor in a curve.
const ATTENTION: usize = 4;

/// A search under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    center: Curve,
    score: Score,
    steps: [f64; NUMBERS],
    /// Whether the attention factor is searched.
    attention: bool,
    /// Generations told.
    told: u32,
    /// The star's scores, once told: for each number one step down and one up; absent where there was none.
    star: Vec<[Option<Score>; 2]>,
}

// === impl Pattern ===

impl Pattern {
    /// A search around a curve that was evaluated.
    pub fn around(center: Curve, score: Score, space: &SearchSpace) -> Self {
        let pairs = space.pairs as f64;
        let steps = [pairs / 8.0, pairs / 16.0, 0.12, 0.6, 0.03];
        Self { center, score, steps, attention: space.attention.is_some(), told: 0, star: Vec::new() }
    }

    /// Whether there is nothing more to ask.
    pub fn is_over(&self) -> bool {
        self.told >= 2 * ROUNDS
    }

    /// Whether the open generation is a star.
    pub fn is_at_star(&self) -> bool {
        self.told.is_multiple_of(2)
    }

    /// The curves of the open generation, always the same number of them in the same order.
    pub fn curves(&self, space: &SearchSpace) -> Vec<Curve> {
        let moves = if self.is_at_star() { self.star_moves() } else { self.combined_moves() };
        moves.iter().map(|by| self.center.moved(by, &self.steps, space)).collect()
    }

    /// Takes in what became of the curves of the open generation; absent where one was not asked.
    pub fn tell(&mut self, scores: &[Option<Score>], space: &SearchSpace) {
        if self.is_at_star() {
            let score = |two: &[Option<Score>], place: usize| two.get(place).copied().flatten();
            self.star = scores.chunks(2).map(|two| [score(two, 0), score(two, 1)]).collect();
            self.told += 1;
            return;
        }
        // The star's best point may be better than every combination.
        let singles = self.best_single();
        let combined = self.combined_moves().into_iter().zip(scores).filter_map(|(by, score)| Some((by, (*score)?)));
        let mut best = (self.score, [0.0; NUMBERS]);
        for (by, score) in singles.into_iter().chain(combined) {
            if score < best.0 {
                best = (score, by);
            }
        }
        let (score, by) = best;
        (self.center, self.score) = (self.center.moved(&by, &self.steps, space), score);
        for (step, by) in self.steps.iter_mut().zip(by) {
            if by.abs() < FAR {
                *step /= 2.0;
            }
        }
        self.star.clear();
        self.told += 1;
    }

    /// Whether it can have come from a search.
    pub fn is_sound(&self) -> bool {
        let stars = if self.is_at_star() { 0 } else { self.numbers() };
        self.center.is_usable() && self.steps.iter().all(|step| step.is_finite()) && self.star.len() == stars
    }

    fn numbers(&self) -> usize {
        if self.attention { NUMBERS } else { ATTENTION }
    }

    fn star_moves(&self) -> Vec<[f64; NUMBERS]> {
        let single = |number: usize, by: f64| {
            let mut moves = [0.0; NUMBERS];
            moves[number] = by;
            moves
        };
        (0..self.numbers()).flat_map(|number| [single(number, -1.0), single(number, 1.0)]).collect()
    }

    fn combined_moves(&self) -> Vec<[f64; NUMBERS]> {
        let here = self.height(self.score).unwrap_or(f64::INFINITY);
        let mut all = [0.0; NUMBERS];
        let mut gains: Vec<(f64, usize)> = Vec::new();
        for (number, star) in self.star.iter().enumerate() {
            let [down, up] = star.map(|score| score.and_then(|score| self.height(score)));
            let (by, gain) = along(down, here, up);
            all[number] = by;
            gains.push((gain, number));
        }
        // Stable: of equal gains the first number stays in front.
        gains.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut by = [0.0; NUMBERS];
        let mut moves: Vec<[f64; NUMBERS]> = gains
            .iter()
            .map(|&(_, number)| {
                by[number] = all[number];
                by
            })
            .collect();
        moves.push(all.map(|by| by / 2.0));
        moves
    }

    /// What is to be lowered: the value, and while the centre lies outside a limit, by how much a curve does.
    fn height(&self, score: Score) -> Option<f64> {
        match self.score.excess() {
            None => score.value(),
            Some(_) => score.excess().or(score.value().map(|_| 0.0)),
        }
    }

    fn best_single(&self) -> Option<([f64; NUMBERS], Score)> {
        let scores = self.star.iter().flatten();
        let known = self.star_moves().into_iter().zip(scores).filter_map(|(by, score)| Some((by, (*score)?)));
        known.min_by_key(|(_, score)| *score)
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
    use ropewalk_shared::grid::Grid;

    fn space() -> SearchSpace {
        SearchSpace { grid: Grid::PAPER, pairs: 32, max_point: 1000, start_tokens: vec![0], attention: None }
    }

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

    /// A valley whose numbers interact is walked to its floor.
    #[test]
    fn it_descends_a_tilted_valley() {
        let space = space();
        let value = |curve: &Curve| {
            let (x, y) = ((curve.low - 7.0) / 4.0, (curve.high - 15.0) / 2.0);
            10.0 + x * x + y * y + 0.8 * x * y + (curve.top / 7.2 - 1.0).powi(2)
        };
        let start = Curve { low: 0.0, high: 13.0, top: 8.0, bend: 1.0, attention: 1.0 };
        let mut pattern = Pattern::around(start, Score::new(value(&start)), &space);
        let mut asked = 0;
        while !pattern.is_over() {
            let curves = pattern.curves(&space);
            asked += curves.len() as u64;
            let scores: Vec<Option<Score>> = curves.iter().map(|curve| Some(Score::new(value(curve)))).collect();
            pattern.tell(&scores, &space);
            assert!(pattern.is_sound());
        }
        assert_eq!(asked, u64::from(ROUNDS) * ROUND_CANDIDATES);
        assert!(value(&pattern.center) < 10.1, "{:?}", pattern.center);
    }

    /// From outside a limit it goes where that is kept first, and then lower within it.
    #[test]
    fn it_finds_its_way_into_limits() {
        let space = space();
        let value = |curve: &Curve| 10.0 + (curve.high - 15.0).powi(2) + (curve.low - 7.0).powi(2) / 16.0;
        let score = |curve: &Curve| match curve.low - 2.5 {
            short if short < 0.0 => Score::infeasible(0.1 * short.powi(2)),
            _ => Score::new(value(curve)),
        };
        let start = Curve { low: -6.0, high: 13.0, top: 8.0, bend: 1.0, attention: 1.0 };
        assert!(score(&start).excess().is_some());
        let mut pattern = Pattern::around(start, score(&start), &space);
        while !pattern.is_over() {
            let scores: Vec<Option<Score>> = pattern.curves(&space).iter().map(|curve| Some(score(curve))).collect();
            pattern.tell(&scores, &space);
        }
        let reached = score(&pattern.center).value();
        assert!(reached.is_some_and(|reached| reached < value(&start) - 3.0), "{:?}", pattern.center);
    }

    #[test]
    fn failures_and_gaps_are_survived() {
        let space = space();
        let start = Curve { low: 0.0, high: 13.0, top: 8.0, bend: 1.0, attention: 1.0 };
        let mut pattern = Pattern::around(start, Score::new(3.0), &space);
        while !pattern.is_over() {
            let scores: Vec<Option<Score>> =
                pattern.curves(&space).iter().enumerate().map(|(n, _)| (n % 2 == 0).then_some(Score::FAILED)).collect();
            pattern.tell(&scores, &space);
        }
        assert_eq!(pattern.center, start);
    }
}
