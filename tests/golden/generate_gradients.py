#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the golden gradients that the Rust tests check, with PyTorch's autograd as the judge.

    pip install torch transformers safetensors numpy      (as for generate.py, whose models must be there)
    python tests/golden/generate_gradients.py             everything
    python tests/golden/generate_gradients.py --only phi3-partial    some cases (repeatable)

For each of CASES: gradient.json, the loss of the case's tokens under rescale factors and its derivatives by the
logarithms of these factors and of the attention factor; weight_gradient.json, the loss of the tokens from one position
on and what identifies its gradient by each tensor of the model. For each of SKIPPING: skipping_gradient.json, the same where
positions are skipped. For each of TRAINED: training.json, a few steps of
torch.optim.AdamW. All arithmetic is float64, transformers' own float32 steps (norms, softmax) included, and the
derivatives by factors are checked against differences of the loss. README.md beside the output documents the files.
"""
import argparse
import json
import math
import sys

import torch
import transformers

import generate

CASES = ["llama", "llama-tied", "llama-mlp-attn-bias", "mistral", "qwen2", "qwen2-window", "qwen3", "phi3",
         "phi3-partial"]
TRAINED = ["llama", "qwen2"]
SKIPPING = ["llama", "qwen3"]
GAPS = [(23, 500), (61, 3000)]  # token, positions that are skipped before it
COUNTED_FROM = 11
EVALUATION = "rescaled-start4-attention"  # of golden.json
STEP = 1e-5


class Differentiable(torch.nn.Module):
    """As generate.Rescaled, by the logarithms of the factors and of the attention factor; that may be one for each pair."""

    def __init__(self, theta, dim, log_factors, log_attention_factor, start, gaps=()):
        super().__init__()
        self.gaps = gaps
        self.plain = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        self.log_factors, self.log_attention_factor, self.start = log_factors, log_attention_factor, start

    def forward(self, x, position_ids):
        # Not by position_ids of the model's caller: transformers takes those that jump for several documents.
        n = position_ids + sum((position_ids >= before) * width for before, width in self.gaps)
        n = n[..., None].double()
        angle = torch.where(n < self.start, n * self.plain, n * (self.plain / self.log_factors.exp()))
        angle = torch.cat((angle, angle), dim=-1)
        factor = self.log_attention_factor.exp().expand(len(self.plain)).repeat(2)
        return angle.cos() * factor, angle.sin() * factor


def load_float64(name):
    """The model, with everything that its module asks for in float32 done in float64."""
    model = generate.load(generate.OUT / name).double()
    sys.modules[type(model).__module__].torch = generate.InFloat64()
    return model


def loss(model, ids, evaluation, log_factors, log_attention_factor, counted_from=1, gaps=()):
    theta, dim = generate.rotary_geometry(model.config)
    model.model.rotary_emb = Differentiable(theta, dim, log_factors, log_attention_factor, evaluation["start_tokens"],
                                              gaps)
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    assert logits.dtype == torch.float64
    return torch.nn.functional.cross_entropy(logits[counted_from - 1:], ids[counted_from:], reduction="sum")


def check_differences(of, point, gradient):
    """Central differences in float64 are good to about 1e-6 of the gradient."""
    for i in range(len(point)):
        step = torch.zeros_like(point)
        step[i] = STEP
        with torch.inference_mode():
            difference = (of(point + step) - of(point - step)).item() / (2 * STEP)
        assert abs(difference - gradient[i]) < 1e-5 * gradient.norm(), (i, difference, gradient[i].item())


def generate_case(name):
    directory = generate.OUT / name
    golden = json.loads((directory / "golden.json").read_text())
    evaluation = next(e for e in golden["evaluations"] if e["name"] == EVALUATION)
    model, ids = load_float64(name), torch.tensor(golden["tokens"][:evaluation["length"]])
    numbers = evaluation["rescale_factors"] + [evaluation["attention_factor"]]
    point = torch.tensor(numbers, dtype=torch.float64).log()

    # The factors, the attention factor of all pairs, and what each pair's is multiplied by.
    pairs = len(point) - 1
    point = torch.cat((point, torch.zeros(pairs, dtype=torch.float64)))

    def of(point):
        return loss(model, ids, evaluation, point[:pairs], point[pairs] + point[pairs + 1:])

    variable = point.clone().requires_grad_()
    nll_sum = of(variable)
    nll_sum.backward()
    gradient = variable.grad
    check_differences(of, point, gradient)
    assert abs(nll_sum.item() / evaluation["nll_sum"] - 1) < 1e-6, (nll_sum.item(), evaluation["nll_sum"])
    kept = {k: evaluation[k] for k in ("length", "rescale_factors", "start_tokens", "attention_factor")}
    generate.write_json(directory / "gradient.json", dict(
        generate.versions(), **kept, nll_sum=nll_sum.item(), log_factors=gradient[:pairs].tolist(),
        log_attention_factor=gradient[pairs].item(), log_pair_attention=gradient[pairs + 1:].tolist()))
    print(f"{name:20} nll_sum {nll_sum.item():.9f}  norm {gradient.norm().item():.6f}")


def describe(tensor):
    """Length, and products with two fixed directions: what tells a tensor of any size from others."""
    flat = tensor.flatten()
    index = torch.arange(len(flat))
    directions = [(index * prime % 1013 - 506).double() / 506 for prime in (7919, 6007)]
    return [flat.norm().item()] + [(flat * direction).sum().item() for direction in directions]


def weight_gradients(name, gaps=(), file="weight_gradient.json"):
    """Of the loss from COUNTED_FROM on, by every tensor of the model."""
    directory = generate.OUT / name
    golden = json.loads((directory / "golden.json").read_text())
    evaluation = next(e for e in golden["evaluations"] if e["name"] == EVALUATION)
    model, ids = load_float64(name), torch.tensor(golden["tokens"][:evaluation["length"]])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    point = torch.tensor(evaluation["rescale_factors"] + [evaluation["attention_factor"]], dtype=torch.float64).log()
    nll_sum = loss(model, ids, evaluation, point[:-1], point[-1], COUNTED_FROM, gaps)
    nll_sum.backward()
    gradients = {n: describe(p.grad) for n, p in model.named_parameters()}
    kept = {k: evaluation[k] for k in ("length", "rescale_factors", "start_tokens", "attention_factor")}
    if gaps:
        kept["gaps"] = [dict(before=before, width=width) for before, width in gaps]
    generate.write_json(directory / file, dict(
        generate.versions(), **kept, counted_from=COUNTED_FROM, nll_sum=nll_sum.item(), gradients=gradients))


def train(name):
    """Six steps of two sequences each: one under the factors, and two short documents under the original RoPE."""
    directory = generate.OUT / name
    golden = json.loads((directory / "golden.json").read_text())
    evaluation = next(e for e in golden["evaluations"] if e["name"] == EVALUATION)
    kept = {k: evaluation[k] for k in ("rescale_factors", "start_tokens", "attention_factor")}
    model, ids = load_float64(name), torch.tensor(golden["tokens"])
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    rate, warmup, steps, decay, clip, final = 3e-3, 2, 6, 0.1, 1.0, 0.1
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in parameters if p.ndim > 1], weight_decay=decay),
        dict(params=[p for p in parameters if p.ndim == 1], weight_decay=0.0)], lr=rate, betas=(0.9, 0.95), eps=1e-8)
    zeros = torch.zeros(len(kept["rescale_factors"]), dtype=torch.float64)
    factors = torch.tensor(kept["rescale_factors"], dtype=torch.float64).log()
    attention = torch.tensor(kept["attention_factor"], dtype=torch.float64).log()
    losses, norms = [], []
    for step in range(steps):
        if step < warmup:
            share = (step + 1) / warmup
        else:
            done = (step - warmup) / (steps - warmup)
            share = final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        optimizer.zero_grad()
        # The slices differ from step to step.
        long, short = ids[step:step + 100], ids[100 - step:140 - step]
        plain = dict(evaluation, start_tokens=0)
        parts = [loss(model, long, evaluation, factors, attention, COUNTED_FROM) / (len(long) - COUNTED_FROM),
                 sum(loss(model, part, plain, zeros, zeros[0]) for part in (short[:25], short[25:])) / 38]
        mean = sum(parts) / 2
        mean.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip).item())
        losses.append(mean.item())
        optimizer.step()
    weights = {n: describe(p.detach()) for n, p in model.named_parameters()}
    generate.write_json(directory / "training.json", dict(
        generate.versions(), **kept, counted_from=COUNTED_FROM, learning_rate=rate, warmup_steps=warmup, steps=steps,
        weight_decay=decay, clip_norm=clip, final_share=final, losses=losses, norms=norms, weights=weights))
    print(f"{name:20} losses {losses[0]:.6f} to {losses[-1]:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="just this case (repeatable)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in args.only or CASES:
        generate_case(name)
        weight_gradients(name)
        if name in SKIPPING:
            weight_gradients(name, GAPS, "skipping_gradient.json")
        if name in TRAINED:
            train(name)


if __name__ == "__main__":
    main()
