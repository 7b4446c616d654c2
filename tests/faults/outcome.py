"""How a run under a fault ended, and what a class of faults is."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

RIGHT = "ended right"
CLEAR_ERROR = "failed in one clear line"
# Any other outcome is a sentence that says what happened instead.


class Case(NamedTuple):
    """One fault: `name` says what is done, `run()` does it and says how the program ended."""

    name: str
    run: Callable[[], str]


class FaultClass(NamedTuple):
    """Faults of one kind. `cases(rng, folder)` yields them without end, drawn from `rng`; `folder`
    is an empty folder of their own."""

    title: str
    n_cases: int  # in `python -m tests.faults`
    n_sample: int  # in pytest, a few seconds' worth
    cases: Callable[[random.Random, Path], Iterator[Case]]


def judge(returncode: int, stderr: str, is_right: bool, what: str = "its output is wrong") -> str:
    """How a program ended, by its exit status and its standard error.

    `is_right` says whether what it left behind (output, files) is what it should be; it counts only
    if the status is 0.

    >>> judge(1, "gpt2.py: the prompt is empty\\n", is_right=False)
    'failed in one clear line'
    >>> judge(0, "", is_right=False)
    'status 0, but its output is wrong'
    """
    if returncode == 0:
        return RIGHT if is_right else f"status 0, but {what}"
    if returncode < 0:
        return f"killed by signal {-returncode}: {stderr[-300:]!r}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    if "Traceback" in stderr or not lines:
        return f"status {returncode}, standard error {stderr[-600:]!r}"
    # Notices may come before it; the error is the last line, and says whose it is.
    return CLEAR_ERROR if ": " in lines[-1] else f"status {returncode}, and {lines[-1]!r}"
