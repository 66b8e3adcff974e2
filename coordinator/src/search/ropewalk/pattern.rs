//! The search for a curve: a [`Star`] over the numbers of a [`Curve`].

use super::curve::{Curve, NUMBERS};
use crate::search::score::Score;
use crate::search::star::{Star, round_candidates};
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// Rounds of a search.
pub const ROUNDS: u32 = 3;
/// Candidates of a star and of the combinations after it, where the attention factor is fixed.
pub const ROUND_CANDIDATES: u64 = round_candidates(ATTENTION as u64);
/// Number of the attention factor in a curve.
const ATTENTION: usize = 4;

/// A search under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    center: Curve,
    /// Whether the attention factor is searched.
    attention: bool,
    #[serde(flatten)]
    star: Star,
}

// === impl Pattern ===

impl Pattern {
    /// A search around a curve that was evaluated.
    pub fn around(center: Curve, score: Score, space: &SearchSpace) -> Self {
        let pairs = space.pairs as f64;
        let steps = vec![pairs / 8.0, pairs / 16.0, 0.12, 0.6, 0.03];
        Self { center, attention: space.attention.is_some(), star: Star::around(score, steps) }
    }

    /// Whether there is nothing more to ask.
    pub fn is_over(&self) -> bool {
        self.star.rounds() >= ROUNDS
    }

    /// Whether the open generation is a star.
    pub fn is_at_star(&self) -> bool {
        self.star.is_at_star()
    }

    /// The curves of the open generation, always the same number of them in the same order.
    pub fn curves(&self, space: &SearchSpace) -> Vec<Curve> {
        self.star.moves(self.numbers()).iter().map(|by| self.center.moved(by, space)).collect()
    }

    /// Takes in what became of the curves of the open generation; absent where one was not asked.
    pub fn tell(&mut self, scores: &[Option<Score>], space: &SearchSpace) {
        if let Some(by) = self.star.tell(scores) {
            self.center = self.center.moved(&by, space);
        }
    }

    /// Whether it can have come from a search.
    pub fn is_sound(&self) -> bool {
        self.center.is_usable() && self.star.is_sound(self.numbers())
    }

    fn numbers(&self) -> usize {
        if self.attention { NUMBERS } else { ATTENTION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::grid::Grid;

    fn space() -> SearchSpace {
        SearchSpace { grid: Grid::PAPER, pairs: 32, max_point: 1000, start_tokens: vec![0], attention: None }
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
