#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Fine-tunes a causal language model under Ropewalk's rescale factors, on PyTorch, Accelerate and transformers.

    accelerate launch --config_file CONFIG finetune.py --model DIR --factors FILE --data PATH [PATH ...] --out DIR

Every option can be given in the environment instead: ROPEWALK_MODEL, ROPEWALK_FACTORS, ROPEWALK_DATA (paths joined as
in PATH), ROPEWALK_OUT, ROPEWALK_STEPS, ROPEWALK_LENGTH, and so on for the rest. How many processes there are, where
they run and how the model is spread over them (FSDP, context parallelism) is CONFIG's business.

--out becomes a Hugging Face folder: the model's own config.json, since factors are relative to the plain RoPE, the
weights in the model's number format, its tokenizer, and the factors (factors.json). Killed, the same command goes on
from the last state under --out/state, which is removed in the end. Exit status: 0 done, 1 failed, 2 wrong input.
"""
import argparse
import contextlib
import json
import math
import os
import random
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoModelForCausalLM, AutoTokenizer

STATE = "state"
DONE = ".finetune-done.json"
CARRIED = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "generation_config")


class Rescaled(torch.nn.Module):
    """RoPE under rescale factors (LongRoPE, section 3): pair i turns by n / (lambda_i theta^(2i/d)) at position n, by
    n / theta^(2i/d) below `start_tokens`. Angles are float64: float32 ones are wrong beyond some 10,000 positions."""

    def __init__(self, config, factors):
        super().__init__()
        rope = getattr(config, "rope_parameters", None) or {}
        theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        share = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
        dim, self.factors = int(head * share), factors["rescale_factors"]
        if len(self.factors) != dim // 2:
            fail(f"{len(self.factors)} factors for a model with {dim // 2} rotary pairs")
        self.plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
        self.start = factors.get("start_tokens", 0)
        pairs = factors.get("pair_attention") or [1.0] * (dim // 2)
        if len(pairs) != dim // 2:
            fail(f"{len(pairs)} attention factors of pairs for a model with {dim // 2}")
        self.attention = [factors.get("attention_factor", 1.0) * m for m in pairs]

    @torch.no_grad()
    def forward(self, x, position_ids):
        plain = torch.tensor(self.plain, dtype=torch.float64, device=x.device)
        scaled = plain / torch.tensor(self.factors, dtype=torch.float64, device=x.device)
        n = position_ids[..., None].double()
        angle = torch.where(n < self.start, n * plain, n * scaled)
        angle = torch.cat((angle, angle), dim=-1)
        attention = torch.tensor(2 * self.attention, dtype=torch.float64, device=x.device)
        return tuple((f(angle) * attention).to(x.dtype) for f in (torch.cos, torch.sin))


def fail(reason):
    print(f"finetune: {reason}", file=sys.stderr)
    sys.exit(2)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def option(name, kind, default=None, help=""):
        given = os.environ.get("ROPEWALK_" + name.upper().replace("-", "_"))
        value = default if given is None or given == "" else kind(given)
        parser.add_argument("--" + name, type=kind, default=value, required=value is None, help=help)

    option("model", Path, help="folder of the model")
    option("factors", Path, help="factor file (JSON)")
    data = os.environ.get("ROPEWALK_DATA")
    parser.add_argument("--data", type=Path, nargs="+", default=[Path(p) for p in data.split(os.pathsep)] if data else None,
                        required=not data, help="text, .jsonl with \"text\", or folders of these")
    option("out", Path, help="folder for the checkpoint")
    option("length", int, help="tokens of a sequence")
    option("steps", int, help="steps of the optimiser")
    option("batch", int, 8, "sequences of a step, over all processes")
    option("learning-rate", float, 2e-5, "highest learning rate")
    option("warm-up", int, 20, "steps over which it rises")
    option("clip", float, 1.0, "length to which gradients are clipped")
    option("seed", int, 0, "seed of the order of the data")
    option("checkpoint-every", int, 50, "steps between states")
    option("dtype", str, "float32", "number format of the weights while they are trained")
    option("attention", str, "sdpa", "attention of transformers, for example flash_attention_2")
    return parser.parse_args()


def read_factors(path):
    try:
        factors = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {error}")
    numbers = factors.get("rescale_factors") if isinstance(factors, dict) else None
    if not isinstance(numbers, list) or not all(isinstance(x, (int, float)) and 0 < x < math.inf for x in numbers):
        fail(f"{path} has no list of positive rescale_factors")
    return factors


def texts(paths):
    for path in paths:
        if path.is_dir():
            yield from texts(sorted(path.iterdir()))
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                yield from (json.loads(line)["text"] for line in lines if line.strip())
        else:
            yield path.read_text(encoding="utf-8")


def sequences(paths, tokenizer, length, seed):
    """Documents one after another, each with its beginning, cut into sequences; in an order of the seed."""
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids = []
    for text in texts(paths):
        ids += begin + tokenizer.encode(text, add_special_tokens=False, verbose=False)
    cut = [ids[first:first + length] for first in range(0, len(ids) - length + 1, length)]
    if not cut:
        fail(f"the documents have {len(ids)} tokens together, one sequence needs {length}")
    random.Random(seed).shuffle(cut)
    return cut


def loss_of(accelerator, model, batch, shared):
    """Mean loss of a batch. Targets are moved before the sequence may be spread over devices."""
    positions = torch.arange(batch.shape[1], device=batch.device).expand_as(batch).contiguous()
    targets = torch.nn.functional.pad(batch[:, 1:], (0, 1), value=-100)
    buffers = [batch, targets, positions]
    spread = contextlib.nullcontext()
    if shared > 1:
        spread = accelerator.maybe_context_parallel(
            buffers=buffers, buffer_seq_dims=[1] * 3, no_restore_buffers=set(buffers))
    with spread:
        output = model(input_ids=batch, position_ids=positions, labels=targets, shift_labels=targets, use_cache=False)
        return output.loss


def asked(args, factors):
    """What the result depends on, as JSON has it."""
    settings = {name: value for name, value in vars(args).items() if name not in ("checkpoint_every", "attention")}
    return json.loads(json.dumps(dict(settings, factors=factors), default=str))


def save(accelerator, model, tokenizer_dir, out, factors_path, dtype, settings):
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
        if accelerator.unwrap_model(model).config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        accelerator.unwrap_model(model).save_pretrained(out, state_dict=state, safe_serialization=True)
        # As the model had it: what save_pretrained writes depends on its version.
        shutil.copyfile(tokenizer_dir / "config.json", out / "config.json")
        for path in tokenizer_dir.iterdir():
            if path.is_file() and path.name.startswith(CARRIED):
                shutil.copyfile(path, out / path.name)
        shutil.copyfile(factors_path, out / "factors.json")
        # Last: whoever runs this again finds that it is done, and not that there is no state.
        (out / (DONE + ".part")).write_text(json.dumps(settings))
        (out / (DONE + ".part")).rename(out / DONE)
        shutil.rmtree(out / STATE, ignore_errors=True)
    accelerator.wait_for_everyone()


def main():
    args = arguments()
    factors = read_factors(args.factors)
    accelerator, settings = Accelerator(step_scheduler_with_optimizer=False), asked(args, factors)
    done = args.out / DONE
    if done.is_file() and json.loads(done.read_text()) == settings:
        accelerator.print(f"done before; delete {done} to train again")
        return
    # Processes that share a sequence (context parallelism) read the same one.
    shared = getattr(getattr(accelerator, "parallelism_config", None), "cp_size", 1) or 1
    readers, reader = accelerator.num_processes // shared, accelerator.process_index // shared
    if args.batch % readers:
        fail(f"--batch {args.batch} is no multiple of the {readers} that read sequences at the same time")
    set_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation=args.attention)
    written = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    stored = getattr(torch, written.get("dtype") or written.get("torch_dtype") or args.dtype)
    model.model.rotary_emb = Rescaled(model.config, factors)
    model.gradient_checkpointing_enable()
    data = sequences(args.data, AutoTokenizer.from_pretrained(args.model), args.length, args.seed)

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([dict(params=matrices), dict(params=others, weight_decay=0.0)],
                                  lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    warm_up = min(args.warm_up, args.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warm_up)))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)

    step, state = 0, args.out / STATE
    args.out.mkdir(parents=True, exist_ok=True)
    if (state / "step").is_file():
        step = int((state / "step").read_text())
        accelerator.load_state(state / f"{step}")
        accelerator.print(f"going on after step {step}")
    model.train()
    each = args.batch // readers
    while step < args.steps:
        total = 0.0
        for index in range(each):
            slot = step * args.batch + index * readers + reader
            batch = torch.tensor([data[slot % len(data)]], device=accelerator.device)
            loss = loss_of(accelerator, model, batch, shared) / each
            accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(model.parameters(), args.clip)
        mean = accelerator.reduce(total, reduction="mean").item()
        if not math.isfinite(mean) or not math.isfinite(float(norm)):
            accelerator.print(f"step {step + 1}: loss {mean}, gradient {float(norm)}: the training diverged", file=sys.stderr)
            sys.exit(1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        step += 1
        accelerator.print(json.dumps(dict(step=step, loss=mean, gradient_norm=float(norm))), flush=True)
        if step % args.checkpoint_every == 0 and step < args.steps:
            accelerator.save_state(state / f"{step}")
            if accelerator.is_main_process:
                # Named once it is whole; the one before goes then.
                (state / "step.part").write_text(str(step))
                os.replace(state / "step.part", state / "step")
                for old in state.iterdir():
                    if old.is_dir() and old.name != str(step):
                        shutil.rmtree(old)
            accelerator.wait_for_everyone()
    save(accelerator, model, args.model, args.out, args.factors, stored, settings)
    accelerator.end_training()


if __name__ == "__main__":
    main()
