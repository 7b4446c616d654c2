"""Held-out loss of train.py and of a public tutorial's recipe in PyTorch, for the same tokens.

The data are the functions of Apache Spark's Python code (pip install pyspark-client), nine in ten
to train on, as bytes. Both models have the sizes of the tutorial's character-level GPT (128 wide,
16 heads, 12 layers, windows of 64) and see the same number of tokens, in batches of 16 windows. All
else in train.py is as it comes. The tutorial's recipe: one small linear module for each of a head's
query, key and value, PyTorch's initialisation, dropout 0.4, AdamW at a constant 1e-3.

Columns: tokens seen so far; for each of the two the held-out loss in nats per byte, and the minutes
until then. PyTorch is needed.

2000 steps take some 25 minutes on two cores.
"""

import csv
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import train
from bench.measure import Options, machine, print_table, progress, write_json
from bench.torch_gpt import N_CTX, N_EMBD, N_HEAD, N_LAYER, mean_loss, torch_gpt
from training.batches import spread_windows, windows
from training.data import read_documents, split, token_ids
from training.tokenizer import learn_bpe

DATA = "pyspark"  # the package that pyspark-client installs
BATCH, EVALUATIONS = 16, 5
DROPOUT, LEARNING_RATE = 0.4, 1e-3  # the tutorial's
SEED = 0  # train.py's own: the same split
PACKAGES = ("torch", "pyspark-client")

Evaluation = tuple[int, float, float]  # tokens, minutes, held-out loss


def numpy_losses(n_steps: int) -> Iterator[Evaluation]:
    """The evaluations of train.py."""
    with tempfile.TemporaryDirectory() as out:
        options = train.Options(
            data=DATA,
            out=out,
            tokenizer="char",
            n_layer=N_LAYER,
            n_head=N_HEAD,
            n_embd=N_EMBD,
            n_ctx=N_CTX,
            steps=n_steps,
            eval_every=n_steps // EVALUATIONS,
            batch_size=BATCH,
        )
        train.main(options)
        with open(Path(out) / "log.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield int(row["tokens"]), float(row["minutes"]), float(row["held_out_loss"])


def torch_losses(n_steps: int) -> Iterator[Evaluation]:
    """Those of the tutorial's recipe, on the same documents and held-out windows."""
    import torch

    rng = np.random.default_rng(SEED)
    encoder = learn_bpe([], 0)
    documents, held_out_documents = split(read_documents(DATA), rng)
    ids = token_ids(documents, encoder).astype(np.int64)
    held_out = spread_windows(token_ids(held_out_documents, encoder).astype(np.int64), N_CTX)
    torch.manual_seed(SEED)
    model = torch_gpt(DROPOUT, fused=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    started = time.monotonic()
    for n in range(1, n_steps + 1):
        starts = rng.integers(0, len(ids) - N_CTX, BATCH)
        optimizer.zero_grad()
        mean_loss(model, *windows(ids, starts, N_CTX)).backward()
        optimizer.step()
        if n % (n_steps // EVALUATIONS) == 0:
            minutes = (time.monotonic() - started) / 60
            model.eval()
            with torch.no_grad():
                loss = mean_loss(model, *held_out).item()
            model.train()
            yield n * BATCH * N_CTX, minutes, loss


CONTENDERS = {"train.py": numpy_losses, "the tutorial's recipe": torch_losses}


def main():
    options = Options("bench.loss", __doc__)
    options.add_argument("--steps", type=int, default=2000, help="steps of training (2000)")
    options.add_json()
    arguments = options.parse_args()
    if arguments.steps < EVALUATIONS:
        options.error(f"--steps {arguments.steps}: expected a whole number from {EVALUATIONS}")
    for module, package in ((DATA, "pyspark-client"), ("torch", "torch")):
        if importlib.util.find_spec(module) is None:
            options.error(f"{module} is not installed: pip install {package}")
    figures = {"machine": machine(PACKAGES), "evaluations": {}}
    for name, losses in CONTENDERS.items():
        found = figures["evaluations"][name] = []
        for tokens, minutes, loss in losses(arguments.steps):
            progress(f"{name}: {tokens} tokens, {minutes:.1f} minutes, held-out loss {loss:.3f}")
            found.append((tokens, minutes, loss))
    rows = []
    for evaluations in zip(*figures["evaluations"].values(), strict=True):
        cells = [f"{loss:.3f}, {minutes:.1f} minutes" for _, minutes, loss in evaluations]
        tokens = evaluations[0][0]
        rows.append([f"{tokens:,}", *cells])
    header = ["tokens", *CONTENDERS]
    print_table("Held-out loss, nats per byte", figures["machine"], header, rows)
    write_json(figures, arguments.json)


if __name__ == "__main__":
    main()
