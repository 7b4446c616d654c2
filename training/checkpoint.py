"""What a training run needs to go on: written now and then, whole or not at all.

A checkpoint is one file, `training_state.npz`: the arrays that steps change, and one JSON text for
all else, under the name `run`.

Source of the format: NumPy's `npz`, a zip archive, which has a checksum of each array.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_files.disk import replacing
from training.options import OF_THE_MODEL, Options

NAME = "training_state.npz"
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


def save(folder: Path, state: State, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint in place of the one before. Raises OSError."""
    with replacing(folder / NAME) as temporary, open(temporary, "wb") as file:
        np.savez(file, run=json.dumps(vars(state)), **arrays)
        file.flush()
        os.fsync(file.fileno())  # so that a power failure leaves the old one or the new one, whole


def load(folder: Path) -> tuple[State, dict[str, np.ndarray]]:
    """What was saved. Raises FileNotFoundError if nothing was, ValueError if it is damaged."""
    path = folder / NAME
    if not path.exists():
        raise FileNotFoundError(f"--resume: there is no {path} to go on from")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return State(**json.loads(str(arrays.pop("run")))), arrays
    except Exception as error:  # whatever zipfile, NumPy and json may meet in a damaged file
        raise ValueError(
            f"--resume: {path} is damaged ({type(error).__name__}: {error}); if there is a model, "
            f"--init_from {folder} with another --out goes on from that"
        ) from None


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
