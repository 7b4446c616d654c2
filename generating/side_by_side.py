"""Several texts at once: one pass advances all of them by a position, and reads the weights once.

Their windows share one cache for each block: the cache of a window is a view of its place in it, so
a position read through either is present in both. Running texts fill the first places: when one
ends, the last one takes its place.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from generating.guessing import too_close
from generating.sampling import Sampling
from generating.window import Window


def side_by_side(
    model: Any,
    texts: list[list[int]],
    n_tokens: int,
    sampling: Sampling,
    rngs: list[np.random.Generator],
    stop_id: int | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue several texts (ids) by `n_tokens` each: yield (i, new id), taking them in turn.

    model: see `generating/window.py`; its caches also have `copy_from` and can be sliced by text.
    The new ids of each are those that it gets alone, with rngs[i] (with a temperature, unless a
    draw is so close that rounding decides). `stop_id` ends a text, and is left out.
    Raises ValueError for a text without ids, when the first id is asked for.
    """
    if not all(texts):
        raise ValueError("0 ids in a text: each needs one to begin with")
    if not texts or n_tokens == 0:
        return
    n_positions = min(model.n_ctx, max(map(len, texts)) + n_tokens)
    caches = model.empty_caches(len(texts), n_positions)
    windows = [
        Window(ids, model, [cache[i : i + 1] for cache in caches])  # its place in each cache
        for i, ids in enumerate(texts)
    ]
    running = list(enumerate(windows))  # in the order of their places in the caches
    rows = first_logits(windows)
    for n_made in range(1, n_tokens + 1):
        ended_places = []
        for place, (i, window) in enumerate(running):
            new_id = sampling.sample(rows[place], rngs[i])
            if new_id == stop_id:
                ended_places.append(place)
            else:
                window.append([new_id])
                yield i, new_id
        for place in reversed(ended_places):  # so that the one that moves has not ended itself
            remove(place, running)
        if not running or n_made == n_tokens:
            return
        shared = [cache[: len(running)] for cache in caches]
        is_greedy = sampling.temperature == 0
        rows = next_logits([window for _, window in running], shared, is_greedy)


def first_logits(windows: list[Window]) -> list[np.ndarray]:
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


def next_logits(windows: list[Window], caches: list, is_greedy: bool) -> list[np.ndarray]:
    """Logits [n_vocab] after each running text, in one pass.

    `caches` are those of all these windows, in their order.
    """
    if len(windows) == 1:
        return [windows[0].logits()[-1]]
    rows_alone = {}
    for i, window in enumerate(windows):
        if len(window.unread()) > 1:  # half a window has to be read again
            # The logits are taken from this pass, as for a text alone. The pass below needs one id
            # of every text, so the newest one of this text is read once more.
            rows_alone[i] = window.logits()[-1]
            window.read_last_again()
    newest = np.array([window.ids[-1:] for window in windows])  # [n_texts, n_seq = 1]
    rows = list(windows[0].model.logits(newest, caches, n_last=1)[:, 0])
    for i, window in enumerate(windows):
        if i in rows_alone:
            rows[i] = rows_alone[i]
        # When sampling, rounding matters only if the random number falls within some 1e-6 of the
        # border between two ids, which is too rare to check.
        elif is_greedy and too_close(rows[i]):
            window.read_last_again()
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


def copy_caches(source: list, target: list) -> None:
    """Copy what is in the caches of one text into those of another one."""
    for cache, copy in zip(source, target, strict=True):
        copy.copy_from(cache)
