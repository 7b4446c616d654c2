"""The processor's cores: how many there are, and work shared out among them.

NumPy uses several cores only in matrix products, inside BLAS. Where Python's threads share the
work instead, BLAS has to keep to one thread each, or they get in each other's way. This file is
the one owner of that limit.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from itertools import pairwise

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

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
    keep_freed_memory()
    n_parts = max(1, min(cores(), n))
    ends = [n * i // n_parts for i in range(n_parts + 1)]
    helpers = [_idle_helper() for _ in ends[2:]]
    with one_blas_thread:
        for helper, part in zip(helpers, pairwise(ends[1:]), strict=True):
            helper.start(work, *part)
        try:
            first = work(0, ends[1])
        finally:  # until all have ended they may write, and BLAS is theirs
            outcomes = [helper.wait() for helper in helpers]
            _idle.extend(helpers)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [first, *(result for result, _ in outcomes)]


class _Helper:
    """A thread that does one call at a time. An executor, with its queue and futures, takes longer
    to hand it over, and that is done very often."""

    def __init__(self):
        self._call = self._outcome = None
        self._is_called, self._is_done = threading.Lock(), threading.Lock()
        self._is_called.acquire()  # both are locked until it is so
        self._is_done.acquire()
        threading.Thread(target=self._serve, daemon=True).start()

    def start(self, work: Callable[[int, int], object], start: int, end: int) -> None:
        self._call = work, start, end
        self._is_called.release()

    def wait(self) -> tuple[object, BaseException | None]:
        """Wait for the end of the call -> its result and its error."""
        self._is_done.acquire()
        outcome, self._outcome = self._outcome, None
        return outcome

    def _serve(self) -> None:
        while True:
            self._is_called.acquire()
            self._outcome, self._call = _outcome(*self._call), None
            self._is_done.release()


def _outcome(work: Callable[[int, int], object], start: int, end: int) -> tuple:
    """The result of work(start, end) and None, or None and the error that it raised."""
    try:
        return work(start, end), None
    except BaseException as error:
        return None, error


_idle = []  # helpers that nobody uses now


def _idle_helper() -> _Helper:
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


@functools.cache
def keep_freed_memory() -> None:
    """Have the GNU C library keep the memory of large arrays that are freed, for the next ones.

    By itself it returns it to the system, and each new array is fetched page by page, which takes
    a millisecond for some 2 MB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that counts
    mallopt(M_TRIM_THRESHOLD, 2**30)


class _OneBlasThread:
    """A context in which BLAS keeps to one thread. Any number of threads may be inside at once:
    the first to enter sets the limit, the last to leave lifts it."""

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

    def is_on(self) -> bool:
        return self._n_inside > 0

    def lift_to(self, n: int) -> None:
        """Let BLAS have `n` threads: now, or if somebody is inside, when the last one leaves."""
        with self._lock:
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=one_blas_thread.after_fork_in_child)
