//! LongRoPE2: the critical dimension and the factors above it are searched, those below it follow.
//!
//! ```text
//! d_rcd        from the last pair that turns ten times within L, to the first whose period exceeds L (d_tcd)
//! i >= d_rcd   lambda_i in [s, 2s], monotone
//! i <  d_rcd   NTK with the base that gives lambda_{d_rcd}:  lambda_i = lambda_{d_rcd}^(i / d_rcd)
//! ```
//!
//! A search starts from every critical dimension with the same factor, s to 2s, for all pairs from there on. A mutation
//! changes factors above the critical dimension and recomputes those below; the population decides which critical
//! dimension prevails. One mutation in [`MOVES`] moves the critical dimension by a pair instead, which the paper does not
//! do: else a dimension whose first factors were unlucky is lost for good. Attention factors for each dimension, which the authors' code searches after the rescale factors, are
//! [`super::pair_attention`]'s.

use rand::{Rng, RngExt};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::grid::Grid;
use ropewalk_shared::rope::RopeGeometry;
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// Turns within the original window that bound the critical dimension from below.
const TURNS: f64 = 10.0;
/// One mutation in so many moves the critical dimension.
const MOVES: u32 = 8;
/// First factors above the critical dimension, as multiples of the extension ratio.
const STARTS: [f64; 5] = [1.0, 1.25, 1.5, 1.75, 2.0];

/// Where the critical dimension and the factors above it may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriticalDimension {
    /// The first pair that may be it; at least 1.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// The extension ratio in points of the grid: the smallest factor from the critical dimension on.
    pub least: u32,
}

// === impl CriticalDimension ===

impl CriticalDimension {
    /// The bounds for a model with `original_length` tokens, stretched by `ratio`.
    pub fn of(geometry: &RopeGeometry, original_length: u32, ratio: f64, grid: Grid) -> Self {
        let turns = |pair: usize| geometry.turns(pair, original_length);
        let last_pair = geometry.pairs().saturating_sub(1).max(1);
        let theoretical = (0..geometry.pairs()).find(|&pair| turns(pair) < 1.0).unwrap_or(last_pair);
        let fast = (0..geometry.pairs()).rfind(|&pair| turns(pair) >= TURNS).unwrap_or(0);
        let last = theoretical.clamp(1, last_pair);
        Self { first: fast.clamp(1, last), last, least: grid.nearest(ratio) }
    }

    /// Where the search starts, at the smallest factors first: at most `most`, which are then spread evenly over critical
    /// dimensions and factors.
    pub fn seeds(&self, space: &SearchSpace, attention: Option<u32>, most: usize) -> Vec<Candidate> {
        let mut seeds: Vec<Candidate> = Vec::new();
        for start in STARTS {
            let point = ((f64::from(self.least) * start) as u32).min(space.max_point);
            for critical in self.first..=self.last.min(space.pairs.saturating_sub(1)) {
                let upper = vec![point; space.pairs - critical];
                let factors = with_lower_part(space, critical, &upper);
                let seed =
                    Candidate { factors, start_tokens: space.nearest_start(0), attention, pair_attention: Vec::new() };
                if !seeds.contains(&seed) {
                    seeds.push(seed);
                }
            }
        }
        let all = seeds.len();
        match all > most {
            true => (0..most).map(|place| seeds[place * all / most].clone()).collect(),
            false => seeds,
        }
    }

    /// The critical dimension of a candidate of this search: the last that explains its lower part. (NTK is NTK from any
    /// of its pairs, so that an earlier one may do so as well.)
    pub fn critical(&self, space: &SearchSpace, candidate: &Candidate) -> Option<usize> {
        let factors = &candidate.factors;
        (self.first..=self.last.min(factors.len().saturating_sub(1))).rfind(|&critical| {
            factors[critical] >= self.least && with_lower_part(space, critical, &factors[critical..]) == *factors
        })
    }

    /// `parent` with some neighbouring factors above its critical dimension drawn anew, in order, between those around
    /// them; or with its critical dimension one pair further up or down. It may happen to equal its parent.
    pub fn mutate(&self, space: &SearchSpace, parent: &Candidate, rng: &mut impl Rng) -> Candidate {
        let Some(critical) = self.critical(space, parent) else { return parent.clone() };
        let mut upper = parent.factors[critical..].to_vec();
        if rng.random_range(0..MOVES) == 0 {
            return self.moved(space, parent, critical, upper, rng);
        }
        let start = rng.random_range(0..upper.len());
        let end = rng.random_range(start + 1..=upper.len());
        let low = if start == 0 { self.least } else { upper[start - 1] };
        let high = upper.get(end).copied().unwrap_or(space.max_point);
        upper[start..end].fill_with(|| rng.random_range(low..=high.max(low)));
        upper[start..end].sort_unstable();
        self.child(space, parent, critical, &upper)
    }

    fn moved(
        &self,
        space: &SearchSpace,
        parent: &Candidate,
        critical: usize,
        mut upper: Vec<u32>,
        rng: &mut impl Rng,
    ) -> Candidate {
        let up = rng.random_bool(0.5);
        if up && critical < self.last && upper.len() > 1 {
            upper.remove(0);
            return self.child(space, parent, critical + 1, &upper);
        }
        if !up && critical > self.first {
            upper.insert(0, rng.random_range(self.least..=upper[0]));
            return self.child(space, parent, critical - 1, &upper);
        }
        parent.clone()
    }

    /// `first` with some factors above its critical dimension copied from `second`, each with this probability; `None`
    /// where that is not monotone or not within the bounds.
    pub fn cross(
        &self,
        space: &SearchSpace,
        (first, second): (&Candidate, &Candidate),
        probability: f64,
        rng: &mut impl Rng,
    ) -> Option<Candidate> {
        let critical = self.critical(space, first)?;
        let mut upper = first.factors[critical..].to_vec();
        for (factor, &other) in upper.iter_mut().zip(&second.factors[critical..]) {
            if rng.random_bool(probability) {
                *factor = other;
            }
        }
        let fits = upper.is_sorted() && upper[0] >= self.least;
        fits.then(|| self.child(space, first, critical, &upper))
    }

    fn child(&self, space: &SearchSpace, parent: &Candidate, critical: usize, upper: &[u32]) -> Candidate {
        Candidate { factors: with_lower_part(space, critical, upper), ..parent.clone() }
    }
}

/// All factors, from those at the critical dimension and above.
fn with_lower_part(space: &SearchSpace, critical: usize, upper: &[u32]) -> Vec<u32> {
    let (grid, top) = (space.grid, upper.first().copied().unwrap_or(space.max_point));
    let lower = |pair: usize| {
        let factor = grid.value(top).powf(pair as f64 / critical as f64);
        grid.nearest(factor).clamp(grid.one(), top)
    };
    (0..critical).map(lower).chain(upper.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::rng::{Purpose, stream};

    fn space(pairs: usize, max_point: u32) -> SearchSpace {
        SearchSpace { grid: Grid::PAPER, pairs, max_point, start_tokens: vec![0], attention: None }
    }

    /// Theoretical critical dimensions as the LongRoPE2 paper gives them: pair 31 of 48 for Phi3-mini (theta 10,000, 2k
    /// window), pair 35 of 64 for LLaMA3-8B (theta 500,000, 8k window).
    #[test]
    fn the_theoretical_dimension_is_the_papers() {
        let of = |head_dim, theta, length| {
            let geometry = RopeGeometry { head_dim, rotary_dim: head_dim, theta };
            CriticalDimension::of(&geometry, length, 16.0, Grid::PAPER)
        };
        let (phi, llama) = (of(96, 10_000.0, 2048), of(128, 500_000.0, 8192));
        assert_eq!((phi.last, llama.last), (31, 35));
        // The practical ones, 25 and 30, are among the candidates.
        assert!(phi.first <= 25 && llama.first <= 30, "{phi:?} {llama:?}");
        // By hand: 10 turns in 2,048 tokens are a period of 204.8, theta^(2i/d) = 32.6 and i = 18.2.
        assert_eq!(phi.first, 18);
    }

    /// From the critical dimension on within [s, 2s], below it NTK to the rounding of the grid.
    fn has_form(candidate: &Candidate, critical: usize) -> bool {
        let factor = |pair: usize| f64::from(candidate.factors[pair]) / 100.0;
        let exact = |pair: usize| (factor(critical).ln() * pair as f64 / critical as f64).exp();
        candidate.factors[critical..].iter().all(|&point| (800..=1600).contains(&point))
            && (0..critical).all(|pair| (factor(pair) - exact(pair)).abs() <= 0.0051)
    }

    #[test]
    fn children_keep_their_form() {
        let geometry = RopeGeometry { head_dim: 64, rotary_dim: 64, theta: 10_000.0 };
        let bounds = CriticalDimension::of(&geometry, 256, 8.0, Grid::PAPER);
        let space = space(32, 1600);
        let seeds = bounds.seeds(&space, None, 1000);
        assert_eq!(seeds.len(), STARTS.len() * (bounds.last - bounds.first + 1));
        let few = bounds.seeds(&space, None, STARTS.len());
        let last = |seed: &Candidate| seed.factors[31];
        assert_eq!(few.iter().map(last).collect::<Vec<_>>(), [800, 1000, 1200, 1400, 1600], "each start once");
        assert!(bounds.seeds(&space, None, 0).is_empty());
        let mut rng = stream(3, 0, 0, Purpose::Mutation);
        let (mut moved, mut crossed) = (0, 0);
        let mut parents = seeds.clone();
        for round in 0..2000 {
            let parent = parents[round % parents.len()].clone();
            let other = parents[(round * 7 + 3) % parents.len()].clone();
            let critical = bounds.critical(&space, &parent).expect("of this form");
            let mutated = bounds.mutate(&space, &parent, &mut rng);
            for child in bounds.cross(&space, (&parent, &other), 0.3, &mut rng).into_iter().chain([mutated]) {
                assert_eq!(space.check(&child), Ok(()));
                let near = [critical - 1, critical, critical + 1].into_iter().filter(|&near| near > 0);
                assert!(near.into_iter().any(|near| has_form(&child, near)), "{critical} of {child:?}");
                moved += usize::from(child != parent);
                crossed += 1;
                if child != parent && parents.len() < 500 {
                    parents.push(child);
                }
            }
        }
        assert!(moved > 1000 && crossed > 2000, "{moved} of {crossed}");
    }

    #[test]
    fn short_heads_have_a_critical_dimension_too() {
        for pairs in 1..4 {
            let geometry = RopeGeometry { head_dim: 2 * pairs, rotary_dim: 2 * pairs, theta: 10_000.0 };
            let bounds = CriticalDimension::of(&geometry, 16, 4.0, Grid::PAPER);
            assert!(bounds.first >= 1 && bounds.first <= bounds.last, "{bounds:?}");
            let seeds = bounds.seeds(&space(pairs, 800), None, 64);
            assert_eq!(seeds.is_empty(), pairs == 1, "one pair leaves nothing below the critical dimension");
        }
    }
}
