//! Short windows that a search must keep: how good the model as shipped is there, and which candidates stay within the limits.
//!
//! The measurements of the model as shipped wait in the lane of what is certain, like the final comparison, of which they
//! are a part; a generation closes when they are known, and where nothing else is missing, they wait no longer than its own
//! units do.

use super::desk::Desk;
use super::job::ActiveJob;
use super::stage::{Slot, Stage};
use super::time::Now;
use crate::scheduler::UnitKey;
use crate::store::{Ended, StoreError};
use ropewalk_shared::factor_file::{KeptHeldOut, KeptShort};
use ropewalk_shared::outcome::{Loss, perplexity};
use ropewalk_shared::rope::Rescale;
use std::ops::Range;

/// One window of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// Its samples, as the job numbers them.
    pub samples: Range<usize>,
    /// The model as shipped, at this length.
    pub shipped: Rescale,
    /// How far the mean loss may lie above that of the model as shipped, in nats.
    slack: f64,
    /// Mean loss of the model as shipped, once it is known.
    reference: Option<f64>,
}

// === impl Kept ===

impl Kept {
    /// The windows of a job; nothing is known of them yet.
    pub fn of(job: &ActiveJob) -> Vec<Self> {
        let mut end = job.spec.samples.len();
        let kept = job.spec.search.keep_short.iter().map(|window| {
            let start = end;
            end += window.samples.len();
            let shipped = job.description.shipped_rescale(window.length as usize);
            Self { samples: start..end, shipped, slack: window.slack(), reference: None }
        });
        kept.collect()
    }

    /// By how many nats a candidate's mean loss lies above the limit, 0 for none; `None` while that cannot be said. What is
    /// no number is above every limit.
    fn excess(&self, losses: &[Option<Loss>]) -> Option<f64> {
        let by = mean(losses.get(self.samples.clone())?)? - self.reference? - self.slack;
        Some(if by.is_nan() { f64::INFINITY } else { by.max(0.0) })
    }
}

/// The mean over samples of their mean losses, once all are known.
fn mean(losses: &[Option<Loss>]) -> Option<f64> {
    let means: Option<Vec<f64>> = losses.iter().map(|loss| loss.map(|loss| loss.mean())).collect();
    means.map(|means| means.iter().sum::<f64>() / means.len() as f64)
}

/// By how many nats a candidate exceeds all limits together, 0 where it keeps to them.
pub(super) fn excess(kept: &[Kept], losses: &[Option<Loss>]) -> Option<f64> {
    kept.iter().map(|window| window.excess(losses)).sum()
}

// === impl Stage ===

impl Stage {
    /// Whether it can be said of every candidate whether it keeps to the limits.
    pub fn knows_limits(&self) -> bool {
        self.kept().iter().all(|window| window.reference.is_some())
    }
}

// === impl Desk ===

impl Desk {
    /// Notes what is known of the model as shipped.
    pub fn note_shipped(&self, job: &ActiveJob, kept: &mut [Kept]) -> Result<(), StoreError> {
        for window in kept.iter_mut().filter(|window| window.reference.is_none()) {
            let id = window.shipped.id();
            let mut losses = Vec::new();
            for index in window.samples.clone() {
                let sample = job.stage_sample(index as u32);
                losses.push(sample.map(|sample| self.known_result(&job.id, id, sample)).transpose()?.flatten());
            }
            window.reference = mean(&losses);
        }
        Ok(())
    }

    /// The same, and queues what is not known.
    pub fn measure_shipped(&mut self, job: &mut ActiveJob) -> Result<(), StoreError> {
        let mut kept = job.stage.kept().to_vec();
        self.note_shipped(job, &mut kept)?;
        for window in kept.iter().filter(|window| window.reference.is_none()) {
            self.add_ahead(job, window.shipped.clone(), window.samples.clone())?;
        }
        job.stage.keep(kept);
        Ok(())
    }

    /// Where nothing but the limits holds a generation open: looks whether they are known from somewhere else.
    pub fn look_for_shipped(&mut self, job: &mut ActiveJob, now: Now) -> Result<(), StoreError> {
        if job.record.ended.is_some() || !job.stage.is_complete() || job.stage.knows_limits() {
            return Ok(());
        }
        self.measure_shipped(job)?;
        for window in job.stage.kept().iter().filter(|window| window.reference.is_none()) {
            let samples = window.samples.clone().filter_map(|index| job.stage_sample(index as u32));
            let units: Vec<UnitKey> =
                samples.filter_map(|sample| job.ahead.unit(window.shipped.id(), sample)).collect();
            self.scheduler.hurry(&job.id, &units);
        }
        for window in job.stage.kept().to_vec() {
            if let Some(reason) = self.known_failure(&job.id, window.shipped.id())? {
                self.end(job, Ended::Failed(without_shipped(&reason)), now);
                break;
            }
        }
        Ok(())
    }
}

/// Why a job ends in which the model as shipped cannot be evaluated.
pub(super) fn without_shipped(reason: &str) -> String {
    format!("the model as shipped, by which short windows are judged, could not be evaluated: {reason}")
}

/// What became of the short windows of a job under the candidate of a slot, for its factor file.
pub(super) fn report(job: &ActiveJob, slot: Option<&Slot>) -> Vec<KeptShort> {
    let perplexity_of = |slot: Option<&Slot>, samples: Range<usize>| {
        let losses = slot.and_then(|slot| slot.losses().get(samples));
        let losses: Option<Vec<Loss>> = losses.and_then(|losses| losses.iter().copied().collect());
        losses.map_or(f64::NAN, |losses| perplexity(&losses))
    };
    let windows = job.spec.search.keep_short.iter().zip(Kept::of(job));
    let mut end = job.spec.judged_samples().count() + job.spec.held_out.len();
    let report = windows.map(|(window, kept)| {
        let shipped = job.stage.slots().iter().find(|slot| slot.id == kept.shipped.id());
        let others = end..end + window.held_out.len();
        end = others.end;
        let held_out =
            KeptHeldOut { value: perplexity_of(slot, others.clone()), shipped: perplexity_of(shipped, others.clone()) };
        let is_measured = !others.is_empty() && held_out.value.is_finite() && held_out.shipped.is_finite();
        KeptShort {
            length: window.length,
            percent: window.percent,
            value: perplexity_of(slot, kept.samples.clone()),
            shipped: perplexity_of(shipped, kept.samples),
            held_out: is_measured.then_some(held_out),
        }
    });
    report.collect()
}
