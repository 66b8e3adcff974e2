//! Which numbers are trained, and in which format the weights go through the model.

use serde::{Deserialize, Serialize};

/// Projections that low-rank additions can be made to; the last two are those of models with fused tensors.
pub const LORA_TARGETS: [&str; 9] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"];

/// Which numbers are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// All weights.
    #[default]
    Full,
    /// Low-rank additions to projections, which are merged into the result.
    Lora(Lora),
}

/// Low-rank additions (Hu and others): `W + (alpha / rank) B A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of `A` and columns of `B`.
    pub rank: u32,
    /// Over the rank, the factor on the product.
    pub alpha: f64,
    /// Projections, of [`LORA_TARGETS`]; a model's other weights stay as they are.
    pub targets: Vec<String>,
}

/// Number format of the weights that go through the model. Arithmetic, gradients, moments and what is moved are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As they are moved.
    #[default]
    F32,
    /// Rounded to bf16, as engines will load them, and moved in f32.
    Bf16,
}

impl Lora {
    /// Whether an addition is made to the tensor of this name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub fn has(&self, name: &str) -> bool {
        let projection = name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
        projection.is_some_and(|projection| self.targets.iter().any(|target| target == projection))
    }

    /// Factor on the product.
    pub fn scale(&self) -> f64 {
        self.alpha / f64::from(self.rank)
    }
}
