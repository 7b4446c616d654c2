"""Training speed at the sizes of a public tutorial's character-level GPT: train.py and PyTorch.

    python bench/training.py

128 wide, 16 heads, 12 layers, batches of 128 windows of 64 bytes. Three contenders, each with
dropout 0.4 and without: train.py; the tutorial's architecture in PyTorch, which has one small
linear module for each of a head's query, key and value; a PyTorch GPT with fused heads and
scaled_dot_product_attention. Each runs in a process of its own, in turn; medians of the steps'
tokens per second, and the largest memory of the process.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

from measure import ROOT, machine  # noqa: F401  (ROOT puts the project on the path)

N_VOCAB, N_CTX, N_EMBD, N_HEAD, N_LAYER, BATCH = 257, 64, 128, 16, 12, 128
DROPOUTS = (0.0, 0.4)
ROUNDS, STEPS = 3, 5


def numpy_stepper(dropout):
    """-> a function that does one step of train.py on a batch of ids [B, T + 1]"""
    import numpy as np

    import train

    hparams = {"n_vocab": N_VOCAB, "n_ctx": N_CTX, "n_embd": N_EMBD}
    hparams |= {"n_head": N_HEAD, "n_layer": N_LAYER}
    params = train.init_params(hparams, np.random.default_rng(0))
    adam = train.AdamW(params)
    workers = train.Workers(params, N_HEAD, N_CTX, dropout)

    def step(ids):
        with train.threadpool_limits(1, "blas"):
            _, grads = workers.loss_and_grads(ids[:, :-1], ids[:, 1:], seed=(0, adam.n_steps))
            adam.step(params, grads, 1e-3)

    return step


def torch_gpt(dropout, fused):
    """A GPT in PyTorch with PyTorch's own initialisation: -> an nn.Module, ids [B, T] -> logits"""
    import torch
    from torch import nn
    from torch.nn import functional

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            size = N_EMBD // N_HEAD
            self.query, self.key, self.value = (
                nn.Linear(N_EMBD, size, bias=False) for _ in range(3)
            )
            self.register_buffer("seen", torch.tril(torch.ones(N_CTX, N_CTX)))
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            q, k, v = self.query(x), self.key(x), self.value(x)
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            scores = scores.masked_fill(self.seen == 0, float("-inf"))
            return self.dropout(scores.softmax(-1)) @ v

    class OneModulePerHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(Head() for _ in range(N_HEAD))

        def forward(self, x):
            return torch.cat([head(x) for head in self.heads], dim=-1)

    class FusedHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(N_EMBD, 3 * N_EMBD)

        def forward(self, x):
            n_seq = len(x)
            qkv = self.c_attn(x).view(n_seq, N_CTX, 3, N_HEAD, -1).permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(*qkv, dropout_p=dropout, is_causal=True)
            return out.transpose(1, 2).reshape(n_seq, N_CTX, N_EMBD)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(N_EMBD), nn.LayerNorm(N_EMBD)
            attention = FusedHeads() if fused else OneModulePerHead()
            proj = nn.Linear(N_EMBD, N_EMBD)
            self.attn = nn.Sequential(attention, proj, nn.Dropout(dropout))
            wide, narrow = nn.Linear(N_EMBD, 4 * N_EMBD), nn.Linear(4 * N_EMBD, N_EMBD)
            self.mlp = nn.Sequential(wide, nn.GELU(), narrow, nn.Dropout(dropout))

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(N_VOCAB, N_EMBD), nn.Embedding(N_CTX, N_EMBD)
            self.blocks = nn.Sequential(*(Block() for _ in range(N_LAYER)))
            self.ln_f = nn.LayerNorm(N_EMBD)
            self.head = nn.Linear(N_EMBD, N_VOCAB)

        def forward(self, ids):
            x = self.wte(ids) + self.wpe(torch.arange(N_CTX))
            return self.head(self.ln_f(self.blocks(x)))

    return GPT()


def torch_stepper(dropout, fused):
    """-> a function that does one step of a PyTorch GPT on a batch of ids [B, T + 1]"""
    import torch

    torch.manual_seed(0)
    model = torch_gpt(dropout, fused)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(ids):
        ids = torch.from_numpy(ids)
        logits = model(ids[:, :-1]).reshape(-1, N_VOCAB)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


CONTENDERS = {
    "train.py": numpy_stepper,
    "one module per head": lambda dropout: torch_stepper(dropout, fused=False),
    "fused heads": lambda dropout: torch_stepper(dropout, fused=True),
}


def measure(name, dropout):
    """Print tokens per second, the median of STEPS steps after one, and peak memory, as JSON."""
    import numpy as np

    ids = np.random.default_rng(0).integers(0, N_VOCAB, (BATCH, N_CTX + 1))
    step, times = CONTENDERS[name](dropout), []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        step(ids)
        times.append(time.perf_counter() - start)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KiB on Linux
    print(json.dumps([BATCH * N_CTX / statistics.median(times[1:]), megabytes]))


def main():
    print(machine())
    found = {(name, dropout): [] for dropout in DROPOUTS for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, dropout in found:
            command = [sys.executable, __file__, name, str(dropout)]
            done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
            found[name, dropout].append(json.loads(done.stdout))
    for dropout in DROPOUTS:
        print(f"\ndropout {dropout}: tokens per second, peak memory")
        ours = statistics.median(speed for speed, _ in found["train.py", dropout])
        for name in CONTENDERS:
            speed = statistics.median(speed for speed, _ in found[name, dropout])
            memory = statistics.median(memory for _, memory in found[name, dropout])
            print(f"  {name:20} {speed:7.0f}  {memory:6.0f} MB   train.py / it: {ours / speed:.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], float(sys.argv[2]))
    else:
        main()
