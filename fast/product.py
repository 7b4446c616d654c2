"""Matrix products, each in the way that is fastest for its number of rows.

- One row takes as long as reading the matrix from memory does, and plain `@` does that at nearly
  full speed.
- For two to sixteen rows `@` is slow: BLAS first copies the matrix into its own layout, which pays
  off only with more. So the matrix is cut into pieces, which BLAS multiplies as they are.
- Up to some 160 rows plain `@` is best again, on BLAS's own threads: they wait for each other for
  less time than it takes to wake one of Python's, a quarter of a millisecond.
- With more rows Python's threads gain more elsewhere (see `schedule`) than waking them costs.
  BLAS's would be in their way, so the products are theirs as well: each has a part of the columns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from fast.threads import keep_freed_memory, one_blas_thread, share_out

FEW_ROWS = 16
SHORT = 160

LARGE_MATRIX = 2**18  # numbers; a smaller one stays in the processor's cache anyway
# OpenBLAS multiplies without copying the matrix first up to about 920,000 multiplications.
SMALL_PRODUCT = 900_000


def product(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """x [..., n_in] @ w [n_in, n_out] -> [..., n_out], plus b [n_out] if it is given

    What is not a plain NumPy array (JAX's, say) is left to its own `@`.

    >>> product(np.ones((2, 3)), np.ones((3, 4)), np.ones(4)).tolist()
    [[4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0]]
    """
    if type(x) is not np.ndarray or type(w) is not np.ndarray:
        return x @ w if b is None else x @ w + b
    rows = x.reshape(-1, x.shape[-1])
    return _best_way(len(rows), w)(rows, w, b).reshape(*x.shape[:-1], w.shape[1])


@contextmanager
def blas_threads_for(n_rows: int) -> Iterator[None]:
    """A context for products of so many rows, in which BLAS has the threads that suit them.

    Where Python's threads share the work, BLAS's own would be in their way, even between products:
    they go on waiting for the next one for some time.
    """
    keep_freed_memory()
    is_shared_out = 1 < n_rows <= FEW_ROWS or n_rows > SHORT
    with one_blas_thread if is_shared_out else nullcontext():
        yield


def _best_way(n_rows: int, w: np.ndarray) -> Callable:
    """The fastest function for so many rows. Sizes decide, not a measurement: the same machine and
    number of threads always give the same bits."""
    if n_rows > SHORT:
        return _parts_of_columns
    if n_rows > FEW_ROWS or w.size < LARGE_MATRIX:
        return _plain
    if n_rows == 1:  # of many, as after a prompt, where BLAS has only one thread
        return _parts_of_columns if one_blas_thread.is_on() else _plain
    return _pieces_of_rows if w.flags.c_contiguous else _parts_of_columns


def _plain(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    y = x @ w
    if b is not None:
        y += b
    return y


def _parts_of_columns(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """Each core multiplies by a part of the columns: in pieces for few rows, at once for many.

    With few rows it is for a matrix that is stored column by column, as a transposed one is.
    """
    out = np.empty((len(x), w.shape[1]), x.dtype)
    step = _piece(len(x) * len(w)) if len(x) <= FEW_ROWS else w.shape[1]

    def work(start, end):
        for i in range(start, end, step):
            columns = slice(i, min(i + step, end))
            np.matmul(x, w[:, columns], out=out[:, columns])
            if b is not None:
                out[:, columns] += b[columns]

    share_out(work, w.shape[1])
    return out


def _pieces_of_rows(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """For a matrix that is stored row by row: each piece of its rows adds to the whole result."""
    step = _piece(len(x) * w.shape[1])

    def work(start, end):
        pieces = [slice(i, min(i + step, end)) for i in range(start, end, step)]
        total = x[:, pieces[0]] @ w[pieces[0]]
        added = np.empty_like(total)
        for piece in pieces[1:]:
            total += np.matmul(x[:, piece], w[piece], out=added)
        return total

    total = sum(share_out(work, len(w)))
    if b is not None:
        total += b
    return total


def _piece(multiplications: int) -> int:
    """How many rows or columns, of so many multiplications each, make a small product."""
    return max(8, SMALL_PRODUCT // multiplications // 8 * 8)
