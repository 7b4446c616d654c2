"""What makes generation fast beyond clear NumPy; `gpt2.py` can be read, and used, without it.

- `greedy_stream`: texts repeat themselves. Where the last few ids have occurred before, what
  followed them then is a guess at what follows now (prompt lookup decoding, Saxena, 2023), and one
  pass checks the whole guess. What the model itself would have chosen is kept, the rest is taken
  back out of the cache.
- `side_by_side`: several texts grow at once, each with a cache of its own.

Both are fast for one reason. A step of decoding reads every weight of the model to compute
a single position, and takes as long as the reading does; a pass over twenty positions reads the
same weights, and takes a few times as long, not twenty times. The ids are those of plain decoding.
"""

import numpy as np

from command_line import cores

TOO_CLOSE = 1e-4  # of the best logit's size; the order of summation changes some 1e-6 of it


class Guesses:
    """What came after the latest earlier occurrence of the last `n_match` ids of a text.

    >>> guesses = Guesses([1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    >>> guesses.next(room=4)
    [5, 6, 1, 2]
    """

    n_match, longest = 4, 31

    def __init__(self, ids):
        self.ids, self.after = [], {}
        self.needed, self.n_next = self.n_match, 8
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
            self.n_next = min(2 * self.n_next, self.longest)
        else:
            self.n_next = max(8, n_right)
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


def next_logits(windows, pool, greedy):
    """Logits [n_vocab] of the id that comes next, for each of `windows` (`gpt2.Window`s)."""
    from threadpoolctl import threadpool_limits

    ready = [window for window in windows if len(window.make_room()) == 1]
    rows = {}
    if len(ready) > 1:
        with threadpool_limits(1, "blas"):  # the threads are those of `pool`
            rows = dict(zip(ready, one_position_each(ready, pool), strict=True))
    for window, row in rows.items():
        if greedy and too_close(row):
            window.forget(len(window.ids) - 1)
            rows[window] = window.logits()[-1]
    return [rows[window] if window in rows else window.logits()[-1] for window in windows]


def one_position_each(windows, pool):
    """As `gpt2.gpt2` for the last id of each of `windows`: -> [n_windows, n_vocab]"""
    from gpt2 import attention, gelu, layer_norm

    def linear(x, w, b):
        return product(x, w, pool) + b

    params, n_head = windows[0].params, windows[0].n_head
    ids = [window.ids[-1] for window in windows]
    x = params["wte"][ids] + params["wpe"][[window.caches[0].n_seq for window in windows]]
    for i, block in enumerate(params["blocks"]):
        # [n_windows, n_embd] -> [n_windows, 3 * n_embd]
        qkv = linear(layer_norm(x, **block["ln_1"]), **block["attn"]["c_attn"])
        out = np.empty_like(x)
        for row, window in enumerate(windows):  # each looks back on its own text
            q, k, v = qkv[row].reshape(3, n_head, 1, -1)  # each [n_head, 1, d_head]
            k, v = window.caches[i].extend(k, v)
            out[row] = attention(q, k, v, mask=0).ravel()
        x = x + linear(out, **block["attn"]["c_proj"])
        hidden = gelu(linear(layer_norm(x, **block["ln_2"]), **block["mlp"]["c_fc"]))
        x = x + linear(hidden, **block["mlp"]["c_proj"])
    return product(layer_norm(x, **params["ln_f"]), params["wte"].T, pool)


def product(x, w, pool):
    """x [n_rows, n_in] @ w [n_in, n_out] for a few rows and a large w, read once and in order.

    BLAS copies all of w into an order of its own first, which pays for many rows only. Pieces of
    w small enough for the processor's cache it takes as they are, each thread those of its part.
    """
    if w.size < 2**18:
        return x @ w
    along = 0 if w.flags.c_contiguous else 1  # `wte.T` lies the other way round
    n, step = w.shape[along], 64 if along == 0 else 128
    ends = [n * i // cores() for i in range(cores() + 1)]

    def part(start, end):
        pieces = [slice(i, min(i + step, end)) for i in range(start, end, step)]
        if along == 1:
            return np.concatenate([x @ w[:, piece] for piece in pieces], axis=1)
        return sum(x[:, piece] @ w[piece] for piece in pieces)

    parts = list(pool.map(part, ends[:-1], ends[1:]))
    return np.concatenate(parts, axis=1) if along == 1 else sum(parts)


def copies(ids, params, n_head, n):
    """`n` windows (`gpt2.Window`s) on the same ids, which are read only once."""
    from gpt2 import Window, gpt2

    first = Window(ids, params, n_head)
    new = first.make_room()[:-1]
    if new:
        gpt2(new, **params, n_head=n_head, caches=first.caches)
    windows = [Window(ids, params, n_head) for _ in range(n)]
    for window in windows:
        window.make_room()
        for cache, filled in zip(window.caches, first.caches, strict=True):
            cache.extend(filled.k[:, : filled.n_seq], filled.v[:, : filled.n_seq])
    return windows


def side_by_side(windows, n_tokens, stop_id=None, rngs=None, **sampling):
    """Yield (i, new id) for each of `windows` in turn, up to `n_tokens` times or its `stop_id`.

    `rngs` has one generator for each window; `sampling` goes to `gpt2.sample`.
    """
    from concurrent.futures import ThreadPoolExecutor

    from gpt2 import sample

    rngs, greedy = rngs or [None] * len(windows), not sampling.get("temperature")
    growing = list(enumerate(zip(windows, rngs, strict=True)))
    with ThreadPoolExecutor(cores()) as pool:
        for _ in range(n_tokens):
            rows = next_logits([window for _, (window, _) in growing], pool, greedy)
            still = []
            for (i, (window, rng)), row in zip(growing, rows, strict=True):
                new_id = sample(row, rng=rng, **sampling)
                if new_id != stop_id:
                    window.ids.append(new_id)
                    still.append((i, (window, rng)))
                    yield i, new_id
            growing = still
            if not growing:
                return
