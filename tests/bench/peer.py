#!/usr/bin/env python3
"""The peer of the evaluation benchmark: transformers on PyTorch, on the CPU.

  peer.py make DIR                                   writes the benchmark's random Llama (32 M parameters)
  peer.py eval MODEL TOKENS LENGTH DTYPE THREADS     prints one JSON object

TOKENS is JSON Lines with "input_ids"; the first LENGTH ids of the first line are the document. Measured are forward
pass and loss, after a warm-up at the same length for lengths up to 8,192. Needs torch and transformers.
"""
import json
import os
import sys
import time

LLAMA = dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
             intermediate_size=1408, vocab_size=8192, max_position_embeddings=4096, tie_word_embeddings=False,
             bos_token_id=1, eos_token_id=2)
LOGIT_ROWS = 1024  # logits exist for so many positions at a time
WARM_UP_TO = 8192


def peak_mib(reset=False):
    if reset:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM:"))


def make(folder):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    with torch.no_grad():  # wide enough that attention and positions matter to the loss
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.5)
    model.save_pretrained(folder)


def document_loss(torch, model, ids):
    """Sum of the negative log-likelihoods in nats; f32 logits, f64 sum, never all logits at once."""
    hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
    total = 0.0
    for begin in range(0, hidden.shape[0], LOGIT_ROWS):
        logits = model.lm_head(hidden[begin:begin + LOGIT_ROWS]).float()
        targets = ids[begin + 1:begin + 1 + logits.shape[0]]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().sum().item()
    return total


def evaluate(folder, tokens, length, dtype, threads):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[dtype], attn_implementation="sdpa").eval()
    with open(tokens) as f:
        ids = torch.tensor(json.loads(f.readline())["input_ids"][:length])
    with torch.inference_mode():
        if length <= WARM_UP_TO:
            document_loss(torch, model, ids)
        peak_mib(reset=True)
        wall, cpu = time.perf_counter(), time.process_time()
        total = document_loss(torch, model, ids)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps(dict(nll=total / (length - 1), seconds=wall, cpu_seconds=cpu, peak_rss_mib=peak_mib(),
                          torch=torch.__version__)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder]:
            make(folder)
        case ["eval", folder, tokens, length, dtype, threads]:
            evaluate(folder, tokens, int(length), dtype, int(threads))
        case _:
            sys.exit(__doc__)
