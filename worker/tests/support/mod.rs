//! A random Llama on disk, large enough for kernels to use all their threads.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const HIDDEN: usize = 128;
const INTERMEDIATE: usize = 256;
const VOCAB: usize = 512;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const LAYERS: usize = 2;

/// A model folder that vanishes with its value.
pub struct TestModel(tempfile::TempDir);

#[allow(dead_code, reason = "not every test needs all of it")]
impl TestModel {
    pub fn new() -> Self {
        Self::with_window(None)
    }

    /// With a sliding window in every layer.
    pub fn with_window(window: Option<usize>) -> Self {
        Self::made(window, LAYERS)
    }

    /// With so many layers.
    pub fn with_layers(layers: usize) -> Self {
        Self::made(None, layers)
    }

    /// With so many tokens in its vocabulary, beyond those of [`tokens`]: the embedding is larger than all else.
    pub fn with_vocabulary(vocab: usize) -> Self {
        let model = Self::new();
        model.edit_config(|config| config["vocab_size"] = vocab.into());
        let mut weights = weights(LAYERS);
        let embedding = (0..vocab * HIDDEN).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5);
        weights.insert("model.embed_tokens.weight".into(), (vec![vocab, HIDDEN], embedding.collect()));
        model.write(&weights);
        model
    }

    /// Gives it a head of its own, of the embedding's numbers.
    pub fn untie(&self) {
        self.edit_config(|config| config["tie_word_embeddings"] = false.into());
        self.add("lm_head.weight");
    }

    /// Adds a tensor, of the embedding's numbers.
    pub fn add(&self, tensor: &str) {
        let path = self.dir().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut views: Vec<(String, TensorView<'_>)> = tensors.tensors();
        views.push((tensor.to_owned(), tensors.tensor("model.embed_tokens.weight").unwrap()));
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }

    fn made(window: Option<usize>, layers: usize) -> Self {
        let model = Self(tempfile::tempdir().unwrap());
        let config = json!({
            "model_type": "mistral", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM, "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "sliding_window": window, "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 0
        });
        std::fs::write(model.0.path().join("config.json"), config.to_string()).unwrap();
        model.write(&weights(layers));
        model
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.0.path().join("config.json");
        let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Makes one number of a tensor NaN.
    pub fn poison(&self, tensor: &str) {
        let mut weights = weights(LAYERS);
        weights.get_mut(tensor).unwrap().1[3] = f32::NAN;
        self.write(&weights);
    }

    fn write(&self, weights: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
            .iter()
            .map(|(name, (shape, data))| {
                (name.clone(), shape.clone(), data.iter().flat_map(|x| x.to_le_bytes()).collect())
            })
            .collect();
        let views: Vec<(String, TensorView<'_>)> = bytes
            .iter()
            .map(|(name, shape, data)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
            .collect();
        safetensors::serialize_to_file(views, None, &self.0.path().join("model.safetensors")).unwrap();
    }
}

/// Token ids of a document.
pub fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 31 + i * 7) % VOCAB) as u32).collect()
}

fn weights(layers: usize) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut weights = BTreeMap::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut add = |name: String, shape: &[usize], scale: f32, mean: f32| {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            mean + scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
        };
        let data = (0..shape.iter().product()).map(|_| next()).collect();
        weights.insert(name, (shape.to_vec(), data));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], 1.0, 0.0);
    add("model.norm.weight".into(), &[HIDDEN], 0.1, 1.0);
    for layer in 0..layers {
        let mut matrix =
            |name: &str, rows, width| add(format!("model.layers.{layer}.{name}.weight"), &[rows, width], 0.15, 0.0);
        matrix("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN);
        matrix("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN);
        matrix("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN);
        matrix("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM);
        matrix("mlp.gate_proj", INTERMEDIATE, HIDDEN);
        matrix("mlp.up_proj", INTERMEDIATE, HIDDEN);
        matrix("mlp.down_proj", HIDDEN, INTERMEDIATE);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{norm}.weight"), &[HIDDEN], 0.1, 1.0);
        }
    }
    weights
}
