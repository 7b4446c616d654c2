"""GPT-2 in plain NumPy: the model, its key/value cache, sampling, generation, the command.

Read it top to bottom: each function uses only those above it. A text goes this way:

    text -> Encoder.encode -> ids -> gpt2 -> logits -> sample -> id -> Encoder.decode -> text

`ids` are small integers, one for each token (a word or a piece of one) of a vocabulary; `logits`
say how well each token of the vocabulary would come next. `gpt2` turns the first into the second.
What it has learned stands in `params`, nested dicts whose keys are the arguments of the functions
that take them, so that `**params` wires the model (g: gain, b: bias, w: weights):

    {"wte": [n_vocab, n_embd], "wpe": [n_ctx, n_embd],          token and position embeddings
     "blocks": [                                                n_layer of these:
         {"ln_1": {"g": [n_embd], "b": [n_embd]},                 layer norm, before attention:
          "attn": {"c_attn": {"w": [n_embd, 3 * n_embd], "b"},    queries, keys and values,
                   "c_proj": {"w": [n_embd, n_embd], "b"}},       what was found
          "ln_2": {"g", "b"},                                     layer norm, before feed-forward:
          "mlp": {"c_fc": {"w": [n_embd, 4 * n_embd], "b"},       into four times the width,
                  "c_proj": {"w": [4 * n_embd, n_embd], "b"}}},   and back
     ],
     "ln_f": {"g", "b"}}                                        the last layer norm

n_vocab is the number of tokens, n_embd the width of the model: how many numbers stand for one
position of the text. n_ctx, the window, is how many positions it can see. In comments on shapes,
n_seq is the number of positions, and `...` stands for nothing where there is one text, for n_texts
where there are several.

Left out: training (`train.py`), the tokenizer (`encoder.py`), getting the weights (`utils.py`), and
how the work is spread over the processor's cores (`fast/`). Of that last one, three names are used
in the model. To read it, take `product(x, w)` as `x @ w`, and think `@by_rows` and `@by_queries`
away: they promise that a function treats each row, or query, by itself, so that it may be called
on a part of them at a time.

Names are those of OpenAI's checkpoint. Source: Radford et al., "Language Models are Unsupervised
Multitask Learners", 2019. Every array keeps the dtype of the parameters: constants are Python's,
since a float64 scalar of NumPy 2 such as `np.sqrt(2)` would turn float32 arrays into float64.
"""

import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from time import perf_counter

import numpy as np

from command_line import check, run
from fast.lookup import Guesses
from fast.product import product
from fast.schedule import by_columns, by_queries, by_rows
from fast.threads import one_blas_thread, use_threads
from utils import load_encoder_hparams_and_params

Array = np.ndarray
ALL = slice(None)  # x[ALL] is all of x

# ---------------------------------------------------------------- layers


@by_rows
def gelu(x: Array) -> Array:
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel, 2016), shape kept.

    >>> [round(float(y), 3) for y in gelu(np.array([[-1, 0, 1]], np.float32))[0]]
    [-0.159, 0.0, 0.841]
    """
    cubic = x * x * x  # x ** 3 would take NumPy some 75 times as long
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
    n = x.shape[-1]  # a sum divided by n is a mean, for which np.mean takes twice as long
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

    q [..., n_q, d_head], k [..., n_k, d_head], mask [..., n_q, n_k] -> [..., n_q, n_k]
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2)  # [..., n_q, n_k]
    scores += mask
    return softmax(scores)


@by_queries
def attention(q: Array, k: Array, v: Array, mask: Array | float) -> Array:
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), of one head or many.

    Each position asks with a query, is found by its key, and hands over its value. The result for
    a query is the mean of all values, weighted by how well their keys match it.
    q [..., n_q, d_head], k and v [..., n_k, d_head] -> [..., n_q, d_head]; mask [..., n_q, n_k] is
    added to the scores: 0 where a query may look, a large negative number where not.
    """
    return attention_weights(q, k, mask) @ v


def causal_mask(n_q: int, n_k: int, n_seq: int | Array, dtype: np.dtype) -> Array | float:
    """The mask of attention by which no position looks at a later one.

    The keys are those of positions 0 to n_k - 1, the queries those of the last n_q of the first
    n_seq positions. For several texts of different lengths n_seq is an array, [n_texts].
    -> [n_q, n_k], or [n_texts, 1, n_q, n_k] with 1 for all heads alike. A single query is that of
    the last position, which may look at all: 0.

    >>> causal_mask(n_q=2, n_k=3, n_seq=3, dtype=np.dtype(np.float32)) < 0
    array([[False, False,  True],
           [False, False, False]])
    """
    if n_q == 1 and np.size(n_seq) == 1:
        return 0.0
    query_positions = np.asarray(n_seq)[..., None, None] + np.arange(-n_q, 0)[:, None]
    is_later = np.arange(n_k) > query_positions  # [n_q, n_k] or [n_texts, n_q, n_k]
    mask = is_later * dtype.type(-1e10)
    return mask if mask.ndim == 2 else mask[:, None]


class KVCache:
    """The keys and values that one block has computed for the positions so far.

    They never change, since no position looks at a later one. So when a text grows by a token, only
    the new position has to go through the model, and attends to what is kept here.

    k, v: [n_texts, n_head, n_positions, d_head], of which the first n_seq [n_texts] are filled.
    """

    def __init__(self, k: Array, v: Array, n_seq: Array):
        self.k, self.v, self.n_seq = k, v, n_seq

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the next keys and values; -> all so far, as many as the longest text has.

        [n_texts, n_head, n_new, d_head] -> [n_texts, n_head, n_k, d_head], k and v alike
        """
        starts, n_new = self.n_seq.tolist(), k.shape[-2]
        for text, start in enumerate(starts):
            self.k[text, :, start : start + n_new] = k[text]
            self.v[text, :, start : start + n_new] = v[text]
        self.n_seq += n_new
        n_k = max(starts) + n_new
        return self.k[:, :, :n_k], self.v[:, :, :n_k]

    def __getitem__(self, texts: slice) -> "KVCache":
        """The cache of some of the texts: a view, not a copy."""
        return KVCache(self.k[texts], self.v[texts], self.n_seq[texts])


def empty_caches(
    params: dict, n_head: int, n_texts: int = 1, n_positions: int | None = None
) -> list[KVCache]:
    """An empty `KVCache` for each block, with room for `n_positions` (the whole window)."""
    n_ctx, n_embd = params["wpe"].shape
    shape = n_texts, n_head, n_positions or n_ctx, n_embd // n_head

    def zeros():  # not np.empty: what is not filled yet is hidden by the mask, but must be a number
        return np.zeros(shape, params["wpe"].dtype)

    return [KVCache(zeros(), zeros(), np.zeros(n_texts, int)) for _ in params["blocks"]]


def mha(
    x: Array,
    c_attn: dict,
    c_proj: dict,
    n_head: int,
    cache: KVCache | None = None,
    asked: slice = ALL,
) -> Array:
    """Causal multi-head self-attention: [..., n_seq, n_embd] -> [..., n_asked, n_embd]

    Each of the n_head heads attends by itself, in n_embd / n_head = d_head of the numbers.
    With a cache, the rows of x are the positions after those in it, and attend to those too.
    `asked` are the rows of x whose result is wanted: all, or the last few.
    """
    x = linear(x, **c_attn)  # [..., n_seq, n_embd] -> [..., n_seq, 3 * n_embd]: q, k, v
    # -> [..., 3 * n_head, n_seq, d_head]: the heads of q, then those of k, then those of v
    heads = x.reshape(*x.shape[:-1], 3 * n_head, -1).swapaxes(-2, -3)
    q = heads[..., :n_head, asked, :]  # [..., n_head, n_asked, d_head]
    k = heads[..., n_head : 2 * n_head, :, :]  # [..., n_head, n_seq, d_head]
    v = heads[..., 2 * n_head :, :, :]
    n_seq = k.shape[-2]
    if cache is not None:
        k, v = cache.extend(k, v)  # -> [..., n_head, n_k, d_head]
        n_seq = cache.n_seq
    mask = causal_mask(q.shape[-2], k.shape[-2], n_seq, x.dtype)
    out = attention(q, k, v, mask)  # [..., n_head, n_asked, d_head]
    out = out.swapaxes(-2, -3)  # [..., n_asked, n_head, d_head]
    out = out.reshape(*out.shape[:-2], -1)  # the heads side by side: [..., n_asked, n_embd]
    return linear(out, **c_proj)


def transformer_block(
    x: Array,
    mlp: dict,
    attn: dict,
    ln_1: dict,
    ln_2: dict,
    n_head: int,
    cache: KVCache | None = None,
    asked: slice = ALL,
) -> Array:
    """Attention, then the feed-forward layer, each on normalised input and added to the stream x.

    [..., n_seq, n_embd] -> [..., n_asked, n_embd]; `cache` and `asked` are those of `mha`.
    """
    found = mha(layer_norm(x, **ln_1), **attn, n_head=n_head, cache=cache, asked=asked)
    x = x[..., asked, :] + found
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def gpt2(
    inputs: Iterable[int] | Array,
    wte: Array,
    wpe: Array,
    blocks: list[dict],
    ln_f: dict,
    n_head: int,
    caches: list[KVCache] | None = None,
    n_last: int | None = None,
) -> Array:
    """Logits of the token after each input: ids [..., n_seq] -> [..., n_seq, n_vocab]

    With `caches` (`empty_caches` makes them) the inputs are [n_texts, n_seq], and take the
    positions after those cached. With `n_last`, only the logits after the last few inputs are
    computed: -> [..., n_last, n_vocab].
    Raises ValueError for no inputs, and for more positions than the window has.
    """
    inputs = np.asarray(inputs)
    n_seq, n_cached = inputs.shape[-1], 0
    positions = np.arange(n_seq)  # [n_seq]
    if caches:
        n_cached = max(caches[0].n_seq.tolist())
        positions = caches[0].n_seq[:, None] + positions  # [n_texts, n_seq]
    if not 0 < n_seq <= len(wpe) - n_cached:
        raise ValueError(
            f"{n_seq} ids after {n_cached} cached ones: the window takes 1 to {len(wpe)} in all"
        )
    x = wte[inputs] + wpe[positions]  # which token + where: [..., n_seq] -> [..., n_seq, n_embd]
    for i, block in enumerate(blocks):
        cache = caches[i] if caches else None
        # Later blocks need all positions of the earlier ones; nobody needs all of the last one's.
        is_last = i == len(blocks) - 1
        asked = slice(-n_last, None) if is_last and n_last else ALL
        x = transformer_block(x, **block, n_head=n_head, cache=cache, asked=asked)
    # GPT-2 has one table for both ends: the logit of a token is how well the result, a row of x,
    # matches the token's own embedding. [..., n_seq, n_embd] -> [..., n_seq, n_vocab]
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

    Temperature 0 takes the best. Otherwise `rng` draws from the softmax of logits / temperature,
    cut to the `top_k` best (0: all) and then to the fewest best whose probabilities reach `top_p`
    (nucleus sampling, Holtzman et al., 2020).

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
    with np.errstate(over="ignore"):
        p = softmax((logits[ids] - logits[ids[0]]) / temperature)
    better = np.cumsum(p) - p  # the probability of all better tokens together
    n_kept = max(1, np.count_nonzero(better < top_p))  # those without which top_p is not reached
    cumulative = np.cumsum(p[:n_kept])
    draw = rng.random() * cumulative[-1]
    return int(ids[np.searchsorted(cumulative, draw)])  # the first token that reaches the draw


# ---------------------------------------------------------------- generation


class Window:
    """A text as the model sees it: its last n_ctx ids, and caches of all of them but the newest.

    `ids` may get one longer than n_ctx; the next pass makes room by dropping the oldest half.
    """

    def __init__(self, ids: Iterable[int], params: dict, n_head: int, caches: list | None = None):
        self.params, self.n_head = params, n_head
        self.n_ctx = len(params["wpe"])
        self.ids = list(ids)[-self.n_ctx :]
        self.caches = caches or empty_caches(params, n_head)

    def unread(self) -> list[int]:
        """The ids that are not in the caches yet, after making room where there is none left."""
        if len(self.ids) > self.n_ctx:
            self.ids = self.ids[(self.n_ctx + 1) // 2 :]
            self.cut_caches(0)  # positions are absolute: what is left needs new keys and values
        return self.ids[self.caches[0].n_seq[0] :]

    def cut_caches(self, n_seq: int) -> None:
        """Leave only the first `n_seq` positions in the caches."""
        for cache in self.caches:
            cache.n_seq[:] = n_seq

    def read(self, ids: list[int], n_last: int = 1) -> Array:
        """One pass over the next ids: logits after the last few of them, [n_last, n_vocab]"""
        inputs = np.array([ids])  # [n_texts = 1, n_seq]
        n_head, caches = self.n_head, self.caches
        # BLAS's own threads are for single positions: after a product they go on waiting for the
        # next one for a while, in the way of those that `fast/` shares a longer pass out to.
        with one_blas_thread if len(ids) > 1 else nullcontext():
            return gpt2(inputs, **self.params, n_head=n_head, caches=caches, n_last=n_last)[0]

    def append(self, new_ids: list[int]) -> None:
        """The text goes on with these; what the caches hold of anything else is forgotten."""
        self.ids += new_ids
        self.cut_caches(len(self.ids) - 1)


def sampled_ids(window: Window, n_tokens: int, **sampling) -> Iterator[int]:
    """Yield `n_tokens` ids after those in `window`, one for each pass."""
    for _ in range(n_tokens):
        new_id = sample(window.read(window.unread())[-1], **sampling)
        window.append([new_id])
        yield new_id


TOO_CLOSE = 1e-4  # of the best logit's size; the order of summation changes some 1e-6 of it


def too_close(logits: Array) -> bool:
    """Whether the best of logits [n_vocab] is so little above the second that rounding may decide.

    A pass over several positions adds up its products in another order than one over a single
    position does, so it rounds otherwise. To such a choice only a pass of its own gives the answer
    of plain decoding.
    """
    best = logits.max()
    return np.count_nonzero(logits >= best - TOO_CLOSE * max(1.0, abs(float(best)))) > 1


def confirmed(guess: list[int], logits: Array) -> tuple[list[int], bool]:
    """The ids that the model itself chooses: as many of `guess` as are right, and one more.

    logits [1 + len(guess), n_vocab] follow the id before the guess, and each id of the guess.
    Also whether they are sure: if a choice is too close, the ids end before it.
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
    """Yield the `n_tokens` most likely ids after those in `window`, often several for each pass.

    A pass over one position takes as long as reading all weights from memory does; a pass over ten
    takes little longer. So where the text has said the last few ids before, what followed them
    then is taken as a guess at the next ids (`fast/lookup.py`), and one pass over all of these
    shows what the model would choose after each. The guess is kept as far as it agrees. The ids
    are those of `sampled_ids` at temperature 0.
    """
    guesses, sure = Guesses(window.ids), False
    while n_tokens > 0:
        new = window.unread()
        room = min(window.n_ctx - len(window.ids), n_tokens - 1)
        guess = guesses.next(room) if sure else []
        start = perf_counter()
        logits = window.read(new + guess, n_last=1 + len(guess))
        seconds = perf_counter() - start
        new_ids, sure = confirmed(guess, logits)
        window.append(new_ids)
        for new_id in new_ids:
            guesses.append(new_id)
        if len(new) == 1:  # a longer one is a prompt
            guesses.took(seconds, len(guess), len(new_ids))
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
    """Yield the ids of `generate` as they are made."""
    window = Window(inputs, params, n_head)
    if lookup and temperature == 0:
        new_ids = greedy_ids(window, n_tokens_to_generate)
    else:
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "rng": rng}
        new_ids = sampled_ids(window, n_tokens_to_generate, **sampling)
    for new_id in new_ids:
        if new_id == stop_id:
            return
        yield new_id


def generate(
    inputs: Iterable[int], params: dict, n_head: int, n_tokens_to_generate: int, **options
) -> list[int]:
    """The ids that the model writes after `inputs` (ids, left as they are): only the new ones.

    One pass over the inputs, then one position a step. Inputs longer than the window are cut to
    their end; when the window is full its oldest half is dropped. Options, those of
    `generate_stream`: `stop_id` ends the text when it is chosen (and is left out); `lookup=False`
    does without guesses; `temperature`, `top_k`, `top_p` and `rng` are those of `sample`.
    Raises ValueError for empty inputs.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, **options))


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
    """Continue several texts (ids) at once: yield (i, new id) for each of `texts` in turn.

    Each becomes what `generate` makes of it alone, `rngs[i]` being its rng. One pass takes all of
    them a step further, and reads the weights once. A prompt is read alone, and once if it occurs
    several times. Raises ValueError for a text without ids.
    """
    if not all(texts):
        raise ValueError("0 ids in a text: each needs one to begin with")
    if not texts or n_tokens_to_generate == 0:
        return
    n_ctx, rngs = len(params["wpe"]), rngs or [None] * len(texts)
    n_positions = min(n_ctx, max(map(len, texts)) + n_tokens_to_generate)
    caches = empty_caches(params, n_head, len(texts), n_positions)
    windows = [
        Window(ids, params, n_head, [cache[i : i + 1] for cache in caches])
        for i, ids in enumerate(texts)
    ]
    running = list(range(len(texts)))  # which text has the first place in the caches, the second...
    rows = first_logits(windows)
    for n_made in range(1, n_tokens_to_generate + 1):
        ended = []
        for place, i in enumerate(running):
            new_id = sample(rows[place], temperature, top_k, top_p, rngs[i])
            if new_id == stop_id:
                ended.append(place)
            else:
                windows[i].append([new_id])
                yield i, new_id
        for place in reversed(ended):
            give_place(place, running, windows)
        if not running or n_made == n_tokens_to_generate:
            return
        shared = [cache[: len(running)] for cache in caches]
        rows = next_logits([windows[i] for i in running], shared, is_greedy=temperature == 0)


def first_logits(windows: list[Window]) -> list[Array]:
    """Logits [n_vocab] after each of the prompts; equal ones are read once, and copied."""
    rows = []
    for i, window in enumerate(windows):
        first = next(j for j, other in enumerate(windows) if other.ids == window.ids)
        if first == i:
            rows.append(window.read(window.unread())[-1])
        else:
            rows.append(rows[first])
            copy_caches(windows[first], window.caches)
    return rows


def copy_caches(window: Window, caches: list[KVCache]) -> None:
    """Copy what the caches of `window` hold into `caches`, of one text as well."""
    n_seq = window.caches[0].n_seq[0]
    for source, target in zip(window.caches, caches, strict=True):
        target.k[:, :, :n_seq] = source.k[:, :, :n_seq]
        target.v[:, :, :n_seq] = source.v[:, :, :n_seq]
        target.n_seq[:] = n_seq


def give_place(place: int, running: list[int], windows: list[Window]) -> None:
    """The text at `place` of the caches has ended: the last running one takes its place."""
    last = running.pop()
    if place < len(running):
        ended, running[place] = running[place], last
        copy_caches(windows[last], windows[ended].caches)
        windows[last].caches = windows[ended].caches


def next_logits(windows: list[Window], caches: list[KVCache], is_greedy: bool) -> list[Array]:
    """Logits [n_vocab] of the id that comes next in each text; `caches` are those of all."""
    for window in windows:
        if earlier := window.unread()[:-1]:  # a window was full, and half of it is read again
            window.read(earlier)
    if len(windows) == 1:
        return [windows[0].read(windows[0].unread())[-1]]
    newest = np.array([window.ids[-1:] for window in windows])  # [n_texts, n_seq = 1]
    params, n_head = windows[0].params, windows[0].n_head
    rows = list(gpt2(newest, **params, n_head=n_head, caches=caches)[:, 0])
    for i, window in enumerate(windows):
        if is_greedy and too_close(rows[i]):
            window.cut_caches(len(window.ids) - 1)
            rows[i] = window.read(window.ids[-1:])[-1]
    return rows


# ---------------------------------------------------------------- the command


def load_model(model_size: str | None, models_dir: str):
    """(encoder, hparams, params) of that name, by default 124M, or offline the bundled one."""
    if model_size is not None:
        return load_encoder_hparams_and_params(model_size, models_dir)
    try:
        return load_encoder_hparams_and_params("124M", models_dir)
    except ConnectionError as error:
        notice = "using the small bundled model, which only knows Python. For GPT-2 124M mend this"
        print(f"gpt2.py: {error}; {notice}, or set GPT2_BASE_URL to a mirror", file=sys.stderr)
        bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
        return load_encoder_hparams_and_params("python", bundled)


def read_prompts(prompt: str | None, interactive: bool) -> Iterator[str]:
    """The one prompt that was given (`-`: standard input), or one for each line that is typed."""
    if not interactive:
        yield sys.stdin.read() if prompt == "-" else prompt
        return
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\r\n")


def encode_prompt(prompt: str, encoder, n_ctx: int) -> list[int]:
    """The ids of a prompt; an empty one starts from `<|endoftext|>`, as every text in training."""
    ids = encoder.encode(prompt) or [encoder.eot]
    if ids == [None]:
        raise ValueError("an empty prompt starts from <|endoftext|>, which this vocabulary lacks")
    if len(ids) > n_ctx:
        print(f"gpt2.py: of {len(ids)} prompt tokens the last {n_ctx} are read", file=sys.stderr)
    return ids


def with_bar(new_ids: Iterable, n_tokens: int) -> Iterable:
    """`new_ids` with a progress bar, unless the text goes to the terminal: it would cut through."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return new_ids
    from tqdm import tqdm

    return tqdm(new_ids, "generating", n_tokens, unit="token")


def write_text(pieces: Iterable[str]) -> str:
    """Print the pieces of a text as they come, and a line's end even if that is cut short."""
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

    PROMPT                    in quotes; "" lets the model begin by itself, - reads standard
                              input; after -- or --prompt= it may look like an option
    --n_tokens_to_generate N  how much to write; a word is one token or two (40)
    --model_size NAME         124M, 355M, 774M, 1558M, a model folder in models_dir, or OWNER/NAME
                              for a GPT-2 on the Hugging Face Hub
                              (124M; without a network the small bundled model, python)
    --models_dir DIR          where model folders are kept (models)
    --temperature X           0 takes the most likely token, 1 samples as trained, in between
                              is more careful, above is wilder (0)
    --top_k K                 sample among the K most likely tokens; 0: among all (0)
    --top_p P                 sample among the fewest that have probability P together (1)
    --seed N                  the same seed gives the same text; sample i has seed N + i
    --n_samples N             how many continuations to write (1)
    --stop_at_eot BOOL        end where the model ends its text (True)
    --interactive             ask for prompts, one a line, until the input ends
    --lookup BOOL             at temperature 0: guess from what the text repeats; the same text,
                              sooner (True)
    --threads N               processor cores to use, at most (all that the process may use)
    """
    check("n_tokens_to_generate", n_tokens_to_generate, int, 0)
    check("temperature", temperature, float, 0)
    check("top_k", top_k, int, 0)
    check("top_p", top_p, float, 0, 1)
    check("seed", 0 if seed is None else seed, int, 0)
    check("n_samples", n_samples, int, 1)
    if threads is not None:
        check("threads", threads, int, 1)
        use_threads(threads)
    if (prompt is None) != bool(interactive):
        raise ValueError('give one prompt in quotes, or --interactive: python gpt2.py "def "')

    encoder, hparams, params = load_model(model_size, models_dir)
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
    run(main)
