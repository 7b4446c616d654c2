"""Functions that work on large arrays piece by piece, on all cores.

Each decorator here is a promise about the function below it: that it treats the rows (or columns,
or queries) of its input one by one, so that it may be given any part of them at a time. Results are
the same up to rounding. Two things are gained: all cores work, where NumPy alone uses one; and a
piece stays in the processor's cache from one operation to the next.

Small inputs, and what is not a plain NumPy array (JAX's, say), go to the function as they are.
"""

import functools
from collections.abc import Callable

import numpy as np

from fast.product import SHORT
from fast.threads import share_out

PIECE_SIZE = 2**17  # numbers: few enough to stay in cache, enough to be worth a call
QUERIES_PER_PIECE = 64
SMALL_ATTENTION = 2**21  # multiplications; below, waking a thread costs more than it saves
VISIBLE_ABOVE = -1e9  # what a mask adds to the score of a key that is hidden lies below


def by_rows(function: Callable) -> Callable:
    """Promises that `function(x, ...)` treats each row of x by itself, and keeps shape and dtype.

    >>> @by_rows
    ... def double(x):
    ...     return 2 * x
    >>> double(np.ones((100_000, 3)))[-1]
    array([2., 2., 2.])
    """

    @functools.wraps(function)
    def in_pieces(x, *args, **kwargs):
        if x.size <= SHORT * x.shape[-1] or type(x) is not np.ndarray:
            return function(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        out = np.empty_like(rows)
        n_rows = max(1, PIECE_SIZE // x.shape[-1])

        def work(start, end):
            for i in range(start, end, n_rows):
                piece = slice(i, min(i + n_rows, end))
                out[piece] = function(rows[piece], *args, **kwargs)

        share_out(work, len(rows))
        return out.reshape(x.shape)

    return in_pieces


def by_columns(function: Callable) -> Callable:
    """Promises that each column of `function(x, w, b)` needs only the same column of w and of b.

    x [..., n_in], w [n_in, n_out], b [n_out] -> [..., n_out], all of one dtype. Each core has a
    part of the columns.

    >>> @by_columns
    ... def linear(x, w, b):
    ...     return x @ w + b
    >>> linear(np.ones((1000, 3)), np.ones((3, 4)), np.ones(4))[-1]
    array([4., 4., 4., 4.])
    """

    @functools.wraps(function)
    def in_parts(x, w, b):
        if x.size <= SHORT * x.shape[-1] or type(x) is not np.ndarray:
            return function(x, w, b)
        out = np.empty((*x.shape[:-1], w.shape[-1]), x.dtype)

        def work(start, end):
            out[..., start:end] = function(x, w[:, start:end], b[start:end])

        share_out(work, w.shape[-1])
        return out

    return in_parts


def by_queries(attention: Callable) -> Callable:
    """Promises that `attention(q, k, v, mask)` treats each head and each query by itself.

    q [..., n_head, n_q, d_head], k and v [..., n_head, n_k, d_head] -> [..., n_head, n_q, d_head];
    mask: added to the scores, [n_q, n_k] with any axes before these, or 0. Every query sees a key.
    Each core has a part of the heads (of the texts, if there are several). Trailing keys that the
    mask hides from every query of a piece, as a causal mask does, are skipped.
    """

    @functools.wraps(attention)
    def in_pieces(q, k, v, mask):
        n_q, n_k = q.shape[-2], k.shape[-2]
        if q.size * n_k < SMALL_ATTENTION or type(q) is not np.ndarray or q.ndim < 3:
            return attention(q, k, v, mask)
        n_seen = _keys_seen(mask, n_q, n_k)
        whole_mask = np.broadcast_to(mask, (*q.shape[:-1], n_k))
        # Laid out so that heads can be put side by side again without a copy.
        out = np.empty((*q.shape[:-3], n_q, q.shape[-3], v.shape[-1]), q.dtype).swapaxes(-3, -2)
        split_axis = 0 if len(q) > 1 else q.ndim - 3  # texts, or heads

        def work(start, end):
            part = (slice(None),) * split_axis + (slice(start, end),)
            part_q, part_k, part_v, part_out = q[part], k[part], v[part], out[part]
            for i in range(0, n_q, QUERIES_PER_PIECE):
                piece = slice(i, i + QUERIES_PER_PIECE)
                keys = slice(max(n_seen[piece]))
                part_out[..., piece, :] = attention(
                    part_q[..., piece, :],
                    part_k[..., keys, :],
                    part_v[..., keys, :],
                    whole_mask[part][..., piece, keys],
                )

        share_out(work, q.shape[split_axis])
        return out

    return in_pieces


def _keys_seen(mask: np.ndarray | float, n_q: int, n_k: int) -> list[int]:
    """For each query, how many keys there are up to the last one that it may see in any text."""
    is_seen = np.broadcast_to(mask > VISIBLE_ABOVE, (*np.shape(mask)[:-2], n_q, n_k))
    is_seen = is_seen.any(axis=tuple(range(is_seen.ndim - 2)))  # [n_q, n_k]
    return (n_k - is_seen[:, ::-1].argmax(axis=1)).tolist()
