//! Settings that several tests search with.

use ropewalk_coordinator::search::{EvolutionSettings, seeds};
use ropewalk_shared::grid::Grid;
use ropewalk_shared::job::EvolutionOptions;
use ropewalk_shared::rope::RopeGeometry;
use ropewalk_shared::space::{PAPER_START_TOKENS, SearchSpace};

/// A model of 256 tokens stretched eightfold, with the paper's parameters.
pub fn paper(pairs: usize, seed: u64) -> EvolutionSettings {
    let space = SearchSpace {
        grid: Grid::PAPER,
        pairs,
        max_point: 1000,
        start_tokens: PAPER_START_TOKENS.to_vec(),
        attention: None,
    };
    EvolutionSettings {
        seeds: seeds::seeds(&space, &geometry(pairs), 256, 8.0, 1.0, &[]),
        space,
        options: EvolutionOptions::default(),
        seed,
        patience: None,
        max_evaluations: None,
        operators: Default::default(),
        documents: Default::default(),
    }
}

/// Whole heads are rotated, with the usual base.
pub fn geometry(pairs: usize) -> RopeGeometry {
    RopeGeometry { head_dim: 2 * pairs, rotary_dim: 2 * pairs, theta: 10_000.0 }
}
