#!/usr/bin/env python3
"""Compares the losses of a device with the CPU's and times it. Called by check.sh, which builds.

The reference is this program on the CPU in f32. Exit status: 0 all losses agree, 1 some do not or a run failed, 2 wrong usage.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import models

HERE = Path(__file__).resolve().parent
LAB = HERE.parent.parent / "coordinator/assets/lab-model"
# Nats per token, the mean of a document. Half precision keeps activations, keys and values in the format too.
TOLERANCE = dict(f32=1e-4, bf16=5e-3, f16=2e-3)
WINDOW = 96
# Sets of factors to evaluate: with two the first pass loads kernels, and the second is timed.
ONE_PASS, TWO_PASSES = "none", "none,pi"
# Dense TFLOP/s in half precision as their maker states them, by words of the name that nvidia-smi shows.
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "A10": 125}


def lengths(text):
    units = {"k": 1 << 10, "m": 1 << 20}
    return [int(n[:-1]) * units[n[-1].lower()] if n[-1].lower() in units else int(n) for n in text.split(",")]


def peak_of(card):
    """The peak of a card that is known; the NVL forms have others."""
    known = (tflops for name, tflops in PEAKS.items() if card and "NVL" not in card and re.search(rf"\b{name}\b", card))
    return next(known, None)


def smi(field, device):
    """What nvidia-smi says of the device; None without one. It counts all cards, and CUDA those it is shown."""
    index = device.partition(":")[2] or "0"
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if shown:
        index = shown[int(index)] if int(index) < len(shown) else index
    command = ["nvidia-smi", "--query-gpu=" + field, "--format=csv,noheader,nounits", "-i", index]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def used_mib(device):
    """MiB in use on the device; None where nvidia-smi does not know."""
    used = smi("memory.used", device)
    return int(used) if used and used.isdigit() else None


class Memory:
    """The most device memory in use while it runs, above what was in use before, in MiB; None without a GPU."""

    def __init__(self, device):
        self.device, self.peak, self.over = device, None, threading.Event()
        self.before = used_mib(device) if device != "cpu" else None

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.before is not None and not self.over.wait(0.1):
            used = used_mib(self.device)
            if used is not None:
                self.peak = max(self.peak or 0, used - self.before)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def evaluate(a, model, tokens, length, device, dtype, factors="none"):
    command = [a.binary, "eval", "--json", "--model", model, "--tokens", tokens, "--length", str(length), "--device", device,
               "--dtype", dtype, "--factors", factors]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}")
    return json.loads(done.stdout)


def check_losses(a, folder, tokens):
    """Rows of the first table, and whether all agree."""
    cases = [("lab", LAB), ("llama", folder / "llama"), (f"window {WINDOW}", folder / "window")]
    dtypes = ["f32", "bf16"] if a.device == "cpu" else ["f32", "bf16", "f16"]
    rows, right = [], True
    print(f"{'model':<10} {'tokens':>7} {'dtype':>6} {'loss':>9} {'CPU, f32':>9} {'differs':>9} {'allowed':>9}")
    for length in a.lengths:
        full = None
        for name, model in cases:
            want = evaluate(a, model, tokens[2048 if name == "lab" else 8192], length, "cpu", "f32")["results"][0]["nll"]
            if name == "llama":
                full = want
            # The same weights without a window: a kernel that forgets the window would show.
            blind = name.startswith("window") and length > 2 * WINDOW and abs(want - full) < 2 * TOLERANCE["bf16"]
            for dtype in dtypes:
                got = evaluate(a, model, tokens[2048 if name == "lab" else 8192], length, a.device, dtype)
                nll, kernels = got["results"][0]["nll"], got.get("kernels")
                off = abs(nll - want)
                agrees = off <= TOLERANCE[dtype]
                right = right and agrees and not blind
                rows.append(dict(model=name, tokens=length, dtype=dtype, nll=nll, cpu=want, kernels=kernels, agrees=agrees))
                note = ("" if agrees else "  WRONG") + ("  (the window hardly matters here: no test)" if blind else "")
                print(f"{name:<10} {length:>7} {dtype:>6} {nll:>9.5f} {want:>9.5f} {off:>9.1e} {TOLERANCE[dtype]:>9.0e}{note}", flush=True)
    return rows, right


def planned(a, model, length, dtype):
    """MiB of the device that `ropewalk plan` says an evaluation takes."""
    command = [a.binary, "plan", "--json", "--model", model, "--target-length", str(length), "--samples", "1", "--dtype", dtype,
               "--device", "cpu" if a.device == "cpu" else "cuda"]
    memory = json.loads(subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout)["memory_gib"]
    return 1024 * sum(memory[part] for part in ("weights", "hidden_states", "keys_values", "buffers"))


def time_it(a, model, tokens, config, peak, lengths, factors):
    rows, dtype = [], a.timing_dtype or ("f32" if a.device == "cpu" else "bf16")
    # The peaks are those of half precision.
    peak = peak if dtype != "f32" or a.peak_tflops else None
    print(f"\n{dtype}: {'tokens':>9} {'seconds':>9} {'tokens/s':>10} {'TFLOP/s':>8} {'of peak':>8} {'MiB':>7} {'planned':>7} {'PyTorch s':>10} "
          f"{'MiB':>7} {'ratio':>6}")
    for length in lengths:
        with Memory(a.device) as memory:
            report = evaluate(a, model, tokens[config["vocab_size"]], length, a.device, dtype, factors)
        result = report["results"][-1]
        rate = models.operations(config, length) / result["seconds"] / 1e12
        used = result.get("peak_rss_mib") if a.device == "cpu" else memory.peak
        row = dict(tokens=length, dtype=dtype, seconds=result["seconds"], tokens_per_second=length / result["seconds"], tflops=rate,
                   share_of_peak=rate / peak if peak else None, memory_mib=used, planned_mib=planned(a, model, length, dtype),
                   kernels=report.get("kernels"))
        if a.peer_python and factors != ONE_PASS:
            command = [a.peer_python, HERE / "peer.py", model, tokens[config["vocab_size"]], str(length), dtype, a.device]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode == 0:
                row["peer"] = json.loads(done.stdout.strip().splitlines()[-1])
            else:
                row["peer_error"] = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        peer = row.get("peer", {})
        cell = lambda x, form: format(x, form) if x is not None else "-"
        print(f"{'':>{len(dtype) + 1}} {length:>9} {row['seconds']:>9.3f} {row['tokens_per_second']:>10.0f} {rate:>8.2f} {cell(row['share_of_peak'], '.1%'):>8} "
              f"{cell(used, '.0f'):>7} {row['planned_mib']:>7.0f} {cell(peer.get('seconds'), '.3f'):>10} {cell(peer.get('memory_mib'), '.0f'):>7} "
              f"{cell(peer and peer['seconds'] / row['seconds'] or None, '.2f'):>6}", flush=True)
        if "peer_error" in row:
            print(f"     PyTorch: {row['peer_error']}")
        rows.append(row)
    return rows


def main():
    p = argparse.ArgumentParser(prog="check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", required=True, help="the ropewalk command; check.sh builds one where it is not given")
    p.add_argument("--device", default="cuda:0", help="cpu or cuda:N")
    p.add_argument("--lengths", type=lengths, default=[257, 1000, 2048], help="for losses; default 257,1000,2048")
    p.add_argument("--timing-lengths", type=lengths, help="default 4k,16k,64k on a GPU, 1k on the CPU")
    p.add_argument("--timing-dtype", choices=["f32", "bf16", "f16"], help="default bf16 on a GPU, f32 on the CPU")
    p.add_argument("--timing-model", choices=["small", "large"], help="default large on a GPU: 4 layers of the width of a 7B model")
    p.add_argument("--reach", type=lengths, default=[], metavar="TOKENS",
                   help="and one pass of two layers of LLaMA2-7B of this length, for its memory: 2m takes two minutes and 65 GB")
    p.add_argument("--quick", action="store_true", help="one length for losses, one for times")
    p.add_argument("--no-timing", action="store_true", help="losses alone")
    p.add_argument("--peer-python", help="a Python with torch and transformers, to be timed on the same model and tokens")
    p.add_argument("--peak-tflops", type=float, help="the card's dense peak; known for some cards by name")
    p.add_argument("--json", metavar="FILE", help="write every figure here")
    a = p.parse_args()
    on_cpu = a.device == "cpu"
    a.timing_lengths = a.timing_lengths or ([1024] if on_cpu else [4096, 16384, 65536])
    if a.quick:
        a.lengths, a.timing_lengths = a.lengths[-1:], a.timing_lengths[:1]
    card = None if on_cpu else smi("name", a.device)
    peak = a.peak_tflops or peak_of(card)
    # As nvidia-smi counts.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    begin, report = time.time(), dict(device=a.device, card=card, peak_tflops=peak)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models.write(folder / "llama", models.SMALL)
        models.write(folder / "window", models.SMALL, WINDOW)
        config = models.write(folder / "timing", models.SMALL if (a.timing_model or ("small" if on_cpu else "large")) == "small" else models.LARGE)
        tokens, longest = {}, max(a.lengths + a.timing_lengths + a.reach)
        for vocabulary in {2048, 8192, config["vocab_size"]}:
            draw = random.Random(vocabulary)
            tokens[vocabulary] = folder / f"{vocabulary}.jsonl"
            tokens[vocabulary].write_text(json.dumps(dict(input_ids=[draw.randrange(3, vocabulary) for _ in range(longest)])) + "\n")
        print(f"{card or a.device}; losses in nats per token, random tokens\n")
        try:
            report["losses"], right = check_losses(a, folder, tokens)
            if not a.no_timing:
                report["times"] = time_it(a, folder / "timing", tokens, config, peak, a.timing_lengths, TWO_PASSES)
            if a.reach:
                config = models.write(folder / "reach", models.REACH)
                report["reach"] = time_it(a, folder / "reach", tokens, config, peak, a.reach, ONE_PASS)
        except (RuntimeError, OSError, json.JSONDecodeError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: {error}")
    report["agrees"] = right
    kernels = sorted({row["kernels"] or "unnamed" for row in report["losses"]})
    print(f"\nkernels: {'; '.join(kernels)}\n{'all losses agree' if right else 'LOSSES DIFFER'}; {time.time() - begin:.0f} s")
    if a.json:
        Path(a.json).write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
