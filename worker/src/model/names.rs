//! What the tensors of a layer are called in the files of every family.

use super::config::DecoderSpec;

/// How the names of all layers' tensors begin.
pub(super) const LAYERS: &str = "model.layers.";
/// What older checkpoints have beside a layer's weights: frequencies and tables that follow from config.json.
const DERIVED: [&str; 3] = [".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"];

/// The layer that a tensor belongs to, if it is one of a layer.
pub(super) fn layer_of(tensor: &str) -> Option<usize> {
    tensor.strip_prefix(LAYERS)?.split('.').next()?.parse().ok()
}

/// Projections of the same input, read as one.
pub(super) struct Projection {
    /// Names without `.weight`, and outputs.
    pub parts: Vec<(String, usize)>,
    pub inputs: usize,
    pub bias: bool,
}

/// The tensors of one layer.
pub(super) struct LayerNames {
    pub input_norm: String,
    pub qkv: Projection,
    /// Of queries and keys, where they are normalised per head.
    pub head_norms: Option<[String; 2]>,
    pub output: Projection,
    pub mlp_norm: String,
    pub gate_up: Projection,
    pub down: Projection,
}

// === impl Projection ===

impl Projection {
    /// The output head, where it is not tied to the embedding.
    pub fn head(spec: &DecoderSpec) -> Self {
        Self { parts: vec![("lm_head".to_owned(), spec.vocab)], inputs: spec.hidden, bias: false }
    }

    /// The tensors of weights or of biases, and their rows.
    pub fn tensors(&self, kind: &str) -> Vec<(String, usize)> {
        self.parts.iter().map(|(name, rows)| (format!("{name}.{kind}"), *rows)).collect()
    }
}

// === impl LayerNames ===

impl LayerNames {
    /// Those that `spec` calls for.
    pub fn of(spec: &DecoderSpec, index: usize) -> Self {
        let name = |part: &str| format!("{LAYERS}{index}.{part}");
        let (hidden, intermediate, queries, keys) =
            (spec.hidden, spec.intermediate, spec.query_width(), spec.key_width());
        let projection = |parts: &[(&str, usize)], inputs, bias| {
            let parts = parts.iter().map(|(part, rows)| (name(part), *rows)).collect();
            Projection { parts, inputs, bias }
        };
        let (qkv, gate_up): (&[_], &[_]) = if spec.fused_tensors {
            (&[("self_attn.qkv_proj", queries + 2 * keys)], &[("mlp.gate_up_proj", 2 * intermediate)])
        } else {
            (
                &[("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys)],
                &[("mlp.gate_proj", intermediate), ("mlp.up_proj", intermediate)],
            )
        };
        Self {
            input_norm: name("input_layernorm.weight"),
            qkv: projection(qkv, hidden, spec.qkv_bias),
            head_norms: spec.head_norm.then(|| ["q", "k"].map(|part| name(&format!("self_attn.{part}_norm.weight")))),
            output: projection(&[("self_attn.o_proj", hidden)], queries, spec.output_bias),
            mlp_norm: name("post_attention_layernorm.weight"),
            gate_up: projection(gate_up, hidden, spec.mlp_bias),
            down: projection(&[("mlp.down_proj", hidden)], intermediate, spec.mlp_bias),
        }
    }

    /// Whether a tensor of the files belongs to this layer, or says nothing that config.json does not.
    pub fn has(&self, tensor: &str) -> bool {
        let norms = [&self.input_norm, &self.mlp_norm].into_iter().chain(self.head_norms.iter().flatten());
        let projections = [&self.qkv, &self.output, &self.gate_up, &self.down];
        let kind_of = |projection: &Projection| {
            let kind = projection.parts.iter().find_map(|(name, _)| tensor.strip_prefix(name.as_str()));
            kind.is_some_and(|kind| kind == ".weight" || (projection.bias && kind == ".bias"))
        };
        norms.into_iter().any(|norm| norm == tensor)
            || projections.into_iter().any(kind_of)
            || DERIVED.iter().any(|name| tensor.ends_with(name))
    }
}
