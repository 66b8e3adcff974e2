//! Search strategies: which candidates to evaluate next, given the scores of those before.
//!
//! Pure: no I/O, no clock, and random numbers only from seeded streams ([`rng`]). The coordinator asks a
//! [`Strategy`] for a generation, has it evaluated by whoever is there, and tells the scores; strategy and seed alone
//! decide what is asked, never the number of workers or the order in which results arrive.

pub mod archive;
mod authors;
mod cholesky;
pub mod critical_dimension;
pub mod crossover;
pub mod evolution;
pub mod history;
mod isotonic;
mod least_squares;
mod metric;
pub mod mutation;
mod neighbours;
pub mod operators;
pub mod outcome;
pub mod pair_attention;
pub mod racing;
pub mod rng;
pub mod ropewalk;
pub mod score;
pub mod seeds;
mod star;
pub mod strategy;
mod walk;

pub use evolution::{Evolution, EvolutionSettings};
pub use history::GenerationSummary;
pub use outcome::Outcome;
pub use pair_attention::{PairAttention, PairAttentionSettings};
pub use racing::{Race, RaceMemory, Verdict};
pub use ropewalk::{Ropewalk, RopewalkSettings};
pub use score::Score;
pub use strategy::{Ask, InvalidState, Slope, Strategy, StrategyState, TellError};
