"""Matrix products for few rows, with as little reading from memory as possible.

A product of one row takes as long as reading the matrix from memory does, and plain `@` does that
at nearly full speed. For two to sixteen rows `@` is slow: BLAS first copies the matrix into its own
layout, which pays off only with many rows. With many rows plain `@` is the best choice again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from fast.threads import no_fork, one_blas_thread, share_out

FEW_ROWS = 16  # up to so many: the matrix is cut into pieces
SHORT = 64  # up to so many: all is left to BLAS and its own threads; above, see `schedule`

LARGE_MATRIX = 2**18  # numbers; a smaller one stays in the processor's cache anyway
# OpenBLAS multiplies without copying the matrix first up to about 920,000 multiplications.
SMALL_PRODUCT = 900_000


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [..., n_in] @ w [n_in, n_out] -> [..., n_out]

    What is not a plain NumPy array (JAX's, say) is left to its own `@`.

    >>> product(np.ones((2, 3)), np.ones((3, 4))).shape
    (2, 4)
    """
    is_one_row = x.size == x.shape[-1]
    if is_one_row or type(x) is not np.ndarray or type(w) is not np.ndarray:
        return x @ w
    rows = x.reshape(-1, x.shape[-1])
    return _best_way(len(rows), w)(rows, w).reshape(*x.shape[:-1], w.shape[1])


@contextmanager
def blas_threads_for(n_rows: int) -> Iterator[None]:
    """A context for products of so many rows, in which BLAS has the threads that suit them.

    Where Python's threads share the work, BLAS's own would be in their way, even between products:
    they go on waiting for the next one for some time. While somebody is inside, no other thread
    forks.
    """
    is_shared_out = 1 < n_rows <= FEW_ROWS or n_rows > SHORT
    with no_fork.here():
        if is_shared_out:
            with one_blas_thread:
                yield
        else:
            yield


def _best_way(n_rows: int, w: np.ndarray) -> Callable:
    """The fastest function for so many rows. Sizes decide, not a measurement: the same machine and
    number of threads always give the same bits."""
    if n_rows > FEW_ROWS or w.size < LARGE_MATRIX:
        return np.matmul
    return pieces_of_rows if w.flags.c_contiguous else pieces_of_columns


def pieces_of_columns(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """For a matrix that is stored column by column, as a transposed one is."""
    out = np.empty((len(x), w.shape[1]), x.dtype)
    step = _piece(len(x) * len(w))

    def work(start, end):
        for i in range(start, end, step):
            columns = slice(i, min(i + step, end))
            np.matmul(x, w[:, columns], out=out[:, columns])

    share_out(work, w.shape[1])
    return out


def pieces_of_rows(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """For a matrix that is stored row by row: each piece of its rows adds to the whole result."""
    step = _piece(len(x) * w.shape[1])

    def work(start, end):
        pieces = [slice(i, min(i + step, end)) for i in range(start, end, step)]
        total = x[:, pieces[0]] @ w[pieces[0]]
        added = np.empty_like(total)
        for piece in pieces[1:]:
            total += np.matmul(x[:, piece], w[piece], out=added)
        return total

    return sum(share_out(work, len(w)))


def _piece(multiplications: int) -> int:
    """How many rows or columns, of so many multiplications each, make a small product."""
    return max(8, SMALL_PRODUCT // multiplications // 8 * 8)
