//! Where what is trained goes: into the model's tensors, as it is, rounded to bf16, or as low-rank additions.
//!
//! ```text
//! full   W                                 trained: W
//! LoRA   W = W0 + (alpha / rank) B A       trained: A (rank, inputs), B (outputs, rank); W0 stays
//! ```
//!
//! The sum of a low-rank addition is made after every step, so the model runs as any other, and its gradients follow from
//! that of the sum: `dB = s dW A^T`, `dA = s B^T dW`. What LoRA saves here is moments and checkpoints, not the gradient of
//! the projections it is added to.

use super::optimizer::Trained;
use crate::gradient::WeightGradients;
use crate::model::{Model, Placed};
use candle_core::{DType, Device, Result, Tensor};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use ropewalk_shared::training::{Lora, Method, Precision, TrainSpec};

/// Numbers, or one row where that is more, that are rounded at a time.
const ROUNDED_NUMBERS: usize = 1 << 18;

/// All of them.
pub(super) struct Places {
    places: Vec<Place>,
    precision: Precision,
}

/// One of the model's tensors, or some of its rows, under the name that they have in the model's files.
enum Place {
    /// All of a tensor; `trained` is its number among what is trained.
    Whole { placed: Placed, trained: usize },
    /// Rows of a tensor, to which the product of two trained tensors is added, the first of them number `trained`.
    Sum { name: String, tensor: Tensor, first: usize, base: Tensor, scale: f64, trained: usize },
}

/// Rows of a file's tensor: its name, and where they are.
pub(super) struct Merged {
    pub name: String,
    pub tensor: Tensor,
    pub first: usize,
}

// === impl Places ===

impl Places {
    /// What the specification wants trained in this model, and where it goes.
    pub fn new(model: &Model, spec: &TrainSpec) -> Result<(Self, Vec<Trained>)> {
        let (mut places, mut trained) = (Vec::new(), Vec::new());
        for placed in model.parameters().placed() {
            match &spec.method {
                Method::Full => {
                    // Rounded weights are not what is moved: small steps would be lost.
                    let value = match spec.precision {
                        Precision::F32 => placed.tensor.clone(),
                        Precision::Bf16 => placed.tensor.force_contiguous()?,
                    };
                    places.push(Place::Whole { placed: placed.clone(), trained: trained.len() });
                    trained.push(Trained::new(placed.parts[0].0.clone(), value));
                }
                Method::Lora(lora) => {
                    let mut first = 0;
                    for (name, rows) in &placed.parts {
                        if lora.has(name) {
                            let base = placed.tensor.narrow(0, first, *rows)?.force_contiguous()?;
                            let (tensor, name, scale) = (placed.tensor.clone(), name.clone(), lora.scale());
                            let [a, b] = factors(lora, spec.seed, trained.len() as u64, base.dims2()?)?;
                            let at = trained.len();
                            trained.push(Trained::new(format!("{name}.lora_a"), a));
                            trained.push(Trained::new(format!("{name}.lora_b"), b));
                            places.push(Place::Sum { name, tensor, first, base, scale, trained: at });
                        }
                        first += rows;
                    }
                }
            }
        }
        Ok((Self { places, precision: spec.precision }, trained))
    }

    /// The model's tensors whose gradients are needed.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.places.iter().map(|place| match place {
            Place::Whole { placed, .. } => &placed.tensor,
            Place::Sum { tensor, .. } => tensor,
        })
    }

    /// Brings what is trained into the model.
    pub fn fill(&self, trained: &[Trained]) -> Result<()> {
        for place in &self.places {
            let (tensor, first) = match place {
                // The value is the model's tensor.
                Place::Whole { .. } if self.precision == Precision::F32 => continue,
                Place::Whole { placed, .. } => (&placed.tensor, 0),
                Place::Sum { tensor, first, .. } => (tensor, *first),
            };
            let value = place.value(trained)?;
            match self.precision {
                Precision::F32 => tensor.slice_set(&value, 0, first)?,
                Precision::Bf16 => set_rounded(tensor, &value, first)?,
            }
        }
        Ok(())
    }

    /// Gradients of what is trained, in its order.
    pub fn gradients(&self, trained: &[Trained], of_weights: &WeightGradients) -> Result<Vec<Tensor>> {
        let mut gradients = Vec::with_capacity(trained.len());
        for place in &self.places {
            match place {
                Place::Whole { placed, .. } => gradients.push(of_weights.sum(&placed.tensor)?.clone()),
                Place::Sum { tensor, first, base, scale, trained: at, .. } => {
                    let of_sum = of_weights.sum(tensor)?.narrow(0, *first, base.dim(0)?)?;
                    gradients.extend(product_gradients(&of_sum, &trained[*at].value, &trained[*at + 1].value, *scale)?);
                }
            }
        }
        Ok(gradients)
    }

    /// The trained weights in f32, by the names of the model's files.
    pub fn merged(&self, trained: &[Trained]) -> Result<Vec<Merged>> {
        let mut merged = Vec::new();
        for place in &self.places {
            let tensor = place.value(trained)?;
            match place {
                Place::Sum { name, .. } => merged.push(Merged { name: name.clone(), tensor, first: 0 }),
                Place::Whole { placed, .. } => {
                    let mut first = 0;
                    for (name, rows) in &placed.parts {
                        merged.push(Merged { name: name.clone(), tensor: tensor.clone(), first });
                        first += rows;
                    }
                }
            }
        }
        Ok(merged)
    }
}

/// Overwrites rows of a tensor, from `first` on, by `value` rounded to bf16: some at a time, as the largest tensor once more
/// may be more than there is room for.
fn set_rounded(tensor: &Tensor, value: &Tensor, first: usize) -> Result<()> {
    let count = value.dim(0)?;
    let rows = (ROUNDED_NUMBERS * count / value.elem_count().max(1)).max(1);
    for at in (0..count).step_by(rows) {
        let part = value.narrow(0, at, rows.min(count - at))?;
        tensor.slice_set(&part.to_dtype(DType::BF16)?.to_dtype(DType::F32)?, 0, first + at)?;
    }
    Ok(())
}

impl Place {
    /// The weights, in f32.
    fn value(&self, trained: &[Trained]) -> Result<Tensor> {
        match self {
            Self::Whole { trained: at, .. } => Ok(trained[*at].value.clone()),
            Self::Sum { base, scale, trained: at, .. } => {
                base + (trained[*at + 1].value.matmul(&trained[*at].value)? * *scale)?
            }
        }
    }
}

/// Gradients of `a` and `b`, given that of `scale b a`.
fn product_gradients(of_sum: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<[Tensor; 2]> {
    Ok([(b.t()?.matmul(of_sum)? * scale)?, (of_sum.matmul(&a.t()?)? * scale)?])
}

/// `A` even within `1 / sqrt(inputs)`, and `B` zero: the model begins as it is.
fn factors(lora: &Lora, seed: u64, stream: u64, (outputs, inputs): (usize, usize)) -> Result<[Tensor; 2]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let (rank, bound) = (lora.rank as usize, 1.0 / (inputs as f32).sqrt());
    let numbers: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
    Ok([
        Tensor::from_vec(numbers, (rank, inputs), &Device::Cpu)?,
        Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_a_product_are_differences_of_what_it_is_in() {
        let tensor = |rows: usize, columns: usize, seed: usize| -> Tensor {
            let numbers = (0..rows * columns).map(|i| (((i + seed) * 7919 % 1013) as f64 - 506.0) / 500.0).collect();
            Tensor::from_vec::<_, f64>(numbers, (rows, columns), &Device::Cpu).unwrap()
        };
        let (of_sum, a, b) = (tensor(5, 7, 1), tensor(2, 7, 2), tensor(5, 2, 3));
        // A loss whose gradient by the sum is `of_sum`.
        let loss = |a: &Tensor, b: &Tensor| -> f64 {
            let sum = (b.matmul(a).unwrap() * 1.5).unwrap();
            (sum * &of_sum).unwrap().sum_all().unwrap().to_scalar().unwrap()
        };
        let [by_a, by_b] = product_gradients(&of_sum, &a, &b, 1.5).unwrap();
        let moved = |x: &Tensor, at: usize, by: f64| -> Tensor {
            let mut numbers: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
            numbers[at] += by;
            Tensor::from_vec(numbers, x.shape(), &Device::Cpu).unwrap()
        };
        for (by, which) in [(by_a, true), (by_b, false)] {
            let by: Vec<f64> = by.flatten_all().unwrap().to_vec1().unwrap();
            for (at, by) in by.iter().enumerate() {
                let at_step =
                    |step| if which { loss(&moved(&a, at, step), &b) } else { loss(&a, &moved(&b, at, step)) };
                let difference = (at_step(1e-3) - at_step(-1e-3)) / 2e-3;
                assert!((difference - by).abs() < 1e-9, "{difference} for {by}");
            }
        }
    }
}
