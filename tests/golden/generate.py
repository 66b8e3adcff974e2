#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the golden vectors that the Rust tests check, with Hugging Face transformers as the judge.

    pip install torch transformers safetensors numpy      (mpmath comes with torch)
    python tests/golden/generate.py                       everything
    python tests/golden/generate.py --only phi3-longrope  some cases (repeatable); rope.json is left alone
    python tests/golden/generate.py --peer peer_eval.py   also compares every loss with a peer_eval.py

For each entry of CASES: a tiny random model (config.json and weights) and golden.json, the losses that transformers
gives it. rope.json: rescale vectors, attention factors and angles. README.md beside the output documents the files.

Weights come from numpy's generator, seeded by the case's name: the same script gives the same bytes. Losses are always
computed from the files as written, in float32, one thread, eager attention.
"""
import argparse
import importlib.util
import json
import math
import os
import shutil
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import mpmath
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, modeling_rope_utils
from transformers.models.phi3 import modeling_phi3

OUT = Path(__file__).resolve().parent.parent / "data" / "golden"
TOKENS = 149
WINDOW = 64  # the original window of every case that has one

# === The cases ===

# Two heads of 16 over one key-value head: small enough for a repository, eight rotary pairs.
SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=WINDOW, rms_norm_eps=1e-3, bos_token_id=1,
             eos_token_id=2, pad_token_id=None, tie_word_embeddings=False)
APART = dict(SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=16)  # 4 x 16 is not the hidden size


# Heads and a feed-forward block as wide as those of real models, and a document of several blocks of every kernel.
WIDE = dict(SMALL, intermediate_size=64, head_dim=64)
WHOLE = dict(WIDE, hidden_size=64, num_attention_heads=1)  # for families whose heads divide the hidden size
LONG = (37, 333)


def rope(rope_type="default", theta=10000.0, **more):
    return {"rope_type": rope_type, "rope_theta": theta, **more}


def case(model_type, settings, rope_parameters=None, *, dtype="float16", style=5, shard=None, drop=(), edit=None,
         lengths=(37, TOKENS)):
    """`style` 4 writes config.json as transformers 4 did; `drop` and `edit` remove and set its keys afterwards. The longest
    of the lengths is that of the document."""
    return dict(model_type=model_type, settings=settings, rope=rope_parameters or rope(), dtype=dtype, style=style,
                shard=shard, drop=drop, edit=edit or {}, lengths=lengths)


PHI = dict(SMALL, original_max_position_embeddings=WINDOW)
STRETCHED = dict(SMALL, max_position_embeddings=4 * WINDOW)
EDGES = (37, WINDOW, WINDOW + 1, TOKENS)  # exactly the original window, and one more
LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=WINDOW)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=WINDOW)
SHORT8 = [1.0, 1.02, 1.05, 1.05, 1.1, 1.2, 1.25, 1.3]
LONG8 = [1.0, 1.11, 1.37, 1.9, 2.64, 3.3, 4.05, 4.4]
LONGROPE = rope("longrope", short_factor=SHORT8, long_factor=LONG8, original_max_position_embeddings=WINDOW)
PHI_EDIT = {"original_max_position_embeddings": WINDOW,
            "rope_scaling": {"type": "longrope", "short_factor": SHORT8, "long_factor": LONG8}}

CASES = {
    "llama": case("llama", APART, dtype="float32"),
    "llama-tied": case("llama", dict(APART, tie_word_embeddings=True), dtype="bfloat16"),
    "llama-v4": case("llama", SMALL, rope(theta=500000.0), style=4, drop=("head_dim", "num_key_value_heads"),
                     edit={"num_key_value_heads": 1, "torch_dtype": "float16"}),
    "llama-mlp-attn-bias": case("llama", dict(SMALL, attention_bias=True, mlp_bias=True), dtype="bfloat16"),
    "llama-sharded": case("llama", APART, rope(theta=1000.0), shard="32KB"),
    "llama-linear": case("llama", STRETCHED, rope("linear", factor=4.0)),
    "llama-linear-v4": case("llama", STRETCHED, rope("linear", 1000.0, factor=2.5), style=4,
                            edit={"rope_scaling": {"type": "linear", "factor": 2.5}}),
    "llama-dynamic": case("llama", SMALL, rope("dynamic", factor=3.0), lengths=EDGES),
    "llama-llama3": case("llama", dict(SMALL, max_position_embeddings=8 * WINDOW), LLAMA3),
    "llama-llama3-v4": case("llama", dict(SMALL, max_position_embeddings=8 * WINDOW), LLAMA3, style=4),
    "llama-yarn": case("llama", STRETCHED, YARN),
    "llama-yarn-v4": case("llama", STRETCHED, dict(YARN, beta_fast=3.5, beta_slow=0.4, truncate=False,
                                                   attention_factor=1.3), style=4),
    "llama-longrope": case("llama", STRETCHED, LONGROPE, lengths=EDGES),
    # the original length at top level wins over the one in the dictionary
    "llama-longrope-v4": case("llama", STRETCHED, dict(LONGROPE, factor=8.0, attention_factor=1.25,
                                                       original_max_position_embeddings=WINDOW // 2), style=4,
                              edit={"original_max_position_embeddings": WINDOW}, lengths=EDGES),
    # the last position is never scored: 26 is the first length that a window of 24 changes
    "mistral": case("mistral", dict(SMALL, sliding_window=24), dtype="bfloat16", lengths=(25, 26, TOKENS)),
    # sizes that no vector width divides
    "mistral-nowindow": case("mistral", dict(SMALL, vocab_size=97, hidden_size=36, intermediate_size=43,
                                             num_attention_heads=3, sliding_window=None),
                             edit={"head_dim": None}),
    "qwen2": case("qwen2", dict(SMALL, sliding_window=24, use_sliding_window=False), rope(theta=1000000.0),
                  dtype="bfloat16"),
    "qwen2-window": case("qwen2", dict(SMALL, sliding_window=24, use_sliding_window=True, max_window_layers=1)),
    "qwen2-window-v4": case("qwen2", dict(SMALL, sliding_window=24, use_sliding_window=True, max_window_layers=1),
                            style=4),
    "qwen3": case("qwen3", dict(APART, tie_word_embeddings=True), rope(theta=1000000.0), dtype="bfloat16"),
    "phi3": case("phi3", dict(PHI, num_key_value_heads=2), dtype="bfloat16"),
    "phi3-partial": case("phi3", dict(PHI, sliding_window=WINDOW), rope(partial_rotary_factor=0.5)),
    "phi3-partial-v4": case("phi3", PHI, rope(partial_rotary_factor=0.75), style=4),
    "llama-wide": case("llama", WIDE, lengths=LONG),
    "llama-wide-256": case("llama", dict(WIDE, head_dim=256, num_attention_heads=1), dtype="bfloat16", lengths=LONG),
    "mistral-wide": case("mistral", dict(WIDE, sliding_window=100), lengths=LONG),
    "qwen2-wide": case("qwen2", dict({k: v for k, v in WHOLE.items() if k != "head_dim"}, sliding_window=150,
                                     use_sliding_window=True, max_window_layers=1), lengths=LONG),
    "qwen3-wide": case("qwen3", dict(WIDE, head_dim=128, intermediate_size=96), dtype="bfloat16", lengths=LONG),
    "phi3-wide": case("phi3", dict({k: v for k, v in WHOLE.items() if k != "head_dim"},
                                   original_max_position_embeddings=WINDOW), rope(partial_rotary_factor=0.75), lengths=LONG),
    "phi3-longrope": case("phi3", dict(STRETCHED, original_max_position_embeddings=WINDOW), LONGROPE, style=4,
                          edit=PHI_EDIT, lengths=EDGES),
}

# === Model files ===


def as_version_4(config):
    """The same model as transformers 4 wrote it: rope_theta at top level, scaling apart, no layer types."""
    config = dict(config)
    scaling = dict(config.pop("rope_parameters"))
    config["rope_theta"] = scaling.pop("rope_theta")
    part = scaling.pop("partial_rotary_factor", None)
    if part is not None:
        config["partial_rotary_factor"] = part
    config["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    config.pop("layer_types", None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config


def randomise(model, rng):
    """Wide enough that attention, positions, norms and biases all show in the loss."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = rng.standard_normal(tuple(p.shape))
            if p.dim() == 1:
                x = 0.3 * x + (0.0 if name.endswith("bias") else 1.0)
            else:
                x *= (0.5 if "embed_tokens" in name else 1.3 / math.sqrt(p.shape[1]))
            p.copy_(torch.from_numpy(x).to(p.dtype))


def write_model(directory, spec, rng):
    # from the dictionary, so that transformers itself reads and checks what it will then write
    config = AutoConfig.for_model(spec["model_type"], **json.loads(json.dumps(
        dict(spec["settings"], rope_parameters=spec["rope"]))))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, rng)
    shutil.rmtree(directory, ignore_errors=True)
    shard = {"max_shard_size": spec["shard"]} if spec["shard"] else {}
    model.to(getattr(torch, spec["dtype"])).save_pretrained(directory, **shard)
    (directory / "generation_config.json").unlink(missing_ok=True)
    for file in directory.iterdir():
        file.chmod(0o644)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if spec["style"] == 4:
        config = as_version_4(config)
    config = {k: v for k, v in config.items() if k not in spec["drop"]} | spec["edit"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(directory):
    """A fresh model: some rope types remember the longest sequence they have seen."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                 local_files_only=True)
    return model.eval()


# === Losses ===


class Rescaled(torch.nn.Module):
    """RoPE with rescale factors: position n of pair i turns by n / beta^i below `start_tokens` and by
    n / (lambda_i beta^i) from there on, beta = theta^(2/d). Angles in float64."""

    def __init__(self, theta, dim, evaluation):
        super().__init__()
        self.plain = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        self.scaled = self.plain / torch.tensor(evaluation["rescale_factors"], dtype=torch.float64)
        self.start, self.factor = evaluation["start_tokens"], evaluation["attention_factor"]

    def forward(self, x, position_ids):
        n = position_ids[..., None].double()
        angle = torch.where(n < self.start, n * self.plain, n * self.scaled)
        angle = torch.cat((angle, angle), dim=-1)
        return (angle.cos() * self.factor).to(x.dtype), (angle.sin() * self.factor).to(x.dtype)


def rotary_geometry(config):
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.rope_parameters["rope_theta"], int(head * config.rope_parameters.get("partial_rotary_factor", 1.0))


def planned_evaluations(spec, pairs, rng):
    factors = sorted(float(x) / 100 for x in rng.integers(100, 501, size=pairs))
    for n in spec["lengths"]:
        yield dict(name=f"as-shipped-{n}", length=n, rescale_factors=None, start_tokens=0, attention_factor=1.0)
    for name, values, start, attention in [("rescaled", factors, 0, 1.0), ("rescaled-start4", factors, 4, 1.0),
                                           ("rescaled-start4-attention", factors, 4, 1.17),
                                           ("ones", [1.0] * pairs, 0, 1.0)]:
        yield dict(name=name, length=max(spec["lengths"]), rescale_factors=values, start_tokens=start, attention_factor=attention)


@torch.inference_mode()
def summed_nll(model, ids):
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").double().sum().item()


def evaluate(directory, evaluation, tokens, peer):
    model = load(directory)
    if evaluation["rescale_factors"]:
        theta, dim = rotary_geometry(model.config)
        model.model.rotary_emb = Rescaled(theta, dim, evaluation)
    ids = torch.tensor(tokens[:evaluation["length"]])
    total = summed_nll(model, ids)
    if peer:
        compare_with_peer(peer, load(directory), evaluation, ids, total)
    predicted = len(ids) - 1
    return dict(evaluation, nll_sum=total, predicted=predicted, nll=total / predicted)


def compare_with_peer(peer, model, evaluation, ids, total):
    rotary = None
    if evaluation["rescale_factors"]:
        spec = dict(factors=evaluation["rescale_factors"], n_hat=evaluation["start_tokens"], base=None,
                    attention_factor=evaluation["attention_factor"])
        rotary = peer.make_rotary(torch, model.config, spec, "f64")
    with torch.inference_mode(), peer.rotary_replaced(model, rotary):
        theirs, _ = peer.nll(torch, model, ids, 64)
    assert abs(theirs - total) < 1e-6 * total, (evaluation["name"], theirs, total)


def generate_case(name, spec, peer):
    directory = OUT / name
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    write_model(directory, spec, rng)
    config = AutoConfig.from_pretrained(directory)
    tokens = [int(t) for t in rng.integers(0, config.vocab_size, size=max(spec["lengths"]))]
    plan = planned_evaluations(spec, rotary_geometry(config)[1] // 2, rng)
    results = [evaluate(directory, e, tokens, peer) for e in plan]
    write_json(directory / "golden.json", dict(versions(), tokens=tokens, evaluations=results))
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{name:20} {size:7} bytes  " + "  ".join(f"{r['name']} {r['nll']:.6f}" for r in results))


# === rope.json ===


class InFloat64:
    """Stands in for `torch` inside a transformers module, so that its formulas run in float64."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def in_float64(module, function, *args, **kwargs):
    """The function's result in float64, checked against its own float32 result."""
    ordinary, ordinary_attention = function(*args, **kwargs)
    module.torch = InFloat64()
    try:
        frequencies, attention = function(*args, **kwargs)
    finally:
        module.torch = torch
    assert frequencies.dtype == torch.float64 and attention == ordinary_attention
    assert torch.allclose(frequencies, ordinary.double(), rtol=1e-5, atol=0)
    return frequencies, attention


def rope_function(kind, geometry, seq_len=None, stretch=1, **parameters):
    config = LlamaConfig(hidden_size=4 * geometry["head_dim"], num_attention_heads=4, head_dim=geometry["head_dim"],
                         max_position_embeddings=int(geometry["original_tokens"] * stretch),
                         rope_parameters=rope(kind, geometry["theta"], **parameters,
                                              partial_rotary_factor=geometry["partial_rotary_factor"]))
    if kind == "default":  # Phi-3's, because Llama's overlooks partial_rotary_factor
        return in_float64(modeling_phi3, modeling_phi3.Phi3RotaryEmbedding.compute_default_rope_parameters, config)
    function = modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind]
    if kind == "longrope":  # only its attention factor is used: plain Python arithmetic
        return function(config)
    return in_float64(modeling_rope_utils, function, config, seq_len=seq_len)


def rescale_vectors(geometry, ratio):
    window, pairs = geometry["original_tokens"], geometry["rotary_dim"] // 2
    plain, _ = rope_function("default", geometry)

    def factors(frequencies):
        return (plain / frequencies).tolist()

    kept = dict(factor=ratio, original_max_position_embeddings=window)
    yarn, yarn_attention = rope_function("yarn", geometry, stretch=ratio, beta_fast=32, beta_slow=1, **kept)
    ones = [1.0] * pairs
    _, longrope_attention = rope_function("longrope", geometry, stretch=ratio, short_factor=ones, long_factor=ones,
                                          **kept)
    return dict(
        ratio=ratio,
        pi=factors(rope_function("linear", geometry, factor=ratio)[0]),
        ntk=factors(rope_function("dynamic", geometry, factor=1.0, seq_len=int(ratio * window))[0]),
        yarn=factors(yarn),
        llama3=factors(rope_function("llama3", geometry, stretch=ratio, low_freq_factor=1.0, high_freq_factor=4.0,
                                     **kept)[0]),
        yarn_attention_factor=yarn_attention,
        longrope_attention_factor=longrope_attention)


def rotation_at(geometry, factors, start_tokens, n):
    """cos and sin from the definition alone, with 50 digits."""
    half = len(factors)
    with mpmath.workdps(50):
        theta = mpmath.mpf(geometry["theta"])
        angles = [n / (mpmath.mpf(factors[i] if n >= start_tokens else 1) * theta ** (mpmath.mpf(i) / half))
                  for i in range(half)]
        return dict(position=n, cos=[float(mpmath.cos(a)) for a in angles], sin=[float(mpmath.sin(a)) for a in angles])


def generate_rope():
    geometries = []
    for head_dim, part, theta, window in [(128, 1.0, 10000.0, 4096), (64, 1.0, 500000.0, 8192),
                                          (64, 0.75, 10000.0, 4096)]:
        geometry = dict(head_dim=head_dim, partial_rotary_factor=part, rotary_dim=int(head_dim * part), theta=theta,
                        original_tokens=window)
        half, start = geometry["rotary_dim"] // 2, 4
        rng = np.random.default_rng(half)
        factors = sorted(float(x) / 100 for x in rng.integers(100, 1001, size=half))
        rows = [rotation_at(geometry, factors, start, n) for n in (0, 1, 3, 4, 5, 100, 4095, 131071)]
        geometries.append(dict(
            geometry, inv_freq=rope_function("default", geometry)[0].tolist(),
            extensions=[rescale_vectors(geometry, ratio) for ratio in (4.0, 8.0, 32.0)],
            rotation=dict(rescale_factors=factors, start_tokens=start, rows=rows)))
    write_json(OUT / "rope.json", dict(versions(), mpmath=mpmath.__version__, relative_tolerance=1e-12,
                                       rotation_absolute_tolerance=1e-9, geometries=geometries))


# === Output ===


def versions():
    return dict(transformers=transformers.__version__, torch=torch.__version__.split("+")[0], numpy=np.__version__)


def write_json(path, value):
    """Indented, but a list of numbers stays on one line."""
    def text(v, pad):
        deeper = pad + "  "
        if isinstance(v, dict):
            items = [f"{json.dumps(k)}: {text(x, deeper)}" for k, x in v.items()]
            return "{\n" + ",\n".join(deeper + i for i in items) + "\n" + pad + "}"
        if isinstance(v, list) and v and isinstance(v[0], dict):
            return "[\n" + ",\n".join(deeper + text(x, deeper) for x in v) + "\n" + pad + "]"
        return json.dumps(v, allow_nan=False)
    path.write_text(text(value, "") + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="just this case (repeatable)")
    parser.add_argument("--peer", type=Path, help="a peer_eval.py whose losses must agree")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    peer = None
    if args.peer:
        found = importlib.util.spec_from_file_location("peer_eval", args.peer)
        peer = importlib.util.module_from_spec(found)
        found.loader.exec_module(peer)
    for name in args.only or CASES:
        generate_case(name, CASES[name], peer)
    if not args.only:
        generate_rope()


if __name__ == "__main__":
    main()
