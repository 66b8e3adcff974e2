//! An evaluator for documents of some length: what has to be streamed for them is, and nothing else.

use super::room::Rooms;
use super::{Evaluator, EvaluatorOptions, StartError};
use crate::cost::{Format, Load};
use crate::device::Dtype;
use crate::model::{LoadError, Model};
use crate::placement::{NoPlacement, Placement};
use candle_core::Device;
use std::path::Path;

/// Why there is no evaluator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The devices, or the host, are too small.
    #[error(transparent)]
    NoPlacement(#[from] NoPlacement),
    /// The threads did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Evaluator {
    /// Loads the model of the folder `dir` so that documents of `tokens` tokens can be evaluated: its weights onto the
    /// devices where there is room, and else layer by layer while they are needed.
    ///
    /// # Errors
    /// [`OpenError`], with what the documents take when no placement fits.
    pub fn open(
        dir: &Path,
        devices: &[Device],
        dtype: Dtype,
        tokens: usize,
        options: EvaluatorOptions,
    ) -> Result<Self, OpenError> {
        let rooms = Rooms::System { given: options.device_memory };
        Self::open_within(dir, devices, dtype, tokens, options, rooms)
    }

    fn open_within(
        dir: &Path,
        devices: &[Device],
        dtype: Dtype,
        tokens: usize,
        options: EvaluatorOptions,
        rooms: Rooms,
    ) -> Result<Self, OpenError> {
        let room = rooms.before(devices);
        let spec = Model::read_spec(dir)?;
        let cpu = devices.iter().all(Device::is_cpu);
        let format = Format::on(cpu, dtype);
        let load = Load { spec: &spec, format, chunk_tokens: options.chunk_tokens, tokens };
        let place = Placement::choose(load, room, devices.len().min(spec.layers()), None)?;
        let model = Model::load_placed(dir, devices, dtype, place.weights)?;
        // What is kept for the next candidates takes what is left.
        let options = EvaluatorOptions { shared_bytes: options.shared_bytes.min(room.left(load, &place)), ..options };
        // On the processor what loading leaves behind would pass for taken: what was free before decides.
        let room = if cpu { room } else { rooms.beside(&model, 0) };
        Ok(Self::within(model.into(), room, rooms, options)?)
    }

    /// Whether documents of `tokens` tokens fit only when the model is opened anew, with its weights streamed.
    pub(crate) fn must_stream(&self, tokens: usize) -> bool {
        let room = self.bounds_for(tokens).room;
        let stream = || Placement::choose(self.load(tokens), room, self.model.devices().len(), None);
        self.place(tokens, room).is_err() && stream().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::CancelFlag;
    use crate::placement::{Residence, Room};
    use ropewalk_shared::rope::Rescale;
    use std::sync::{Arc, Mutex};

    const TOKENS: usize = 100;

    fn open(host: u64) -> Result<Evaluator, OpenError> {
        open_in(&Arc::new(Mutex::new(Room { device: u64::MAX, host })))
    }

    fn open_in(room: &Arc<Mutex<Room>>) -> Result<Evaluator, OpenError> {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../coordinator/assets/lab-model"));
        let options = EvaluatorOptions { threads: 1, chunk_tokens: 16, ..Default::default() };
        Evaluator::open_within(dir, &[Device::Cpu], Dtype::F32, TOKENS, options, Rooms::Put(room.clone()))
    }

    #[test]
    fn what_was_short_for_a_moment_is_asked_again() {
        let ample = open(u64::MAX).unwrap();
        let need = Placement { weights: Residence::Host, ..Placement::RESIDENT }.need(ample.load(TOKENS));
        let least = Room { device: u64::MAX, host: need.device() + need.host };
        let room = Arc::new(Mutex::new(least));
        let evaluator = open_in(&room).unwrap();
        let (rescale, cancel) = (Rescale::with_factors(vec![1.5; 32]), CancelFlag::new());
        let tokens: Vec<u32> = (0..10 * TOKENS as u32).map(|i| i * 7 % 2048).collect();
        let loss = || evaluator.evaluate(&rescale, &tokens, &cancel, &mut |_| {});
        assert!(loss().unwrap_err().is_too_large() && evaluator.max_tokens() < 10 * TOKENS);
        // Streamed it stays, but not for short documents alone.
        room.lock().unwrap().host = 64 << 30;
        assert!(evaluator.max_tokens() > 100 * TOKENS && evaluator.placement(10 * TOKENS).is_ok());
        assert_eq!(loss().unwrap(), ample.evaluate(&rescale, &tokens, &cancel, &mut |_| {}).unwrap());
        *room.lock().unwrap() = least;
        assert!(loss().unwrap_err().is_too_large());

        // Kept whole, gradients follow too.
        let whole = Arc::new(Mutex::new(Room {
            device: u64::MAX,
            host: Placement::RESIDENT.need(ample.load(TOKENS)).device() + need.host,
        }));
        let evaluator = open_in(&whole).unwrap();
        let gradient = || evaluator.gradient(&rescale, (&tokens, 0), &cancel, &mut |_| {});
        assert!(gradient().unwrap_err().is_too_large());
        whole.lock().unwrap().host = 64 << 30;
        assert!(gradient().is_ok());
    }

    #[test]
    fn a_model_larger_than_the_hosts_memory_is_streamed_or_refused() {
        let ample = open(u64::MAX).unwrap();
        let need = |weights| {
            let need = Placement { weights, ..Placement::RESIDENT }.need(ample.load(TOKENS));
            need.device() + need.host
        };
        let (resident, streamed) = (need(Residence::Device), need(Residence::Host));
        assert!(streamed < resident);
        let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7 % 2048).collect();
        let (rescale, cancel) = (Rescale::with_factors(vec![1.5; 32]), CancelFlag::new());
        let loss = |evaluator: &Evaluator| evaluator.evaluate(&rescale, &tokens, &cancel, &mut |_| {}).unwrap();
        let want = loss(&ample);
        for (host, weights) in
            [(resident, Residence::Device), (resident - 1, Residence::Host), (streamed, Residence::Host)]
        {
            let evaluator = open(host).unwrap();
            assert_eq!(evaluator.model().weights(), weights);
            assert_eq!(loss(&evaluator), want);
            assert!(!evaluator.must_stream(TOKENS));
        }
        assert_eq!(open(streamed).unwrap().most_together(TOKENS), 1);
        let error = open(streamed - 1).unwrap_err();
        assert!(
            matches!(&error, OpenError::NoPlacement(_)) && error.to_string().contains("of memory in no way"),
            "{error}"
        );
        // Loaded for short documents, it has to be opened anew for long ones.
        let short = open(resident).unwrap();
        assert!(!short.must_stream(TOKENS) && short.must_stream(TOKENS + 20));
    }
}
