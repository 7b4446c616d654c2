"""What a training run needs to go on: written now and then, whole or not at all.

A checkpoint is one file, `training_state.npz`: the arrays that steps change, and one JSON text for
all else, under the name `run`. The one before it stays as `training_state.previous.npz`, for the
case that the newer one is damaged.

Source of the format: NumPy's `npz`, a zip archive, which has a checksum of each array.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.options import OF_THE_MODEL, Options
from utils import replacing

NEWEST, PREVIOUS = "training_state.npz", "training_state.previous.npz"
# Options on --resume:
MAY_CHANGE = ("batch_size", "steps", "minutes", "cooldown", "eval_every", "resume", "out")


@dataclass
class State:
    """All that the rest of a run depends on, besides its arrays; as JSON can hold it."""

    options: dict[str, Any]
    data: dict[str, str]  # what it is -> its fingerprint
    hparams: dict[str, int]
    vocabulary: dict[str, int]  # the tokenizer's
    merges: list[str]
    history: list[dict]  # of the evaluations
    n_steps: int
    n_tokens: int  # that it has learned from
    minutes: float  # that it has taken, all its sessions together
    best: float  # held-out loss
    rng: dict[str, Any]  # the state of the random generator


def save_checkpoint(folder: Path, state: State, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint; the newest so far becomes the previous one. Raises OSError."""
    newest = folder / NEWEST
    with replacing(newest) as temporary:
        np.savez(temporary, run=json.dumps(vars(state)), **arrays)
        if newest.exists():
            os.replace(newest, folder / PREVIOUS)  # until the next line there is only this one


def load_checkpoint(folder: Path) -> tuple[State, dict[str, np.ndarray], list[str]]:
    """The newest checkpoint that is whole: -> state, arrays, what is wrong with a newer one

    Raises FileNotFoundError if there is none, ValueError if none is whole.
    """
    paths = [path for path in (folder / NEWEST, folder / PREVIOUS) if path.exists()]
    if not paths:
        raise FileNotFoundError(f"--resume: there is no {folder / NEWEST} to go on from")
    errors = []
    for path in paths:
        try:
            return *read_checkpoint(path), errors
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("--resume: " + "; ".join(errors))


def read_checkpoint(path: Path) -> tuple[State, dict[str, np.ndarray]]:
    """The state and the arrays of one file. Raises ValueError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return State(**json.loads(str(arrays.pop("run")))), arrays
    except Exception as error:  # whatever zipfile, NumPy and json may meet in a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def forget_newest(folder: Path) -> None:
    """Let the previous checkpoint be the newest: the newest is damaged, and must not become the
    previous one when the next is saved. Raises OSError."""
    os.replace(folder / PREVIOUS, folder / NEWEST)


def fingerprint(ids: np.ndarray) -> str:
    """Tells one sequence of token ids from another.

    >>> fingerprint(np.array([1, 2, 3])) == fingerprint(np.array([1, 2, 4]))
    False
    """
    return f"{len(ids)} ids, crc32 {zlib.crc32(np.ascontiguousarray(ids).tobytes()):08x}"


def check_same_options(state: State, options: Options) -> None:
    """Raise ValueError if options of the saved run that may not change are others now."""
    may_change = MAY_CHANGE + (OF_THE_MODEL if options.init_from else ())
    changed = [
        f"--{name} {state.options.get(name)}"
        for name, value in asdict(options).items()
        if name not in may_change and state.options.get(name) != value
    ]
    if changed:
        raise ValueError(f"--resume: the run in {options.out} had {', '.join(changed)}")


def check_same_data(state: State, fingerprints: dict[str, str], folder: Path) -> None:
    """Raise ValueError if the saved run learned from other documents."""
    for what, now in fingerprints.items():
        if state.data.get(what) != now:
            raise ValueError(
                f"--resume: the {what} of the run in {folder} were others "
                f"({state.data.get(what)}; now {now}): give it the same --data (without one: "
                "the same Python, for its standard library), or a new --out"
            )
