//! How children are made of parents: what tells the population-based strategies apart.

use super::authors::{copy_some, mutate_one, mutate_piece};
use super::critical_dimension::CriticalDimension;
use super::crossover::crossover;
use super::mutation::{Mutation, random_candidate};
use rand::{Rng, RngExt};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// The operators of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operators {
    /// Those of the paper, as [`Mutation`] and [`crossover`] fill in what it leaves open.
    #[default]
    Paper,
    /// One factor at a time, as the authors' `dim_mono`.
    DimMono,
    /// The same between leading ones and a last piece, as the authors' `dim_piece_mono`.
    DimPieceMono {
        /// Factor of the last piece, in points of the grid.
        stretched: u32,
    },
    /// Factors above a critical dimension, NTK below.
    CriticalDimension(CriticalDimension),
}

// === impl Operators ===

impl Operators {
    /// A child of one parent, in the space. It may happen to equal its parent.
    pub fn mutate(&self, space: &SearchSpace, probability: f64, parent: &Candidate, rng: &mut impl Rng) -> Candidate {
        let child = match self {
            Self::Paper => return Mutation::with_probability(probability).apply(space, parent, rng),
            Self::DimMono => mutate_one(space, parent, rng),
            Self::DimPieceMono { stretched } => mutate_piece(space, *stretched, parent, rng),
            Self::CriticalDimension(bounds) => bounds.mutate(space, parent, rng),
        };
        // The authors search no attention factor. Where one is searched, it mutates as in the paper's operators.
        Mutation::with_probability(probability).attention_of(space, child, rng)
    }

    /// A child of two parents; `None` where what was drawn breaks the constraint.
    pub fn cross(
        &self,
        space: &SearchSpace,
        probability: f64,
        (first, second): (&Candidate, &Candidate),
        rng: &mut impl Rng,
    ) -> Option<Candidate> {
        let mut child = match self {
            Self::Paper => return Some(crossover(space, first, second, rng)),
            Self::DimMono => copy_some(first, second, probability, rng)?,
            Self::DimPieceMono { .. } => copy_some(first, second, probability, rng)?,
            Self::CriticalDimension(bounds) => bounds.cross(space, (first, second), probability, rng)?,
        };
        if space.attention.is_some() && rng.random_bool(probability) {
            child.attention = second.attention;
        }
        Some(child)
    }

    /// A candidate without a parent, where the operators have one.
    pub fn fresh(&self, space: &SearchSpace, rng: &mut impl Rng) -> Option<Candidate> {
        matches!(self, Self::Paper).then(|| random_candidate(space, rng))
    }

    /// Whether every candidate of the space can be asked, and not only those of a certain form.
    pub fn reach_all(&self) -> bool {
        matches!(self, Self::Paper | Self::DimMono)
    }

    /// The exponent `e` of `rank = k u^e` with uniform `u`, by which parents are drawn; 1 are equal chances.
    ///
    /// The paper takes parents from the k best and does not say with which chances. On every landscape tried, 3 came
    /// further with the same number of evaluations than equal chances did: half the draws fall on the best eighth. The
    /// authors' variants draw with equal chances.
    pub fn selection(&self) -> i32 {
        match self {
            Self::Paper | Self::CriticalDimension(_) => 3,
            Self::DimMono | Self::DimPieceMono { .. } => 1,
        }
    }
}
