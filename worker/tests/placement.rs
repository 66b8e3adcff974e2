//! Weights and hidden states in the host's memory, several devices, several candidates together: the same losses to the
//! last bit, within the memory that was promised.
#![allow(clippy::unwrap_used)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use candle_core::Device;
use ropewalk_shared::rope::Rescale;
use ropewalk_worker::cancel::CancelFlag;
use ropewalk_worker::cost::{Format, Load};
use ropewalk_worker::counted::Counted;
use ropewalk_worker::device::{DeviceError, Dtype};
use ropewalk_worker::evaluator::{Asked, Evaluator, EvaluatorOptions};
use ropewalk_worker::ledger::Ledger;
use ropewalk_worker::model::{LoadError, Model};
use ropewalk_worker::perplexity::EvalError;
use ropewalk_worker::placement::{Placement, Residence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{TestModel, tokens};

/// Tests of this file run one after the other: what one allocates is not to be measured by another.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const CHUNK: usize = 128;
const TOKENS: usize = 8 * CHUNK + 37;

fn model(layers: usize, devices: usize, weights: Residence) -> Model {
    model_in(Dtype::F32, layers, devices, weights)
}

fn model_in(dtype: Dtype, layers: usize, devices: usize, weights: Residence) -> Model {
    let test = TestModel::with_layers(layers);
    Model::load_placed(test.dir(), &vec![Device::Cpu; devices], dtype, weights).unwrap()
}

fn evaluator(model: Model, device_memory: Option<u64>) -> Evaluator {
    let options =
        EvaluatorOptions { threads: 2, chunk_tokens: CHUNK, device_memory, shared_bytes: 0, ..Default::default() };
    Evaluator::new(model.into(), options).unwrap()
}

fn candidate(number: usize) -> Rescale {
    Rescale {
        factors: vec![1.0 + number as f64; 16],
        start_tokens: number as u32,
        attention_factor: 1.1,
        pair_attention: Vec::new(),
    }
}

fn counted(evaluator: &Evaluator, number: usize, from: usize) -> Counted {
    let (tokens, cancel) = (tokens(TOKENS), CancelFlag::new());
    evaluator.evaluate_counted(&candidate(number), &tokens, from, &cancel, &mut |_| {}).unwrap()
}

fn bits(counted: Counted) -> (u64, u64, u64) {
    (counted.loss.nll_sum.to_bits(), counted.loss.tokens, counted.correct)
}

/// The positions that losses are counted from: all, in the middle of a chunk, and the last chunk alone.
const FROM: [usize; 3] = [0, 3 * CHUNK + 5, TOKENS - 3];

#[test]
fn what_is_streamed_changes_no_bit_and_takes_what_was_predicted() {
    let _alone = alone();
    check_streamed(Dtype::F32);
}

/// Where the machine has a matrix unit, all of it is laid out for that.
#[test]
fn nor_in_bf16() {
    let _alone = alone();
    check_streamed(Dtype::Bf16);
}

fn check_streamed(dtype: Dtype) {
    const LAYERS: usize = 10;
    let resident = evaluator(model_in(dtype, LAYERS, 1, Residence::Device), None);
    let want = FROM.map(|from| bits(counted(&resident, 2, from)));
    assert!(f64::from_bits(want[0].0).is_finite() && want[2].1 == 3);
    drop(resident);

    use Residence::{Device, Host};
    for (devices, weights, hidden) in
        [(1, Device, Device), (1, Device, Host), (1, Host, Device), (1, Host, Host), (2, Device, Host), (2, Host, Host)]
    {
        let before = counting::reset_peak();
        let model = model_in(dtype, LAYERS, devices, weights);
        let spec = model.spec().clone();
        let load = Load { spec: &spec, format: Format::on(true, dtype), chunk_tokens: CHUNK, tokens: TOKENS };
        let place = Placement { weights, hidden, devices, ..Placement::RESIDENT };
        let need = place.need(load);
        // Not one byte more than this placement takes: nothing that takes more is possible.
        let limit = need.device();
        let evaluator = evaluator(model, Some(limit));
        assert_eq!(evaluator.placement(TOKENS).unwrap().hidden, hidden, "{place}");
        counting::reset_peak();
        assert_eq!(FROM.map(|from| bits(counted(&evaluator, 2, from))), want, "{place}");

        let (ledgers, host) = (evaluator.model().ledgers(), evaluator.model().host_ledger());
        assert_eq!(ledgers[0].peak(), limit, "{place}");
        // Any other has no embedding and no head.
        assert!(ledgers.iter().all(|device| device.peak() > limit / 2 && device.peak() <= limit), "{place}");
        assert!(host.peak() <= need.host, "{place}: {} of {}", host.peak(), need.host);
        assert_eq!(host.peak() > 0, hidden == Host);
        // On the processor all of it is the process's own memory, and that is measured. Beside it are rows on their way
        // from the file, and small things.
        let measured = counting::peak() - before;
        let (least, most) = (limit / 2, limit * devices as u64 + host.peak() + (768 << 10));
        assert!(measured > least && measured < most, "{place}: {measured} of {limit}");
        let weights_left: u64 = ledgers.iter().map(Ledger::live).sum();
        assert_eq!(weights_left, evaluator.model().weight_bytes(), "all else is gone");
    }
}

#[test]
fn loading_takes_what_the_weights_take() {
    let _alone = alone();
    // Beside them a block of rows, as it is decoded.
    const SLACK: u64 = 768 << 10;
    for tied in [true, false] {
        let test = TestModel::with_vocabulary(1 << 14);
        if !tied {
            test.untie();
        }
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F32Fast] {
            for tiles in [false, true] {
                let before = counting::reset_peak();
                let model = match tiles {
                    true => Model::load_with_tiles(test.dir(), dtype).unwrap(),
                    false => Model::load(test.dir(), &Device::Cpu, dtype).unwrap(),
                };
                let (taken, weights) = (counting::peak() - before, model.weight_bytes());
                assert!(
                    weights > 4 << 20 && taken < weights + SLACK,
                    "{dtype}: {taken} bytes for {weights} of weights"
                );
            }
        }
    }
}

#[test]
fn what_fits_in_no_way_is_refused_with_numbers() {
    let _alone = alone();
    let evaluator = evaluator(model(6, 1, Residence::Host), Some(1 << 20));
    let (tokens, cancel) = (tokens(TOKENS), CancelFlag::new());
    assert!(evaluator.max_tokens() < TOKENS);
    let error = evaluator.placement(TOKENS).unwrap_err();
    assert!(error.to_string().contains("in no way") && error.to_string().contains("0.001 GiB"), "{error}");
    let error = evaluator.evaluate(&candidate(1), &tokens, &cancel, &mut |_| {}).unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

#[test]
fn several_devices_change_no_bit() {
    let _alone = alone();
    for layers in [1, 2, 5] {
        let one = evaluator(model(layers, 1, Residence::Device), None);
        for (devices, weights) in [(2, Residence::Device), (3, Residence::Host), (3, Residence::Device)] {
            let several = evaluator(model(layers, devices, weights), None);
            assert_eq!(several.model().devices().len(), devices.min(layers));
            for from in FROM {
                let (one, several) = (counted(&one, 1, from), counted(&several, 1, from));
                assert_eq!(bits(several), bits(one), "{layers} layers on {devices} devices, {weights:?}, from {from}");
            }
        }
    }
}

#[test]
fn candidates_together_lose_what_each_loses_alone() {
    let _alone = alone();
    let tokens = tokens(TOKENS);
    for (devices, weights) in [(1, Residence::Device), (1, Residence::Host), (2, Residence::Host)] {
        let evaluator = evaluator(model(4, devices, weights), None);
        for from in FROM {
            let alone: Vec<_> = (0..3).map(|number| bits(counted(&evaluator, number, from))).collect();
            let flags = [0; 4].map(|_| CancelFlag::new());
            let candidates = [0, 1, 2, 3].map(candidate);
            let asked: Vec<_> =
                candidates.iter().zip(&flags).map(|(rescale, cancel)| Asked { rescale, cancel }).collect();
            let mut steps = 0;
            // The last is out after a few chunks; the others do not notice.
            let together = evaluator.evaluate_together(&asked, (&tokens, from), &mut |_| {
                steps += 1;
                if steps == 15 {
                    flags[3].cancel();
                }
            });
            let together = together.unwrap();
            let losses: Vec<_> = together[..3].iter().map(|counted| bits(counted.unwrap())).collect();
            assert_eq!(losses, alone, "{devices} devices, {weights:?}, from {from}");
            assert_eq!(together[3], None);
        }
    }
}

#[test]
fn a_station_that_stops_stops_all() {
    let _alone = alone();
    for (devices, weights) in [(1, Residence::Host), (2, Residence::Device), (3, Residence::Host)] {
        let evaluator = evaluator(model(5, devices, weights), None);
        let (tokens, cancel, mut steps) = (tokens(TOKENS), CancelFlag::new(), 0);
        let result = evaluator.evaluate(&candidate(1), &tokens, &cancel, &mut |_| {
            steps += 1;
            if steps == 9 {
                cancel.cancel();
            }
        });
        assert!(matches!(result, Err(EvalError::Cancelled)), "{devices}");
        assert!(evaluator.evaluate(&candidate(1), &tokens, &CancelFlag::new(), &mut |_| {}).is_ok());
    }
}

#[test]
fn what_needs_the_whole_model_says_so() {
    let _alone = alone();
    let (tokens, cancel) = (tokens(60), CancelFlag::new());
    for (devices, weights) in [(1, Residence::Host), (2, Residence::Device)] {
        let evaluator = evaluator(model(3, devices, weights), None);
        let decoded = evaluator.decode(&candidate(1), (&tokens, 2), &cancel, &mut |_| {});
        assert!(matches!(decoded, Err(EvalError::NotWhole)));
        let gradient = evaluator.gradient(&candidate(1), (&tokens, 0), &cancel, &mut |_| {});
        assert!(matches!(gradient, Err(EvalError::TooLarge { .. } | EvalError::NotWhole)));
    }
    let none = Model::load_placed(TestModel::new().dir(), &[], Dtype::F32, Residence::Device).unwrap_err();
    assert!(matches!(none, LoadError::Device(DeviceError::None)), "{none}");
}
