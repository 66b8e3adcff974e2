//! Gradients of weights: against PyTorch's, and against differences of the loss, for every family.

use super::super::{Lesson, of_weights};
use super::*;
use crate::cancel::CancelFlag;
use crate::device::Dtype;
use crate::model::Model;
use crate::perplexity;
use candle_core::Device;
use ropewalk_shared::rope::{AngleRule, Rescale};
use ropewalk_shared::training::Gap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of a tensor's gradient's length; errors measured are from 1e-7 to 4e-6.
const AUTOGRAD_TOLERANCE: f64 = 5e-5;
/// The loss is an f32 sum with an error of some 1e-7 of itself, which the step divides.
const DIFFERENCE_TOLERANCE: f64 = 5e-3;

#[derive(Deserialize)]
struct Golden {
    length: usize,
    #[serde(flatten)]
    rescale: Rescale,
    counted_from: usize,
    #[serde(default)]
    gaps: Vec<Gap>,
    nll_sum: f64,
    /// Length, and products with two directions.
    gradients: BTreeMap<String, [f64; 3]>,
}

/// The golden files of this name, with the folders of their models.
fn goldens(file: &str) -> Vec<(PathBuf, Golden)> {
    let cases = cases().into_iter().filter(|case| case.join(file).exists());
    cases.map(|case| (case.clone(), read(case.join(file)))).collect()
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden");
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.join("weight_gradient.json").exists()).collect();
    cases.sort();
    cases
}

fn read<T: serde::de::DeserializeOwned>(path: PathBuf) -> T {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tokens(case: &Path) -> Vec<u32> {
    #[derive(Deserialize)]
    struct Tokens {
        tokens: Vec<u32>,
    }
    read::<Tokens>(case.join("golden.json")).tokens
}

fn load(case: &Path) -> Model {
    Model::load(case, &Device::Cpu, Dtype::F32).unwrap()
}

fn weights(model: &Model) -> impl Iterator<Item = &Tensor> {
    model.parameters().placed().iter().map(|placed| &placed.tensor)
}

fn add(model: &Model, rescale: &Rescale, lesson: Lesson<'_>, chunk: usize, sums: &WeightGradients) -> f64 {
    let rule = AngleRule::new(&model.description().geometry, rescale).unwrap();
    of_weights(model, &rule, lesson, chunk, sums, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let flat: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(f64::from).collect()
}

/// As the script that wrote the golden numbers.
fn describe(numbers: &[f64]) -> [f64; 3] {
    let along = |prime: usize| -> f64 {
        let direction = |i: usize| ((i * prime % 1013) as f64 - 506.0) / 506.0;
        numbers.iter().enumerate().map(|(i, x)| x * direction(i)).sum()
    };
    [numbers.iter().map(|x| x * x).sum::<f64>().sqrt(), along(7919), along(6007)]
}

#[test]
fn pytorch_computes_the_same_gradients_in_any_chunks() {
    let (all, skipping) = (goldens("weight_gradient.json"), goldens("skipping_gradient.json"));
    assert!(all.len() >= 9 && skipping.len() >= 2 && skipping.iter().all(|(_, golden)| !golden.gaps.is_empty()));
    for (case, golden) in all.into_iter().chain(skipping) {
        let (model, tokens) = (load(&case), tokens(&case));
        for chunk in [7, 64, 1024] {
            let sums = WeightGradients::zeros(weights(&model)).unwrap();
            // In two halves, so that sums are added to.
            let (tokens, counted_from) = (&tokens[..golden.length], golden.counted_from);
            let lesson = Lesson { tokens, counted_from, scale: 0.5, gaps: &golden.gaps };
            let nll = add(&model, &golden.rescale, lesson, chunk, &sums);
            add(&model, &golden.rescale, lesson, chunk, &sums);
            assert!((nll / golden.nll_sum - 1.0).abs() < 1e-6, "{}: {nll}", case.display());
            let mut checked = 0;
            for placed in model.parameters().placed() {
                let (sum, mut first) = (sums.sum(&placed.tensor).unwrap(), 0);
                for (name, rows) in &placed.parts {
                    let got = describe(&numbers(&sum.narrow(0, first, *rows).unwrap()));
                    let want = golden.gradients[name];
                    let error = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
                    let name = format!("{} {name} in chunks of {chunk}", case.display());
                    assert!(error < AUTOGRAD_TOLERANCE * want[0], "{name}: {got:?} for {want:?}");
                    (first, checked) = (first + rows, checked + 1);
                }
            }
            assert_eq!(checked, golden.gradients.len(), "{}", case.display());
        }
    }
}

#[test]
fn the_loss_changes_along_every_tensor_as_its_gradient_says() {
    for case in cases() {
        let (model, tokens) = (load(&case), tokens(&case));
        let tokens = &tokens[..70];
        let rescale = Rescale::with_factors(vec![1.7; model.description().geometry.pairs()]);
        let sums = WeightGradients::zeros(weights(&model)).unwrap();
        add(&model, &rescale, Lesson { tokens, counted_from: 0, scale: 1.0, gaps: &[] }, 20, &sums);
        for placed in model.parameters().placed() {
            let (start, sum) = (numbers(&placed.tensor), sums.sum(&placed.tensor).unwrap());
            let gradient = numbers(sum);
            let size = describe(&gradient)[0];
            let loss_at = |step: f64| {
                let moved = start.iter().zip(&gradient).map(|(x, by)| (x + step * by / size) as f32).collect();
                let moved = Tensor::from_vec::<_, f32>(moved, placed.tensor.shape(), &Device::Cpu).unwrap();
                placed.tensor.slice_set(&moved, 0, 0).unwrap();
                perplexity::evaluate(&model, &rescale, tokens, 20, &CancelFlag::new(), &mut |_| {}).unwrap().nll_sum
            };
            // Fourth order, over steps that change the loss by about 0.2.
            let step = (0.2 / size).min(0.05);
            let difference = |step: f64| (loss_at(step) - loss_at(-step)) / (2.0 * step);
            let slope = (4.0 * difference(step / 2.0) - difference(step)) / 3.0;
            loss_at(0.0);
            let name = &placed.parts[0].0;
            assert!((slope / size - 1.0).abs() < DIFFERENCE_TOLERANCE, "{} {name}: {slope}, {size}", case.display());
        }
    }
}
