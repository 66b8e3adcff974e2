//! Breeding a generation: which candidates come next, none of them asked before.

use super::EvolutionSettings;
use crate::search::archive::{Archive, Evaluated};
use crate::search::operators::Operators;
use crate::search::rng::{Purpose, stream};
use crate::search::walk::next_unseen;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use ropewalk_shared::candidate::Candidate;

/// Draws from an operator before it is widened.
const TRIES: u32 = 20;

/// A generation, and how often something already known was drawn for it.
#[derive(Default)]
pub(super) struct Brood {
    pub candidates: Vec<Candidate>,
    pub duplicates_avoided: u32,
}

/// Breeds generation `number` with at most `room` candidates and admits them to the archive.
pub(super) fn generation(settings: &EvolutionSettings, archive: &mut Archive, number: u32, room: usize) -> Brood {
    let parents = archive.parents().to_vec();
    let mut breeder = Breeder { settings, archive, number, room, brood: Brood::default() };
    let (options, operators) = (&settings.options, &settings.operators);
    if number == 0 {
        let population = options.population as usize;
        for seed in settings.seeds.iter().take(population) {
            breeder.admit(seed.clone());
        }
        for slot in settings.seeds.len()..population {
            // Every seed is varied equally often, as in the paper: which of them is good is not known yet.
            let seed = &settings.seeds[slot % settings.seeds.len()];
            breeder.fill(slot as u32, Purpose::Initial, |_| (seed, None));
        }
    } else {
        for slot in 0..options.mutations {
            breeder.fill(slot, Purpose::Mutation, |rng| (select(&parents, operators, rng), None));
        }
        for slot in 0..options.crossovers {
            breeder.fill(slot, Purpose::Crossover, |rng| {
                let first = select(&parents, operators, rng);
                (first, select_other(&parents, first, operators, rng))
            });
        }
    }
    breeder.brood
}

/// One of the parents, by [`Operators::selection`].
fn select<'a>(parents: &'a [Evaluated], operators: &Operators, rng: &mut ChaCha8Rng) -> &'a Candidate {
    let draw: f64 = rng.random_range(0.0..1.0);
    let share = (0..operators.selection()).fold(1.0, |share, _| share * draw);
    let rank = (share * parents.len() as f64) as usize;
    &parents[rank.min(parents.len() - 1)].candidate
}

/// A parent other than `first`; `None` when none is found.
fn select_other<'a>(
    parents: &'a [Evaluated],
    first: &Candidate,
    operators: &Operators,
    rng: &mut ChaCha8Rng,
) -> Option<&'a Candidate> {
    (0..TRIES).map(|_| select(parents, operators, rng)).find(|&other| other != first)
}

/// Fills one generation.
struct Breeder<'a> {
    settings: &'a EvolutionSettings,
    archive: &'a mut Archive,
    number: u32,
    room: usize,
    brood: Brood,
}

// === impl Breeder ===

impl Breeder<'_> {
    /// Fills a slot with an unseen child of one parent (a mutation) or two (a crossover).
    ///
    /// What was drawn before is drawn anew: [`TRIES`] times as asked, then as often with every dimension mutating,
    /// then with no parent at all, where the operators know a candidate without one. After that comes the next candidate
    /// in the order of the space, and only when there is none, or it would not have the form that the operators keep,
    /// the slot stays empty.
    fn fill<'p>(
        &mut self,
        slot: u32,
        purpose: Purpose,
        mut select: impl FnMut(&mut ChaCha8Rng) -> (&'p Candidate, Option<&'p Candidate>),
    ) {
        if self.room <= self.brood.candidates.len() {
            return;
        }
        let space = &self.settings.space;
        let (operators, probability) = (&self.settings.operators, self.settings.options.mutation_probability);
        let mut rng = stream(self.settings.seed, self.number, slot, purpose);
        let mut last = None;
        for attempt in 0..3 * TRIES {
            let (first, second) = select(&mut rng);
            let child = match (attempt / TRIES, second) {
                (0, Some(second)) => operators.cross(space, probability, (first, second), &mut rng),
                (0, None) => Some(operators.mutate(space, probability, first, &mut rng)),
                (1, _) => Some(operators.mutate(space, 1.0, first, &mut rng)),
                _ => operators.fresh(space, &mut rng),
            };
            let child = child.or_else(|| (attempt >= TRIES).then(|| operators.mutate(space, 1.0, first, &mut rng)));
            if child.is_some_and(|child| self.admit(child)) {
                return;
            }
            last = Some(first);
        }
        if !operators.reach_all() {
            return;
        }
        if let Some(next) = last.and_then(|parent| next_unseen(space, self.archive, parent)) {
            self.admit(next);
        }
    }

    fn admit(&mut self, candidate: Candidate) -> bool {
        if self.room <= self.brood.candidates.len() {
            return false;
        }
        let new = self.archive.admit(&candidate);
        if new {
            self.brood.candidates.push(candidate);
        } else {
            self.brood.duplicates_avoided += 1;
        }
        new
    }
}
