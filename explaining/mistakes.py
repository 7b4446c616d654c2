"""Known mistakes in a GPT-2: what an operation gives if it is computed in a certain wrong way.

This is the catalogue; `hint.py` looks in it for the one that explains how two dumps part.

The correct operations are those of gpt2.py. For each kind of value a function here yields
(what is wrong, the array that this gives), the correct array first. Where a mistake leaves a number
open, its array has a NaN.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import gpt2
from explaining.watch import block_of, kind_of
from fast.product import product

Array = np.ndarray
Results = Iterator[tuple[str, Array]]

CORRECT = ""


# ---------------------------------------------------------------- precision


def float16(x: Array) -> Array:
    with np.errstate(over="ignore"):  # the largest become infinite, as they do there
        return x.astype(np.float16).astype(np.float32)


def bfloat16(x: Array) -> Array:
    """
    >>> bfloat16(np.array([1.001, 1.005], np.float32)).tolist()
    [1.0, 1.0078125]
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)  # rounds to nearest, a tie to the even one
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


PRECISIONS = {"float16": float16, "bfloat16": bfloat16}


def _rounded(correct: Array) -> Results:
    for name, rounded in PRECISIONS.items():
        yield f"the values are {name}", rounded(correct)


def _rounded_layer(layer: Callable, x: Array, parameters: dict) -> Results:
    for name, rounded in PRECISIONS.items():
        narrow = {key: rounded(array) for key, array in parameters.items()}
        yield f"the weights are {name}", layer(x, **narrow)
        if "w" in parameters:
            yield f"the weights are {name}, not the bias", layer(x, narrow["w"], parameters["b"])
        yield f"the weights and the values are {name}", rounded(layer(x, **narrow))
    yield from _rounded(layer(x, **parameters))


# ---------------------------------------------------------------- what an operation starts from


class Here(NamedTuple):
    """The surroundings of a value: the values that went in, and the parameters of its block."""

    name: str
    values: dict[str, Array]  # theirs, and ours where they have none
    ids: Array
    params: dict
    n_head: int

    def __getitem__(self, kind: str) -> Array:
        """The value of that kind; of the same block, for a name within one."""
        i = block_of(self.name)
        return self.values[f"h.{i}.{kind}" if i is not None else kind]

    @property
    def block_input(self) -> Array:
        """What enters the block: the embeddings, or the result of the block before."""
        i = block_of(self.name)
        return self.values["embeddings" if i == 0 else f"h.{i - 1}"]

    @property
    def last_block_output(self) -> Array:
        """What enters ln_f."""
        return self.values[f"h.{len(self.params['blocks']) - 1}"]

    @property
    def block(self) -> dict:
        return self.params["blocks"][block_of(self.name)]

    def at(self, name: str) -> "Here":
        return self._replace(name=name)

    def results(self) -> Results:
        """What the operation gives, correct and with each mistake."""
        correct = self.correct(self.name)
        yield from MISTAKES[kind_of(self.name)](self)
        by_column = np.ravel(correct, order="F").reshape(correct.shape)
        yield "the array is written column by column: NumPy's order is row by row", by_column

    def correct(self, name: str) -> Array:
        """The value of that name, computed from those before it."""
        _, correct = next(MISTAKES[kind_of(name)](self.at(name)))
        return correct

    def continued(self, name: str, array: Array, later: list[str]) -> Array:
        """What the last operation of `later` gives if the value of this name is `array`."""
        here = self._replace(values=self.values | {name: array})
        for name in later:
            array = here.correct(name)
            here.values[name] = array
        return array

    def other_blocks(self) -> Iterator[tuple[int, dict]]:
        for i, block in enumerate(self.params["blocks"]):
            if i != block_of(self.name):
                yield i, block


# ---------------------------------------------------------------- embeddings


def _wte(here: Here) -> Results:
    table, ids = here.params["wte"], here.ids
    yield CORRECT, table[ids]
    yield from _rounded(table[ids])
    yield "the table wte is transposed: it is [n_vocab, n_embd]", _misread(table)[ids]
    yield (
        "the embeddings are multiplied by sqrt(n_embd): GPT-2 does not",
        table[ids] * math.sqrt(table.shape[1]),
    )
    yield "the ids are one too high", table[np.minimum(ids + 1, len(table) - 1)]
    yield "the ids are one too low", table[ids - 1]


def _wrong_positions(n_seq: int, n_ctx: int) -> Iterator[tuple[str, Array]]:
    for first in (1, 2):
        if n_seq + first <= n_ctx:
            yield f"positions begin at {first}: they begin at 0", np.arange(n_seq) + first
    yield "every token is at position 0", np.zeros(n_seq, int)


def _wpe(here: Here) -> Results:
    table, n_seq = here.params["wpe"], len(here.ids)
    yield CORRECT, table[:n_seq]
    yield from _rounded(table[:n_seq])
    yield "the table wpe is transposed: it is [n_ctx, n_embd]", _misread(table)[:n_seq]
    for wrong, positions in _wrong_positions(n_seq, len(table)):
        yield wrong, table[positions]


def _embeddings(here: Here) -> Results:
    wte, wpe = here["wte"], here["wpe"]
    yield CORRECT, wte + wpe
    yield "wpe is missing: the embedding of the position is not added", wte
    yield "wte is missing: the embedding of the token is not added", wpe
    for wrong, positions in _wrong_positions(len(wte), len(here.params["wpe"])):
        yield wrong, wte + here.params["wpe"][positions]
    yield (
        "the embeddings are multiplied by sqrt(n_embd): GPT-2 does not",
        wte * math.sqrt(wte.shape[-1]) + wpe,
    )
    for name, rounded in PRECISIONS.items():
        yield f"the weights are {name}", rounded(wte) + rounded(wpe)
    yield from _rounded(wte + wpe)


# ---------------------------------------------------------------- layer norm


def _norm(x: Array, g: Array, b: Array, eps=1e-5, outside=0.0, ddof=0, axis=-1, centred=True):
    """Layer norm with something wrong: see `_layer_norm`."""
    mean = x.mean(axis=axis, keepdims=True) if centred else 0
    n = x.shape[axis] - ddof
    variance = ((x - mean) ** 2).sum(axis=axis, keepdims=True) / n
    return (x - mean) / (np.sqrt(variance + eps) + outside) * g + b


def _layer_norm(here: Here, x: Array, layer: dict, layer_of_block: Callable | None) -> Results:
    g, b = layer["g"], layer["b"]
    yield CORRECT, gpt2.layer_norm(x, g, b)
    for eps in (1e-6, 1e-8, 1e-12, 1e-3, 1e-4, 0.0):
        yield f"epsilon is {eps:g}: GPT-2's is 1e-05", gpt2.layer_norm(x, g, b, eps)
    yield (
        "epsilon is added to the standard deviation, not to the variance",
        _norm(x, g, b, eps=0, outside=1e-5),
    )
    yield "the variance is divided by n - 1: divide by n", _norm(x, g, b, ddof=1)
    yield "the mean is not subtracted (that is RMSNorm)", _norm(x, g, b, centred=False)
    yield (
        "it goes over the positions (axis 0), not over the numbers of each",
        _norm(x, g, b, axis=0),
    )
    yield "the gain g is missing", gpt2.layer_norm(x, np.ones_like(g), b)
    yield "the bias b is missing", gpt2.layer_norm(x, g, np.zeros_like(b))
    yield "gain and bias are missing", gpt2.layer_norm(x, np.ones_like(g), np.zeros_like(b))
    yield "it is not computed: its input goes on as it is", x
    yield from _rounded_layer(gpt2.layer_norm, x, layer)
    if layer_of_block is not None:
        for i, block in here.other_blocks():
            yield (
                f"its parameters are those of block {i}",
                gpt2.layer_norm(x, **layer_of_block(block)),
            )


def _ln_1(here: Here) -> Results:
    x, block = here.block_input, here.block
    yield from _layer_norm(here, x, block["ln_1"], lambda other: other["ln_1"])
    yield "ln_1 and ln_2 have each other's parameters", gpt2.layer_norm(x, **block["ln_2"])
    x = x + gpt2.mha(x, **block["attn"], n_head=here.n_head)
    yield (
        "it comes after attention (post-norm): in GPT-2 it comes before",
        gpt2.layer_norm(x, **block["ln_1"]),
    )


def _ln_2(here: Here) -> Results:
    x, block = here["residual_after_attn"], here.block
    yield from _layer_norm(here, x, block["ln_2"], lambda other: other["ln_2"])
    yield "ln_1 and ln_2 have each other's parameters", gpt2.layer_norm(x, **block["ln_1"])
    yield (
        "its input is what enters the block: in GPT-2 it is the stream after attention",
        gpt2.layer_norm(here.block_input, **block["ln_2"]),
    )
    yield (
        "its input is what attention adds: in GPT-2 it is the stream after attention",
        gpt2.layer_norm(here["attn.c_proj"], **block["ln_2"]),
    )
    x = x + gpt2.ffn(x, **block["mlp"])
    yield (
        "it comes after the feed-forward layer (post-norm): in GPT-2 it comes before",
        gpt2.layer_norm(x, **block["ln_2"]),
    )


def _ln_f(here: Here) -> Results:
    yield from _layer_norm(here, here.last_block_output, here.params["ln_f"], None)


# ---------------------------------------------------------------- linear layers


def _misread(w: Array) -> Array:
    """A matrix [n_in, n_out] whose numbers are read as if they were those of [n_out, n_in]."""
    return w.reshape(w.shape[::-1]).T


def _linear(here: Here, x: Array, layer_of_block: Callable) -> Results:
    layer = layer_of_block(here.block)
    w, b = layer["w"], layer["b"]
    yield CORRECT, gpt2.linear(x, w, b)
    transposed = "the weights are transposed: they are [n_in, n_out], for x @ w + b"
    yield transposed, gpt2.linear(x, _misread(w), b)
    yield transposed, gpt2.linear(x, w.T.reshape(w.shape), b)
    yield "the bias is missing", gpt2.linear(x, w, np.zeros_like(b))
    yield from _rounded_layer(gpt2.linear, x, layer)
    for i, block in here.other_blocks():
        yield f"its parameters are those of block {i}", gpt2.linear(x, **layer_of_block(block))


def _c_attn(here: Here) -> Results:
    yield from _linear(here, here["ln_1"], lambda block: block["attn"]["c_attn"])
    yield (
        "its input is not normalised: ln_1 comes before it",
        gpt2.linear(here.block_input, **here.block["attn"]["c_attn"]),
    )


def _merged(heads: Array) -> Array:
    """[n_head, n_seq, d_head] -> [n_seq, n_embd]"""
    return heads.swapaxes(-2, -3).reshape(heads.shape[-2], -1)


def _attn_c_proj(here: Here) -> Results:
    heads, layer = here["attn.heads"], here.block["attn"]["c_proj"]
    yield from _linear(here, _merged(heads), lambda block: block["attn"]["c_proj"])
    n_head, n_seq, d_head = heads.shape
    yield (
        "the heads are put side by side wrongly: the axis of the heads is not moved first",
        gpt2.linear(heads.reshape(n_seq, n_head * d_head), **layer),
    )
    interleaved = heads.transpose(1, 2, 0).reshape(n_seq, -1)
    yield (
        "the heads are put side by side wrongly: their numbers take turns",
        gpt2.linear(interleaved, **layer),
    )


def _c_fc(here: Here) -> Results:
    layer = here.block["mlp"]["c_fc"]
    yield from _linear(here, here["ln_2"], lambda block: block["mlp"]["c_fc"])
    yield (
        "its input is not normalised: ln_2 comes before it",
        gpt2.linear(here["residual_after_attn"], **layer),
    )
    yield (
        "its input is that of attention: in GPT-2 it is the stream after attention",
        gpt2.linear(here["ln_1"], **layer),
    )


def _mlp_c_proj(here: Here) -> Results:
    yield from _linear(here, here["mlp.gelu"], lambda block: block["mlp"]["c_proj"])


# ---------------------------------------------------------------- attention


def _split(x: Array, n_head: int) -> Array:
    """[n_seq, n_embd] -> [n_head, n_seq, d_head]"""
    return x.reshape(len(x), n_head, -1).swapaxes(0, 1)


def _wrong_splits(x: Array, n_head: int) -> Iterator[tuple[str, list[Array]]]:
    """What c_attn gives, [n_seq, 3 * n_embd], split wrongly into q, k and v."""
    n_seq = len(x)
    chunks = np.split(x, 3, axis=-1)
    for order in ("qvk", "kqv", "kvq", "vqk", "vkq"):
        text = f"c_attn is taken as {', '.join(order)}: it is q, k, v"
        yield text, [_split(chunks[order.index(name)], n_head) for name in "qkv"]
    yield (
        "the heads are split wrongly: reshape to [n_seq, n_head, d_head], then swap axes",
        [chunk.reshape(n_head, n_seq, -1) for chunk in chunks],
    )
    yield (
        "the heads are split wrongly: the numbers of one head do not lie side by side",
        [chunk.reshape(n_seq, -1, n_head).transpose(2, 0, 1) for chunk in chunks],
    )
    yield (
        "c_attn is split into heads first, then q, k, v: it is the other way round",
        list(x.reshape(n_seq, n_head, 3, -1).transpose(2, 1, 0, 3)),
    )


def _q_k_or_v(here: Here) -> Results:
    place = "qkv".index(here.name[-1])
    x = here["attn.c_attn"]
    correct = _split(np.split(x, 3, axis=-1)[place], here.n_head)
    yield CORRECT, correct
    for wrong, parts in _wrong_splits(x, here.n_head):
        yield wrong, parts[place]
    if here.name.endswith(".q"):
        scaled = correct / math.sqrt(correct.shape[-1])
        yield "q is divided by sqrt(d_head) already: right, if the scores are not", scaled
    yield from _rounded(correct)


def _scores(q: Array, k: Array, is_seen: Array, scale: float) -> Array:
    return np.where(is_seen, q @ k.swapaxes(-1, -2) * np.float32(scale), np.float32(gpt2.HIDDEN))


def _scores_and_mistakes(here: Here) -> Iterator[tuple[str, Array]]:
    q, k = here["attn.q"], here["attn.k"]
    n_head, n_seq, d_head = q.shape
    scale, causal = 1 / math.sqrt(d_head), np.tri(n_seq, dtype=bool)
    everything = np.ones_like(causal)
    yield CORRECT, _scores(q, k, causal, scale)
    scales = {
        "the scale is missing: divide the scores by sqrt(d_head)": 1.0,
        "the scores are divided by d_head: by its square root, and once": 1 / d_head,
        "the scores are divided by sqrt(n_embd): by sqrt(d_head)": 1 / math.sqrt(n_head * d_head),
        "the scores are divided by the number of the layer as well": (
            scale / (block_of(here.name) + 1)
        ),
    }
    for wrong, wrong_scale in scales.items():
        yield wrong, _scores(q, k, causal, wrong_scale)
    masks = {
        "the mask is missing: a position may see no later one": everything,
        "the mask is off by one: each position sees the next one too": np.tri(n_seq, k=1) > 0,
        "the mask is the wrong way round: it hides the earlier positions": causal.T,
    }
    for wrong, is_seen in masks.items():
        yield wrong, _scores(q, k, is_seen, scale)
    hides_itself = _scores(q, k, np.tri(n_seq, k=-1) > 0, scale)
    hides_itself[:, 0] = np.nan  # sees nothing at all: anything may come of that
    yield "the mask is off by one: each position has to see itself", hides_itself
    yield "scale and mask are missing", _scores(q, k, everything, 1.0)
    multiplied = _scores(q, k, everything, scale) * causal
    yield (
        "the scores are multiplied by the mask: hidden ones are to be very negative, not 0",
        multiplied,
    )
    for wrong, (wrong_q, wrong_k, _) in _wrong_splits(here["attn.c_attn"], n_head):
        yield wrong, _scores(wrong_q, wrong_k, causal, scale)


def _attn_scores(here: Here) -> Results:
    yield from _scores_and_mistakes(here)
    q, k = here["attn.q"], here["attn.k"]
    scale, causal = 1 / math.sqrt(q.shape[-1]), np.tri(q.shape[-2], dtype=bool)
    for name, rounded in PRECISIONS.items():
        yield f"the values are {name}", rounded(_scores(q, k, causal, scale))


def _attn_weights(here: Here) -> Results:
    for wrong, scores in _scores_and_mistakes(here):
        yield wrong, gpt2.softmax(scores)
    q, k = here["attn.q"], here["attn.k"]
    scale, causal = 1 / math.sqrt(q.shape[-1]), np.tri(q.shape[-2], dtype=bool)
    scores = _scores(q, k, causal, scale)
    unmasked = _scores(q, k, np.ones_like(causal), scale)
    yield (
        "the mask comes after the softmax: the rows do not sum to 1",
        gpt2.softmax(unmasked) * causal,
    )
    yield (
        "the softmax goes over the queries: it goes over the keys, the last axis",
        gpt2.softmax(scores.swapaxes(-1, -2)).swapaxes(-1, -2),
    )
    yield "the softmax is missing", scores
    yield from _rounded(gpt2.softmax(scores))


def _attn_heads(here: Here) -> Results:
    weights, v = here["attn.weights"], here["attn.v"]
    yield CORRECT, weights @ v
    yield "the weights are transposed: weights @ v", weights.swapaxes(-1, -2) @ v
    yield "the keys are averaged: it is the values", weights @ here["attn.k"]
    for wrong, (_, _, wrong_v) in _wrong_splits(here["attn.c_attn"], here.n_head):
        yield wrong, weights @ wrong_v
    yield from _rounded(weights @ v)


# ---------------------------------------------------------------- activation, sums, logits


def _gelu(here: Here) -> Results:
    x = here["mlp.c_fc"]
    yield CORRECT, gpt2.gelu(x)
    erf = np.frompyfunc(math.erf, 1, 1)
    exact = 0.5 * x * (1 + erf(x.astype(float) / math.sqrt(2)).astype(np.float32))
    yield "it is the exact GELU, with erf: GPT-2 has the approximation with tanh", exact
    with np.errstate(over="ignore"):
        yield (
            "it is x * sigmoid(1.702 x): GPT-2 has the approximation with tanh",
            x / (1 + np.exp(-1.702 * x)),
        )
        yield "it is SiLU: GPT-2 has GELU, approximated with tanh", x / (1 + np.exp(-x))
    yield "it is ReLU: GPT-2 has GELU, approximated with tanh", np.maximum(x, 0)
    yield "the activation is missing", x
    yield "sqrt(2 / pi) is missing in the tanh", (0.5 * x * (1 + np.tanh(x + 0.044715 * x * x * x)))
    yield (
        "sqrt(2 / pi) in the tanh is 2 / pi",
        0.5 * x * (1 + np.tanh(2 / math.pi * (x + 0.044715 * x * x * x))),
    )
    yield from _rounded(gpt2.gelu(x))


def _residual_after_attn(here: Here) -> Results:
    before, added = here.block_input, here["attn.c_proj"]
    yield CORRECT, before + added
    yield "the residual connection is missing: add what enters the block", added
    yield (
        "what attention gives is added to its normalised input: add what enters the block",
        here["ln_1"] + added,
    )
    yield "what attention gives is not added", before
    yield from _rounded(before + added)


def _h(here: Here) -> Results:
    stream, added = here["residual_after_attn"], here["mlp.c_proj"]
    yield CORRECT, stream + added
    yield "the residual connection is missing: add the stream after attention", added
    yield "what the feed-forward layer gives is added to its normalised input", here["ln_2"] + added
    yield (
        "what the feed-forward layer gives is added to what enters the block",
        here.block_input + added,
    )
    yield "what the feed-forward layer gives is not added", stream
    yield from _rounded(stream + added)


def _logits(here: Here) -> Results:
    x, wte = here["ln_f"], here.params["wte"]
    correct = product(x, wte.T)
    yield CORRECT, correct
    yield "ln_f is missing", product(here.last_block_output, wte.T)
    yield "wte is transposed: it is [n_vocab, n_embd]", product(x, _misread(wte).T)
    yield "they are probabilities: the softmax comes later", gpt2.softmax(correct)
    with np.errstate(divide="ignore"):
        yield "they are logarithms of probabilities", np.log(gpt2.softmax(correct))
    for name, rounded in PRECISIONS.items():
        yield f"the weights are {name}", product(x, rounded(wte).T)
        yield f"the weights and the values are {name}", rounded(product(x, rounded(wte).T))
    yield from _rounded(correct)


MISTAKES = {
    "wte": _wte,
    "wpe": _wpe,
    "embeddings": _embeddings,
    "ln_1": _ln_1,
    "attn.c_attn": _c_attn,
    "attn.q": _q_k_or_v,
    "attn.k": _q_k_or_v,
    "attn.v": _q_k_or_v,
    "attn.scores": _attn_scores,
    "attn.weights": _attn_weights,
    "attn.heads": _attn_heads,
    "attn.c_proj": _attn_c_proj,
    "residual_after_attn": _residual_after_attn,
    "ln_2": _ln_2,
    "mlp.c_fc": _c_fc,
    "mlp.gelu": _gelu,
    "mlp.c_proj": _mlp_c_proj,
    "h": _h,
    "ln_f": _ln_f,
    "logits": _logits,
}
