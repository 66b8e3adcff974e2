#!/usr/bin/env python3
"""The peer of the check: transformers on PyTorch, with its best attention.

  peer.py MODEL TOKENS LENGTH DTYPE DEVICE      prints one JSON object

Forward pass and loss after a warm-up, with FlashAttention 2 where that package is installed and PyTorch's
scaled_dot_product_attention otherwise. Logits exist for 1,024 positions at a time. Needs torch and transformers.
"""
import importlib.util
import json
import os
import sys
import time

LOGIT_ROWS = 1024


def loss(torch, model, ids):
    hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    for begin in range(0, hidden.shape[0], LOGIT_ROWS):
        logits = model.lm_head(hidden[begin:begin + LOGIT_ROWS]).float()
        targets = ids[begin + 1:begin + 1 + logits.shape[0]]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().sum()
    return total.item()


def main(folder, tokens, length, dtype, device):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM
    on_gpu = device.startswith("cuda")
    attention = "flash_attention_2" if on_gpu and dtype != "f32" and importlib.util.find_spec("flash_attn") else "sdpa"
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[dtype], attn_implementation=attention).to(device).eval()
    with open(tokens) as f:
        ids = torch.tensor(json.loads(f.readline())["input_ids"][:int(length)], device=device)
    with torch.inference_mode():
        loss(torch, model, ids)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        total = loss(torch, model, ids)
        seconds = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    print(json.dumps(dict(nll=total / (len(ids) - 1), seconds=seconds, memory_mib=memory, attention=attention, torch=torch.__version__)))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 6 else sys.exit(__doc__)
