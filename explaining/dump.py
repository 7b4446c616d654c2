"""A dump: every value of a pass by name, with the ids, in one file of NumPy's format, .npz.

`numpy.load(path)` reads it: an array for each name of `explaining/watch.py`, in the order of
computation; before them "ids", the token ids; and "about", a text in JSON:

    {"prompt": ..., "model_size": ..., "hparams": {"n_head": ..., ...},
     "values": {"wte": {"shape": [4, 768], "function": "gpt2", "description": "..."}, ...}}

A dump of another GPT-2 needs only arrays, with as many of these names as it can give.
"""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from explaining.watch import Value
from model_files.disk import replacing


class Dump(NamedTuple):
    """A dump that was read. ids: None where it has none; about: the JSON, {} where it has none."""

    path: str
    arrays: dict[str, np.ndarray]
    ids: np.ndarray | None
    about: dict[str, Any]


def write_dump(
    path: str,
    values: Mapping[str, Value],
    ids: Sequence[int],
    hparams: dict[str, int],
    prompt: str = "",
    model_size: str | None = None,
) -> None:
    """Write `values`, as `watch` gives them, to `path`. Raises OSError if that fails."""
    about = {
        "prompt": prompt,
        "model_size": model_size,
        "hparams": hparams,
        "values": {
            name: {
                "shape": value.shape,
                "function": value.function,
                "description": value.description,
            }
            for name, value in values.items()
        },
    }
    arrays = {name: value.array for name, value in values.items()}
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, about=json.dumps(about), ids=np.array(ids), **arrays)


def read_dump(path: str) -> Dump:
    """Raises OSError if the file cannot be read, ValueError if it is no dump."""
    if os.path.exists(path) and not os.path.isfile(path):  # to read a pipe might take for ever
        raise OSError(f"{path}: expected an .npz file, and it is not a file")
    try:
        with open(path, "rb") as file:  # a file that is no archive np.load takes for a pickle
            is_archive = zipfile.is_zipfile(file)
        if not is_archive:
            raise ValueError("it is no zip archive")
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        ids, about = arrays.pop("ids", None), json.loads(str(arrays.pop("about", "{}")))
    except (ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        message = f"{path}: expected an .npz file of arrays, as numpy.savez writes it ({error})"
        raise ValueError(message) from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name} has values of type {array.dtype}, expected numbers")
    return Dump(path, arrays, ids, about)


def names_table(values: Mapping[str, Value]) -> str:
    """A line for each value: its name, shape, function and description."""
    rows = [
        (name, " x ".join(map(str, value.shape)), value.function, value.description)
        for name, value in values.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)
