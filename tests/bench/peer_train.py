#!/usr/bin/env python3
"""The peer of the fine-tuning benchmark: transformers and torch.optim.AdamW, on the CPU.

  peer_train.py MODEL TOKENS FACTORS STEPS RATE WARM_UP THREADS

Every step is on all documents of TOKENS (JSON Lines with "input_ids"), one after another; prints a JSON object a step.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM


class Rescaled(torch.nn.Module):
    def __init__(self, theta, factors):
        super().__init__()
        numbers = torch.tensor(factors["rescale_factors"], dtype=torch.float64)
        dim = 2 * len(numbers)
        self.plain = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        self.scaled, self.start, self.factor = self.plain / numbers, factors["start_tokens"], factors["attention_factor"]

    @torch.no_grad()
    def forward(self, x, position_ids):
        n = position_ids[..., None].double()
        angle = torch.where(n < self.start, n * self.plain, n * self.scaled)
        angle = torch.cat((angle, angle), dim=-1)
        return (angle.cos() * self.factor).to(x.dtype), (angle.sin() * self.factor).to(x.dtype)


def main():
    folder, tokens, factors, steps, rate, warm_up, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    with open(factors) as f:
        model.model.rotary_emb = Rescaled(10000.0, json.load(f))
    with open(tokens) as f:
        documents = [torch.tensor([json.loads(line)["input_ids"]]) for line in f]
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(rate), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for step in range(int(steps)):
        for group in optimizer.param_groups:
            group["lr"] = float(rate) * min(1.0, (step + 1) / int(warm_up))
        optimizer.zero_grad()
        total = 0.0
        for ids in documents:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss / len(documents)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(json.dumps(dict(step=step + 1, loss=total, gradient_norm=norm.item())), flush=True)


if __name__ == "__main__":
    main()
