"""The processor's cores: how many there are, and work shared out among them.

NumPy uses several cores only in matrix products, inside BLAS. Where Python's threads share the
work instead, BLAS has to keep to one thread each, or they get in each other's way. This file is
the one owner of that limit, and of when the process may fork.
"""

import functools
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures.thread import ThreadPoolExecutor  # at the top: see the end
from itertools import pairwise

import numpy as np

_limit = None  # set by `use_threads`


def cores() -> int:
    """How many threads to use: one for each core that this process may use, or fewer if limited."""
    knows_its_own = hasattr(os, "sched_getaffinity")
    n = len(os.sched_getaffinity(0)) if knows_its_own else (os.cpu_count() or 1)
    return n if _limit is None else min(n, _limit)


def use_threads(n: int) -> None:
    """Use at most `n` threads from now on, here and in BLAS."""
    global _limit
    _limit = n
    one_blas_thread.lift_to(cores())


def share_out(work: Callable[[int, int], object], n: int) -> list:
    """Call work(start, end) on nearly equal parts of range(n), one for each core, at the same time.

    -> the results in order. BLAS keeps to one thread meanwhile. The calling thread does the first
    part itself. `work` may not call `share_out`.

    >>> sum(share_out(lambda start, end: sum(range(start, end)), 10))
    45
    """
    _keep_freed_memory()
    n_parts = max(1, min(cores(), n))
    ends = [n * i // n_parts for i in range(n_parts + 1)]
    with no_fork.here(), one_blas_thread:
        others = [_pool(n_parts).submit(work, *part) for part in pairwise(ends[1:])]
        try:
            first = work(0, ends[1])
        finally:
            for other in others:
                other.exception()  # waits: until then all parts may write, and BLAS is theirs
        return [first, *(other.result() for other in others)]


@functools.cache
def _keep_freed_memory() -> None:
    """Have the GNU C library keep the memory of large arrays that are freed, for the next ones.

    At first it returns it to the system, and each new array is fetched page by page. It stops doing
    so once an array as large as this one, the largest that counts, has been freed.
    """
    np.empty(2**25 - 2**13, np.uint8)


class _NoFork:
    """`with no_fork.here():` around calls of BLAS has other threads wait before they fork.

    A lock that a thread holds while another one forks stays locked in the child for good, and
    OpenBLAS has locks: the child would hang in its first product. So each thread has a lock of its
    own, which it holds while it is inside, and whoever forks takes them all.
    """

    def __init__(self):
        self._own = threading.local()
        self._registering = threading.Lock()
        self._locks = weakref.WeakSet()  # of the threads that live
        self._taken = []

    def here(self) -> threading.RLock:
        """The lock of this thread. It may be entered again by who is inside."""
        if not hasattr(self._own, "lock"):
            with self._registering:
                self._own.lock = threading.RLock()
                self._locks.add(self._own.lock)
        return self._own.lock

    def before_fork(self) -> None:
        self._registering.acquire()
        self._taken = list(self._locks)
        for lock in self._taken:
            lock.acquire()

    def after_fork(self) -> None:
        """In the parent and in the child, where the thread that forked still has all locks."""
        for lock in self._taken:
            lock.release()
        self._taken = []
        self._registering.release()


no_fork = _NoFork()


class _OneBlasThread:
    """A context in which BLAS keeps to one thread. Any number of threads may be inside at once:
    the first to enter sets the limit, the last to leave lifts it. To be entered inside `no_fork`
    where another thread may fork."""

    def __init__(self):
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before = []  # how many threads each BLAS library had

    def __enter__(self):
        with self._lock:
            if self._n_inside == 0:
                self._before = [blas.num_threads for blas in _blas_libraries()]
                _set_blas_threads([1] * len(self._before))
            self._n_inside += 1

    def __exit__(self, *exception):
        with self._lock:
            self._n_inside = max(0, self._n_inside - 1)  # 0 already: a child forked while inside
            if self._n_inside == 0:
                _set_blas_threads(self._before)

    def lift_to(self, n: int) -> None:
        """Let BLAS have `n` threads: now, or if somebody is inside, when the last one leaves."""
        with no_fork.here(), self._lock:
            self._before = [n] * len(_blas_libraries())
            if self._n_inside == 0:
                _set_blas_threads(self._before)

    def after_fork_in_child(self) -> None:
        """Nobody is inside, unless the thread that forked was: then the limit is lifted early."""
        self._lock = threading.Lock()
        if self._n_inside:
            _set_blas_threads(self._before)
        self._n_inside = 0


one_blas_thread = _OneBlasThread()


def _set_blas_threads(numbers: list[int]) -> None:
    """Set how many threads each BLAS library uses."""
    for blas, n in zip(_blas_libraries(), numbers, strict=True):
        # `set_num_threads` of threadpoolctl 3.7 and newer only takes effect when it is called from
        # the thread that called it first; here the last to leave is often another one.
        set_num_threads = getattr(blas, "_real_set_num_threads", blas.set_num_threads)
        set_num_threads(n)


@functools.cache
def _blas_libraries() -> list:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child starts a pool of its own
    os.register_at_fork(after_in_child=one_blas_thread.after_fork_in_child)
    # What is registered last is called first before a fork: only then does the pool's own hook take
    # a lock, without which those whom we wait for could not share out their work.
    os.register_at_fork(
        before=no_fork.before_fork,
        after_in_parent=no_fork.after_fork,
        after_in_child=no_fork.after_fork,
    )
