//! A document's way through a model for several candidates: layer by layer, and within a layer chunk by chunk.
//!
//! ```text
//!  +--> device 0: layers 0, D, … ---> device 1: layers 1, D+1, … ---> … ---+
//!  +---------------------------- chunks, in order -------------------------+
//! ```
//!
//! Each device is a [`station::Station`] with the keys and values of the layer it is at. Chunks go around until they have
//! seen all layers; the first device embeds them in the beginning and computes the losses in the end. With one device the
//! ring is a queue, which holds the hidden states: on the device, or in the host's memory, and then [`inbox`] fetches the
//! next chunk while one is computed, as [`weights`] fetches the next layer where layers are streamed. Whatever lies where,
//! the same operations are done on the same numbers in the same order.

mod head;
mod inbox;
mod route;
mod station;
mod steps;
mod weights;

pub use route::Asked;
pub(crate) use route::Route;

use crate::counted::Counted;
use crate::first_layer::Share;
use crate::perplexity::EvalError;
use inbox::{Inbox, Outbox};
use station::Station;
use std::panic::resume_unwind;
use std::sync::mpsc::channel;
use std::thread;
use steps::Steps;

/// Why a station stopped.
#[derive(Debug)]
enum Stop {
    Failed(EvalError),
    /// Another one stopped, which says why.
    Gone,
}

/// Loss and correct arg max of every candidate's counted tokens; none for those that were cancelled.
///
/// # Errors
/// As [`crate::perplexity::evaluate`]; [`EvalError::Cancelled`] when all candidates were.
pub(crate) fn run(
    route: &Route<'_>,
    share: &mut Share<'_>,
    progress: &mut dyn FnMut(f32),
) -> Result<Vec<Option<Counted>>, EvalError> {
    let steps = Steps::new(route);
    let (to_head, from_last) = channel();
    // Into each station, and out of the one before it.
    let (into, mut out_of): (Vec<_>, Vec<_>) =
        route.model.devices().iter().map(|_| channel()).map(|(a, b)| (b, a)).unzip();
    out_of.rotate_left(1);
    let mut from_last = Some(from_last);
    let counted = thread::scope(|scope| {
        let mut first = None;
        let mut others = Vec::new();
        for (number, (into, out_of)) in into.into_iter().zip(out_of).enumerate() {
            let outbox = Outbox::new(route, out_of, to_head.clone());
            let inbox = Inbox::new(route, number, (into, from_last.take()), scope);
            if number == 0 {
                first = Some((inbox, outbox));
                continue;
            }
            let steps = &steps;
            others.push(scope.spawn(move || {
                let mut step = |candidate| steps.next(candidate);
                Station::new(route, number, inbox)?.layers(outbox, &mut Share::none(), &mut step, scope)
            }));
        }
        drop(to_head);
        let here = first.map_or(Err(Stop::Gone), |(inbox, outbox)| {
            let mut step = |candidate| {
                progress(steps.share());
                steps.next(candidate)
            };
            let mut station = Station::new(route, 0, inbox)?;
            station.layers(outbox, share, &mut step, scope)?;
            station.head(&mut step)
        });
        let joined = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let stopped: Vec<Stop> = joined.filter_map(Result::err).collect();
        here.map_err(|stop| first_cause(stop, stopped))
    })?;
    progress(1.0);
    Ok(counted)
}

/// What stopped first, of stations that stop each other.
fn first_cause(here: Stop, others: Vec<Stop>) -> EvalError {
    let failed = |stop| if let Stop::Failed(error) = stop { Some(error) } else { None };
    std::iter::once(here).chain(others).find_map(failed).unwrap_or(EvalError::Cancelled)
}

impl From<EvalError> for Stop {
    fn from(error: EvalError) -> Self {
        Self::Failed(error)
    }
}
