//! Trainings: against PyTorch's optimiser, and that neither threads nor interruptions change a bit.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use candle_core::{Device, Tensor, safetensors};
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::training::{AdamW, Lora, Method, Precision, Schedule, TrainSequence, TrainSpec, Window};
use ropewalk_worker::model::Model;
use ropewalk_worker::train::{TrainError, TrainEvent, Trained, bytes, run};
use ropewalk_worker::{cost, gradient};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use support::TestModel;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(case)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A training in a room of its own.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    /// Trains until an event says stop.
    fn train(
        &self,
        model: &Path,
        spec: &TrainSpec,
        sequences: &[TrainSequence],
        mut stop: impl FnMut(&TrainEvent) -> bool,
    ) -> Result<Trained, TrainError> {
        run(model, spec, sequences, &self.work(), &self.out(), &mut |event| {
            if stop(&event) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn weights(&self) -> Vec<u8> {
        std::fs::read(self.out().join("model.safetensors")).unwrap()
    }

    /// What lies in the folder of checkpoints, in order.
    fn checkpoints(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.work()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn never(_: &TrainEvent) -> bool {
    false
}

/// Six steps of three sequences, one of them short.
fn small() -> (TestModel, TrainSpec, Vec<TrainSequence>) {
    let tokens = support::tokens(2000);
    let long = |first: usize| TrainSequence::long(tokens[first..first + 300].to_vec());
    let short = TrainSequence { documents: vec![0, 64, 128], window: Window::Original, ..long(700) };
    let answer = TrainSequence { counted_from: 290, ..long(900) };
    let rescale =
        Rescale { factors: vec![1.5; 16], start_tokens: 4, attention_factor: 1.1, pair_attention: Vec::new() };
    let spec = TrainSpec {
        sequences_per_step: 3,
        learning_rate: 1e-3,
        warmup_steps: 2,
        checkpoint_every: 2,
        ..TrainSpec::new(6, 300, rescale)
    };
    (TestModel::new(), spec, vec![long(0), long(150), short, answer])
}

#[test]
fn pytorch_takes_the_same_steps() {
    for case in ["llama", "qwen2"] {
        let (model, golden) = (golden(case), json(golden(case).join("training.json")));
        let number = |key: &str| golden[key].as_f64().unwrap();
        let ids: Vec<u32> = serde_json::from_value(json(model.join("golden.json"))["tokens"].clone()).unwrap();
        let steps = number("steps") as u32;
        let sequence = |step: usize| {
            let long = TrainSequence { counted_from: 11, ..TrainSequence::long(ids[step..step + 100].to_vec()) };
            let tokens = ids[100 - step..140 - step].to_vec();
            [
                long,
                TrainSequence {
                    tokens,
                    documents: vec![0, 25],
                    counted_from: 0,
                    window: Window::Original,
                    gaps: Vec::new(),
                },
            ]
        };
        let sequences: Vec<TrainSequence> = (0..steps as usize).flat_map(sequence).collect();
        let spec = TrainSpec {
            sequences_per_step: 2,
            learning_rate: number("learning_rate"),
            warmup_steps: number("warmup_steps") as u32,
            schedule: Schedule::Cosine { final_share: number("final_share") },
            adamw: AdamW { weight_decay: number("weight_decay"), ..AdamW::default() },
            clip_norm: Some(number("clip_norm")),
            ..TrainSpec::new(steps, 100, serde_json::from_value(golden.clone()).unwrap())
        };
        let room = Room::new();
        let trained = room.train(&model, &spec, &sequences, never).unwrap();
        let list = |key: &str| serde_json::from_value::<Vec<f64>>(golden[key].clone()).unwrap();
        for (record, (loss, norm)) in trained.curve.iter().zip(list("losses").iter().zip(list("norms"))) {
            let step = record.step;
            assert!((record.loss - loss).abs() < 2e-5, "{case} step {step}: {} for {loss}", record.loss);
            assert!((record.gradient_norm / norm - 1.0).abs() < 1e-3, "{case} step {step}: {norm}");
        }
        if case == "llama" {
            // Stored in f32; the other model's f16 would hide the steps' errors.
            same_weights(&room, &golden["weights"]);
        }
    }
}

/// Compares what identifies each tensor: its length, and products with two directions.
fn same_weights(room: &Room, golden: &Value) {
    let weights: HashMap<String, Tensor> =
        safetensors::load(room.out().join("model.safetensors"), &Device::Cpu).unwrap();
    for (name, tensor) in weights {
        let numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let along = |prime: usize| -> f64 {
            let direction = |i: usize| ((i * prime % 1013) as f64 - 506.0) / 506.0;
            numbers.iter().enumerate().map(|(i, x)| f64::from(*x) * direction(i)).sum()
        };
        let length = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let want: [f64; 3] = serde_json::from_value(golden[&name].clone()).unwrap();
        for (got, want) in [length, along(7919), along(6007)].iter().zip(want) {
            // The steps move a product by some 1e-2 of this.
            assert!((got - want).abs() < 2e-4 * length, "{name}: {got} for {want}");
        }
    }
}

#[test]
fn threads_and_interruptions_change_no_bit() {
    let (model, spec, sequences) = small();
    let whole = |threads: usize| {
        let room = Room::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let trained = pool.install(|| room.train(model.dir(), &spec, &sequences, never)).unwrap();
        (room.weights(), trained)
    };
    let (weights, trained) = whole(1);
    for threads in [2, 3] {
        assert!(whole(threads) == (weights.clone(), trained.clone()), "{threads} threads");
    }
    assert_eq!(trained.curve.len(), 6);
    assert!(trained.curve[0].short.is_some() && trained.curve[0].tokens == 299 + 299 + 63 + 63 + 171);
    assert!(trained.curve[5].loss < trained.curve[0].loss, "{:?}", trained.curve);

    // Stopped within a step, between steps, and at a checkpoint; each goes on where the last one stopped.
    let room = Room::new();
    let within = |event: &TrainEvent| matches!(event, TrainEvent::Progress { step: 2, share } if *share > 0.5);
    let stopped = room.train(model.dir(), &spec, &sequences, within);
    assert!(matches!(stopped, Err(TrainError::Interrupted { step: 1, steps: 6 })), "{stopped:?}");
    let third = |event: &TrainEvent| matches!(event, TrainEvent::Step(record) if record.step == 3);
    let stopped = room.train(model.dir(), &spec, &sequences, third);
    assert!(matches!(stopped, Err(TrainError::Interrupted { step: 3, .. })), "{stopped:?}");
    // What a kill in the middle of writing leaves behind.
    std::fs::create_dir(room.work().join("checkpoint-00000004.part")).unwrap();
    let begun = |event: &TrainEvent| matches!(event, TrainEvent::Begun { before, .. } if before.len() != 3);
    assert_eq!(room.train(model.dir(), &spec, &sequences, begun).unwrap(), trained);
    assert!(room.weights() == weights);
    assert_eq!(room.checkpoints(), ["lock"], "checkpoints are removed in the end");
    // The result stands, and nothing is done again.
    assert_eq!(room.train(model.dir(), &spec, &sequences, |_| panic!("nothing to do")).unwrap(), trained);
}

#[test]
fn another_training_is_not_gone_on_with() {
    let (model, spec, sequences) = small();
    let room = Room::new();
    let first = |event: &TrainEvent| matches!(event, TrainEvent::Step(_));
    assert!(room.train(model.dir(), &spec, &sequences, first).is_err());
    for other in [TrainSpec { learning_rate: 2e-3, ..spec.clone() }, TrainSpec { seed: 1, ..spec.clone() }] {
        let refused = room.train(model.dir(), &other, &sequences, never);
        assert!(matches!(&refused, Err(TrainError::OtherTraining { .. })), "{refused:?}");
    }
    let refused = room.train(model.dir(), &spec, &sequences[1..], never);
    assert!(matches!(&refused, Err(TrainError::OtherTraining { .. })), "{refused:?}");
    // How often checkpoints are taken does not matter.
    room.train(model.dir(), &TrainSpec { checkpoint_every: 5, ..spec.clone() }, &sequences, never).unwrap();

    let refused = room.train(model.dir(), &TrainSpec { seed: 1, ..spec.clone() }, &sequences, never);
    assert!(matches!(&refused, Err(TrainError::OutputExists { .. })), "{refused:?}");
    std::fs::remove_dir_all(room.out()).unwrap();
    std::fs::create_dir(room.work().join("checkpoint-00000009")).unwrap();
    let refused = room.train(model.dir(), &spec, &sequences, never);
    assert!(matches!(&refused, Err(TrainError::Checkpoint { .. })), "{refused:?}");
}

#[test]
fn two_never_train_in_one_folder() {
    let (model, spec, sequences) = small();
    let room = Room::new();
    let beside =
        |out: &Path| run(model.dir(), &spec, &sequences, &room.work(), out, &mut |_| ControlFlow::Continue(()));
    let mut refused = None;
    let first = room.train(model.dir(), &spec, &sequences, |event| {
        if matches!(event, TrainEvent::Step(record) if record.step == 1) {
            let folder = Room::new();
            // Into another place: it is the folder of checkpoints that one has alone.
            refused = Some(beside(&folder.out()));
        }
        false
    });
    let refused = refused.unwrap().unwrap_err();
    assert!(matches!(&refused, TrainError::Busy { dir } if *dir == room.work()) && !refused.is_input(), "{refused}");
    // The first was not disturbed, and has left the folder free.
    assert_eq!(first.unwrap().curve.len(), 6);
    assert!(beside(&Room::new().out()).is_ok());
}

#[test]
fn a_training_that_diverges_keeps_its_last_checkpoint() {
    let (model, spec, sequences) = small();
    let room = Room::new();
    // A moment out of all proportion throws the weights of step 4 off, of which step 5 has the loss.
    let every = TrainSpec { checkpoint_every: 1, ..spec.clone() };
    let third = |event: &TrainEvent| matches!(event, TrainEvent::Checkpoint { step: 3 });
    assert!(room.train(model.dir(), &every, &sequences, third).is_err());
    let path = room.work().join("checkpoint-00000003/model.safetensors");
    let mut state: HashMap<String, Tensor> = safetensors::load(&path, &Device::Cpu).unwrap();
    let mean = state.get_mut("mean.model.norm.weight").unwrap();
    *mean = (mean.ones_like().unwrap() * 1e38).unwrap();
    safetensors::save(&state, &path).unwrap();
    let broken = room.train(model.dir(), &every, &sequences, never).unwrap_err();
    assert!(matches!(broken, TrainError::Diverged { step: 5, checkpoint: Some(3), .. }), "{broken}");
    assert!(broken.to_string().contains("the checkpoint after step 3 is kept"), "{broken}");
    assert_eq!(room.checkpoints(), ["checkpoint-00000003", "lock"]);

    let room = Room::new();
    // Weights that are poisoned give no number at once, and there is no checkpoint yet.
    model.poison("model.layers.1.mlp.down_proj.weight");
    let broken = room.train(model.dir(), &spec, &sequences, never).unwrap_err();
    assert!(matches!(broken, TrainError::Diverged { step: 1, checkpoint: None, .. }), "{broken}");
    assert!(broken.to_string().contains("the loss of step 1") && !broken.is_input(), "{broken}");
    assert!(!room.out().exists());
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let (model, spec, sequences) = small();
    let refused = |spec: &TrainSpec, sequences: &[TrainSequence]| {
        let error = Room::new().train(model.dir(), spec, sequences, never).unwrap_err();
        assert!(error.is_input(), "{error}");
        error.to_string()
    };
    assert!(refused(&TrainSpec { steps: 0, ..spec.clone() }, &sequences).contains("steps: 0"));
    assert!(refused(&TrainSpec { rescale: Rescale::identity(3), ..spec.clone() }, &sequences).contains("factors"));
    assert!(refused(&spec, &[]).contains("no sequences"));
    assert!(refused(&spec, &[TrainSequence::long(vec![1, 512])]).contains("token 512"));
    assert!(refused(&TrainSpec { length: 1 << 25, ..spec.clone() }, &sequences).contains("available"));
    let missing = Room::new().train(Path::new("/nowhere"), &spec, &sequences, never).unwrap_err();
    assert!(matches!(missing, TrainError::Model(_)));
}

#[test]
fn the_result_is_the_models_folder_with_other_weights() {
    let (spec, sequences) = {
        let (_, spec, _) = small();
        let tokens: Vec<u32> = (0..120).map(|i| i * i % 96).collect();
        (
            TrainSpec { steps: 1, warmup_steps: 0, rescale: Rescale::identity(8), length: 120, ..spec },
            vec![TrainSequence::long(tokens)],
        )
    };
    for case in ["llama-sharded", "phi3", "llama-tied"] {
        let (model, room) = (golden(case), Room::new());
        let spec = TrainSpec { learning_rate: 0.05, ..spec.clone() };
        room.train(&model, &spec, &sequences, never).unwrap();
        let names = |dir: &Path| {
            let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.contains("model") || name == "config.json").collect();
            names.sort();
            names
        };
        assert_eq!(names(&room.out()), names(&model), "{case}");
        for name in names(&model).iter().filter(|name| name.ends_with(".safetensors")) {
            let load = |dir: &Path| safetensors::load(dir.join(name), &Device::Cpu).unwrap();
            let (before, after) = (load(&model), load(&room.out()));
            assert_eq!(before.len(), after.len());
            for (name, before) in before {
                let after = &after[&name];
                assert_eq!((before.dtype(), before.shape()), (after.dtype(), after.shape()), "{case} {name}");
                let flat = |tensor: &Tensor| {
                    let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
                    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                let moved = flat(&before).iter().zip(flat(after)).filter(|(a, b)| **a != *b).count();
                assert!(moved > 0, "{case} {name} has not moved");
            }
        }
        let copied = |name: &str| std::fs::read(room.out().join(name)).unwrap();
        assert_eq!(copied("config.json"), std::fs::read(model.join("config.json")).unwrap());
    }
}

/// The tensors of a result, in f32, by name.
fn tensors(path: &Path) -> HashMap<String, Vec<Vec<f32>>> {
    let loaded: HashMap<String, Tensor> = safetensors::load(path.join("model.safetensors"), &Device::Cpu).unwrap();
    let matrices = loaded.into_iter().filter(|(_, tensor)| tensor.rank() == 2);
    matrices
        .map(|(name, tensor)| (name, tensor.to_dtype(candle_core::DType::F32).unwrap().to_vec2().unwrap()))
        .collect()
}

#[test]
fn low_rank_additions_are_of_their_rank_and_to_their_targets_alone() {
    let (model, spec, sequences) = small();
    let targets = vec!["k_proj".to_owned(), "down_proj".to_owned()];
    let method = Method::Lora(Lora { rank: 1, alpha: 2.0, targets });
    let spec = TrainSpec { method, learning_rate: 1e-2, ..spec };
    let room = Room::new();
    let stopped =
        room.train(model.dir(), &spec, &sequences, |event| matches!(event, TrainEvent::Step(at) if at.step == 3));
    assert!(matches!(stopped, Err(TrainError::Interrupted { step: 3, .. })), "{stopped:?}");
    let trained = room.train(model.dir(), &spec, &sequences, never).unwrap();
    assert!(trained.curve[5].loss < trained.curve[0].loss, "{:?}", trained.curve);
    let whole = Room::new();
    assert_eq!(whole.train(model.dir(), &spec, &sequences, never).unwrap(), trained);
    assert!(whole.weights() == room.weights());

    let (before, after) = (tensors(model.dir()), tensors(&room.out()));
    for (name, before) in before {
        let after = &after[&name];
        let difference: Vec<Vec<f64>> = before
            .iter()
            .zip(after)
            .map(|(before, after)| before.iter().zip(after).map(|(before, after)| f64::from(after - before)).collect())
            .collect();
        let largest = difference.iter().flatten().fold(0.0, |size: f64, x| size.max(x.abs()));
        if !name.contains("k_proj") && !name.contains("down_proj") {
            assert_eq!(largest, 0.0, "{name} has moved");
            continue;
        }
        assert!(largest > 1e-4, "{name} has not moved");
        // Of rank 1 every 2 x 2 determinant is nothing.
        let (row, column) = (0..difference.len() - 1, 0..difference[0].len() - 1);
        for (i, j) in row.flat_map(|i| column.clone().map(move |j| (i, j))) {
            let of = |i: usize, j: usize| difference[i][j];
            let determinant = of(i, j) * of(i + 1, j + 1) - of(i, j + 1) * of(i + 1, j);
            assert!(determinant.abs() < 1e-3 * largest * largest + 1e-6 * largest, "{name}: {determinant:e}");
        }
    }
    let none = Lora { rank: 1, alpha: 2.0, targets: vec!["qkv_proj".to_owned()] };
    let none = TrainSpec { method: Method::Lora(none), ..spec };
    assert!(matches!(Room::new().train(model.dir(), &none, &sequences, never), Err(TrainError::NothingTrained)));
}

#[test]
fn weights_that_are_moved_beside_rounded_ones_are_counted() {
    let (model, spec, _) = small();
    let decoder = Model::read_spec(model.dir()).unwrap();
    let (weights, tokens) = (cost::weights(&decoder), 40);
    let beside = gradient::bytes(&decoder, 512, tokens);
    let lora = Method::Lora(Lora { rank: 2, alpha: 4.0, targets: vec!["q_proj".into()] });
    // Weights, gradients and two moments of 4 bytes; and the rounded weights.
    for (method, precision, number) in
        [(Method::Full, Precision::F32, 16), (Method::Full, Precision::Bf16, 20), (lora, Precision::Bf16, 16)]
    {
        let spec = TrainSpec { method, precision, ..spec.clone() };
        assert_eq!(bytes(&decoder, &spec, tokens), number * weights + beside, "{spec:?}");
    }
}

#[test]
fn rounded_weights_give_the_loss_and_small_steps_are_kept() {
    let (model, spec, sequences) = small();
    let bf16 = TrainSpec { precision: Precision::Bf16, learning_rate: 1e-6, ..spec.clone() };
    let room = Room::new();
    let trained = room.train(model.dir(), &bf16, &sequences, never).unwrap();
    // The same weights, rounded before they were stored.
    let rounded = TestModel::new();
    let path = rounded.dir().join("model.safetensors");
    let stored: HashMap<String, Tensor> = safetensors::load(&path, &Device::Cpu).unwrap();
    let round = |tensor: Tensor| tensor.to_dtype(candle_core::DType::BF16)?.to_dtype(candle_core::DType::F32);
    let stored: HashMap<String, Tensor> = stored.into_iter().map(|(n, tensor)| (n, round(tensor).unwrap())).collect();
    safetensors::save(&stored, &path).unwrap();
    let f32 = TrainSpec { learning_rate: 1e-6, ..spec };
    let once = Room::new().train(rounded.dir(), &f32, &sequences, never).unwrap();
    assert_eq!(trained.curve[0].loss, once.curve[0].loss);
    assert_ne!(trained.curve[0].loss, Room::new().train(model.dir(), &f32, &sequences, never).unwrap().curve[0].loss);
    // Steps of 1e-6 are far below the spacing of bf16 numbers.
    let (before, after) = (tensors(model.dir()), tensors(&room.out()));
    let numbers = |of: &HashMap<String, Vec<Vec<f32>>>| of["model.layers.0.mlp.down_proj.weight"].concat();
    let moved = numbers(&before).iter().zip(numbers(&after)).filter(|(before, after)| **before != *after).count();
    assert!(moved > 30_000, "{moved} of {} have moved", numbers(&before).len());
}
