"""Where two dumps of one text part: the first value that differs, by how much, and why, if known.

Ours is a dump of `explain.py`, with all values. The other one may be of any GPT-2, and may lack
some of them.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from explaining.dump import Dump
from explaining.hint import difference, fits, hint
from explaining.watch import KINDS, kind_of

# If theirs lacks more names in a row than this, a block with what may come before and after it, no
# mistake is looked for there: too much would have to be computed again.
LONGEST_GAP = len(KINDS)


class Difference(NamedTuple):
    """The first value that differs.

    largest: the largest difference of two numbers; index: where that is; ours, theirs: the two
    numbers. If the shapes differ there is no index, and ours and theirs are the shapes.
    """

    name: str
    largest: float
    index: tuple[int, ...] | None
    ours: float | tuple[int, ...]
    theirs: float | tuple[int, ...]


@dataclass
class Comparison:
    """What `compare_dumps` has found.

    equal: the names that agree, up to the first that does not; missing: names that theirs lacks;
    unknown: names that only theirs has; gap: of the missing names, those just before `difference`;
    hint: what went wrong there, if that is known.
    """

    equal: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    gap: list[str] = field(default_factory=list)
    difference: Difference | None = None
    hint: str | None = None


def compare_dumps(ours: Dump, theirs: Dump, tolerance: float) -> Comparison:
    """Walk both dumps in the order of computation, up to the first value that differs.

    tolerance: the largest difference that counts as equal; of numbers above 1, relative to them.
    Raises ValueError if `ours` is not a dump of `explain.py`, or `theirs` has none of its names.
    """
    names = list(ours.about.get("values", {}))
    if not names or ours.ids is None:
        raise ValueError(f"{ours.path}: the first file must be written by explain.py --dump")
    found = Comparison(
        missing=[name for name in names if name not in theirs.arrays],
        unknown=[name for name in theirs.arrays if name not in names],
    )
    if len(found.missing) == len(names):
        raise ValueError(f"{theirs.path}: no array has a name of {ours.path}: see --names")
    if theirs.ids is not None:
        found.difference = _first_difference("ids", ours.ids, theirs.ids, 0)
    for name in names:
        if found.difference:
            break
        if name in found.missing:
            found.gap.append(name)
            continue
        found.difference = _first_difference(
            name, ours.arrays[name], theirs.arrays[name], tolerance
        )
        if not found.difference:
            found.equal.append(name)
            found.gap.clear()
    return found


def find_hint(found: Comparison, ours: Dump, theirs: Dump, params: dict) -> str | None:
    """What went wrong at the first difference, if that is known. See `hint.hint`.

    params: the model's that `ours` is of. Raises ValueError if it is not of that model.
    """
    name = found.difference.name
    if name == "ids" or found.difference.index is None or len(found.gap) > LONGEST_GAP:
        return None
    if not fits(ours.arrays, ours.ids, params):
        raise ValueError("it was made with another model")
    same = [*found.equal, name]
    arrays = {
        each: theirs.arrays[each].reshape(ours.arrays[each].shape).astype(np.float32)
        for each in same
    }
    n_head = ours.about["hparams"]["n_head"]
    return hint(name, ours.arrays, arrays, found.gap, ours.ids, params, n_head)


def _first_difference(
    name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float
) -> Difference | None:
    extra = theirs.ndim - ours.ndim  # axes of length 1 in front are no difference
    if theirs.shape != (1,) * extra + ours.shape:
        return Difference(name, np.inf, None, ours.shape, theirs.shape)
    theirs = theirs.reshape(ours.shape)
    apart = difference(ours, theirs)
    if apart.max() <= tolerance:  # a NaN is not; and it is what argmax finds
        return None
    index = np.unravel_index(apart.argmax(), ours.shape)
    a, b = float(ours[index]), float(theirs[index])
    return Difference(name, abs(a - b), tuple(map(int, index)), a, b)


# ---------------------------------------------------------------- the report


def report(found: Comparison, ours: Dump, theirs: Dump, tolerance: float) -> str:
    """What `compare_dumps` has found, as a text of a few lines."""
    lines = []
    if found.missing:
        lines.append(f"not in {theirs.path}: {', '.join(_by_kind(found.missing, ours))}")
    if found.unknown:
        lines.append(f"only in {theirs.path}, not compared: {', '.join(found.unknown)}")
    n_equal = f"{len(found.equal)} of {len(ours.about['values'])} values"
    if found.difference is None:
        return "\n".join([*lines, f"equal within {tolerance:g}: {n_equal}"])
    if found.equal:
        lines.append(f"equal within {tolerance:g}: {n_equal}, up to {found.equal[-1]}")
    return "\n".join([*lines, *_describe(found, ours, theirs)])


def _describe(found: Comparison, ours: Dump, theirs: Dump) -> list[str]:
    name, largest, index, a, b = found.difference
    about = ours.about["values"].get(name)
    heading = name if about is None else f"{name} ({about['description']}; {about['function']})"
    if index is None:
        lines = [f"different shapes: {heading}", f"  {list(a)} in {ours.path}"]
        lines.append(f"  {list(b)} in {theirs.path}")
    else:
        lines = [f"first difference: {heading}"]
        lines.append(f"  up to {largest:.3g}, at [{', '.join(map(str, index))}]")
        lines.append(f"  {a:.8g} in {ours.path}, {b:.8g} in {theirs.path}")
    if found.gap:
        lines.append(f"  not in {theirs.path}: the {len(found.gap)} values just before it")
    if len(found.gap) > LONGEST_GAP:
        lines.append("  these are too many to look for a known mistake: dump some of them too")
    if found.hint:
        lines.append(f"  perhaps: {found.hint}")
    return lines


def _by_kind(names: list[str], ours: Dump) -> list[str]:
    """The names, with one `h.*.attn.q` for those of all blocks."""
    n_layer = ours.about["hparams"]["n_layer"]
    kinds = [kind_of(name) for name in names]
    short = [
        name if kinds.count(kind) < n_layer or kind == name else _any_block(kind)
        for name, kind in zip(names, kinds, strict=True)
    ]
    return list(dict.fromkeys(short))


def _any_block(kind: str) -> str:
    return "h.*" if kind == "h" else f"h.*.{kind}"
