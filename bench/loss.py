"""Held-out loss of train.py and of a public tutorial's recipe in PyTorch, on the same functions.

    pip install pyspark-client torch
    python bench/loss.py

The data are the functions of Apache Spark's Python code, nine in ten to train on, as bytes. Both
models have the sizes of the tutorial's character-level GPT (128 wide, 16 heads, 12 layers, windows
of 64) and see the same number of tokens, in batches of 16 windows. All else in train.py is as it
comes. The tutorial's recipe: one small linear module for each of a head's query, key and value,
PyTorch's initialisation, dropout 0.4, AdamW at a constant 1e-3.
"""

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine
from training import N_CTX, N_EMBD, N_HEAD, N_LAYER, N_VOCAB, torch_gpt

import train

DATA, BATCH, EVALUATIONS = "pyspark", 16, 5


def numpy_losses(n_steps):
    """Yield (tokens, minutes, held-out loss in nats per token) of train.py."""
    with tempfile.TemporaryDirectory() as out:
        sizes = {"n_layer": N_LAYER, "n_head": N_HEAD, "n_embd": N_EMBD, "n_ctx": N_CTX}
        run = {"steps": n_steps, "eval_every": n_steps // EVALUATIONS, "batch_size": BATCH}
        train.main(data=DATA, out=out, tokenizer="char", **sizes, **run)
        with open(Path(out) / "log.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield int(row["tokens"]), float(row["minutes"]), float(row["held_out_loss"])


def torch_losses(n_steps, dropout=0.4, learning_rate=1e-3):
    """Yield the same of the tutorial's recipe, on the same documents and held-out windows."""
    import torch
    from torch.nn.functional import cross_entropy

    rng = np.random.default_rng(0)  # train.py's seed: the same split
    encoder = train.learn_bpe([], 0)
    ids, held_out = (
        train.token_ids(documents, encoder).astype(np.int64)
        for documents in train.split(train.read_documents(DATA), rng)
    )
    torch.manual_seed(0)
    model = torch_gpt(dropout, fused=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)

    def loss(inputs, targets):
        logits = model(torch.from_numpy(inputs)).reshape(-1, N_VOCAB)
        return cross_entropy(logits, torch.from_numpy(targets).reshape(-1))

    started = time.monotonic()
    for n in range(1, n_steps + 1):
        starts = rng.integers(0, len(ids) - N_CTX, BATCH)
        optimizer.zero_grad()
        loss(*train.windows(ids, starts, N_CTX)).backward()
        optimizer.step()
        if n % (n_steps // EVALUATIONS) == 0:
            minutes = (time.monotonic() - started) / 60
            model.eval()
            with torch.no_grad():
                yield (
                    n * BATCH * N_CTX,
                    minutes,
                    loss(*train.spread_windows(held_out, N_CTX)).item(),
                )
            model.train()


def main(n_steps=2000):
    print(machine())
    for name, losses in (("train.py", numpy_losses), ("the tutorial's recipe", torch_losses)):
        print(f"\n{name}")
        for tokens, minutes, loss in losses(n_steps):
            print(
                f"  {tokens:9} tokens, {minutes:5.1f} minutes: held-out loss {loss:.3f}", flush=True
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
