"""Train a GPT-2 from text in NumPy: what `.backward()` hides, written out.

Read in order: data; each layer's forward pass, which keeps what backward needs, next to its
backward pass; the whole model; AdamW; the loop and what it writes; the command line. Gradients are
named `d<name>` and nested like the parameters. `tests/test_train.py` checks every one of them.

Left out: mixed precision, more than one machine, text that does not fit in memory.
Sources: Radford et al. 2019 (the model, its initialisation); Rumelhart et al. 1986 (backward
passes); Srivastava et al. 2014 (dropout); Loshchilov and Hutter 2019 (AdamW); the paper behind each
layer is named in `gpt2.py`.

Dimension letters in comments: B sequences, T positions, N = B * T rows, C n_embd, H n_head,
D = C / H, V n_vocab.
"""

import ast
import csv
import functools
import json
import math
import os
import shutil
import sys
import sysconfig
import textwrap
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from command_line import check, cores, run
from encoder import ENDOFTEXT, SPLIT, Encoder, byte_level_vocab, get_encoder
from gpt2 import generate
from utils import load_encoder_hparams_and_params, save_model_folder

# ---------------------------------------------------------------- data


def read_documents(data=None):
    """The texts to learn from: list[str]. `data` names one of

    None, for the functions of the running interpreter's standard library; a folder, for the
    functions of its *.py files and each of its *.txt files; a text file, for the one document that
    it is; an installed package, by its import name, for its functions.
    Raises FileNotFoundError, OSError or ValueError where there is nothing to read.
    """
    path = Path(sysconfig.get_paths()["stdlib"] if data is None else data)
    if path.is_file():
        documents = [_read_text(path)]
    elif path.is_dir():
        texts = [_read_text(file) for file in sorted(path.rglob("*.txt"))] if data else []
        documents = [*python_functions(path), *texts]
    else:
        spec = find_spec(data) if data.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"--data {data}: no file, folder or package of that name")
        documents = python_functions(Path(spec.submodule_search_locations[0]))
    if not any(documents):
        raise ValueError(f"--data {data}: no text; expected *.py files with functions, or *.txt")
    return documents


def _read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--data {path} is not UTF-8 text: {error}") from None


def python_functions(folder):
    """The source of every function and method below `folder`, dedented, each once: list[str].

    Folders of tests and of installed packages inside it are left out, and files that this
    interpreter cannot parse.
    """
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    found = {}  # a dict keeps the order and drops what occurs twice
    for path in sorted(folder.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(folder).parts):
            found.update(dict.fromkeys(_functions_of(path)))
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


def split(documents, rng, held_out=0.1):
    """Documents to train on, and those held out; a single one is cut near its end."""
    if len(documents) == 1:
        cut = round((1 - held_out) * len(documents[0]))
        return [documents[0][:cut]], [documents[0][cut:]]
    order = rng.permutation(len(documents))
    n_held_out = max(1, int(held_out * len(documents)))
    return [documents[i] for i in order[n_held_out:]], [documents[i] for i in order[:n_held_out]]


def make_encoder(tokenizer, documents):
    """The Encoder that --tokenizer names: `char`, `bpe:N` learned here, or a model folder's."""
    kind, _, n_merges = tokenizer.partition(":")
    if tokenizer == "char":
        return learn_bpe([], 0)
    if kind == "bpe" and n_merges.isdecimal():
        return learn_bpe(documents, int(n_merges))
    if Path(tokenizer).is_dir():
        encoder = get_encoder(Path(tokenizer).name, Path(tokenizer).parent)
        if encoder.eot is None:
            raise ValueError(f"--tokenizer {tokenizer}: its vocabulary has no {ENDOFTEXT}")
        return encoder
    raise ValueError(f"--tokenizer {tokenizer}: expected char, bpe:N or a model folder")


def windows(data, starts, n_ctx):
    """Inputs and the ids that follow them, each [B, T], from data [n_tokens] at `starts` [B]."""
    at = np.asarray(starts)[:, None] + np.arange(n_ctx)
    return data[at], data[at + 1]


def spread_windows(data, n_ctx, n_windows=100):
    """As `windows`, at equal distances over all of data: about `n_windows`, none overlapping"""
    every = max(n_ctx, len(data) // n_windows)
    return windows(data, range(0, len(data) - n_ctx, every), n_ctx)


# ---------------------------------------------------------------- layers, forward and backward


def linear_forward(x, w, b):
    """x [N, n_in] -> [N, n_out]"""
    out = x @ w
    out += b
    return out, (x, w)


def linear_backward(dout, cache):
    """dout [N, n_out] -> dx [N, n_in] and the gradients of w and b"""
    x, w = cache
    return dout @ w.T, {"w": x.T @ dout, "b": column_sums(dout)}


def column_sums(x):
    """[N, n] -> [n]; as a product, since BLAS adds up faster than NumPy's sum"""
    return np.ones(len(x), x.dtype) @ x


def row_means(*factors):
    """The mean of each row of the product of `factors`, each [N, n]: -> [N, 1]

    einsum needs no array for the product, and adds up faster than NumPy's mean.
    """
    inputs = ",".join("ij" for _ in factors)
    return np.einsum(f"{inputs}->i", *factors)[:, None] / factors[0].shape[1]


def layer_norm_forward(x, g, b, eps=1e-5):
    """x [N, C] -> [N, C]"""
    norm = x - row_means(x)
    rstd = 1 / np.sqrt(row_means(norm, norm) + eps)  # [N, 1]
    norm *= rstd
    out = norm * g
    out += b
    return out, (norm, rstd, g)


def layer_norm_backward(dout, cache):
    """dout [N, C] -> dx [N, C] and the gradients of g and b"""
    norm, rstd, g = cache
    dx = dout * g
    # What moves a row's mean or its length changes nothing after the norm: taken out of dx.
    along_norm = row_means(dx, norm)
    dx -= row_means(dx)
    dx -= norm * along_norm
    dx *= rstd
    return dx, {"g": np.einsum("ij,ij->j", dout, norm), "b": column_sums(dout)}


GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_forward(x):
    """x [N, n], changed in place -> [N, n], and the slope there, for which x is no longer needed

    With u = scale * (x + cubic * x^3) and h = (1 + tanh(u)) / 2, gelu is x * h. Its slope is
    h + x * dh/dx = h + x * 2 h (1 - h) * du/dx, where x * du/dx = 3 u - 2 scale * x.
    """
    slope = np.empty_like(x)
    for i in range(0, len(x), 128):  # few enough rows for the processor's cache
        rows = x[i : i + 128]
        u = rows * rows
        u *= GELU_SCALE * GELU_CUBIC
        u += GELU_SCALE
        u *= rows
        h = np.tanh(u)
        h += 1
        h *= 0.5
        u *= 6
        u -= rows * (4 * GELU_SCALE)  # 2 x * du/dx
        rows *= h
        u *= 1 - h
        u += 1
        np.multiply(u, h, out=slope[i : i + 128])
    return x, slope


def gelu_backward(dout, slope):
    return dout * slope


def keep(shape, rate, rng):
    """Booleans, False with probability `rate`, rounded to 1/256: a random byte decides each"""
    n = math.prod(shape)
    draws = rng.integers(0, 2**64, -(-n // 8), dtype=np.uint64)  # eight bytes at a time
    return draws.view(np.uint8)[:n].reshape(shape) >= round(256 * rate)


def kept_part(rate):
    """The part of the numbers that `keep` keeps: 1 - rate, rounded to 1/256"""
    return 1 - round(256 * rate) / 256


def dropout_forward(x, rate, rng):
    """Zero each number of x with probability `rate`, scale the others up so that sums keep their
    size: -> x itself, changed in place, and the mask (None without an rng: x as it is)."""
    if rng is None or rate == 0:
        return x, None
    mask = keep(x.shape, rate, rng) * np.float32(1 / kept_part(rate))
    x *= mask
    return x, mask


def dropout_backward(dout, mask):
    return dout if mask is None else dout * mask


def cache_blocks(scores):
    """Slices of scores [B * H, T, T], each of about a megabyte: what a processor's cache holds"""
    step = max(1, 2**18 // scores[0].size)
    return [slice(i, i + step) for i in range(0, len(scores), step)]


def attention_forward(qkv, n_head, n_ctx, dropout=0.0, rng=None):
    """qkv [N, 3 C] -> [N, C]: causal self-attention in every head of every sequence

    Two things are other than in `gpt2.attention`, for speed. Scores stand keys first, [T_k, T_q]:
    NumPy works down columns faster than along rows. And they are not divided by their sum: the
    outputs are, which are fewer.
    """
    d_head = qkv.shape[1] // (3 * n_head)
    # [N, 3 C] -> [B, T, 3, H, D] -> q, k, v, each [B * H, T, D] and in one piece
    qkv = qkv.reshape(-1, n_ctx, 3, n_head, d_head).transpose(2, 0, 3, 1, 4)
    q, k, v = np.ascontiguousarray(qkv).reshape(3, -1, n_ctx, d_head)
    q *= 1 / math.sqrt(d_head)
    q = np.ascontiguousarray(q.swapaxes(1, 2))  # [B * H, D, T]
    later = np.tril(np.full((n_ctx, n_ctx), -1e10, k.dtype), -1)  # keys that come after the query
    ones = np.ones((1, n_ctx), k.dtype)
    e = np.empty((len(k), n_ctx, n_ctx), k.dtype)
    kept = None if rng is None or dropout == 0 else np.empty(e.shape, bool)
    out, total = np.empty_like(k), np.empty((len(k), n_ctx, 1), k.dtype)
    blocks = cache_blocks(e)
    scratch = np.empty_like(e[blocks[0]])
    for i in blocks:
        block = np.matmul(k[i], q[i], out=e[i])
        block += later
        block -= block.max(axis=1, keepdims=True)
        np.exp(block, out=block)
        np.matmul(ones, block, out=total[i].swapaxes(1, 2))  # the sum over the keys
        if kept is not None:
            kept[i] = keep(block.shape, dropout, rng)
            block = np.multiply(block, kept[i], out=scratch[: len(block)])
        np.matmul(block.swapaxes(1, 2), v[i], out=out[i])
    scale = 1.0 if kept is None else 1 / kept_part(dropout)
    out *= scale / total
    out = out.reshape(-1, n_head, n_ctx, d_head)
    return out.swapaxes(1, 2).reshape(-1, n_head * d_head), (q, k, v, e, total, kept, scale, out)


def attention_backward(dout, cache):
    """dout [N, C] -> dqkv [N, 3 C]"""
    q, k, v, e, total, kept, scale, out = cache
    n_seq, n_head, n_ctx, d_head = out.shape
    dout = dout.reshape(n_seq, n_ctx, n_head, d_head).swapaxes(1, 2)
    dout = dout.reshape(-1, n_ctx, d_head) / total
    # A query's weights sum to 1: what would raise them all alike changes nothing. [B * H, 1, T]
    alike = np.einsum("ntd,ntd->nt", dout, out.reshape(dout.shape))[:, None]
    dout *= scale
    dout_t, q_t = np.ascontiguousarray(dout.swapaxes(1, 2)), q.swapaxes(1, 2)
    dqkv = np.empty((3, *dout.shape), dout.dtype)
    dq, dk, dv = dqkv
    blocks = cache_blocks(e)
    scratch = np.empty_like(e[blocks[0]])
    for i in blocks:
        block = scratch[: len(e[i])]
        weights = e[i] if kept is None else np.multiply(e[i], kept[i], out=block)
        np.matmul(weights, dout[i], out=dv[i])
        dscores = np.matmul(v[i], dout_t[i], out=block)  # [.., T_k, T_q]
        if kept is not None:
            dscores *= kept[i]
        dscores -= alike[i]
        dscores *= e[i]
        np.matmul(dscores.swapaxes(1, 2), k[i], out=dq[i])
        np.matmul(dscores, q_t[i], out=dk[i])
    dq *= 1 / math.sqrt(d_head)
    # [3, B, H, T, D] -> [B, T, 3, H, D]
    dqkv = dqkv.reshape(3, n_seq, n_head, n_ctx, d_head).transpose(1, 3, 0, 2, 4)
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


def cross_entropy(logits, targets, n_targets=None):
    """Logits [N, V], targets [N] -> mean loss in nats, and the gradient of it [N, V]

    Where these are a piece of a batch of `n_targets`, it is the piece's part of the batch's mean.
    """
    n_targets = n_targets or len(targets)
    rows = np.arange(len(targets))
    p = logits - logits.max(axis=-1, keepdims=True)
    picked = p[rows, targets]
    np.exp(p, out=p)
    total = p.sum(axis=-1, keepdims=True)
    loss = np.sum(np.log(total[:, 0]) - picked) / n_targets
    p /= total
    p[rows, targets] -= 1
    p /= n_targets
    return float(loss), p


# ---------------------------------------------------------------- the whole model


def block_forward(x, block, n_head, n_ctx, dropout=0.0, rng=None):
    """x [N, C] -> [N, C]: `gpt2.transformer_block` for several sequences, keeping each cache"""
    out, ln_1 = layer_norm_forward(x, **block["ln_1"])
    out, c_attn = linear_forward(out, **block["attn"]["c_attn"])
    out, heads = attention_forward(out, n_head, n_ctx, dropout, rng)
    out, attn_proj = linear_forward(out, **block["attn"]["c_proj"])
    out, attn_mask = dropout_forward(out, dropout, rng)
    x = x + out
    out, ln_2 = layer_norm_forward(x, **block["ln_2"])
    out, c_fc = linear_forward(out, **block["mlp"]["c_fc"])
    out, act = gelu_forward(out)
    out, mlp_proj = linear_forward(out, **block["mlp"]["c_proj"])
    out, mlp_mask = dropout_forward(out, dropout, rng)
    x = x + out
    return x, (ln_1, c_attn, heads, attn_proj, attn_mask, ln_2, c_fc, act, mlp_proj, mlp_mask)


def block_backward(dx, cache):
    """dx [N, C] -> dx [N, C] and the block's gradients; a residual passes dx on unchanged"""
    ln_1, c_attn, heads, attn_proj, attn_mask, ln_2, c_fc, act, mlp_proj, mlp_mask = cache
    d, dmlp_proj = linear_backward(dropout_backward(dx, mlp_mask), mlp_proj)
    d, dc_fc = linear_backward(gelu_backward(d, act), c_fc)
    d, dln_2 = layer_norm_backward(d, ln_2)
    dx = dx + d
    d, dattn_proj = linear_backward(dropout_backward(dx, attn_mask), attn_proj)
    d, dc_attn = linear_backward(attention_backward(d, heads), c_attn)
    d, dln_1 = layer_norm_backward(d, ln_1)
    dblock = {
        "ln_1": dln_1,
        "attn": {"c_attn": dc_attn, "c_proj": dattn_proj},
        "ln_2": dln_2,
        "mlp": {"c_fc": dc_fc, "c_proj": dmlp_proj},
    }
    return dx + d, dblock


def forward(params, n_head, inputs, dropout=0.0, rng=None):
    """inputs [B, T] ids -> logits [N, V] and what `backward` needs; drops out only with an rng"""
    x, embedding = embedding_forward(inputs, params["wte"], params["wpe"])
    x, mask = dropout_forward(x, dropout, rng)
    caches = []
    for block in params["blocks"]:
        x, cache = block_forward(x, block, n_head, inputs.shape[1], dropout, rng)
        caches.append(cache)
    x, ln_f = layer_norm_forward(x, **params["ln_f"])
    return x @ params["wte"].T, (embedding, mask, caches, ln_f, x)


def backward(dlogits, cache):
    """dlogits [N, V] -> gradients, nested like the parameters"""
    embedding, mask, caches, ln_f, x = cache
    wte = embedding[1]
    dwte_out = dlogits.T @ x  # wte is used twice: its gradients add up
    dx, dln_f = layer_norm_backward(dlogits @ wte, ln_f)
    dblocks = []
    for block_cache in reversed(caches):
        dx, dblock = block_backward(dx, block_cache)
        dblocks.append(dblock)
    dwte, dwpe = embedding_backward(dropout_backward(dx, mask), embedding)
    dwte += dwte_out
    return {"wte": dwte, "wpe": dwpe, "blocks": dblocks[::-1], "ln_f": dln_f}


def loss_and_grads(params, n_head, inputs, targets, dropout=0.0, rng=None, n_targets=None):
    """Inputs and targets [B, T] -> the mean loss in nats per token, and all its gradients"""
    logits, cache = forward(params, n_head, inputs, dropout, rng)
    loss, dlogits = cross_entropy(logits, targets.ravel(), n_targets)
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
    """Runs a batch in pieces of a few sequences, on as many threads as there are cores.

    The products of a small model are too small to share out, and the rest of NumPy runs on one
    thread: so BLAS is held to one, and whole sequences are what the cores share. Pieces are about
    as large as the cache. They are added up in a fixed order: the same seed gives the same bytes.
    """

    def __init__(self, params, n_head, n_ctx, dropout=0.0):
        self.params, self.n_head, self.dropout = params, n_head, dropout
        self.piece = max(1, 1024 // n_ctx)  # sequences
        self.cores = cores()
        self.pool = ThreadPoolExecutor(self.cores)

    def pieces(self, inputs, targets):
        """The batch in pieces, at least one for each core if it has that many sequences."""
        n = min(self.piece, max(1, len(inputs) // self.cores))
        return [(inputs[i : i + n], targets[i : i + n]) for i in range(0, len(inputs), n)]

    def loss_and_grads(self, inputs, targets, seed=()):
        """Inputs and targets [B, T] -> the mean loss, {name: gradient}; `seed` is of the dropout"""
        pieces = list(enumerate(self.pieces(inputs, targets)))

        def work(first):  # one thread's pieces
            total_loss, total = 0.0, None
            for i, piece in pieces[first :: self.cores]:
                rng = np.random.default_rng([*seed, i]) if self.dropout else None
                options = self.dropout, rng, targets.size
                loss, grads = loss_and_grads(self.params, self.n_head, *piece, *options)
                total_loss, total = total_loss + loss, add_up(total, dict(named(grads)))
            return total_loss, total

        losses, grads = zip(*self.pool.map(work, range(self.cores)), strict=True)
        return sum(losses), functools.reduce(add_up, grads)

    def loss(self, inputs, targets):
        """Inputs and targets [B, T] -> the mean loss, without dropout"""

        def work(piece):
            logits, _ = forward(self.params, self.n_head, piece[0])
            return cross_entropy(logits, piece[1].ravel(), targets.size)[0]

        return sum(self.pool.map(work, self.pieces(inputs, targets)))


def add_up(total, grads):
    """`grads` added to `total` in place, both {name: array}, or the one of them that is there"""
    if total is None or grads is None:
        return total or grads
    for name, grad in grads.items():
        total[name] += grad
    return total


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

    def __init__(self, params, weight_decay=0.1, clip=1.0, betas=(0.9, 0.99), eps=1e-8):
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


def cosine_schedule(done, peak, warmup=0.04):
    """The learning rate when a part `done` of the run is behind us (0 to 1): a straight line up to
    `peak`, then half a cosine down to a tenth of it.

    >>> [round(cosine_schedule(done, 1.0), 2) for done in (0.01, 0.02, 0.04, 0.52, 1)]
    [0.25, 0.5, 1.0, 0.55, 0.1]
    """
    if done < warmup:
        return peak * done / warmup
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))))


# ---------------------------------------------------------------- the loop


class Training:
    """One run: its data, model and optimizer, and what has happened so far.

    `options` are those of `main`, all filled in. `history` has one dict for each evaluation.
    """

    def __init__(self, **options):
        self.options, self.out = options, Path(options["out"])
        self.state_file = self.out / "training_state.npz"
        self.history, self.best, self.minutes = [], math.inf, 0.0
        self.rng = np.random.default_rng(options["seed"])
        self.check_out()
        self.read_data()
        self.make_model()
        self.adam = AdamW(self.params, options["weight_decay"], options["grad_clip"])
        if options["resume"]:
            self.load_state()
        self.check_disk()
        self.out.mkdir(parents=True, exist_ok=True)
        n_head, dropout = self.hparams["n_head"], options["dropout"]
        self.workers = Workers(self.params, n_head, options["n_ctx"], dropout)

    def check_out(self):
        """Refuse to write over something else, before any work."""
        if self.options["resume"] and not self.state_file.exists():
            raise FileNotFoundError(f"--resume: there is no {self.state_file} to go on from")
        if not self.options["resume"] and self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(f"{self.out} is not empty: name another --out, or --resume it")

    def check_disk(self):
        """Refuse to start where a checkpoint (parameters, two averages, twice) would not fit."""
        there = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
        needed = 7 * sum(p.nbytes for _, p in named(self.params))
        free = shutil.disk_usage(there).free
        if free < needed:
            raise OSError(f"{there} has {free} bytes left; checkpoints need {needed}")

    def read_data(self):
        """Documents -> encoder, training and held-out ids, and always the same held-out windows."""
        options, n_ctx = self.options, self.options["n_ctx"]
        train, test = split(read_documents(options["data"]), self.rng)
        self.encoder = make_encoder(options["init_from"] or options["tokenizer"], train)
        self.train_ids = token_ids(train, self.encoder)
        self.test_ids = token_ids(test, self.encoder)
        if min(len(self.train_ids), len(self.test_ids)) <= n_ctx:
            raise ValueError(
                f"{len(self.train_ids)} tokens to train on and {len(self.test_ids)} held out are "
                f"too few for windows of {n_ctx}: give more --data or a smaller --n_ctx"
            )
        n_bytes = sum(len(text.encode("utf-8")) + 1 for text in test)  # 1: the end mark
        self.bits_per_nat = len(self.test_ids) / n_bytes / math.log(2)  # bits per byte, that is
        self.test_batch = spread_windows(self.test_ids, n_ctx)

    def make_model(self):
        """New parameters, or those of --init_from, as float32 arrays that may be written to."""
        options = self.options
        names = ("n_ctx", "n_embd", "n_head", "n_layer")
        self.hparams = {name: options[name] for name in names}
        self.hparams = {"n_vocab": len(self.encoder.encoder), **self.hparams}
        if not options["init_from"]:
            self.params = init_params(self.hparams, self.rng)
            return
        folder = Path(options["init_from"])
        _, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
        if options["n_ctx"] > hparams["n_ctx"]:
            raise ValueError(f"--n_ctx {options['n_ctx']}: {folder} has only {hparams['n_ctx']}")
        self.hparams, self.params = hparams, writable(params)

    def run(self):
        """Train until --steps or --minutes are over; evaluate and save on the way."""
        options, adam, losses = self.options, self.adam, []
        self.started = time.monotonic() - 60 * self.minutes
        total = None if options["minutes"] else options["steps"]
        bar = tqdm(total=total, initial=adam.n_steps, unit="step", disable=None)
        with threadpool_limits(1, "blas"), bar:
            while self.done() < 1:
                began = time.monotonic()
                losses.append(self.step())
                self.minutes = (time.monotonic() - self.started) / 60
                speed = options["batch_size"] * options["n_ctx"] / (time.monotonic() - began)
                best = f"{self.best:.3f}" if self.history else "?"
                shown = f"loss {losses[-1]:.3f}, held-out {best}, {speed:.0f} tokens/s"
                if options["minutes"]:  # with --steps the bar itself knows how much is left
                    shown += f", {max(0.0, options['minutes'] - self.minutes):.1f} minutes left"
                bar.set_postfix_str(shown, refresh=False)
                bar.update()
                if adam.n_steps % options["eval_every"] == 0 or self.done() >= 1:
                    self.evaluate(float(np.mean(losses)))
                    losses.clear()

    def done(self, n_more=0):
        """The part of the run that is behind us after `n_more` steps, from 0 to 1."""
        if self.options["minutes"]:
            return (time.monotonic() - self.started) / 60 / self.options["minutes"]
        return (self.adam.n_steps + n_more) / self.options["steps"]

    def step(self):
        """One step of the optimizer on a random batch: -> its loss in nats per token"""
        options, n_ctx, n_steps = self.options, self.options["n_ctx"], self.adam.n_steps
        starts = self.rng.integers(0, len(self.train_ids) - n_ctx, options["batch_size"])
        batch = windows(self.train_ids, starts, n_ctx)
        loss, grads = self.workers.loss_and_grads(*batch, seed=(options["seed"], n_steps))
        self.check_finite(loss)
        learning_rate = cosine_schedule(min(1.0, self.done(1)), options["learning_rate"])
        self.adam.step(self.params, grads, learning_rate)
        return loss

    def check_finite(self, loss):
        """Stop, rather than save what is broken: raises ValueError if the loss is not a number."""
        if not math.isfinite(loss):
            kept = f"step {self.history[-1]['step']} is kept" if self.history else "nothing is kept"
            raise ValueError(
                f"the loss is {loss} after step {self.adam.n_steps}; {kept}; try a smaller "
                "--learning_rate"
            )

    def evaluate(self, loss):
        """Measure the held-out loss, keep the best model, write down and draw how it goes."""
        options = self.options
        held_out = self.workers.loss(*self.test_batch)
        self.check_finite(held_out)
        row = {
            "step": self.adam.n_steps,
            "tokens": self.adam.n_steps * options["batch_size"] * options["n_ctx"],
            "minutes": round(self.minutes, 2),
            "loss": round(loss, 5),
            "held_out_loss": round(held_out, 5),
            "bits_per_byte": round(held_out * self.bits_per_nat, 5),
        }
        self.history.append(row)
        if held_out < self.best:
            self.best = held_out
            dtype = np.float16 if options["half"] else np.float32
            save_model_folder(self.out, self.encoder, self.hparams, self.params, dtype=dtype)
        self.save_state()
        write_log(self.out / "log.csv", self.history)
        write_loss_svg(self.out / "loss.svg", self.history)
        say(
            f"step {row['step']}: loss {loss:.4f}, held-out {held_out:.4f} "
            f"({row['bits_per_byte']:.4f} bits per byte), {self.minutes:.1f} minutes"
        )
        say(textwrap.indent(self.sample(), "    "))

    def sample(self, n_tokens=60):
        """A text by the model as it is now, always with the same draws."""
        rng, n_head = np.random.default_rng(self.options["seed"]), self.hparams["n_head"]
        eot = self.encoder.eot
        options = {"temperature": 0.8, "rng": rng, "stop_id": eot}
        text = self.encoder.decode(generate([eot], self.params, n_head, n_tokens, **options))
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)

    def save_state(self):
        """All that the rest of the run depends on, in one file, replaced in one moment."""
        arrays = {f"params.{name}": p for name, p in named(self.params)}
        arrays |= {f"mean.{name}": m for name, m in self.adam.mean.items()}
        arrays |= {f"square.{name}": s for name, s in self.adam.square.items()}
        run = {
            "options": self.options,
            "history": self.history,
            "n_steps": self.adam.n_steps,
            "minutes": self.minutes,
            "best": self.best,
            "rng": self.rng.bit_generator.state,
        }
        part = self.state_file.with_suffix(".part.npz")
        try:
            np.savez(part, run=json.dumps(run), **arrays)
            os.replace(part, self.state_file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(f"cannot write {self.state_file}: {error.strerror}") from None

    def load_state(self):
        """Go back to where `save_state` was. Raises ValueError if the options are others now."""
        with np.load(self.state_file) as arrays:
            run = json.loads(str(arrays["run"]))
            free = ("steps", "minutes", "eval_every", "resume", "out")  # these may change
            changed = [
                f"--{name} {run['options'].get(name)}"
                for name, value in self.options.items()
                if name not in free and run["options"].get(name) != value
            ]
            if changed:
                raise ValueError(f"--resume: the run in {self.out} had {', '.join(changed)}")
            for name, p in named(self.params):
                p[...] = arrays[f"params.{name}"]
                self.adam.mean[name] = arrays[f"mean.{name}"]
                self.adam.square[name] = arrays[f"square.{name}"]
        self.history, self.minutes, self.best = run["history"], run["minutes"], run["best"]
        self.adam.n_steps, self.rng.bit_generator.state = run["n_steps"], run["rng"]


def writable(params):
    """Nested parameters as new float32 arrays."""
    if isinstance(params, dict):
        return {key: writable(value) for key, value in params.items()}
    if isinstance(params, list):
        return [writable(value) for value in params]
    return np.array(params, np.float32)


def say(line):
    """Print on standard error, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)


def write_log(path, history):
    """`history` as a CSV file, written in one moment."""
    with open(part := path.with_suffix(".part"), "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, history[0].keys())
        writer.writeheader()
        writer.writerows(history)
    os.replace(part, path)


def round_numbers(low, high):
    """Up to ten round numbers from low to high, to write along an axis.

    >>> round_numbers(0, 617)
    [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0]
    >>> round_numbers(2, 3)
    [2.0, 2.2, 2.4, 2.6, 2.8, 3.0]
    """
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(n * power for n in (1, 2, 5, 10) if (high - low) / (n * power) < 9)
    first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def write_loss_svg(path, history):
    """Draw both losses of `history` over the steps, as an SVG of 640 x 360."""
    left, right, top, bottom = 60, 600, 30, 310
    last = history[-1]["step"]
    losses = [row[key] for row in history for key in ("loss", "held_out_loss")]
    low, high = math.floor(2 * min(losses)) / 2, math.ceil(2 * max(losses)) / 2 or 0.5
    high = max(high, low + 0.5)

    def x(step):
        return left + (right - left) * step / last

    def y(loss):
        return bottom - (bottom - top) * (loss - low) / (high - low)

    def text(at_x, at_y, words, anchor="middle", colour="#444"):
        place = f'x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{colour}"'
        return f"<text {place}>{words}</text>"

    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" width="640" height="360" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="640" height="360" fill="white"/>',
    ]
    for loss in round_numbers(low, high):
        lines.append(f'<path d="M{left} {y(loss):.1f}H{right}" stroke="#ddd"/>')
        lines.append(text(left - 8, y(loss) + 4, f"{loss:g}", "end"))
    for step in round_numbers(0, last):
        lines.append(text(x(step), bottom + 18, f"{step:g}"))
    lines.append(text((left + right) / 2, bottom + 38, "step"))
    lines.append(text(left, top - 12, "loss, nats per token", "start"))
    series = (("loss", "training", "#1f77b4"), ("held_out_loss", "held out", "#d62728"))
    for i, (key, name, colour) in enumerate(series):
        points = " ".join(f"{x(row['step']):.1f},{y(row[key]):.1f}" for row in history)
        style = f'fill="none" stroke="{colour}" stroke-width="2"'
        lines.append(f'<polyline points="{points}" {style}/>')
        lines.append(text(right - 120 + 70 * i, top - 12, name, "start", colour))
    part = path.with_suffix(".part")
    part.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")
    os.replace(part, path)


# ---------------------------------------------------------------- the command line

PRESETS = {  # `python` is the bundled model's; `char_gpt` a public tutorial's, in PyTorch
    "python": {},
    "char_gpt": {
        "tokenizer": "char",
        "n_layer": 12,
        "n_head": 16,
        "n_embd": 128,
        "n_ctx": 64,
        "batch_size": 16,
        "dropout": 0.4,
    },
}
DEFAULTS = {
    "tokenizer": "bpe:2048",
    "n_layer": 6,
    "n_head": 6,
    "n_embd": 192,
    "n_ctx": 256,
    "batch_size": 16,
    "dropout": 0.1,
}


def main(
    data: str | None = None,
    out: str = "models/scratch",
    preset: str = "python",
    tokenizer: str | None = None,
    init_from: str | None = None,
    n_layer=None,
    n_head=None,
    n_embd=None,
    n_ctx=None,
    batch_size=None,
    steps=5000,
    minutes=None,
    learning_rate=2e-3,
    weight_decay=0.1,
    grad_clip=1.0,
    dropout=None,
    seed=0,
    eval_every=250,
    half=False,
    resume=False,
):
    """Train a GPT-2 from text and write a model folder that gpt2.py runs.

      python train.py --out models/mine --minutes 10
      python gpt2.py "def " --model_size mine

    Losses, in nats per token, and a sample of text go to standard error; --out gets the best model
    so far (by held-out loss), log.csv and loss.svg at every evaluation. A run that was stopped at
    any moment goes on from its last evaluation with the same command and --resume.

    --data WHAT           the functions of the standard library if not given; or a text file, a
                          folder of *.py (by function) or *.txt (by file), an installed package
    --out FOLDER          the model folder to write (models/scratch)
    --preset NAME         python: the sizes below; char_gpt: a small tutorial's, 128 wide, 16 heads,
                          12 layers, 64 positions, characters, dropout 0.4
    --tokenizer NAME      char: bytes, no merges; bpe:N: N merges learned from the training text;
                          or a model folder, for its vocabulary (bpe:2048)
    --init_from FOLDER    start from this model, with its sizes and vocabulary: fine-tuning
    --n_layer N           blocks (6)
    --n_head N            attention heads, a divisor of n_embd (6)
    --n_embd N            width (192)
    --n_ctx N             positions in the window (256)
    --batch_size N        windows in one step of the optimizer (16)
    --steps N             steps in all (5000)
    --minutes X           stop after this time instead
    --learning_rate X     its peak, after a warm-up; then half a cosine down to a tenth (0.002)
    --weight_decay X      of matrices and token embeddings (0.1)
    --grad_clip X         gradients longer than this, all together, are scaled down to it (1)
    --dropout X           part of the numbers zeroed while training (0.1)
    --seed N              of the split, the first weights, the batches and the dropout (0)
    --eval_every N        steps from one evaluation to the next (250)
    --half                store the weights as float16, in half the bytes
    --resume              go on with the run in --out
    """
    options = dict(locals())  # all of the above, by name
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    sizes = ("n_layer", "n_head", "n_embd")
    if init_from and any(options[name] for name in (*sizes, "tokenizer")):
        raise ValueError("--init_from brings its own sizes and vocabulary: leave those options out")
    for name, value in {**DEFAULTS, **PRESETS[preset]}.items():
        options[name] = value if options[name] is None else options[name]
    for name in (*sizes, "n_ctx", "batch_size", "steps", "eval_every"):
        check(name, options[name], int, 1)
    for name in ("learning_rate", "weight_decay"):
        check(name, options[name], float, 0)
    check("grad_clip", grad_clip, float, 1e-9)
    check("minutes", 1 if minutes is None else minutes, float, 1e-3)
    check("dropout", options["dropout"], float, 0, 0.99)
    check("seed", seed, int, 0)
    if options["n_embd"] % options["n_head"]:
        raise ValueError("--n_head {n_head} does not divide --n_embd {n_embd}".format(**options))
    training = Training(**options)
    n_params = sum(p.size for _, p in named(training.params))
    say(
        f"{len(training.train_ids)} tokens to train on, {len(training.test_ids)} held out, "
        f"{len(training.encoder.encoder)} in the vocabulary; {n_params} parameters"
    )
    training.run()


if __name__ == "__main__":
    run(main)
