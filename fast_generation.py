"""What makes generation fast beyond clear NumPy; `gpt2.py` can be read, and used, without it.

- `greedy_stream`: texts repeat themselves. Where the last few ids have occurred before, what
  followed them then is a guess at what follows now (prompt lookup decoding, Saxena, 2023), and one
  pass checks the whole guess. What the model itself would have chosen is kept, the rest is taken
  back out of the cache.
- `side_by_side`: several texts grow at once, each with a cache of its own.
- `gpt2_on_all_cores`: the pass over several positions that these and a prompt need.

The first two are fast for one reason. A step of decoding reads every weight of the model to compute
a single position, and takes as long as the reading does; a pass over twenty positions reads the
same weights, and takes a few times as long, not twenty times. The ids are those of plain decoding.
"""

import functools
import math
from copy import copy
from functools import partial
from itertools import pairwise

import numpy as np

from command_line import cores

FEW = 16  # up to so many rows it pays to cut a matrix in pieces: see `product`
MANY = 64  # above so many, to share heads and columns out to threads: see `many_positions`
TOO_CLOSE = 1e-4  # of the best logit's size; the order of summation changes some 1e-6 of it


class Guesses:
    """What came after the latest earlier occurrence of the last `n_match` ids of a text.

    >>> guesses = Guesses([1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    >>> guesses.next(room=4)
    [5, 6, 1, 2]
    """

    n_match, shortest, longest = 4, 7, 31

    def __init__(self, ids):
        self.ids, self.after = [], {}
        self.needed, self.n_next = self.n_match, self.shortest
        for i in ids:
            self.append(i)

    def append(self, new_id):
        self.ids.append(new_id)
        key = tuple(self.ids[-self.n_match :])
        self.found = self.after.get(key)  # where the text went on after these ids
        self.after[key] = len(self.ids)

    def next(self, room):
        """At most `room` ids, none without an earlier occurrence that is long enough."""
        if self.found is None or self.n_matching() < self.needed:
            return []
        guess = []
        for i in range(self.found, self.found + min(self.n_next, room)):
            guess.append(self.ids[i] if i < len(self.ids) else guess[i - len(self.ids)])
        return guess

    def n_matching(self):
        """How many ids before the guess are the same as the last ones, up to `needed`."""
        n = 0
        while n < min(self.needed, self.found) and self.ids[self.found - 1 - n] == self.ids[-1 - n]:
            n += 1
        return n

    def learn(self, n_guessed, n_right):
        """Guess more where guesses are right; after a wrong one wait for a longer match."""
        if n_right == n_guessed:
            self.n_next = min(2 * self.n_next + 1, self.longest)
        else:
            self.n_next = max(self.shortest, n_right)
        self.needed = self.n_match if 2 * n_right >= n_guessed else min(2 * self.needed, 64)


def too_close(logits):
    """Whether the best of logits [n_vocab] is so little above the second that rounding may decide.

    Rows of a matrix product round otherwise than a single row does; such a choice is left to a
    pass over that position alone.
    """
    best = logits.max()
    return np.count_nonzero(logits >= best - TOO_CLOSE * max(1.0, abs(float(best)))) > 1


def agreed(guess, logits):
    """The model's own choices as far as `guess` is right, and one more: ids, whether all are clear

    logits [1 + n_guess, n_vocab] follow the id before the guess, and each of it.
    """
    ids = []
    for guessed, row in zip([*guess, None], logits, strict=True):
        if too_close(row):
            return ids, False
        best = int(row.argmax())
        ids.append(best)
        if best != guessed:
            break
    return ids, True


def greedy_stream(window, n_tokens):
    """Yield `n_tokens` ids that follow `window`, a `gpt2.Window`, which must be given each."""
    guesses, clear, n_made = Guesses(window.ids), False, 0
    while n_made < n_tokens:
        n_ids = len(window.ids)
        room = min(window.n_ctx - n_ids, n_tokens - n_made - 1)
        guess = guesses.next(room) if clear and room > 0 else []
        logits = window.logits(guess)
        if guess:
            new_ids, clear = agreed(guess, logits)
            window.forget(n_ids - 1 + len(new_ids))
            guesses.learn(len(guess), len(new_ids) - clear)
        else:
            new_ids, clear = [int(logits[-1].argmax())], True
        for new_id in new_ids:
            n_made += 1
            guesses.append(new_id)
            yield new_id


# ---------------------------------------------------------------- several texts


def side_by_side(windows, n_tokens, stop_id=None, rngs=None, **sampling):
    """Yield (i, new id) for each of `windows` in turn, up to `n_tokens` times or its `stop_id`.

    `rngs` has one generator for each window; `sampling` goes to `gpt2.sample`. Raises ValueError
    for a window without ids.
    """
    from gpt2 import sample

    if not windows:
        return
    if not all(window.ids for window in windows):
        raise ValueError("0 ids in a text: each needs one to begin with")
    rngs, greedy = rngs or [None] * len(windows), not sampling.get("temperature")
    shared, places = share_caches(windows, n_tokens), list(range(len(windows)))
    for _ in range(n_tokens):
        ended = []
        rows = next_logits([windows[i] for i in places], shared, greedy)
        for place, (i, row) in enumerate(zip(places, rows, strict=True)):
            new_id = sample(row, rng=rngs[i], **sampling)
            if new_id == stop_id:
                ended.append(place)
            else:
                windows[i].ids.append(new_id)
                yield i, new_id
        for place in reversed(ended):  # the last text takes the place of one that has ended
            last = places.pop()
            if place < len(places):
                places[place] = last
                move_caches(windows[last], shared, place)
        if not places:
            return


def share_caches(windows, n_tokens):
    """Make the caches of all `windows` parts of one array, so that one call attends for all.

    -> the keys and the values, [n_windows, n_head, n_positions, d_head] each, of each block
    """
    n_ctx = min(windows[0].n_ctx, n_tokens + max(len(window.ids) for window in windows))
    shared = []
    for cache in windows[0].caches:
        n_head, _, d_head = cache.k.shape
        shape = len(windows), n_head, n_ctx, d_head
        shared.append([np.zeros(shape, cache.k.dtype) for _ in "kv"])  # what is hidden is finite
    for place, window in enumerate(windows):
        move_caches(window, shared, place)
    return shared


def move_caches(window, shared, place):
    """Let the caches of `window` be those at `place` of `shared`."""
    for (k, v), cache in zip(shared, window.caches, strict=True):
        k[place, :, : cache.n_seq] = cache.k[:, : cache.n_seq]
        v[place, :, : cache.n_seq] = cache.v[:, : cache.n_seq]
        cache.k, cache.v = k[place], v[place]


def copies(ids, params, n_head, n):
    """`n` windows (`gpt2.Window`s) for `side_by_side` on the same ids, which are read only once."""
    from gpt2 import Window

    first = Window(ids, params, n_head)
    read_all_but_the_last(first)
    windows = [first, *(Window(ids, params, n_head) for _ in range(n - 1))]
    for window in windows:
        window.caches = [copy(cache) for cache in first.caches]  # the same arrays, until shared
    return windows


def read_all_but_the_last(window):
    """Let the caches of a `gpt2.Window` hold all of its ids but one."""
    if new := window.make_room()[:-1]:
        gpt2_on_all_cores(new, window.params, window.n_head, window.caches, n_last=0)


def next_logits(windows, shared, greedy):
    """Logits [n_vocab] of the id that comes next, for each of `windows` (`gpt2.Window`s).

    Their caches are the first of `shared`, in their order.
    """
    for window in windows:
        read_all_but_the_last(window)
    if len(windows) == 1:
        return window.logits()
    ids = np.array([window.ids[-1:] for window in windows])
    starts = np.array([window.caches[0].n_seq for window in windows])
    caches = [(k[: len(windows)], v[: len(windows)]) for k, v in shared]
    x = few_positions(ids, starts, window.params, window.n_head, caches)
    rows = list(product(x, window.params["wte"].T))
    for i, window in enumerate(windows):
        window.forget(len(window.ids))
        if greedy and too_close(rows[i]):
            window.forget(len(window.ids) - 1)
            rows[i] = window.logits()[-1]
    return rows


# ---------------------------------------------------------------- passes over several positions


def gpt2_on_all_cores(inputs, params, n_head, caches, n_last=1):
    """As `gpt2.gpt2` with caches, for several inputs: -> [n_last, n_vocab]"""
    start = caches[0].n_seq
    if len(inputs) > MANY:
        with blas().limit(limits=1):  # the threads are those of `in_parts`
            x = many_positions(inputs, start, params, n_head, caches, n_last)
    else:
        shared = [(cache.k[None], cache.v[None]) for cache in caches]
        x = few_positions(np.array([inputs]), np.array([start]), params, n_head, shared)
    for cache in caches:
        cache.n_seq = start + len(inputs)
    return product(x[len(x) - n_last :], params["wte"].T)


def few_positions(ids, starts, params, n_head, caches):
    """The output of the last layer norm for the next few ids of each of several texts.

    ids [n_texts, n_q] have the positions from starts [n_texts] on; caches: keys and values
    [n_texts, n_head, n_ctx, d_head] of each block -> [n_texts * n_q, n_embd]
    """
    from gpt2 import attention, gelu, layer_norm

    texts, positions = np.arange(len(ids))[:, None], starts[:, None] + np.arange(ids.shape[1])
    n_k = positions.max() + 1
    x = params["wte"][ids.ravel()] + params["wpe"][positions.ravel()]  # [n_rows, n_embd]
    seen = np.arange(n_k) <= positions[:, None, :, None]
    mask = np.where(seen, 0, -1e10).astype(x.dtype)  # [n_texts, 1, n_q, n_k]
    for block, (k, v) in zip(params["blocks"], caches, strict=True):
        qkv = linear(layer_norm(x, **block["ln_1"]), **block["attn"]["c_attn"])
        qkv = qkv.reshape(*ids.shape, 3, n_head, -1)  # [n_texts, n_q, 3, n_head, d_head]
        k[texts, :, positions], v[texts, :, positions] = qkv[:, :, 1], qkv[:, :, 2]
        q = qkv[:, :, 0].swapaxes(1, 2)  # [n_texts, n_head, n_q, d_head]
        out = attention(q, k[:, :, :n_k], v[:, :, :n_k], mask).swapaxes(1, 2).reshape(x.shape)
        x = x + linear(out, **block["attn"]["c_proj"])
        hidden = gelu(linear(layer_norm(x, **block["ln_2"]), **block["mlp"]["c_fc"]))
        x = x + linear(hidden, **block["mlp"]["c_proj"])
    return layer_norm(x, **params["ln_f"])


def many_positions(inputs, start, params, n_head, caches, n_last):
    """The output of the last layer norm for the last `n_last` of many inputs: [n_last, n_embd]

    Each thread has some of the heads, and then some of the columns within the feed-forward layer;
    what they put into the residual stream is added up. Nothing follows the last block, so there
    only the last positions ask and go on.
    """
    x = params["wte"][inputs] + params["wpe"][start : start + len(inputs)]
    sums = []
    for block, cache in zip(params["blocks"], caches, strict=True):
        h = add_and_normalise(x, sums, block["ln_1"])
        if cache is caches[-1]:
            x = x[len(x) - n_last :]
        heads = partial(attend, h, len(x), block["attn"], cache, start)
        sums = [*in_parts(heads, n_head), block["attn"]["c_proj"]["b"]]
        h = add_and_normalise(x, sums, block["ln_2"])
        columns = partial(feed_forward, h, block["mlp"])
        sums = [*in_parts(columns, 4 * x.shape[1]), block["mlp"]["c_proj"]["b"]]
    return add_and_normalise(x, sums, params["ln_f"])


def attend(x, n_q, attn, cache, start, first, end):
    """What the heads from `first` to `end` have to say to the last `n_q` positions.

    x [n_seq, n_embd], the first at position `start` -> [n_q, n_embd]
    """
    d_head, n_embd = cache.k.shape[2], x.shape[1]
    w, b = attn["c_attn"]["w"], attn["c_attn"]["b"]

    def project(x, i):  # q, k or v: [n_rows, n_embd] -> [end - first, n_rows, d_head]
        columns = slice(i * n_embd + first * d_head, i * n_embd + end * d_head)
        y = x @ w[:, columns]
        y += b[columns]
        return y.reshape(len(x), end - first, d_head).swapaxes(0, 1)

    new = slice(start, start + len(x))
    cache.k[first:end, new], cache.v[first:end, new] = project(x, 1), project(x, 2)
    out = np.empty((n_q, end - first, d_head), x.dtype)
    k, v = cache.k[first:end, : new.stop], cache.v[first:end, : new.stop]
    causal_attention(project(x[len(x) - n_q :], 0), k, v, out.swapaxes(0, 1))
    c_proj = attn["c_proj"]["w"][first * d_head : end * d_head]
    return out.reshape(n_q, len(c_proj)) @ c_proj


def causal_attention(q, k, v, out):
    """`gpt2.attention` into `out`; q [n_head, n_q, d_head] are the last of k [n_head, n_k, d_head].

    64 queries at a time: scores stay in the processor's cache, and most of those that no query
    may see are never computed.
    """
    (_, n_q, d_head), n_k = q.shape, k.shape[1]
    q = q / math.sqrt(d_head)
    mask = np.triu(np.full((64, 64), -1e10, q.dtype), 1)
    for i in range(0, n_q, 64):
        n = min(64, n_q - i)
        n_seen = n_k - n_q + i + n
        scores = q[:, i : i + n] @ k[:, :n_seen].swapaxes(1, 2)  # [n_head, n, n_seen]
        scores[:, :, n_seen - n :] += mask[:n, :n]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=-1, keepdims=True)
        np.divide(scores @ v[:, :n_seen], sums, out=out[:, i : i + n])  # a softmax's denominator


def feed_forward(x, mlp, first, end):
    """What the columns from `first` to `end` within the feed-forward layer add: x's shape"""
    hidden = x @ mlp["c_fc"]["w"][:, first:end]
    for i in range(0, len(x), 64):  # few enough rows for what comes in between to stay in cache
        rows = hidden[i : i + 64]
        rows += mlp["c_fc"]["b"][first:end]
        gelu_in_place(rows)
    return hidden @ mlp["c_proj"]["w"][first:end]


def gelu_in_place(x):
    """`gpt2.gelu`: x * (1 + tanh(c * x * (1 + 0.044715 * x * x))) / 2"""
    y = x * x
    y *= 0.044715
    y += 1
    y *= x
    y *= math.sqrt(2 / math.pi)
    np.tanh(y, out=y)
    y += 1
    y *= 0.5
    x *= y


def add_and_normalise(x, sums, ln):
    """Add `sums` to x [n_seq, n_embd] in place -> its layer norm, the same shape"""
    from gpt2 import layer_norm

    out = np.empty_like(x)

    def rows(start, end):
        for i in range(start, end, 128):
            piece = slice(i, min(i + 128, end))
            for y in sums:
                x[piece] += y[piece] if y.ndim == 2 else y
            out[piece] = layer_norm(x[piece], **ln)

    in_parts(rows, len(x))
    return out


# ---------------------------------------------------------------- products


def linear(x, w, b):
    """`gpt2.linear` for a few rows."""
    x = product(x, w)
    x += b
    return x


def product(x, w):
    """x [n_rows, n_in] @ w [n_in, n_out], for a few rows and a large w with each weight read once.

    BLAS copies all of w into an order of its own first, which pays for many rows only. A small
    product it takes as it is (OpenBLAS: up to some 920,000 multiplications); so each thread has
    its part of w and takes it in pieces.
    """
    if not 0 < len(x) <= FEW or w.size < 2**18:
        return x @ w
    along_rows = w.flags.c_contiguous  # `wte.T` lies the other way round
    step = max(8, 900_000 // (len(x) * w.shape[along_rows]) // 8 * 8)

    def add_rows(start, end):
        first = slice(start, min(start + step, end))
        out = x[:, first] @ w[first]
        more = np.empty_like(out)
        for i in range(first.stop, end, step):
            piece = slice(i, min(i + step, end))
            out += np.matmul(x[:, piece], w[piece], out=more)
        return out

    def fill_columns(start, end):
        for i in range(start, end, step):
            piece = slice(i, min(i + step, end))
            np.matmul(x, w[:, piece], out=out[:, piece])

    with blas().limit(limits=1):  # the threads are those of `in_parts`
        if along_rows:
            return sum(in_parts(add_rows, len(w)))
        out = np.empty((len(x), w.shape[1]), x.dtype)
        in_parts(fill_columns, w.shape[1])
        return out


# ---------------------------------------------------------------- threads


def in_parts(work, n):
    """[work(start, end), ...] with `n` things shared out evenly, to one thread for each core."""
    n_parts = max(1, min(cores(), n))
    ends = [n * i // n_parts for i in range(n_parts + 1)]
    others = [pool().submit(work, *part) for part in pairwise(ends[1:])]
    return [work(0, ends[1]), *(other.result() for other in others)]


@functools.cache
def pool():
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor()


@functools.cache
def blas():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
