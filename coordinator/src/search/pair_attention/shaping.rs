//! The search for a profile: where it stands, level by level.

use super::profile::{self, Profile};
use super::settings::ROUNDS;
use crate::search::archive::{Archive, Evaluated};
use crate::search::history::GenerationSummary;
use crate::search::racing::RaceMemory;
use crate::search::score::Score;
use crate::search::star::Star;
use ropewalk_shared::candidate::{Candidate, attention_value};
use ropewalk_shared::space::SearchSpace;
use serde::{Deserialize, Serialize};

/// What a level has to gain for a finer one to follow: the logarithm of the score must fall by this.
const LEAST_GAIN: f64 = 2e-4;
/// First step of each number of a profile: the logarithm of the attention factor of the pair that moves most.
const STEP: f64 = 0.06;
/// First step of the attention factor of all pairs, in its logarithm.
const LEVEL_STEP: f64 = 0.015;

/// The search for a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shaping {
    /// What the other search found.
    pub base: Candidate,
    /// The centre of the star, and by how much the attention factor of all pairs is multiplied there (its logarithm).
    center: (f64, Profile),
    pub star: Star,
    level: u32,
    /// Whether the last level gained too little for a finer one.
    stalled: bool,
    /// The best score when the level was opened.
    before: Score,
    pub archive: Archive,
    /// Of both searches.
    pub history: Vec<GenerationSummary>,
    /// The open generation; empty when the search has finished.
    pub pending: Vec<Candidate>,
    /// Of the points of the open generation, those that were not asked: their candidates had been, or there was no room.
    pub skipped: Vec<usize>,
    /// Profiles asked and told.
    pub asked: u64,
    pub memory: RaceMemory,
}

// === impl Shaping ===

impl Shaping {
    /// Begins around a candidate with this score, found in generations with this history.
    pub fn around(base: &Candidate, score: Score, history: Vec<GenerationSummary>, memory: RaceMemory) -> Self {
        let mut archive = Archive::new(1);
        archive.admit(base);
        archive.absorb([Evaluated { candidate: base.clone(), score }]);
        Self {
            center: (0.0, Profile::default()),
            star: star(base, score, 0),
            base: base.clone(),
            level: 0,
            stalled: false,
            before: score,
            archive,
            history,
            pending: Vec::new(),
            skipped: Vec::new(),
            asked: 0,
            memory,
        }
    }

    /// Why nothing more is asked although there is room.
    pub fn why_over(&self) -> &'static str {
        if self.stalled {
            "a finer profile of attention over the pairs promises nothing"
        } else {
            "the profile of attention over the pairs is as fine as it becomes"
        }
    }

    /// Whether there is a level to work on.
    pub fn is_at_work(&self) -> bool {
        !self.stalled && (self.level as usize) < ROUNDS.len()
    }

    /// The points of the open generation, always the same number of them in the same order.
    pub fn candidates(&self, space: &SearchSpace) -> Vec<Candidate> {
        let moves = self.star.moves(numbers(&self.base, self.level));
        moves.iter().map(|by| self.moved(by)).map(|center| self.candidate(&center, space)).collect()
    }

    /// Closes the open generation, which took so many document passes.
    pub fn close(&mut self, scores: &[Score], passes: u64) {
        let generation = self.history.len() as u32;
        let summary = GenerationSummary::close(generation, scores, 0, self.history.last());
        self.history.push(summary.spending(passes));
        self.asked += scores.len() as u64;
        let asked = std::mem::take(&mut self.pending).into_iter().zip(scores);
        self.archive.absorb(asked.map(|(candidate, &score)| Evaluated { candidate, score }));
        let skipped = std::mem::take(&mut self.skipped);
        let mut told = scores.iter();
        let points = 0..scores.len() + skipped.len();
        let of_points = points.map(|index| if skipped.contains(&index) { None } else { told.next().copied() });
        self.settle(&of_points.collect::<Vec<_>>());
    }

    /// Takes in what became of the points of the open generation, absent where one was not asked, and opens the next level
    /// where the rounds of this one are over.
    pub fn settle(&mut self, scores: &[Option<Score>]) {
        let Some(by) = self.star.tell(scores) else { return };
        self.center = self.moved(&by);
        if self.star.rounds() < ROUNDS[self.level as usize] {
            return;
        }
        let best = self.archive.best().map_or(self.before, |best| best.score);
        let gain = self.before.value().zip(best.value()).map_or(0.0, |(before, after)| (before / after).ln());
        if gain < LEAST_GAIN {
            self.stalled = true;
            return;
        }
        self.level += 1;
        if self.is_at_work() {
            (self.before, self.star) = (best, star(&self.base, best, self.level));
        }
    }

    /// Whether it can have come from a search.
    pub fn is_sound(&self) -> bool {
        let finite = self.center.0.is_finite() && self.center.1.is_usable();
        finite
            && self.star.is_sound(numbers(&self.base, self.level.min(ROUNDS.len() as u32 - 1)))
            && self.archive.best().is_some()
    }

    fn moved(&self, by: &[f64]) -> (f64, Profile) {
        // The attention factor of all pairs comes first, where it is searched.
        let (level, shape) = by.split_at(usize::from(self.base.attention.is_some()));
        (self.center.0 + level.iter().sum::<f64>(), self.center.1.moved(shape))
    }

    fn candidate(&self, (level, profile): &(f64, Profile), space: &SearchSpace) -> Candidate {
        let attention =
            self.base.attention.and_then(|point| space.nearest_attention(attention_value(point) * level.exp()));
        Candidate { attention, ..profile.candidate(&self.base) }
    }
}

/// Numbers that are searched at a level.
fn numbers(base: &Candidate, level: u32) -> usize {
    profile::numbers(level) + usize::from(base.attention.is_some())
}

fn star(base: &Candidate, score: Score, level: u32) -> Star {
    let all = base.attention.map(|_| LEVEL_STEP);
    Star::around(score, all.into_iter().chain(vec![STEP; profile::numbers(level)]).collect())
}
