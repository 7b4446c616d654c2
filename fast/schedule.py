"""Functions that work on large arrays piece by piece, on all cores.

Each decorator here is a promise about the function below it: that it treats the rows (or heads, or
queries) of its input one by one, so that it may be given any part of them at a time. The result is
the same. Two things are gained: all cores work, where NumPy alone uses one; and a piece stays in
the processor's cache from one operation to the next, where the whole would go to memory and back.
"""

import functools
from collections.abc import Callable

import numpy as np

from fast.product import SHORT
from fast.threads import share_out

PIECE_SIZE = 2**17  # numbers: few enough to stay in cache, enough to be worth a call
QUERIES = 64  # in a piece of attention
SMALL_ATTENTION = 2**21  # multiplications; waking a thread costs more than it saves below
HIDDEN = -1e9  # a mask hides a key by a number below this one


def by_rows(function: Callable) -> Callable:
    """Promises that `function(x, ...)` -> an array of x's shape treats each row of x by itself.

    >>> @by_rows
    ... def double(x):
    ...     return 2 * x
    >>> double(np.ones((1000, 3)))[-1]
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

    x [..., n_in], w [n_in, n_out], b [n_out] -> [..., n_out]. Each core has a part of the columns.
    With few rows the function is left to itself.

    >>> @by_columns
    ... def linear(x, w, b):
    ...     return x @ w + b
    >>> linear(np.ones((1000, 3)), np.ones((3, 4)), np.ones(4))[-1]
    array([4., 4., 4., 4.])
    """

    @functools.wraps(function)
    def in_pieces(x, w, b):
        if x.size <= SHORT * x.shape[-1] or type(x) is not np.ndarray:
            return function(x, w, b)
        out = np.empty((*x.shape[:-1], w.shape[-1]), x.dtype)

        def work(start, end):
            out[..., start:end] = function(x, w[:, start:end], b[start:end])

        share_out(work, w.shape[-1])
        return out

    return in_pieces


def by_queries(attention: Callable) -> Callable:
    """Promises that `attention(q, k, v, mask)` treats each head and each query by itself.

    q [..., n_head, n_q, d_head], k and v [..., n_head, n_k, d_head] -> [..., n_head, n_q, d_head];
    mask: added to the scores, [n_q, n_k] with any axes before these, or 0.
    Each core has a part of the heads (of the texts, if there are several). Keys that come last and
    that the mask hides from all queries of a piece, as it does later ones, are left out.
    """

    @functools.wraps(attention)
    def in_pieces(q, k, v, mask):
        n_q, n_k = q.shape[-2], k.shape[-2]
        if q.size * n_k < SMALL_ATTENTION or type(q) is not np.ndarray or q.ndim < 3:
            return attention(q, k, v, mask)
        # [n_q, n_k]: whether the query may see the key, in any text and head
        seen = np.broadcast_to(mask > HIDDEN, (*np.shape(mask)[:-2], n_q, n_k))
        seen = seen.any(axis=tuple(range(seen.ndim - 2)))
        mask = np.broadcast_to(mask, (*q.shape[:-1], n_k))
        axis = 0 if len(q) > 1 else q.ndim - 3
        # Laid out so that heads can be put side by side again without a copy.
        out = np.empty((*q.shape[:-3], n_q, q.shape[-3], v.shape[-1]), q.dtype).swapaxes(-3, -2)

        def work(start, end):
            part = (*axis * [slice(None)], slice(start, end))
            for i in range(0, n_q, QUERIES):
                queries = (*part, ..., slice(i, i + QUERIES), slice(None))
                n_seen = 1 + np.flatnonzero(seen[i : i + QUERIES].any(axis=0))[-1]
                keys = (*part, ..., slice(n_seen), slice(None))
                out[queries] = attention(q[queries], k[keys], v[keys], mask[queries][..., :n_seen])

        share_out(work, q.shape[axis])
        return out

    return in_pieces

