"""GPT-2 in plain NumPy: the model, its key/value cache, sampling, generation, the command.

Read it top to bottom: each function uses only those above it. The path of a text:

    text -> Encoder.encode -> ids -> gpt2 -> logits -> sample -> id -> Encoder.decode -> text

`ids` are small integers, one for each token (a word or a piece of one) of a vocabulary; `logits`
score each token of the vocabulary as the next one. `gpt2` turns the first into the second: for
every position of the text it predicts what comes after it. So no position may see a later one.

What it has learned is in `params`: nested dicts whose keys are the arguments of the functions that
take them, so that `**params` wires the model (w: weights, b: bias, g: gain):

    {"wte": [n_vocab, n_embd],                          an embedding for each token
     "wpe": [n_ctx, n_embd],                            an embedding for each position
     "blocks": [                                        n_layer of these:
         {"ln_1": {"g": [n_embd], "b": [n_embd]},           normalises the input of attention
          "attn": {"c_attn": {"w": [n_embd, 3 * n_embd],    makes queries, keys and values
                              "b": [3 * n_embd]},
                   "c_proj": {"w": [n_embd, n_embd],        mixes the results of the heads
                              "b": [n_embd]}},
          "ln_2": {"g": [n_embd], "b": [n_embd]},           normalises the input of the next
          "mlp": {"c_fc": {"w": [n_embd, 4 * n_embd],       the feed-forward layer: widens,
                           "b": [4 * n_embd]},
                  "c_proj": {"w": [4 * n_embd, n_embd],     and narrows again
                             "b": [n_embd]}}},
     ],
     "ln_f": {"g": [n_embd], "b": [n_embd]}}            normalises the result of the last block

n_embd is the width of the model: how many numbers stand for one position of the text. Attention
runs n_head times side by side; each head has d_head = n_embd / n_head of the numbers. n_ctx, the
window, is how many positions the model can see. In comments on shapes n_seq is the number of
positions, and `...` stands for any axes before those named: none for one text, n_texts for several,
and within attention n_head as well.

Left out: training (`train.py`), the tokenizer (`encoder.py`), getting the weights (`utils.py`), and
how the work is spread over the processor's cores (`fast/`). What is imported from `fast/` affects
only speed. So while reading, take `product(x, w)` as `x @ w`, and ignore `@by_rows`, `@by_columns`
and `@by_queries` (each promises that a function treats its rows, columns or queries one by one, so
that it may be called on a part of them at a time) and `blas_threads_for`.

Names are those of OpenAI's checkpoint. Source: Radford et al., "Language Models are Unsupervised
Multitask Learners", 2019. Every array keeps the dtype of the parameters: constants are plain Python
numbers, since a float64 scalar of NumPy such as `np.sqrt(2)` would turn float32 into float64.
"""

from __future__ import annotations  # so that no hint is looked up, in jax.numpy for instance

import math
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: no traceback

import numpy as np

from command_line import as_typed, check, check_memory, notice, run
from fast.lookup import Guesses
from fast.product import blas_threads_for, product
from fast.schedule import by_columns, by_queries, by_rows
from fast.threads import use_threads
from utils import load_model

Array = np.ndarray

# ---------------------------------------------------------------- layers


@by_rows
def gelu(x: Array) -> Array:
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel, 2016), shape kept.

    >>> [round(float(y), 3) for y in gelu(np.array([[-1, 0, 1]], np.float32))[0]]
    [-0.159, 0.0, 0.841]
    """
    cubic = x * x * x  # x ** 3 is about 75 times slower in NumPy
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * cubic)))


def softmax(x: Array) -> Array:
    """Scores -> probabilities, along the last axis; shape kept.

    >>> softmax(np.array([0, math.log(3)]))
    array([0.25, 0.75])
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the largest becomes 1: nothing overflows
    e /= e.sum(axis=-1, keepdims=True)
    return e


@by_rows
def layer_norm(x: Array, g: Array, b: Array, eps: float = 1e-5) -> Array:
    """Each row scaled to mean 0 and variance 1, then gain `g` and bias `b` (Ba et al., 2016)."""
    n = x.shape[-1]  # sum / n is the mean; np.mean takes twice as long
    x = x - x.sum(axis=-1, keepdims=True) / n
    variance = (x * x).sum(axis=-1, keepdims=True) / n
    return x / np.sqrt(variance + eps) * g + b


@by_columns
def linear(x: Array, w: Array, b: Array) -> Array:
    """A projection: [..., n_in] @ [n_in, n_out] + [n_out] -> [..., n_out]"""
    y = product(x, w)
    y += b
    return y


def ffn(x: Array, c_fc: dict, c_proj: dict) -> Array:
    """The feed-forward layer: each position by itself. [..., n_seq, n_embd], shape kept"""
    hidden = gelu(linear(x, **c_fc))  # [..., n_seq, n_embd] -> [..., n_seq, 4 * n_embd]
    return linear(hidden, **c_proj)  # -> [..., n_seq, n_embd]


def attention_weights(q: Array, k: Array, mask: Array | float) -> Array:
    """How much each query attends to each key: rows that sum to 1.

    q [..., n_q, d_head], k [..., n_k, d_head] -> [..., n_q, n_k]
    mask [..., n_q, n_k] is added to the scores: 0 where a query may look, a large negative number
    where not; 0.0 if every query may look at every key.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2)  # [..., n_q, n_k]
    scores += mask
    return softmax(scores)


@by_queries
def attention(q: Array, k: Array, v: Array, mask: Array | float) -> Array:
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), of one head or many.

    Each position asks with a query, is found by its key, and hands over its value. The result for
    a query is the mean of the values, weighted by how well their keys match it.
    q [..., n_q, d_head], k and v [..., n_k, d_head] -> [..., n_q, d_head]
    """
    return attention_weights(q, k, mask) @ v


class KVCache:
    """The keys and values that one block has computed for the positions so far.

    They stay valid when the text grows, since no position looks at a later one. So only the new
    position has to go through the model, and attends to what is kept here.

    k, v: [n_texts, n_head, n_positions, d_head]; n_seq [n_texts]: how many positions are filled.
    """

    def __init__(self, k: Array, v: Array, n_seq: Array):
        self.k, self.v, self.n_seq = k, v, n_seq

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the next keys and values. Returns all so far, up to the end of the longest text.

        [n_texts, n_head, n_new, d_head] -> [n_texts, n_head, n_k, d_head], k and v alike
        """
        starts, n_new = self.n_seq.tolist(), k.shape[-2]
        for text, start in enumerate(starts):
            self.k[text, :, start : start + n_new] = k[text]
            self.v[text, :, start : start + n_new] = v[text]
        self.n_seq += n_new
        n_k = max(starts) + n_new
        return self.k[:, :, :n_k], self.v[:, :, :n_k]

    def __getitem__(self, texts: slice) -> KVCache:
        """The cache of some of the texts: a view, not a copy."""
        return KVCache(self.k[texts], self.v[texts], self.n_seq[texts])


def empty_caches(
    params: dict, n_head: int, n_texts: int = 1, n_positions: int | None = None
) -> list[KVCache]:
    """An empty `KVCache` for each block, with room for `n_positions` (default: the window)."""
    n_ctx, n_embd = params["wpe"].shape
    shape = n_texts, n_head, n_positions or n_ctx, n_embd // n_head

    def zeros():  # not np.empty: the mask hides unfilled positions, but a NaN there would spread
        return np.zeros(shape, params["wpe"].dtype)

    return [KVCache(zeros(), zeros(), np.zeros(n_texts, int)) for _ in params["blocks"]]


def causal_mask(n_q: int, n_k: int, n_seq: int | Array, dtype: np.dtype) -> Array | float:
    """The mask for attention that keeps every position from looking at a later one.

    The text has n_seq positions so far, and the queries are those of its last n_q. The keys are
    those of positions 0 to n_k - 1. For several texts in one cache n_seq is an array, [n_texts],
    and n_k is that of the longest.
    -> [n_q, n_k], or [n_texts, 1, n_q, n_k], where the 1 stands for all heads alike. A single query
    may look at every key: 0.0.

    >>> causal_mask(n_q=2, n_k=3, n_seq=3, dtype=np.dtype(np.float32)) < 0
    array([[False, False,  True],
           [False, False, False]])
    """
    if n_q == 1 and np.size(n_seq) == 1:
        return 0.0
    # [n_q, 1] or [n_texts, n_q, 1]
    query_positions = np.asarray(n_seq)[..., None, None] + np.arange(-n_q, 0)[:, None]
    is_later = np.arange(n_k) > query_positions  # [n_q, n_k] or [n_texts, n_q, n_k]
    mask = is_later * dtype.type(-1e10)
    return mask if mask.ndim == 2 else mask[:, None]


def mha(
    x: Array,
    c_attn: dict,
    c_proj: dict,
    n_head: int,
    cache: KVCache | None = None,
    n_last: int | None = None,
) -> Array:
    """Causal multi-head self-attention: [..., n_seq, n_embd] -> [..., n_last, n_embd]

    The result is that of the last `n_last` rows of x (default: all). Only those rows need queries;
    every row needs keys and values.
    With a cache, the rows of x are the positions after those in it, and attend to those too.
    """
    n_seq = x.shape[-2]
    n_last = n_last or n_seq
    x = linear(x, **c_attn)  # [..., n_seq, n_embd] -> [..., n_seq, 3 * n_embd]: q, k, v
    # -> [..., 3 * n_head, n_seq, d_head]: the heads of q, then those of k, then those of v
    heads = x.reshape(*x.shape[:-1], 3 * n_head, -1).swapaxes(-2, -3)
    q = heads[..., :n_head, -n_last:, :]  # [..., n_head, n_last, d_head]
    k = heads[..., n_head : 2 * n_head, :, :]  # [..., n_head, n_seq, d_head]
    v = heads[..., 2 * n_head :, :, :]
    n_so_far = n_seq
    if cache is not None:
        k, v = cache.extend(k, v)  # -> [..., n_head, n_k, d_head]
        n_so_far = cache.n_seq  # [n_texts], with the new ones
    mask = causal_mask(n_last, k.shape[-2], n_so_far, x.dtype)
    out = attention(q, k, v, mask)  # [..., n_head, n_last, d_head]
    out = out.swapaxes(-2, -3)  # [..., n_last, n_head, d_head]
    out = out.reshape(*out.shape[:-2], -1)  # the heads side by side: [..., n_last, n_embd]
    return linear(out, **c_proj)  # mixes what the heads have found


def transformer_block(
    x: Array,
    mlp: dict,
    attn: dict,
    ln_1: dict,
    ln_2: dict,
    n_head: int,
    cache: KVCache | None = None,
    n_last: int | None = None,
) -> Array:
    """Attention, then the feed-forward layer, each on normalised input and added to the stream x.

    [..., n_seq, n_embd] -> [..., n_last, n_embd]; `cache` and `n_last` are those of `mha`.
    """
    n_last = n_last or x.shape[-2]
    found = mha(layer_norm(x, **ln_1), **attn, n_head=n_head, cache=cache, n_last=n_last)
    x = x[..., -n_last:, :] + found
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def gpt2(
    inputs: Sequence[int] | Array,
    wte: Array,
    wpe: Array,
    blocks: list[dict],
    ln_f: dict,
    n_head: int,
    caches: list[KVCache] | None = None,
    n_last: int | None = None,
) -> Array:
    """Logits of the token after each input: ids [..., n_seq] -> [..., n_seq, n_vocab]

    With `caches` (`empty_caches` makes them) the inputs are [n_texts, n_seq], and are placed after
    the cached positions. With `n_last`, only the logits after the last few inputs are computed:
    -> [..., n_last, n_vocab].
    Raises ValueError for no inputs, for more positions than the window or the caches have room
    for, and for an `n_last` that is not from 1 to n_seq.
    """
    inputs = np.asarray(inputs)
    n_seq, n_cached, room = inputs.shape[-1], 0, len(wpe)
    positions = np.arange(n_seq)  # [n_seq]
    if caches:
        n_cached = max(caches[0].n_seq.tolist())
        room = min(room, caches[0].k.shape[2])
        positions = caches[0].n_seq[:, None] + positions  # [n_texts, n_seq]
    if not 0 < n_seq <= room - n_cached:
        raise ValueError(
            f"{n_seq} ids after {n_cached} cached ones: there is room for 1 to {room} in all"
        )
    if n_last is not None and not 0 < n_last <= n_seq:
        raise ValueError(f"n_last is {n_last}: expected 1 to {n_seq}, of so many inputs")
    x = wte[inputs] + wpe[positions]  # which token + where: [..., n_seq] -> [..., n_seq, n_embd]
    for i, block in enumerate(blocks):
        cache = caches[i] if caches else None
        # The next block attends to all positions. After the last block only n_last matter.
        is_last = i == len(blocks) - 1
        n_wanted = n_last if is_last else None
        x = transformer_block(x, **block, n_head=n_head, cache=cache, n_last=n_wanted)
    # GPT-2 has one table for both ends: the logit of a token is how well the result, a row of x,
    # matches the token's own embedding. [..., n_last, n_embd] -> [..., n_last, n_vocab]
    return product(layer_norm(x, **ln_f), wte.T)


# ---------------------------------------------------------------- sampling


def sample(
    logits: Array,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> int:
    """Choose one token id from logits [n_vocab].

    Temperature 0 takes the best. Otherwise `rng` (default: a new one) draws from the softmax of
    logits / temperature, cut to the `top_k` best (0: all) and then to the smallest set of the best
    whose probabilities sum to `top_p` or more (nucleus sampling, Holtzman et al., 2020).

    >>> logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    >>> sample(logits)
    1
    >>> rng = np.random.default_rng(0)
    >>> sorted({sample(logits, temperature=1, top_p=0.8, rng=rng) for _ in range(100)})
    [1, 2, 3]
    """
    if temperature == 0:
        return int(np.argmax(logits))
    ids = np.argsort(-logits, kind="stable")[: top_k or None]  # best first
    # The best is subtracted before the division: a tiny temperature gives -inf, never inf - inf.
    smallest = float(np.finfo(logits.dtype).tiny)  # as a float32, 1e-46 would be 0
    with np.errstate(over="ignore"):
        p = softmax((logits[ids] - logits[ids[0]]) / max(temperature, smallest))
    before = np.cumsum(p) - p  # for each token, the sum over all better ones
    n_kept = max(1, np.count_nonzero(before < top_p))  # the fewest whose sum reaches top_p
    cumulative = np.cumsum(p[:n_kept])
    draw = (rng or np.random.default_rng()).random() * cumulative[-1]
    return int(ids[np.searchsorted(cumulative, draw)])  # the first whose sum reaches the draw


# ---------------------------------------------------------------- generation


class Window:
    """A text as the model sees it: its last n_ctx ids at most, and caches of those it has read.

    To continue a text, call `logits`, which reads all unread ids, choose the next id from the
    result, and `append` it; it is then the only unread one. `greedy_ids` below also hands `logits`
    a guess: ids that may come next, to be read in the same pass. `append` keeps those it chose.
    """

    def __init__(
        self,
        ids: Iterable[int],
        params: dict,
        n_head: int,
        caches: list[KVCache] | None = None,
    ):
        self.params, self.n_head = params, n_head
        self.n_ctx = len(params["wpe"])
        self.ids = list(ids)[-self.n_ctx :]
        self.caches = caches or empty_caches(params, n_head)

    def unread(self) -> list[int]:
        """The ids that are not in the caches."""
        return self.ids[self.caches[0].n_seq[0] :]

    def logits(self, guess: Sequence[int] = ()) -> Array:
        """Read what is unread, and then the ids of `guess`.

        -> the logits after the text, and after each id of the guess: [1 + len(guess), n_vocab]
        """
        ids = [*self.unread(), *guess]
        with blas_threads_for(len(ids)):
            return gpt2(
                np.array([ids]),  # [n_texts = 1, n_seq]
                **self.params,
                n_head=self.n_head,
                caches=self.caches,
                n_last=1 + len(guess),
            )[0]

    def append(self, new_ids: Sequence[int]) -> None:
        """Add ids that were chosen. Afterwards only the last id of the text is unread.

        A window that has become too long drops its oldest half, and has to read the rest again.
        """
        self.ids += new_ids
        n_read = len(self.ids) - 1  # forgets wrongly guessed ids, which have been read as well
        if len(self.ids) > self.n_ctx:
            self.ids = self.ids[(self.n_ctx + 1) // 2 :]
            n_read = 0  # positions are absolute: what is left needs new keys and values
        for cache in self.caches:
            cache.n_seq[:] = n_read


def sampled_ids(
    window: Window,
    n_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Iterator[int]:
    """Yield `n_tokens` ids that continue `window`, one per pass, chosen by `sample`."""
    for _ in range(n_tokens):
        new_id = sample(window.logits()[-1], temperature, top_k, top_p, rng)
        window.append([new_id])
        yield new_id


# ---------------------------------------------------------------- greedy generation, with guesses
#
# A pass over one position is limited by reading all weights from memory. A pass over ten also
# reads them only once, and takes little longer. So where the last few ids of a text have occurred
# before, what followed them then is taken as a guess at what follows now. One pass over the whole
# guess shows what the model would choose after each of its ids, and its correct beginning is kept
# (prompt lookup decoding, Saxena, 2023). The ids are those of `sampled_ids` at temperature 0.

TOO_CLOSE = 1e-4  # relative to the best logit, or to 1; rounding errors are about 1e-6


def too_close(logits: Array) -> bool:
    """Whether the best of logits [n_vocab] is so little above the second that rounding may decide.

    A pass over several positions or texts adds up in another order than a pass over one position,
    and so rounds differently. A choice that is too close is left to a pass over one position.
    """
    best = logits.max()
    return np.count_nonzero(logits >= best - TOO_CLOSE * max(1.0, abs(float(best)))) > 1


def confirmed(guess: Sequence[int], logits: Array) -> tuple[list[int], bool]:
    """The ids that the model itself chooses: the correct beginning of `guess`, and one id more.

    logits [1 + len(guess), n_vocab] follow the text, and each id of the guess.
    If there is a guess and a choice is too close, the ids end before it and the second value is
    False. Without a guess it is the pass that `sampled_ids` makes, whose choice counts.
    """
    new_ids = []
    for row, guessed_id in zip(logits, [*guess, None], strict=True):
        if guess and too_close(row):
            return new_ids, False
        new_ids.append(int(row.argmax()))
        if new_ids[-1] != guessed_id:
            break
    return new_ids, True


def greedy_ids(window: Window, n_tokens: int) -> Iterator[int]:
    """Yield the `n_tokens` most likely ids that continue `window`, often several per pass.

    `guesses` is told how long each pass took, by which it decides how long a guess should be and
    whether guessing pays. Its guesses are empty until it knows how long one position takes.
    """
    guesses = Guesses(window.ids)  # it keeps a copy
    is_sure = True
    while n_tokens > 0:
        has_one_unread = len(window.unread()) == 1  # more: a prompt, or the half-window reread
        room = min(window.n_ctx - len(window.ids), n_tokens - 1)
        guess = guesses.guess(room) if has_one_unread and is_sure else []
        start = perf_counter()
        logits = window.logits(guess)
        seconds = perf_counter() - start
        new_ids, is_sure = confirmed(guess, logits)
        window.append(new_ids)
        for new_id in new_ids:
            guesses.append(new_id)
        if has_one_unread:
            guesses.record_pass(seconds, len(guess), len(new_ids))
        n_tokens -= len(new_ids)
        yield from new_ids


def generate_stream(
    inputs: Iterable[int],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    *,
    stop_id: int | None = None,
    lookup: bool = True,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Iterator[int]:
    """Yield the ids of `generate` (just below) as they are made."""
    window = Window(inputs, params, n_head)
    if lookup and temperature == 0:
        new_ids = greedy_ids(window, n_tokens_to_generate)
    else:
        new_ids = sampled_ids(window, n_tokens_to_generate, temperature, top_k, top_p, rng)
    for new_id in new_ids:
        if new_id == stop_id:
            return
        yield new_id


def generate(
    inputs: Iterable[int],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    *,
    stop_id: int | None = None,
    lookup: bool = True,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """The ids that the model writes after `inputs` (ids): only the new ones.

    If the inputs are longer than the window, only their end is used; when the window is full, its
    oldest half is dropped. `stop_id` ends the text when it is chosen, and is left out;
    `lookup=False` turns guessing off; `temperature`, `top_k`, `top_p` and `rng` are those of
    `sample`. Raises ValueError for empty inputs.
    """
    new_ids = generate_stream(
        inputs,
        params,
        n_head,
        n_tokens_to_generate,
        stop_id=stop_id,
        lookup=lookup,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        rng=rng,
    )
    return list(new_ids)


# ---------------------------------------------------------------- several texts side by side
#
# One pass advances all of them by a position, and reads the weights once. Their windows share one
# cache for each block: the cache of a window is a view of its place in it, so a position read
# through either is present in both. Running texts fill the first places: when one ends, the last
# one takes its place.


def copy_caches(source: list[KVCache], target: list[KVCache]) -> None:
    """Copy what is in the caches of one text into those of another one."""
    n_seq = source[0].n_seq[0]
    for cache, copy in zip(source, target, strict=True):
        copy.k[:, :, :n_seq] = cache.k[:, :, :n_seq]
        copy.v[:, :, :n_seq] = cache.v[:, :, :n_seq]
        copy.n_seq[:] = n_seq


def first_logits(windows: list[Window]) -> list[Array]:
    """Logits [n_vocab] after each prompt. Equal prompts are read once, and the caches copied."""
    rows = []
    for window in windows:
        first = next(i for i, other in enumerate(windows) if other.ids == window.ids)
        if window is windows[first]:
            rows.append(window.logits()[-1])
        else:
            rows.append(rows[first])
            copy_caches(windows[first].caches, window.caches)
    return rows


def next_logits(windows: list[Window], caches: list[KVCache], is_greedy: bool) -> list[Array]:
    """Logits [n_vocab] after each running text, in one pass.

    `caches` are those of all these windows, in their order.
    """
    if len(windows) == 1:
        return [windows[0].logits()[-1]]
    rows_alone = {}
    for i, window in enumerate(windows):
        if len(window.unread()) > 1:  # half a window has to be read again
            # The logits are taken from this pass, as `generate` would take them. The pass below
            # needs one id of every text, so the newest one of this text is read once more.
            rows_alone[i] = window.logits()[-1]
            window.append([])
    newest = np.array([window.ids[-1:] for window in windows])  # [n_texts, n_seq = 1]
    params, n_head = windows[0].params, windows[0].n_head
    with blas_threads_for(len(windows)):
        rows = list(gpt2(newest, **params, n_head=n_head, caches=caches)[:, 0])
    for i, window in enumerate(windows):
        if i in rows_alone:
            rows[i] = rows_alone[i]
        # When sampling, rounding matters only if the random number falls within some 1e-6 of the
        # border between two tokens, which is too rare to check.
        elif is_greedy and too_close(rows[i]):
            window.append([])
            rows[i] = window.logits()[-1]
    return rows


def remove(place: int, running: list[tuple[int, Window]]) -> None:
    """Drop the text at `place`, which has ended; the last running one moves into its place."""
    i, window = running.pop()
    if place < len(running):
        _, ended = running[place]
        copy_caches(window.caches, ended.caches)
        window.caches = ended.caches
        running[place] = i, window


def generate_side_by_side(
    texts: list[list[int]],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    *,
    stop_id: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rngs: list[np.random.Generator] | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue several texts (ids) at once: yield (i, new id), taking the texts in turn.

    The new ids of each are those that `generate` gives for it alone, with rngs[i] as its rng (with
    a temperature, unless a draw is so close that rounding decides).
    Raises ValueError for a text without ids.
    """
    if not all(texts):
        raise ValueError("0 ids in a text: each needs one to begin with")
    if not texts or n_tokens_to_generate == 0:
        return
    rngs = rngs or [None] * len(texts)
    n_positions = min(len(params["wpe"]), max(map(len, texts)) + n_tokens_to_generate)
    caches = empty_caches(params, n_head, len(texts), n_positions)
    windows = [
        Window(ids, params, n_head, [cache[i : i + 1] for cache in caches])
        for i, ids in enumerate(texts)
    ]
    running = list(enumerate(windows))  # in the order of their places in the caches
    rows = first_logits(windows)
    for n_made in range(1, n_tokens_to_generate + 1):
        ended_places = []
        for place, (i, window) in enumerate(running):
            new_id = sample(rows[place], temperature, top_k, top_p, rngs[i])
            if new_id == stop_id:
                ended_places.append(place)
            else:
                window.append([new_id])
                yield i, new_id
        for place in reversed(ended_places):  # so that the one that moves has not ended itself
            remove(place, running)
        if not running or n_made == n_tokens_to_generate:
            return
        shared = [cache[: len(running)] for cache in caches]
        rows = next_logits([window for _, window in running], shared, temperature == 0)


# ---------------------------------------------------------------- the command


def read_prompts(prompt: str | None, interactive: bool) -> Iterator[str]:
    """The one prompt that was given (`-`: standard input), or one for each line that is typed."""
    if not interactive:
        yield sys.stdin.read() if prompt == "-" else as_typed(prompt)
        return
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\r\n")


def encode_prompt(prompt: str, encoder, n_ctx: int) -> list[int]:
    """The ids of a prompt; an empty one starts from `<|endoftext|>`, as every training text did."""
    ids = encoder.encode(prompt) or [encoder.eot]
    if ids == [None]:
        raise ValueError("an empty prompt starts from <|endoftext|>, which this vocabulary lacks")
    if len(ids) > n_ctx:
        notice(f"of {len(ids)} prompt tokens the last {n_ctx} are read")
    return ids


def check_sampling(
    n_tokens_to_generate: int, temperature: float, top_k: int, top_p: float, seed: int | None
) -> None:
    """Raise ValueError for an option of generation that is out of its range."""
    check("n_tokens_to_generate", n_tokens_to_generate, int, 0, sys.maxsize)
    check("temperature", temperature, float, 0)
    check("top_k", top_k, int, 0)
    check("top_p", top_p, float, 0, 1)
    if seed is not None:
        check("seed", seed, int, 0)


def check_samples_fit(n_samples: int, n_tokens_to_generate: int, hparams: dict[str, int]) -> None:
    """Raise MemoryError if the caches and logits of so many samples are more than this machine has.

    What a prompt adds is not known yet: absurd numbers are refused, not close ones.
    """
    n_positions = min(hparams["n_ctx"], 1 + n_tokens_to_generate)
    cached = 2 * hparams["n_layer"] * n_positions * hparams["n_embd"]
    n_bytes = 4 * n_samples * (cached + hparams["n_vocab"])
    check_memory(n_bytes, f"--n_samples {n_samples}")


def with_bar(new_ids: Iterable, n_tokens: int) -> Iterable:
    """`new_ids` with a progress bar, unless the terminal shows the text: a bar would garble it."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return new_ids
    from tqdm import tqdm

    return tqdm(new_ids, "generating", n_tokens, unit="token")


def write_text(pieces: Iterable[str]) -> str:
    """Print the pieces of a text as they come, and a final newline, even if interrupted."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    return text


def main(
    prompt: str | None = None,
    n_tokens_to_generate: int = 40,
    model_size: str | None = None,
    models_dir: str = "models",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    n_samples: int = 1,
    stop_at_eot: bool = True,
    interactive: bool = False,
    lookup: bool = True,
    threads: int | None = None,
) -> str:
    """Continue a text with GPT-2, in plain NumPy.

      python gpt2.py "Alan Turing theorized that computers would one day become"

    The text that the model adds goes to standard output, all else to standard error. The first
    run with a model downloads it.

    PROMPT                    in quotes; "" lets the model start from nothing, - reads standard
                              input, its last newline too; after -- it may begin with a dash
    --n_tokens_to_generate N  how much to write; a word is one token or two (40)
    --model_size NAME         124M, 355M, 774M, 1558M, a model folder in models_dir, or OWNER/NAME
                              for a GPT-2 on the Hugging Face Hub
                              (124M; without a network the small bundled model, python)
    --models_dir DIR          where model folders are kept (models)
    --temperature X           0 takes the most likely token, 1 samples as trained, in between
                              is more conservative, above is wilder (0)
    --top_k K                 sample among the K most likely tokens; 0: among all (0)
    --top_p P                 sample among the smallest set of probability P or more (1)
    --seed N                  the same seed gives the same text; sample i has seed N + i
    --n_samples N             how many continuations to write (1)
    --stop_at_eot BOOL        end where the model ends its text (True)
    --interactive             ask for prompts, one a line, until the input ends
    --lookup BOOL             at temperature 0: guess ahead where the text repeats itself; the
                              same text, sooner (True)
    --threads N               processor cores to use, at most (all that the process may use)
    """
    check_sampling(n_tokens_to_generate, temperature, top_k, top_p, seed)
    check("n_samples", n_samples, int, 1, sys.maxsize)
    if threads is not None:
        check("threads", threads, int, 1)
        use_threads(threads)
    if (prompt is None) != bool(interactive):
        raise ValueError('give one prompt in quotes, or --interactive: python gpt2.py "def "')

    encoder, hparams, params = load_model(model_size, models_dir)
    check_samples_fit(n_samples, n_tokens_to_generate, hparams)
    n_head = hparams["n_head"]
    stop_id = encoder.eot if stop_at_eot else None
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    texts = []
    for text in read_prompts(prompt, interactive):
        ids = encode_prompt(text, encoder, hparams["n_ctx"])
        seeds = [None if seed is None else seed + i for i in range(n_samples)]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        arguments = {"params": params, "n_head": n_head, "stop_id": stop_id, **sampling}
        arguments["n_tokens_to_generate"] = n_tokens_to_generate
        if n_samples == 1:  # shown as it is made
            new_ids = generate_stream(ids, lookup=lookup, rng=rngs[0], **arguments)
            samples = [with_bar(new_ids, n_tokens_to_generate)]
        else:  # made together, shown one after the other
            samples = [[] for _ in rngs]
            new_ids = generate_side_by_side([ids] * n_samples, rngs=rngs, **arguments)
            for i, new_id in with_bar(new_ids, n_tokens_to_generate * n_samples):
                samples[i].append(new_id)
        texts += [write_text(encoder.decode_stream(sample_ids)) for sample_ids in samples]
    return "\n".join(texts)


if __name__ == "__main__":
    run(main)  # options are main's arguments, --help is its docstring; the result is not printed
