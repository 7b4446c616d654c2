"""Train a GPT-2 from text in NumPy: what `.backward()` hides, written out.

Read in order: data; each layer's forward pass, which keeps what backward needs, next to its
backward pass; the whole model; AdamW; the loop; the command line. Gradients are named `d<name>`
and nested like the parameters. `tests/test_train.py` checks every one of them.

Left out: dropout, mixed precision, more than one machine.
Sources: Radford et al. 2019 (the model, its initialisation); Rumelhart et al. 1986 (backward
passes); Loshchilov and Hutter 2019 (AdamW); the paper behind each layer is named in `gpt2.py`.

Dimension letters in comments: B sequences, T positions, N = B * T rows, C n_embd, H n_head,
D = C / H, V n_vocab.
"""

import ast
import json
import math
import os
import sys
import sysconfig
import textwrap
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from command_line import check, run
from encoder import ENDOFTEXT, SPLIT, Encoder, byte_level_vocab
from utils import save_model_folder

# ---------------------------------------------------------------- data


def python_functions(folder=None):
    """The source of every function and method below `folder`, dedented, each once: list[str].

    Default: the running interpreter's standard library, without its tests. Files that this
    interpreter cannot parse are passed over.
    """
    folder = Path(folder or sysconfig.get_paths()["stdlib"])
    if not folder.is_dir():
        raise FileNotFoundError(f"--data {folder}: there is no such folder")
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    found = {}  # a dict keeps the order and drops what occurs twice
    for path in sorted(folder.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(folder).parts):
            found.update(dict.fromkeys(_functions_of(path)))
    if len(found) < 2:
        raise ValueError(f"--data {folder}: found {len(found)} functions in *.py files there")
    return list(found)


def _functions_of(path):
    try:
        source = path.read_text(encoding="utf-8")
        nodes = [ast.parse(source)]
    except (SyntaxError, ValueError):  # templates, other encodings
        return
    lines = source.split("\n")
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
        else:  # functions inside functions stay where they are
            nodes += reversed(list(ast.iter_child_nodes(node)))


def learn_bpe(documents, n_merges):
    """An Encoder with `n_merges` merges learned from documents (Sennrich et al., 2016).

    Each merge joins the pair of neighbouring symbols that occurs most often inside the pieces
    that GPT-2's pattern splits text into; 0 merges make a character-level (byte-level) tokenizer.
    Fewer are learned where no pair is left.
    """
    base = Encoder(byte_level_vocab(), [])
    pieces = Counter(piece for text in documents for piece in regex.findall(SPLIT, text))
    words = [[base.decoder[i] for i in base.encode(piece)] for piece in pieces]
    counts = list(pieces.values())
    pair_counts, found_in = Counter(), defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += counts[i]
            found_in[pair].add(i)
    merges = []
    while len(merges) < n_merges and pair_counts:
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))
        merges.append(best)
        for i in found_in.pop(best):  # only words that hold the pair change, and their counts
            for pair in pairwise(words[i]):
                pair_counts[pair] -= counts[i]
            words[i] = _merged(words[i], best)
            for pair in pairwise(words[i]):
                pair_counts[pair] += counts[i]
                found_in[pair].add(i)
        pair_counts = +pair_counts  # drops those that are gone
    symbols = [*list(base.encoder)[:256], *map("".join, merges), ENDOFTEXT]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    return Encoder(vocabulary, map(" ".join, merges))


def _merged(word, pair):
    out = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def token_ids(documents, encoder):
    """Documents, each closed by `<|endoftext|>`, one after another: ids [n_tokens], int32"""
    parts = [[*encoder.encode(text), encoder.eot] for text in documents]
    return np.concatenate(parts).astype(np.int32)


def tokenized(documents, tokenizer, rng):
    """Split the documents 90/10 and learn the `tokenizer` ("char" or "bpe:N") from the 90.

    -> encoder, training ids, held-out ids, bytes per held-out token
    """
    kind, _, n_merges = tokenizer.partition(":")
    if tokenizer != "char" and not (kind == "bpe" and n_merges.isdecimal()):
        raise ValueError(f"--tokenizer {tokenizer}: expected char or bpe:N, such as bpe:1024")
    order = rng.permutation(len(documents))
    n_held_out = max(1, len(documents) // 10)
    test = [documents[i] for i in order[:n_held_out]]
    train = [documents[i] for i in order[n_held_out:]]
    encoder = learn_bpe(train, int(n_merges or 0))
    train_ids, test_ids = token_ids(train, encoder), token_ids(test, encoder)
    n_bytes = sum(len(text.encode("utf-8")) + 1 for text in test)  # 1: the end mark
    return encoder, train_ids, test_ids, n_bytes / len(test_ids)


def windows(data, starts, n_ctx):
    """Inputs and the ids that follow them, each [B, T], from data [n_tokens] at `starts` [B]."""
    at = np.asarray(starts)[:, None] + np.arange(n_ctx)
    return data[at], data[at + 1]


# ---------------------------------------------------------------- layers, forward and backward


def linear_forward(x, w, b):
    """x [N, n_in] -> [N, n_out]"""
    out = x @ w
    out += b
    return out, (x, w)


def linear_backward(dout, cache):
    """dout [N, n_out] -> dx [N, n_in] and the gradients of w and b"""
    x, w = cache
    return dout @ w.T, {"w": x.T @ dout, "b": dout.sum(axis=0)}


def layer_norm_forward(x, g, b, eps=1e-5):
    """x [N, C] -> [N, C]"""
    norm = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(np.mean(norm * norm, axis=-1, keepdims=True) + eps)  # [N, 1]
    norm *= rstd
    return norm * g + b, (norm, rstd, g)


def layer_norm_backward(dout, cache):
    """dout [N, C] -> dx [N, C] and the gradients of g and b"""
    norm, rstd, g = cache
    dnorm = dout * g
    # What moves a row's mean or its length changes nothing after the norm: taken out of dnorm.
    along_norm = np.mean(dnorm * norm, axis=-1, keepdims=True)
    dx = (dnorm - dnorm.mean(axis=-1, keepdims=True) - norm * along_norm) * rstd
    return dx, {"g": np.sum(dout * norm, axis=0), "b": dout.sum(axis=0)}


GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_forward(x):
    """x [N, n] -> [N, n]; in place on one new array, since these are the widest in the model"""
    t = x * x
    t *= GELU_SCALE * GELU_CUBIC
    t += GELU_SCALE
    t *= x
    np.tanh(t, out=t)  # tanh(scale * (x + cubic * x^3))
    out = t + 1
    out *= x
    out *= 0.5
    return out, (x, t)


def gelu_backward(dout, cache):
    """dx = dout * (1/2 (1 + t) + 1/2 x (1 - t^2) scale (1 + 3 cubic x^2))"""
    x, t = cache
    dx = x * x
    dx *= 3 * GELU_SCALE * GELU_CUBIC
    dx += GELU_SCALE
    dx *= x
    dx *= 1 - t * t
    dx += t
    dx += 1
    dx *= 0.5
    dx *= dout
    return dx


def attention_forward(qkv, n_head, n_ctx):
    """qkv [N, 3 C] -> [N, C]: every head of every sequence at once, causal"""
    n_rows, n_embd = len(qkv), qkv.shape[1] // 3
    # [N, 3 C] -> [B, T, 3, H, D] -> q, k, v, each [B, H, T, D]
    q, k, v = qkv.reshape(-1, n_ctx, 3, n_head, n_embd // n_head).transpose(2, 0, 3, 1, 4)
    p = q @ k.swapaxes(-1, -2)  # [B, H, T, T]
    p *= 1 / math.sqrt(q.shape[-1])
    p += np.triu(np.full((n_ctx, n_ctx), -1e10, p.dtype), k=1)  # no position sees a later one
    p -= p.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    out = (p @ v).swapaxes(1, 2).reshape(n_rows, n_embd)  # [B, H, T, D] -> [N, C]
    return out, (q, k, v, p)


def attention_backward(dout, cache):
    """dout [N, C] -> dqkv [N, 3 C]"""
    q, k, v, p = cache
    n_seq, n_head, n_ctx, d_head = q.shape
    dout = dout.reshape(n_seq, n_ctx, n_head, d_head).swapaxes(1, 2)  # [B, H, T, D]
    dqkv = np.empty((n_seq, n_ctx, 3, n_head, d_head), dout.dtype)
    dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)  # three views, filled below
    dv[...] = p.swapaxes(-1, -2) @ dout
    dp = dout @ v.swapaxes(-1, -2)  # [B, H, T, T]
    dp -= np.einsum("bhij,bhij->bhi", dp, p)[..., None]  # softmax backward: the rows of p sum to 1
    dp *= p
    dp *= 1 / math.sqrt(d_head)
    dq[...] = dp @ k
    dk[...] = dp.swapaxes(-1, -2) @ q
    return dqkv.reshape(n_seq * n_ctx, -1)


def embedding_forward(inputs, wte, wpe):
    """inputs [B, T] ids -> [N, C]"""
    x = wte[inputs] + wpe[: inputs.shape[1]]
    return x.reshape(-1, x.shape[-1]), (inputs, wte, wpe)


def embedding_backward(dx, cache):
    """dx [N, C] -> gradients of wte and wpe: each row gets the sum of the places it was used"""
    inputs, wte, wpe = cache
    dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    n_ctx = inputs.shape[1]
    dwpe[:n_ctx] = dx.reshape(-1, n_ctx, dx.shape[-1]).sum(axis=0)
    ids = inputs.ravel()
    order = np.argsort(ids, kind="stable")  # equal ids side by side, then one sum per run of them
    used, starts = np.unique(ids[order], return_index=True)
    dwte[used] = np.add.reduceat(dx[order], starts)
    return dwte, dwpe


def cross_entropy(logits, targets):
    """Logits [N, V], targets [N] -> mean loss in nats, and the gradient of it [N, V]"""
    rows = np.arange(len(targets))
    p = logits - logits.max(axis=-1, keepdims=True)
    picked = p[rows, targets]
    np.exp(p, out=p)
    total = p.sum(axis=-1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - picked)
    p /= total
    p[rows, targets] -= 1
    p /= len(targets)
    return float(loss), p


# ---------------------------------------------------------------- the whole model


def block_forward(x, block, n_head, n_ctx):
    """x [N, C] -> [N, C]: `gpt2.transformer_block` for several sequences, keeping each cache"""
    out, ln_1 = layer_norm_forward(x, **block["ln_1"])
    out, c_attn = linear_forward(out, **block["attn"]["c_attn"])
    out, heads = attention_forward(out, n_head, n_ctx)
    out, attn_proj = linear_forward(out, **block["attn"]["c_proj"])
    x = x + out
    out, ln_2 = layer_norm_forward(x, **block["ln_2"])
    out, c_fc = linear_forward(out, **block["mlp"]["c_fc"])
    out, act = gelu_forward(out)
    out, mlp_proj = linear_forward(out, **block["mlp"]["c_proj"])
    x = x + out
    return x, (ln_1, c_attn, heads, attn_proj, ln_2, c_fc, act, mlp_proj)


def block_backward(dx, cache):
    """dx [N, C] -> dx [N, C] and the block's gradients; a residual passes dx on unchanged"""
    ln_1, c_attn, heads, attn_proj, ln_2, c_fc, act, mlp_proj = cache
    d, dmlp_proj = linear_backward(dx, mlp_proj)
    d, dc_fc = linear_backward(gelu_backward(d, act), c_fc)
    d, dln_2 = layer_norm_backward(d, ln_2)
    dx = dx + d
    d, dattn_proj = linear_backward(dx, attn_proj)
    d, dc_attn = linear_backward(attention_backward(d, heads), c_attn)
    d, dln_1 = layer_norm_backward(d, ln_1)
    dblock = {
        "ln_1": dln_1,
        "attn": {"c_attn": dc_attn, "c_proj": dattn_proj},
        "ln_2": dln_2,
        "mlp": {"c_fc": dc_fc, "c_proj": dmlp_proj},
    }
    return dx + d, dblock


def forward(params, n_head, inputs):
    """inputs [B, T] ids -> logits [N, V] and what `backward` needs"""
    x, embedding = embedding_forward(inputs, params["wte"], params["wpe"])
    caches = []
    for block in params["blocks"]:
        x, cache = block_forward(x, block, n_head, inputs.shape[1])
        caches.append(cache)
    x, ln_f = layer_norm_forward(x, **params["ln_f"])
    return x @ params["wte"].T, (embedding, caches, ln_f, x)


def backward(dlogits, cache):
    """dlogits [N, V] -> gradients, nested like the parameters"""
    embedding, caches, ln_f, x = cache
    wte = embedding[1]
    dwte_out = dlogits.T @ x  # wte is used twice: its gradients add up
    dx, dln_f = layer_norm_backward(dlogits @ wte, ln_f)
    dblocks = []
    for block_cache in reversed(caches):
        dx, dblock = block_backward(dx, block_cache)
        dblocks.append(dblock)
    dwte, dwpe = embedding_backward(dx, embedding)
    dwte += dwte_out
    return {"wte": dwte, "wpe": dwpe, "blocks": dblocks[::-1], "ln_f": dln_f}


def loss_and_grads(params, n_head, inputs, targets):
    """Inputs and targets [B, T] -> the mean loss in nats per token, and all its gradients"""
    logits, cache = forward(params, n_head, inputs)
    loss, dlogits = cross_entropy(logits, targets.ravel())
    return loss, backward(dlogits, cache)


def named(tree, prefix=""):
    """(name, array) of every array in nested parameters or gradients, always in the same order.

    >>> [name for name, _ in named({"ln_f": {"g": 1, "b": 2}, "blocks": [{"w": 3}]})]
    ['blocks.0.w', 'ln_f.b', 'ln_f.g']
    """
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from named(tree[key], f"{prefix}{key}.")
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield from named(item, f"{prefix}{i}.")
    else:
        yield prefix[:-1], tree


class Workers:
    """Runs a batch in pieces, one thread each, BLAS held to one thread.

    The products of a small model are too small to share out, and the rest of NumPy is single-
    threaded: whole sequences are what two cores can split. Pieces are also kept small enough for
    the cache. They are summed in a fixed order, so the same seed gives the same bytes.
    """

    def __init__(self, piece=4):
        self.piece = piece
        self.pool = ThreadPoolExecutor(_cores())

    def loss_and_grads(self, params, n_head, inputs, targets):
        pieces = range(0, len(inputs), self.piece)
        cut = [(inputs[i : i + self.piece], targets[i : i + self.piece]) for i in pieces]
        shares = [len(x) / len(inputs) for x, _ in cut]
        done = self.pool.map(lambda xy: loss_and_grads(params, n_head, *xy), cut)
        mean_loss, total = 0.0, None
        for share, (loss, grads) in zip(shares, done, strict=True):
            mean_loss += share * loss
            if total is None:
                total = {name: share * grad for name, grad in named(grads)}
            else:
                for name, grad in named(grads):
                    grad *= share
                    total[name] += grad
        return mean_loss, total

    def loss(self, params, n_head, inputs, targets):
        def piece_loss(i):
            x, y = inputs[i : i + self.piece], targets[i : i + self.piece]
            return cross_entropy(forward(params, n_head, x)[0], y.ravel())[0] * len(x)

        return sum(self.pool.map(piece_loss, range(0, len(inputs), self.piece))) / len(inputs)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def init_params(hparams, rng):
    """GPT-2's initialisation: normal(0, 0.02), the projections back into the residual stream
    divided by the square root of their number, biases 0, gains 1."""
    n_embd, n_layer = hparams["n_embd"], hparams["n_layer"]

    def normal(*shape, std=0.02):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)

    def norm():
        return {"g": np.ones(n_embd, np.float32), "b": np.zeros(n_embd, np.float32)}

    def linear(n_in, n_out, std=0.02):
        return {"w": normal(n_in, n_out, std=std), "b": np.zeros(n_out, np.float32)}

    def block():
        residual = 0.02 / math.sqrt(2 * n_layer)
        return {
            "ln_1": norm(),
            "attn": {
                "c_attn": linear(n_embd, 3 * n_embd),
                "c_proj": linear(n_embd, n_embd, residual),
            },
            "ln_2": norm(),
            "mlp": {
                "c_fc": linear(n_embd, 4 * n_embd),
                "c_proj": linear(4 * n_embd, n_embd, residual),
            },
        }

    return {
        "wte": normal(hparams["n_vocab"], n_embd),
        "wpe": normal(hparams["n_ctx"], n_embd, std=0.01),
        "blocks": [block() for _ in range(n_layer)],
        "ln_f": norm(),
    }


# ---------------------------------------------------------------- AdamW


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), on nested parameters.

    Matrices decay; biases, gains and position embeddings do not. Gradients longer than `clip`,
    all taken together, are scaled down to it.
    """

    def __init__(self, params, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip=1.0):
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.n_steps = 0
        self.mean = {name: np.zeros_like(p) for name, p in named(params)}
        self.square = {name: np.zeros_like(p) for name, p in named(params)}

    def step(self, params, grads, learning_rate):
        """Change params in place by one step along grads ({name: array})."""
        self.n_steps += 1
        length = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        shrink = min(1.0, self.clip / (length + 1e-6))
        beta1, beta2 = self.betas
        # Both averages start at 0; dividing by 1 - beta^n takes that bias out.
        rate = learning_rate / (1 - beta1**self.n_steps)
        unbias = 1 / math.sqrt(1 - beta2**self.n_steps)
        for name, p in named(params):
            grad = grads[name] * shrink
            mean, square = self.mean[name], self.square[name]
            mean += (1 - beta1) * (grad - mean)
            square += (1 - beta2) * (grad * grad - square)
            if p.ndim == 2 and name != "wpe":
                p *= 1 - learning_rate * self.weight_decay
            p -= rate * mean / (np.sqrt(square) * unbias + self.eps)


def cosine_schedule(step, n_steps, peak, n_warmup=200):
    """The learning rate of a step: a straight line up to `peak`, then half a cosine to a tenth.

    >>> [round(cosine_schedule(step, 1000, 1.0), 2) for step in (0, 99, 199, 600, 1000)]
    [0.01, 0.5, 1.0, 0.55, 0.1]
    """
    n_warmup = min(n_warmup, n_steps // 5)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


# ---------------------------------------------------------------- the loop


def train(
    data: str | None = None,
    out: str = "models/scratch",
    tokenizer: str = "bpe:1024",
    n_layer=6,
    n_head=6,
    n_embd=192,
    n_ctx=256,
    batch_size=16,
    steps=5000,
    learning_rate=2e-3,
    weight_decay=0.1,
    seed=0,
    eval_every=250,
    half=False,
    resume=False,
):
    """Train a GPT-2 on Python functions and write a model folder that gpt2.py runs.

      python train.py --out models/mine --steps 500
      python gpt2.py "def " --model_size mine

    Training and held-out loss, in nats per token, go to standard error. The folder is written
    at every evaluation that is the best so far. A run that was stopped at any moment goes on from
    its last evaluation with the same command and --resume.

    --data FOLDER         of *.py files, one document per function (the standard library)
    --out FOLDER          the model folder to write (models/scratch)
    --tokenizer NAME      char: bytes, no merges; bpe:N: N merges learned from the training
                          text (bpe:1024)
    --n_layer N           blocks (6)
    --n_head N            attention heads, a divisor of n_embd (6)
    --n_embd N            width (192)
    --n_ctx N             positions in the window (256)
    --batch_size N        windows in one step of the optimizer (16)
    --steps N             steps in all (5000)
    --learning_rate X     its peak, after a warm-up; then half a cosine down to a tenth (0.002)
    --weight_decay X      of matrices and token embeddings (0.1)
    --seed N              of the split, the first weights and the batches (0)
    --eval_every N        steps from one evaluation to the next (250)
    --half                store the weights as float16, in half the bytes
    --resume              go on with the run in --out
    """
    hparams = {"n_ctx": n_ctx, "n_embd": n_embd, "n_head": n_head, "n_layer": n_layer}
    counts = {**hparams, "batch_size": batch_size, "steps": steps, "eval_every": eval_every}
    for name, value in counts.items():
        check(name, value, int, 1)
    check("learning_rate", learning_rate, float, 0)
    check("weight_decay", weight_decay, float, 0)
    check("seed", seed, int, 0)
    if n_embd % n_head:
        raise ValueError(f"--n_head {n_head} does not divide --n_embd {n_embd}")
    out, state_file = Path(out), Path(out) / "training_state.npz"
    if resume and not state_file.exists():
        raise FileNotFoundError(f"--resume: there is no {state_file} to go on from")
    if not resume and out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: name another --out, or go on with --resume")
    rng = np.random.default_rng(seed)
    documents = python_functions(data)
    encoder, train_ids, test_ids, bytes_per_token = tokenized(documents, tokenizer, rng)
    if min(len(train_ids), len(test_ids)) <= n_ctx:
        raise ValueError(
            f"{len(test_ids)} of {len(train_ids) + len(test_ids)} tokens are held out: too few "
            f"for a window of {n_ctx}; give more --data or a smaller --n_ctx"
        )
    hparams = {"n_vocab": len(encoder.encoder), **hparams}
    params = init_params(hparams, rng)
    adam = AdamW(params, weight_decay=weight_decay)
    best, minutes = math.inf, 0.0
    if resume:
        best, minutes = _load_state(state_file, params, adam, rng)
    n_params = sum(p.size for _, p in named(params))
    _say(
        f"{len(documents)} functions, {len(train_ids)} tokens to train on, {len(test_ids)} held "
        f"out, {bytes_per_token:.2f} bytes each; {n_params} parameters"
    )
    every = max(n_ctx, len(test_ids) // 100)  # about 100 held-out windows, always the same
    test_batch = windows(test_ids, range(0, len(test_ids) - n_ctx, every), n_ctx)
    workers, losses, started = Workers(), [], time.monotonic() - 60 * minutes
    with (
        threadpool_limits(1, "blas"),
        tqdm(total=steps, initial=adam.n_steps, unit="step", disable=None) as bar,
    ):
        while adam.n_steps < steps:
            starts = rng.integers(0, len(train_ids) - n_ctx, batch_size)
            batch = windows(train_ids, starts, n_ctx)
            loss, grads = workers.loss_and_grads(params, n_head, *batch)
            adam.step(params, grads, cosine_schedule(adam.n_steps, steps, learning_rate))
            losses.append(loss)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if adam.n_steps % eval_every == 0 or adam.n_steps == steps:
                test_loss = workers.loss(params, n_head, *test_batch)
                bits = test_loss / math.log(2) / bytes_per_token
                minutes = (time.monotonic() - started) / 60
                if test_loss < best:
                    best = test_loss
                    dtype = np.float16 if half else np.float32
                    save_model_folder(out, encoder, hparams, params, dtype=dtype)
                _save_state(state_file, params, adam, rng, best, minutes)
                _say(
                    f"step {adam.n_steps}: loss {np.mean(losses):.4f}, held-out {test_loss:.4f} "
                    f"({bits:.4f} bits per byte), {minutes:.1f} minutes"
                )
                losses.clear()


def _save_state(state_file, params, adam, rng, best, minutes):
    arrays = {f"params.{name}": p for name, p in named(params)}
    arrays |= {f"mean.{name}": m for name, m in adam.mean.items()}
    arrays |= {f"square.{name}": s for name, s in adam.square.items()}
    run = {"n_steps": adam.n_steps, "best": best, "minutes": minutes}
    run["rng"] = rng.bit_generator.state
    half_written = state_file.with_suffix(".part.npz")
    np.savez(half_written, run=json.dumps(run), **arrays)
    os.replace(half_written, state_file)


def _load_state(state_file, params, adam, rng):
    with np.load(state_file) as arrays:
        for name, p in named(params):
            p[...] = arrays[f"params.{name}"]
            adam.mean[name] = arrays[f"mean.{name}"]
            adam.square[name] = arrays[f"square.{name}"]
        run = json.loads(str(arrays["run"]))
    adam.n_steps, rng.bit_generator.state = run["n_steps"], run["rng"]
    return run["best"], run["minutes"]


def _say(line):
    tqdm.write(line, file=sys.stderr)


if __name__ == "__main__":
    run(train)
