"""Hugging Face's file of weights, `model.safetensors`: read in place, and written.

It is the length of its header [8 bytes], the header (JSON), and the values of all tensors. The
header says where each of them is:

    {"h.0.attn.c_attn.bias": {"dtype": "F32", "shape": [2304], "data_offsets": [0, 9216]}, ...}

Left out: weights in several files, or in a pickle. Source: github.com/huggingface/safetensors.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model_files.disk import map_file, parse_object
from model_files.parameters import collect, named

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
# NumPy's names for the dtypes. It has no bfloat16: we read its bits, and convert them.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_safetensors(path: Path, hparams: dict[str, int]) -> dict:
    """The parameters in a file, nested as in `parameter_shapes`, w [n_in, n_out].

    Float32 ones are read-only views of the file, whose values are not looked at; others are
    converted, and checked for NaN. Raises ValueError if the file is damaged or does not fit
    `hparams`, OSError if it cannot be read.
    """
    entries, values = _read_entries(path)
    shapes = {name: entry.shape for name, entry in entries.items()}
    return collect(
        path, hparams, hugging_face_name, shapes, lambda name: _array(values, entries[name])
    )


def write_safetensors(path: Path, params: dict) -> None:
    """Write nested parameters, which are float32 or float16 and C-contiguous. Raises OSError."""
    tensors = {hugging_face_name(name): array for name, array in named(params).items()}
    header = {"__metadata__": {"format": "pt"}}  # which transformers insists on
    begin = 0
    for name, array in tensors.items():
        end = begin + array.nbytes
        header[name] = {
            "dtype": f"F{8 * array.itemsize}",
            "shape": array.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in tensors.values():
            file.write(array)


def hugging_face_name(name: str) -> str:
    """The name of a parameter in Hugging Face's files.

    >>> hugging_face_name("blocks.11.attn.c_attn.w"), hugging_face_name("wte")
    ('h.11.attn.c_attn.weight', 'wte.weight')
    """
    if name in ("wte", "wpe"):
        return f"{name}.weight"
    layer, _, kind = name.replace("blocks.", "h.").rpartition(".")
    kind = {"g": "weight", "w": "weight", "b": "bias"}[kind]
    return f"{layer}.{kind}"


class _Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # from the end of the header, in bytes, as is the end
    end: int


def _read_entries(path: Path) -> tuple[dict[str, _Entry], np.ndarray]:
    """-> {name: entry} of every tensor, and the bytes of all values."""
    try:
        data = map_file(path)
        header, header_end = _read_header(data)
        if not isinstance(header.pop("__metadata__", {}), dict):
            raise ValueError("its metadata is not a JSON object")
        entries = {name: _entry(name, fields) for name, fields in header.items()}
        values = data[header_end:]
        _check_places(entries, len(values))
        by_name = {name.removeprefix("transformer."): entry for name, entry in entries.items()}
        if len(by_name) < len(entries):
            raise ValueError("it has a tensor twice, with transformer. before its name and without")
    except ValueError as error:
        raise ValueError(f"{path} is not a complete, valid safetensors file: {error}") from None
    return by_name, values


def _read_header(data: np.ndarray) -> tuple[dict, int]:
    """-> the JSON object in the header, and where the header ends."""
    size = int.from_bytes(data[:8].tobytes(), "little")
    if size > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"a header of {size} bytes is not possible")
    return parse_object(data[8 : 8 + size].tobytes()), 8 + size


def _entry(name: str, fields: Any) -> _Entry:
    """What the header says of a tensor, from its JSON object. Raises ValueError for nonsense."""
    try:
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        begin, end = offsets
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name!r:.80} is {fields!r:.80}") from None
    if type(dtype) is not str or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"{name!r:.80} cannot be {fields!r:.200}")
    if dtype in DTYPES:
        size = np.dtype(DTYPES[dtype]).itemsize * math.prod(shape)
        if end - begin != size:
            raise ValueError(f"{name!r:.80} has {size} bytes, but {end - begin} in the file")
    return _Entry(dtype, tuple(shape), begin, end)


def _check_places(entries: dict[str, _Entry], n_bytes: int) -> None:
    """Raise ValueError unless the tensors fill the file: without holes, overlaps or a rest."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end or entry.end < entry.begin:
            raise ValueError(
                f"{name!r:.80} is at the bytes {entry.begin} to {entry.end}, the tensor before it "
                f"ends at {end}"
            )
        end = entry.end
    if end != n_bytes:
        raise ValueError(f"it has {n_bytes} bytes of values, its header {end}")


def _array(values: np.ndarray, entry: _Entry) -> np.ndarray:
    """The values of a tensor as they lie in the file, [n]; bfloat16 as float32."""
    if entry.dtype not in DTYPES:
        raise ValueError(f"its dtype is {entry.dtype!r:.80}, not one of {[*DTYPES]}")
    array = values[entry.begin : entry.end].view(DTYPES[entry.dtype])
    if entry.dtype == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
