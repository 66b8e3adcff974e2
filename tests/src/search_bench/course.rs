//! One strategy on one set of documents: what it reached after how many passes.

use super::losses::Losses;
use anyhow::Result;
use ropewalk_coordinator::search::{Ask, Outcome, Race, Score, Verdict, strategy};
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::job::JobSpec;
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::outcome::{Loss, perplexity};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::Sample;
use serde::Serialize;

/// Of long searches, held-out documents are read about so often for each doubling of the evaluations.
const PER_DOUBLING: f64 = 3.0;
/// Up to this many generations they are read after every one.
const FEW_GENERATIONS: u32 = 30;

/// The best candidate at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Document passes so far.
    pub passes: u64,
    /// Perplexity on the documents of the search.
    pub search: f64,
    /// On those held out; absent where they were not read.
    pub held_out: Option<f64>,
}

/// What came of one candidate.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The generation that asked it.
    pub generation: u32,
    /// In points of the grid.
    pub candidate: Candidate,
    /// Its factors.
    pub rescale: Rescale,
    /// Mean losses by document, in nats; none where it was dropped.
    pub means: Vec<f64>,
}

/// A search from its beginning to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    /// After each generation.
    pub points: Vec<Point>,
    /// The winner.
    pub factors: Vec<f64>,
    /// Its starting tokens.
    pub start_tokens: u32,
    /// Its attention factor.
    pub attention_factor: f64,
    /// Those of its pairs; empty for 1 each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pair_attention: Vec<f64>,
    /// All candidates, in the order in which they were asked.
    #[serde(skip)]
    pub tried: Vec<Tried>,
}

/// Candidates, generation by generation.
pub fn generations(tried: &[Tried]) -> impl Iterator<Item = &[Tried]> {
    tried.chunk_by(|a, b| a.generation == b.generation)
}

/// The mean of some numbers; NaN of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Perplexity of factors on documents.
///
/// # Errors
/// When one cannot be evaluated.
pub fn perplexity_on(losses: &mut Losses, rescale: &Rescale, samples: &[Sample]) -> Result<f64> {
    let all: Vec<Loss> = samples.iter().map(|sample| losses.loss(rescale, sample)).collect::<Result<_>>()?;
    Ok(perplexity(&all))
}

/// Evaluates a candidate as the service does: on its documents in the order of the race, and judged after each.
fn outcome(
    losses: &mut Losses,
    rescale: &Rescale,
    samples: &[Sample],
    (race, slot): (Option<&Race>, usize),
) -> Result<Outcome> {
    let before = losses.passes;
    let mut all: Vec<Option<Loss>> = vec![None; samples.len()];
    let mut means = Vec::new();
    for place in 0..samples.len() {
        let sample = race.map_or(place, |race| race.order()[place]);
        let loss = losses.loss(rescale, &samples[sample])?;
        all[sample] = Some(loss);
        means.push(loss.mean());
        if means.len() < samples.len()
            && let Some(Verdict::Drop { means }) = race.map(|race| race.verdict(slot, &means))
        {
            return Ok(Outcome::dropped(means, losses.passes - before));
        }
    }
    let all: Vec<Loss> = all.into_iter().flatten().collect();
    let (score, means) = (Score::new(perplexity(&all)), all.iter().map(Loss::mean).collect());
    Ok(Outcome { score, means, slope: None, passes: losses.passes - before })
}

/// Runs a job's strategy to its end.
///
/// # Errors
/// When the job cannot be run or a document cannot be evaluated.
pub fn run(
    job: &JobSpec,
    description: &ModelDescription,
    (search, held_out): (&[Sample], &[Sample]),
    losses: &mut Losses,
    progress: &mut dyn FnMut(&Point),
) -> Result<Course> {
    let mut strategy = strategy::begin(job, description)?;
    let (grid, attention) = (job.search.grid, job.attention_factor(description));
    let as_rescale = |candidate: &Candidate| candidate.rescale(grid, attention);
    let mut points: Vec<Point> = Vec::new();
    let (mut passes, mut read_at, mut last_read) = (0, 0, None);
    let mut tried = Vec::new();
    while let Ask::Evaluate { generation, candidates } = strategy.ask() {
        let before = losses.passes;
        let race = strategy.race();
        let raced = candidates
            .iter()
            .zip(0..)
            .map(|(candidate, slot)| outcome(losses, &as_rescale(candidate), search, (race.as_ref(), slot)));
        let outcomes: Vec<Outcome> = raced.collect::<Result<_>>()?;
        passes += losses.passes - before;
        tried.extend(candidates.iter().zip(&outcomes).map(|(candidate, outcome)| {
            let means = outcome.score.value().map_or_else(Vec::new, |_| outcome.means.clone());
            let (candidate, rescale) = (candidate.clone(), as_rescale(candidate));
            Tried { generation, candidate, rescale, means }
        }));
        strategy.tell_outcomes(generation, &outcomes)?;
        let Some((best, score)) = strategy.best() else { continue };
        let best = as_rescale(best);
        let is_last = strategy.ask() == Ask::Finished;
        let due = generation < FEW_GENERATIONS || passes as f64 >= read_at as f64 * 2f64.powf(1.0 / PER_DOUBLING);
        let mut read = None;
        if due || is_last {
            read_at = passes;
            // The same candidate is still the best as often as not.
            let value = match &last_read {
                Some((id, value)) if *id == best.id() => *value,
                _ => perplexity_on(losses, &best, held_out)?,
            };
            last_read = Some((best.id(), value));
            read = Some(value);
        }
        let point = Point { passes, search: score.value().unwrap_or(f64::NAN), held_out: read };
        progress(&point);
        points.push(point);
    }
    let Some((best, _)) = strategy.best() else { anyhow::bail!("no candidate could be evaluated") };
    let Rescale { factors, start_tokens, attention_factor, pair_attention } = as_rescale(best);
    Ok(Course { points, factors, start_tokens, attention_factor, pair_attention, tried })
}

impl Course {
    /// The value at the end: search and held out.
    pub fn end(&self) -> (f64, f64) {
        self.points.last().map_or((f64::NAN, f64::NAN), |last| (last.search, last.held_out.unwrap_or(f64::NAN)))
    }

    /// The passes after which a value was first reached, by search documents or by those held out.
    pub fn passes_to(&self, value: f64, held_out: bool) -> Option<u64> {
        let at = |point: &Point| if held_out { point.held_out } else { Some(point.search) };
        self.points.iter().find(|point| at(point).is_some_and(|reached| reached <= value)).map(|point| point.passes)
    }
}
