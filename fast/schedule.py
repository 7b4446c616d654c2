"""Functions that work on large arrays piece by piece, and on all cores if that pays.

Each decorator here is a promise about the function below it: that it treats the rows (or queries)
of its input one by one, so that it may be given any part of them at a time. Results are the same up
to rounding. Two things are gained: a piece stays in the processor's cache from one operation to the
next; and all cores work, where NumPy alone uses one. (`product` shares out the products.)

Small inputs, and what is not a plain NumPy array (JAX's, say), go to the function as they are.
"""

import functools
from collections.abc import Callable

import numpy as np

from fast.product import SHORT
from fast.threads import share_out

PIECE_SIZE = 2**17  # numbers: few enough to stay in cache, enough to be worth a call
QUERIES_PER_PIECE = 64
# Up to so much, waking another thread costs more than it saves.
SHARED_ABOVE = 2**20  # numbers
SHARED_ATTENTION = 2**24  # multiplications of queries by keys


def by_rows(function: Callable) -> Callable:
    """Promises that `function(x, ...)` treats each row of x by itself, and keeps shape and dtype.

    >>> @by_rows
    ... def double(x):
    ...     return 2 * x
    >>> double(np.ones((500_000, 3)))[-1]
    array([2., 2., 2.])
    """

    @functools.wraps(function)
    def in_pieces(x, *args, **kwargs):
        if x.size <= PIECE_SIZE or type(x) is not np.ndarray:
            return function(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        out = np.empty_like(rows)
        n_rows = max(1, PIECE_SIZE // x.shape[-1])

        def work(start, end):
            for i in range(start, end, n_rows):
                piece = slice(i, min(i + n_rows, end))
                out[piece] = function(rows[piece], *args, **kwargs)

        if len(rows) > SHORT and x.size > SHARED_ABOVE:
            share_out(work, len(rows))
        else:
            work(0, len(rows))
        return out.reshape(x.shape)

    return in_pieces


def by_queries(hidden: float) -> Callable:
    """Promises that `attention(q, k, v, mask)` treats each head and each query by itself.

    q [..., n_head, n_q, d_head], k and v [..., n_head, n_k, d_head] -> [..., n_head, n_q, d_head];
    mask: added to the scores, [n_q, n_k] with any axes before these, or 0; `hidden` where a query
    may not look. It is causal: every query sees a key, and what a query sees, later ones see too.
    Each core has a part of the heads (of the texts, if there are several). Trailing keys that the
    mask hides from every query of a piece are skipped.
    """

    def decorate(attention):
        @functools.wraps(attention)
        def in_pieces(q, k, v, mask):
            n_q, n_k = q.shape[-2], k.shape[-2]
            is_shared = q.size * n_k > SHARED_ATTENTION
            is_small = n_q <= QUERIES_PER_PIECE and not is_shared
            if is_small or type(q) is not np.ndarray or q.ndim < 3:
                return attention(q, k, v, mask)
            mask = np.broadcast_to(mask, (*q.shape[:-1], n_k))
            # Laid out so that heads can be put side by side again without a copy.
            out = np.empty((*q.shape[:-3], n_q, q.shape[-3], v.shape[-1]), q.dtype).swapaxes(-3, -2)
            split_axis = 0 if len(q) > 1 else q.ndim - 3  # texts, or heads
            pieces = _pieces(mask, hidden)

            def work(start, end):
                part = (slice(None),) * split_axis + (slice(start, end),)
                part_q, part_k, part_v, part_mask, part_out = (
                    a[part] for a in (q, k, v, mask, out)
                )
                for queries, keys in pieces:
                    part_out[..., queries, :] = attention(
                        part_q[..., queries, :],
                        part_k[..., keys, :],
                        part_v[..., keys, :],
                        part_mask[..., queries, keys],
                    )

            if is_shared:
                share_out(work, q.shape[split_axis])
            else:
                work(0, q.shape[split_axis])
            return out

        return in_pieces

    return decorate


def _pieces(mask: np.ndarray, hidden: float) -> list[tuple[slice, slice]]:
    """Cut a mask [..., n_q, n_k]: for each piece its queries, and the keys up to the last one that
    the last of these queries may see in any text."""
    n_q, n_k = mask.shape[-2:]
    pieces = []
    for start in range(0, n_q, QUERIES_PER_PIECE):
        end = min(start + QUERIES_PER_PIECE, n_q)
        is_seen = (mask[..., end - 1, :] > hidden).reshape(-1, n_k).any(axis=0)
        n_seen = n_k - int(is_seen[::-1].argmax())
        pieces.append((slice(start, end), slice(n_seen)))
    return pieces
