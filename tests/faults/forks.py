"""Forks between generations, and while some are left halfway, in the main thread and in others.

While a child is forked no other thread computes: a fork in the middle of another thread's product
is not guarded against. Every child generates in its turn, within a time limit, and so does its
parent afterwards. A parent runs in a process of its own, `python -m tests.faults.forks SEED`, which
prints what went wrong.
"""

import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fast import threads
from tests.faults.load import PROMPTS, Model
from tests.faults.outcome import RIGHT, Case, FaultClass

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # for a child, on a busy machine


def check_child(model: Model, limit: int) -> int:
    """Whether this process generates what it should, and BLAS has its threads: 0, or 1."""
    right = all(model.write(i) == model.alone[i] for i in range(len(PROMPTS)))
    return 0 if right and blas_threads() == {limit} else 1


def blas_threads() -> set[int]:
    return {blas.num_threads for blas in threads._blas_libraries()}


def forked(work: Callable[[], int]) -> str:
    """Call `work` in a child, by os.fork: how it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return RIGHT if status == 0 else f"the child's status is {status}"
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "the child hangs"


def exit_with(work: Callable[[], int]) -> None:
    sys.exit(work())


def in_process(work: Callable[[], int]) -> str:
    """The same by multiprocessing's fork."""
    process = multiprocessing.get_context("fork").Process(target=exit_with, args=(work,))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        return "the process of multiprocessing hangs"
    return RIGHT if process.exitcode == 0 else f"its exit status is {process.exitcode}"


def in_pool(work: Callable[[], int]) -> str:
    """The same by a pool of two, which forks in threads of its own when a worker has ended."""
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        results = [pool.apply_async(work) for _ in range(4)]
        try:
            statuses = {result.get(SECONDS) for result in results}
        except multiprocessing.TimeoutError:
            return "a worker of the pool hangs"
    return RIGHT if statuses == {0} else f"statuses {statuses}"


def in_thread(fork: Callable, work: Callable[[], int]) -> str:
    """Fork in another thread than the main one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(fork(work)))
    thread.start()
    thread.join()
    return found[0]


def one_round(seed: int) -> str:
    """One parent, its generators left halfway, and its child."""
    rng = random.Random(seed)
    model = Model()  # has generated already
    [limit] = blas_threads()
    halfway = [model.stream(i, 40) for i in range(rng.randrange(3))]
    for stream in halfway:
        next(stream)
    work = partial(check_child, model, limit)
    global _work
    _work = work
    fork = rng.choice([forked, in_process, in_pool])
    if fork is in_pool:
        work = call_work  # what a pool is sent has to be pickled
    outcome = in_thread(fork, work) if rng.random() < 0.5 else fork(work)
    if outcome != RIGHT:
        return f"{outcome} ({fork.__name__})"
    return RIGHT if check_child(model, limit) == 0 else "the parent is not right afterwards"


_work: Callable[[], int]


def call_work() -> int:
    return _work()


def run_round(seed: int) -> str:
    command = [sys.executable, "-m", "tests.faults.forks", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    return done.stdout.strip() or f"status {done.returncode}: {done.stderr[-500:]!r}"


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    del folder
    while True:
        seed = rng.randrange(10**9)
        yield Case(f"seed {seed}", partial(run_round, seed))


FORKS = FaultClass("forks between generations", 60, 3, cases)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer, of any such fork
    print(one_round(int(sys.argv[1])))
