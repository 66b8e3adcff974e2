//! Evaluates LongRoPE candidates: the perplexity of long documents under rescaled RoPE.
//!
//! [`model`] reads a Hugging Face checkpoint into one decoder, [`evaluator`] runs documents through it: layer by
//! layer and in chunks, so that the keys and values of a single layer and the logits of a single chunk are all that
//! ever exists at a time. Kernels are of this crate ([`kernels`]), chosen at run time for the machine, in f32 on the CPU
//! unless something faster is asked for; products on a GPU are cuBLAS's. [`gradient`] carries a document's loss back to the
//! candidate's numbers, [`train`] to the weights.
//!
//! ```no_run
//! use ropewalk_worker::{cancel::CancelFlag, device::Dtype, evaluator::{Evaluator, EvaluatorOptions}, model::Model};
//! use ropewalk_shared::rope::Rescale;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load("model".as_ref(), &candle_core::Device::Cpu, Dtype::F32)?;
//! let rescale = Rescale::with_factors(vec![4.0; model.description().geometry.pairs()]);
//! let evaluator = Evaluator::new(model.into(), EvaluatorOptions::default())?;
//! let loss = evaluator.evaluate(&rescale, &[1, 2, 3], &CancelFlag::new(), &mut |_| {})?;
//! println!("{} nats over {} tokens", loss.nll_sum, loss.tokens);
//! # Ok(()) }
//! ```

pub mod attention;
pub mod cancel;
pub mod cost;
pub mod counted;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub mod device;
pub mod evaluator;
mod first_layer;
pub mod fold;
pub mod gradient;
pub mod greedy;
pub mod kernels;
pub mod ledger;
pub mod memory;
pub mod model;
mod ops;
pub mod perplexity;
pub mod placement;
mod ring;
pub mod rope_table;
pub mod simd;
mod tiles;
pub mod train;
pub mod work_loop;
