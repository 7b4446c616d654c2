"""What a training run needs to go on: written now and then, whole or not at all.

A checkpoint is one file, `training_state.npz`: the arrays that steps change, and one JSON text for
all else, under the name `run`. The one before it stays as `training_state.previous.npz`, for the
case that the newer one is damaged.

Source of the format: NumPy's `npz`, a zip archive, which has a checksum of each array.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model_files.disk import replacing

NEWEST, PREVIOUS = "training_state.npz", "training_state.previous.npz"


class Run(NamedTuple):
    """All that the rest of a run depends on, besides its arrays; as JSON can hold it."""

    options: dict[str, Any]  # of train.py
    data: dict[str, str]  # what it is -> its fingerprint
    hparams: dict[str, int]
    vocabulary: dict[str, int]  # the tokenizer's
    merges: list[str]
    history: list[dict]
    n_steps: int
    n_tokens: int
    minutes: float
    best: float  # held-out loss
    rng: dict[str, Any]  # the state of the random generator


def save_checkpoint(folder: Path, run: Run, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint; the newest so far becomes the previous one. Raises OSError."""
    newest, previous = folder / NEWEST, folder / PREVIOUS
    with replacing(newest) as temporary:
        np.savez(temporary, run=json.dumps(run._asdict()), **arrays)
        if newest.exists() and not (previous.exists() and previous.samefile(newest)):
            # A second name, not a move: at no moment is there no newest checkpoint.
            with replacing(previous) as second_name:
                copy_by_link(newest, second_name)


def copy_by_link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing."""
    target.unlink(missing_ok=True)  # or a copy would be written into the file that it names
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def load_checkpoint(folder: Path) -> tuple[Run, dict[str, np.ndarray], list[str]]:
    """The newest checkpoint that is whole: -> its `run`, its arrays, what is wrong with newer ones

    Raises FileNotFoundError if there is none, ValueError if none is whole.
    """
    paths = [path for path in (folder / NEWEST, folder / PREVIOUS) if path.exists()]
    if not paths:
        raise FileNotFoundError(f"there is no {folder / NEWEST} to go on from")
    errors = []
    for path in paths:
        try:
            return *read_checkpoint(path), errors
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; ".join(errors))


def read_checkpoint(path: Path) -> tuple[Run, dict[str, np.ndarray]]:
    """`run` and the arrays of one file. Raises ValueError if the file is damaged."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        run = Run(**json.loads(str(arrays.pop("run"))))
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise ValueError(f"{broken[0]} has values that are not finite")
        return run, arrays
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
