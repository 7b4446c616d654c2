"""Why two dumps part: the search for a known mistake that explains it.

`hint` takes the first value in which two dumps part. It computes that operation again from the
values that went into it: correctly, and with each mistake that `mistakes.py` has for it. A mistake
that gives the other dump's numbers, where the correct operation does not, is what went wrong there.
"""

import math

import numpy as np

from explaining.mistakes import PRECISIONS, Array, Here
from explaining.watch import MASKED

CLEARLY = 0.1  # how much nearer to the other dump a mistake's result must be than the correct one's
CERTAINLY = 0.001  # if it is so much nearer, no farther operation is tried


def fits(ours: dict[str, Array], ids: Array, params: dict) -> bool:
    """Whether `ours` was computed with these parameters: whether the first value is theirs."""
    table = params["wte"]
    in_range = ids.min() >= 0 and ids.max() < len(table)
    return in_range and np.array_equal(table[ids], ours["wte"])


def hint(
    name: str,
    ours: dict[str, Array],
    theirs: dict[str, Array],
    missing: list[str],
    ids: Array,
    params: dict,
    n_head: int,
) -> str | None:
    """What went wrong in `theirs` at `name`, the first value that differs; None if not known.

    ours: all values of `watch`, by name; theirs: some of them, of the same shapes; missing: the
    names just before this one that theirs lacks, where the mistake may be as well; params: those
    that ours was computed with.
    """
    here = Here(name, ours | theirs, ids, params, n_head)
    wanted = theirs[name]
    apart = farthest(here.correct(name), wanted)
    if math.isfinite(apart) and apart <= CLEARLY * farthest(ours[name], wanted):
        return (
            "this operation is right: what goes into it differs already, by less than the "
            "tolerance. Compare with a smaller --tolerance"
        )
    apart = min(apart, 1)  # it is infinite for a NaN
    best, least = None, CLEARLY * apart
    for i in range(len(missing), -1, -1):  # the nearest first
        operation, *later = [*missing, name][i:]
        for wrong, result in here.at(operation).results():
            error = farthest(here.continued(operation, result, later), wanted)
            if error < least:
                best, least = f"{operation}: {wrong}" if later else wrong, error
        if least <= CERTAINLY * apart:
            break
    return best or _precision_of(wanted)


def _precision_of(array: Array) -> str | None:
    """A hint at the type of the numbers, if float32 numbers would not all look like that."""
    if np.isnan(array).any():
        return "there are NaNs: a softmax over nothing but -inf, perhaps, or numbers too large"
    for name, rounded in PRECISIONS.items():
        if np.array_equal(rounded(array), array) and np.unique(array).size > 2:
            return f"all numbers are {name} numbers"
    return None


def farthest(ours: Array, theirs: Array) -> float:
    """The largest difference; a NaN in ours is left out, one in theirs is as far as can be."""
    apart = difference(ours, theirs)[~np.isnan(ours)]
    return float(np.where(np.isnan(apart), np.inf, apart).max()) if apart.size else math.inf


def difference(ours: Array, theirs: Array) -> Array:
    """How far apart two arrays are, number by number: relative to ours where that is above 1.

    Masked scores count as equal, whatever large negative number stands for them.

    >>> ours, theirs = [0.5, 200.0, -1e10, -1e10], [0.6, 202.0, -1e9, -np.inf]
    >>> difference(np.array(ours), np.array(theirs)).round(3)
    array([0.1 , 0.01, 0.  , 0.  ])
    """
    ours, theirs = (np.maximum(x.astype(np.float64), MASKED) for x in (ours, theirs))
    return np.abs(theirs - ours) / np.maximum(1, np.abs(ours))
