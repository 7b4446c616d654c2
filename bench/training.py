"""Speed and memory of training, at the sizes of a public tutorial's character-level GPT.

128 wide, 16 heads, 12 layers, batches of 128 windows of 64 bytes, with dropout 0.4 and without. The
contenders, which are the rows: train.py; the tutorial's architecture in PyTorch, which has a small
linear module for each of a head's query, key and value; and a PyTorch GPT with fused heads and
scaled_dot_product_attention. Without PyTorch only train.py runs.

Columns: tokens a second, the median of the steps after the first, and in brackets how many times
as fast train.py is; the largest memory of the process in MiB. Each contender runs in a process of
its own, in turn; medians of the rounds.

About four minutes on two cores.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bench.measure import ROOT, TIMES, Options, machine, print_table, progress, write_json
from bench.torch_gpt import N_CTX, N_EMBD, N_HEAD, N_LAYER, N_VOCAB, mean_loss, torch_gpt
from fast.threads import one_blas_thread
from training.adamw import AdamW
from training.batch_loss import batch_loss_and_grads
from training.model import init_params

BATCH = 128  # windows
LEARNING_RATE = 1e-3
DROPOUTS = (0.0, 0.4)
ROUNDS, STEPS = 3, 5

Step = Callable[[np.ndarray], None]  # one step of training on ids [B, T + 1]


def numpy_step(dropout: float) -> Step:
    """A step of train.py."""
    hparams = {
        "n_vocab": N_VOCAB,
        "n_ctx": N_CTX,
        "n_embd": N_EMBD,
        "n_head": N_HEAD,
        "n_layer": N_LAYER,
    }
    params = init_params(hparams, np.random.default_rng(0))
    adam = AdamW(params)

    def step(ids):
        inputs, targets = ids[:, :-1], ids[:, 1:]
        options = {"dropout": dropout, "seed": (0, adam.n_steps)}
        with one_blas_thread:
            _, grads = batch_loss_and_grads(params, N_HEAD, inputs, targets, **options)
            adam.step(params, grads, LEARNING_RATE)

    return step


def torch_step(dropout: float, fused: bool) -> Step:
    """A step of a GPT in PyTorch."""
    import torch

    torch.manual_seed(0)
    model = torch_gpt(dropout, fused)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step(ids):
        loss = mean_loss(model, ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


OURS = "train.py"
CONTENDERS = {
    OURS: numpy_step,
    "PyTorch, one module per head": lambda dropout: torch_step(dropout, fused=False),
    "PyTorch, fused heads": lambda dropout: torch_step(dropout, fused=True),
}


def measure(name: str, dropout: float) -> tuple[float, float]:
    """In this process: tokens a second, the median of STEPS steps after one, and MiB of memory."""
    ids = np.random.default_rng(0).integers(0, N_VOCAB, (BATCH, N_CTX + 1))
    step = CONTENDERS[name](dropout)
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        step(ids)
        times.append(time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return BATCH * N_CTX / statistics.median(times[1:]), memory / 2**20


def measure_in_turn(names: list[str]) -> dict:
    """{dropout: {name: [(tokens a second, MiB) of each round]}}, each in a process of its own"""
    found = {dropout: {name: [] for name in names} for dropout in DROPOUTS}
    for n in range(1, ROUNDS + 1):
        for dropout in DROPOUTS:
            for name in names:
                progress(f"round {n} of {ROUNDS}, dropout {dropout}: {name}")
                command = [sys.executable, "-m", "bench.training", "--one", name, str(dropout)]
                printed = subprocess.check_output(command, cwd=ROOT, encoding="utf-8")
                found[dropout][name].append(json.loads(printed))
    return found


def main():
    options = Options("bench.training", __doc__)
    options.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    options.add_json()
    arguments = options.parse_args()
    if arguments.one:
        name, dropout = arguments.one
        print(json.dumps(measure(name, float(dropout))))
        return
    names = list(CONTENDERS) if importlib.util.find_spec("torch") else [OURS]
    figures = {"machine": machine(("torch",)), "dropout": measure_in_turn(names)}
    for dropout, found in figures["dropout"].items():
        medians = {name: np.median(rounds, axis=0).tolist() for name, rounds in found.items()}
        rows = [row(name, *medians[name], medians[OURS][0]) for name in names]
        header = ["", "tokens per second", "memory, MiB"]
        print_table(f"Training, dropout {dropout}", figures["machine"], header, rows)
    write_json(figures, arguments.json)


def row(name: str, speed: float, memory: float, own_speed: float) -> list[str]:
    ratio = "" if name == OURS else f" ({own_speed / speed:.2f} {TIMES})"
    return [name, f"{speed:.0f}{ratio}", f"{memory:.0f}"]


if __name__ == "__main__":
    main()
