"""Model folders: fetch one, read one, write one.

A GPT-2 is a folder `models_dir/model_size/` in one of two layouts. OpenAI's has a TensorFlow
checkpoint, Hugging Face's a safetensors file. Both are mapped into memory as they lie on disk:
loading takes milliseconds, makes no second copy, and needs no framework.

What is not read: weights in a pickle or in several safetensors files, and models whose
configuration is not covered by `SUPPORTED_CONFIG`. This file also works when it is copied to
another folder together with `encoder.py`.

For programs: `load_encoder_hparams_and_params`, `save_model_folder`, `download_gpt2_files`,
`load_gpt2_params_from_tf_ckpt`; `replacing`, to write a file as a whole;
`notice_writers_of_mapped_files`; and, for the names and shapes of parameters, `parameter_shapes`,
`map_params` and `named`. To read this file, begin at its end, with
`load_encoder_hparams_and_params`, then go to the section that you need:

- parameters: their names and shapes, and how they are collected from a file;
- OpenAI's layout, Hugging Face's layout: reading a folder;
- writing a model folder;
- fetching a file: HTTP, with resumed downloads; where models are published: names, sizes, hashes;
  what a folder lacks; reading a folder as a whole; one download at a time; fetching a model: which
  files, and from where;
- loading a model: all of it together.

Sources: github.com/openai/gpt-2 (the layout); github.com/google/leveldb, doc/table_format.md and
github.com/tensorflow/tensorflow, core/protobuf/tensor_bundle.proto (the checkpoint);
github.com/huggingface/safetensors (the other file).
"""

import contextlib
import errno
import filecmp
import functools
import hashlib
import json
import math
import mmap
import os
import queue
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from encoder import (
    HUGGING_FACE_LAYOUT,
    MAX_TEXT_FILE,
    OPENAI_LAYOUT,
    Encoder,
    get_encoder,
    parse_json,
    read_file,
)

# ------------------------------------------------------------------ parameters


def parameter_shapes(hparams: dict[str, int]) -> dict:
    """The shapes of a model's parameters, nested as `gpt2.gpt2` takes them.

    >>> hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    >>> shapes = parameter_shapes(hparams)
    >>> shapes["wte"], shapes["blocks"][11]["mlp"]["c_fc"]
    ((50257, 768), {'w': (768, 3072), 'b': (3072,)})
    """
    d = hparams["n_embd"]
    norm = {"g": (d,), "b": (d,)}
    attn = {"c_attn": {"w": (d, 3 * d), "b": (3 * d,)}, "c_proj": {"w": (d, d), "b": (d,)}}
    mlp = {"c_fc": {"w": (d, 4 * d), "b": (4 * d,)}, "c_proj": {"w": (4 * d, d), "b": (d,)}}
    block = {"ln_1": norm, "attn": attn, "ln_2": norm, "mlp": mlp}
    # The blocks are the same dict n_layer times: use the shapes, do not change them.
    return {
        "wte": (hparams["n_vocab"], d),
        "wpe": (hparams["n_ctx"], d),
        "blocks": [block] * hparams["n_layer"],
        "ln_f": norm,
    }


def map_params(function: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """The same dicts and lists, with function(name, leaf) in place of each leaf.

    >>> map_params(lambda name, shape: name, {"ln_f": {"g": (3,)}, "blocks": [{"w": (3, 3)}]})
    {'ln_f': {'g': 'ln_f.g'}, 'blocks': [{'w': 'blocks.0.w'}]}
    """
    if isinstance(tree, dict):
        return {key: map_params(function, child, f"{name}{key}.") for key, child in tree.items()}
    if isinstance(tree, list):
        return [map_params(function, child, f"{name}{i}.") for i, child in enumerate(tree)]
    return function(name.removesuffix("."), tree)


def named(tree: Any) -> dict[str, Any]:
    """{name: leaf} of nested parameters, shapes or gradients, in the order of the nest.

    >>> named({"ln_f": {"g": 1, "b": 2}, "blocks": [{"w": 3}]})
    {'ln_f.g': 1, 'ln_f.b': 2, 'blocks.0.w': 3}
    """
    leaves = {}
    map_params(leaves.__setitem__, tree)
    return leaves


def _openai_name(name: str) -> str:
    """The name of a parameter in OpenAI's checkpoint.

    >>> _openai_name("blocks.11.attn.c_attn.w"), _openai_name("wte")
    ('model/h11/attn/c_attn/w', 'model/wte')
    """
    return "model/" + name.replace("blocks.", "h").replace(".", "/")


def _hugging_face_name(name: str) -> str:
    """The name of a parameter in Hugging Face's files.

    >>> _hugging_face_name("blocks.11.attn.c_attn.w"), _hugging_face_name("wte")
    ('h.11.attn.c_attn.weight', 'wte.weight')
    """
    if name in ("wte", "wpe"):
        return f"{name}.weight"
    layer, _, kind = name.replace("blocks.", "h.").rpartition(".")
    kind = {"g": "weight", "w": "weight", "b": "bias"}[kind]
    return f"{layer}.{kind}"


def _collect(
    path: str | Path,
    hparams: dict[str, int],
    name_in_file: Callable[[str], str],
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
) -> dict:
    """The nested parameters of a file, as float32 arrays of the shapes that `hparams` asks for.

    `shapes` lists all tensors of the file by their names there; `read(name)` returns the values of
    one, in any shape. Raises ValueError for a tensor that is missing or has another shape.
    """
    _check_n_layer(path, hparams["n_layer"], name_in_file, shapes)

    def parameter(name, shape):
        name = name_in_file(name)
        if name not in shapes:
            raise ValueError(f"{path}: {name} is missing")
        if tuple(shapes[name]) not in (shape, (1, *shape)):  # OpenAI: [1, n_in, n_out]
            raise ValueError(f"{path}: {name} should be {shape}, is {tuple(shapes[name])}")
        try:
            with np.errstate(over="ignore"):  # too large for float32: `_check_values` says so
                # Copies only what is not float32 yet, or not at a multiple of four bytes.
                return np.require(read(name), np.float32, ["ALIGNED"]).reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot read {name}: {error}") from None

    return map_params(parameter, parameter_shapes(hparams))


def _check_n_layer(
    path: str | Path, n_layer: int, name_in_file: Callable[[str], str], names: Container[str]
) -> None:
    """Raise ValueError unless a file has the tensors (`names`) of `n_layer` blocks, and no more.

    That comes first, because the shapes of a million blocks would fill the memory.
    """
    last, one_more = [name_in_file(f"blocks.{i}.ln_1.g") for i in (n_layer - 1, n_layer)]
    if last not in names:
        raise ValueError(f"{path}: n_layer is {n_layer}, but {last} is missing")
    if one_more in names:
        raise ValueError(f"{path}: n_layer is {n_layer}, but there is {one_more}")


def _map_file(path: str | Path) -> memoryview:
    """The bytes of a file, read-only. They are read from disk when they are first used."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait for a writer
        raise OSError(f"{path} is not a file")
    with open(path, "rb") as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise OSError(f"cannot map {path} into memory: {error.strerror}") from None
        _notice_writers(path, file)
        return data


# Another process may cut or overwrite a file while it is mapped. A cut kills this process with
# SIGBUS as soon as it uses a page that is gone; NumPy is in the middle of it, so no handler in
# Python can run. But Linux has leases (fcntl(2), F_SETLEASE): a process that opens the file for
# writing, or cuts it, has to wait while we are sent SIGIO, until we let the file go.

_noticed_paths: list[str] = []


def notice_writers_of_mapped_files() -> None:
    """For programs, before they load a model: raise OSError in the main thread as soon as another
    process opens a file for writing that is mapped, and so end before it is changed.

    On Linux, for files on a local disk that belong to the user; elsewhere it does nothing.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if hasattr(signal, "SIGIO") and is_main_thread:
        signal.signal(signal.SIGIO, _raise_for_writer)


def _raise_for_writer(signal_number: int, frame: Any) -> None:
    paths = " or ".join(_noticed_paths)
    raise OSError(f"another program opened {paths} for writing while it was in use")


def _notice_writers(path: str | Path, file: BinaryIO) -> None:
    """Take a lease on a file, for as long as it is mapped, if the program waits for its end."""
    if not hasattr(signal, "SIGIO") or signal.getsignal(signal.SIGIO) is not _raise_for_writer:
        return
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except (AttributeError, OSError):
        return  # not Linux, a network's file system, somebody else's file, already being written
    if str(path) not in _noticed_paths:
        _noticed_paths.append(str(path))


MAX_WEIGHT = 1e9  # from some 1e12 on, the cube in gelu is too large for float32


def _check_values(path: str | Path, params: dict, name_in_file: Callable[[str], str]) -> None:
    """Raise ValueError for a tensor with a NaN in it, or numbers too large to compute with."""
    for name, array in named(params).items():
        with np.errstate(invalid="ignore"):
            smallest, largest = float(array.min()), float(array.max())  # a NaN is both
        largest = max(-smallest, largest)
        if not largest <= MAX_WEIGHT:
            what = "a NaN" if math.isnan(largest) else f"a value of {largest:.3g}"
            raise ValueError(f"{path}: {name_in_file(name)} has {what}, so it is damaged")


def _parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if it is none, or has a key twice."""

    def unique_keys(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = sorted(key for key, _ in pairs)
            doubled = next(left for left, right in pairwise(keys) if left == right)
            raise ValueError(f"the key {doubled!r:.80} comes twice")
        return values

    values = parse_json(content, object_pairs_hook=unique_keys)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def _read_hparams(path: Path, names: dict[str, str]) -> tuple[dict[str, int], dict]:
    """Read a JSON file -> hparams, and the whole configuration.

    `names` maps our names of the hparams to those in the file.
    """
    try:
        config = _parse_object(read_file(path))
        lacking = [theirs for theirs in names.values() if theirs not in config]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except ValueError as error:
        raise ValueError(f"{path} is not a complete, valid configuration: {error}") from None
    hparams = {ours: config[theirs] for ours, theirs in names.items()}
    for name, number in hparams.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{path}: {names[name]} should be 1 or more, is {number!r:.80}")
    if hparams["n_embd"] % hparams["n_head"]:
        n_embd, n_head = hparams["n_embd"], hparams["n_head"]
        raise ValueError(f"{path}: n_embd {n_embd} should be a multiple of n_head {n_head}")
    return hparams, config


# ------------------------------------------------------------------ OpenAI's layout
#
# A TensorFlow checkpoint is an index and a data file. The data file is the values of all tensors,
# one tensor after the other. The index says where each of them is. It is a table in LevelDB's
# format, sorted by key:
#
#     key                         value (a protocol buffer)
#     ""                          BundleHeaderProto: number of data files, byte order
#     "model/h0/attn/c_attn/b"    BundleEntryProto: dtype, shape, offset, size
#     "model/h0/attn/c_attn/w"    ...

OPENAI_HPARAMS = {name: name for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER_SIZE = 48
NO_COMPRESSION = 0
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
LITTLE_ENDIAN = 0
DT_FLOAT = 1  # TensorFlow's number for float32


class _UnusualCheckpoint(Exception):
    """A checkpoint that may be fine, but uses a part of the format that we do not read."""


class _BundleEntry(NamedTuple):
    """What the index says of a tensor."""

    dtype: int  # TensorFlow's number
    shape: tuple[int, ...]
    shard: int  # the number of the data file, from 0
    offset: int  # in the data file, in bytes, as is the size
    size: int
    in_slices: bool


@functools.cache
def _crc32c_table() -> list[int]:
    """The remainder of every byte after division by Castagnoli's polynomial, bits reversed."""
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            lowest_bit = remainder & 1
            remainder >>= 1
            if lowest_bit:
                remainder ^= 0x82F63B78
        table.append(remainder)
    return table


def _crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, section 12.1. At about 15 MB a second: not for weights.

    >>> hex(_crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _crc32c_table()
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    return checksum ^ 0xFFFFFFFF


def _masked(checksum: int) -> int:
    """A checksum as LevelDB stores it: so that checksums of data with checksums stay reliable."""
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Read a number of variable length -> the number, and where it ends.

    Each byte has seven bits of it, the lowest first; its high bit is set if another byte follows.

    >>> _read_varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    number = 0
    for i, byte in enumerate(data[start : start + 10]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, start + i + 1
    raise ValueError("a number in it has no end")


def _read_block(table: bytes, offset: int, size: int) -> bytes:
    """The content of one block. A trailer follows it: compression [1 byte], checksum [4 bytes]."""
    end = offset + size
    content, trailer = table[offset:end], table[end : end + 5]
    if len(trailer) < 5:
        raise ValueError("it is cut short")
    compression, checksum = trailer[0], int.from_bytes(trailer[1:], "little")
    if _masked(_crc32c(content + trailer[:1])) != checksum:
        raise ValueError("it is damaged, a checksum is wrong")
    if compression != NO_COMPRESSION:
        raise _UnusualCheckpoint("its index is compressed")
    return content


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block.

    Keys are sorted, so neighbours begin alike, and only the rest of a key is stored. An entry is
    three varints (bytes shared with the key before, bytes of the rest, bytes of the value), the
    rest of the key, the value. The block ends with the offsets of some entries [4 bytes each], for
    binary search, and their number [4 bytes].
    """
    n_offsets = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * n_offsets
    start, key = 0, b""
    while start < end:
        n_shared, start = _read_varint(block, start)
        n_rest, start = _read_varint(block, start)
        n_value, start = _read_varint(block, start)
        key = key[:n_shared] + block[start : start + n_rest]
        start += n_rest
        yield key, block[start : start + n_value]
        start += n_value
    if start != end:
        raise ValueError("the entries of a block do not fill it")


def _read_block_at(table: bytes, handle: bytes) -> bytes:
    """Read the block that a handle points to. A handle is an offset and a size, two varints."""
    offset, start = _read_varint(handle, 0)
    size, _ = _read_varint(handle, start)
    return _read_block(table, offset, size)


def _read_table(table: bytes) -> dict[bytes, bytes]:
    """{key: value} of a table: its footer points to the index block, that to all other blocks.

    The footer is the handle of the metaindex block (empty here), the handle of the index block,
    zeros up to 40 bytes, and a magic number [8 bytes].
    """
    footer = table[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE or not footer.endswith(TABLE_MAGIC):
        raise ValueError("it has no valid table footer")
    _, start = _read_varint(footer, 0)  # the metaindex block's offset
    _, start = _read_varint(footer, start)  # and size
    index = _read_block_at(table, footer[start:])
    entries = {}
    for _, handle in _block_entries(index):
        entries.update(_block_entries(_read_block_at(table, handle)))
    return entries


def _read_message(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol buffer -> {field: number} and {field: [bytes, ...]}.

    The bytes may be another message. A field's meaning is in the definition of the message.

    >>> _read_message(bytes([0x08, 0x01, 0x12, 0x02]) + b"ab")
    ({1: 1}, {2: [b'ab']})
    """
    numbers, byte_strings = {}, {}
    start = 0
    while start < len(message):
        tag, start = _read_varint(message, start)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            numbers[field], start = _read_varint(message, start)
        elif wire_type == BYTES:
            size, start = _read_varint(message, start)
            byte_strings.setdefault(field, []).append(message[start : start + size])
            start += size
        elif wire_type == FIXED32:  # checksums of tensors, which we do not use
            start += 4
        elif wire_type == FIXED64:
            start += 8
        else:
            raise ValueError(f"an entry in it has the unknown wire type {wire_type}")
    if start != len(message):
        raise ValueError("an entry in it is cut short")
    return numbers, byte_strings


def _check_bundle_header(message: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2."""
    numbers, _ = _read_message(message)
    if numbers.get(1) != 1:
        raise _UnusualCheckpoint(f"it has {numbers.get(1)} data files")
    if numbers.get(2, LITTLE_ENDIAN) != LITTLE_ENDIAN:
        raise _UnusualCheckpoint("it is big-endian")


def _read_bundle_entry(message: bytes) -> _BundleEntry:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, slices = 7."""
    numbers, byte_strings = _read_message(message)
    shape = ()
    for shape_message in byte_strings.get(2, []):  # TensorShapeProto: dim = 2
        _, dims = _read_message(shape_message)
        for dim in dims.get(2, []):  # Dim: size = 1
            dim_numbers, _ = _read_message(dim)
            shape += (dim_numbers.get(1, 0),)
    return _BundleEntry(
        dtype=numbers.get(1, 0),
        shape=shape,
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        in_slices=7 in byte_strings,
    )


def _read_index(path: Path) -> dict[str, _BundleEntry]:
    """{name: entry} of every tensor in a checkpoint's index file."""
    table = _read_table(read_file(path))
    if b"" not in table:
        raise ValueError("it has no header")
    _check_bundle_header(table.pop(b""))
    return {key.decode("utf-8", "replace"): _read_bundle_entry(table[key]) for key in table}


def _tensor_view(data: memoryview, entry: _BundleEntry) -> np.ndarray:
    """The values of a tensor as they lie in the data file: [n] float32, read-only."""
    if entry.dtype != DT_FLOAT:
        raise _UnusualCheckpoint(f"its weights are not all float32 (type {entry.dtype})")
    if entry.in_slices:
        raise _UnusualCheckpoint("it has tensors in several slices")
    if entry.shard != 0:
        raise ValueError(f"it is in data file {entry.shard}, but there is only data file 0")
    return np.frombuffer(data[entry.offset : entry.offset + entry.size], "<f4")


def _read_checkpoint(prefix: str, hparams: dict[str, int]) -> dict:
    """The nested parameters of a checkpoint, or _UnusualCheckpoint."""
    try:
        entries = _read_index(Path(f"{prefix}.index"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{prefix}.index is not a complete, valid checkpoint: {error}") from None
    data_file = f"{prefix}.data-00000-of-00001"
    try:
        data = _map_file(data_file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{data_file}: cannot read the weights: {error}") from None
    end = max((entry.offset + entry.size for entry in entries.values()), default=0)
    if end != len(data):
        raise ValueError(f"{data_file} has {len(data)} bytes, its index says {end}")
    shapes = {name: entry.shape for name, entry in entries.items()}

    def read(name):
        return _tensor_view(data, entries[name])

    return _collect(prefix, hparams, _openai_name, shapes, read)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard all output to file descriptor 2: TensorFlow's C++ code logs there regardless."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _read_checkpoint_with_tensorflow(prefix: str, hparams: dict[str, int], why: str) -> dict:
    """The nested parameters of a checkpoint that we do not read ourselves, for the reason `why`."""
    with _silent_stderr():
        try:
            import tensorflow as tf
        except ImportError as error:
            remedy = "pip install tensorflow, or use a safetensors folder"
            raise ImportError(f"{prefix}: {why}; to read it {remedy} ({error})") from None
        try:
            reader = tf.train.load_checkpoint(prefix)
            shapes = reader.get_variable_to_shape_map()
            _check_n_layer(prefix, hparams["n_layer"], _openai_name, shapes)
            names = {_openai_name(name) for name in named(parameter_shapes(hparams))}
            arrays = {name: reader.get_tensor(name) for name in names & shapes.keys()}
        except Exception as error:  # of many types, with many lines
            message = " ".join(str(error).split())
            raise ValueError(f"{prefix}: TensorFlow cannot read it: {message}") from None
    return _collect(prefix, hparams, _openai_name, shapes, arrays.__getitem__)


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path: str, hparams: dict[str, int]) -> dict:
    """The parameters in OpenAI's checkpoint, nested as in `parameter_shapes`, w [n_in, n_out].

    tf_ckpt_path: what its files' names begin with ("models/124M/model.ckpt"). The arrays are
    read-only float32 views of the data file. The index and all sizes are checked, the values are
    not: their checksums would take half a minute. A checkpoint in several data files, in other
    dtypes or with a compressed index is read through TensorFlow.
    Raises ValueError if files are damaged or missing or do not fit `hparams`, ImportError if
    TensorFlow is needed and not installed.
    """
    prefix = str(tf_ckpt_path)
    try:
        return _read_checkpoint(prefix, hparams)
    except _UnusualCheckpoint as reason:
        why = str(reason)
    return _read_checkpoint_with_tensorflow(prefix, hparams, why)


def _checkpoint_prefix(model_dir: str) -> str | None:
    """What the names of the checkpoint's files begin with, as the text file `checkpoint` says.

    It may say the path on another machine: only the last part of it is used. None if there is no
    such file, or it does not say, or says what is no name.
    """
    try:
        text = str(read_file(Path(model_dir, "checkpoint")), "utf-8", "replace")
    except OSError:
        return None
    path = re.search(r'^\s*model_checkpoint_path:\s*"(.+)"', text, re.MULTILINE)
    name = re.split(r"[/\\]", path[1])[-1] if path else ""
    return name if name.isprintable() and 0 < len(name) < 200 else None


def _openai_prefix(model_dir: str) -> str:
    return os.path.join(model_dir, _checkpoint_prefix(model_dir) or "model.ckpt")


def _read_openai_folder(model_dir: str) -> tuple[dict[str, int], dict]:
    """-> hparams, params of a folder in OpenAI's layout."""
    hparams, _ = _read_hparams(Path(model_dir, "hparams.json"), OPENAI_HPARAMS)
    return hparams, load_gpt2_params_from_tf_ckpt(_openai_prefix(model_dir), hparams)


# ------------------------------------------------------------------ Hugging Face's layout
#
# A safetensors file is the length of its header [8 bytes], the header (JSON), and the values of all
# tensors. The header says where each of them is:
#
#     {"h.0.attn.c_attn.bias": {"dtype": "F32", "shape": [2304], "data_offsets": [0, 9216]}, ...}

HUGGING_FACE_FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
HUGGING_FACE_HPARAMS = OPENAI_HPARAMS | {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
# The values that config.json may have. The first of them is the default, and it is what
# `save_model_folder` writes.
SUPPORTED_CONFIG = {
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # one formula
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, as in the safetensors library
# NumPy's names for the dtypes. It has no bfloat16: we read its bits, and convert them.
SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class _SafetensorsEntry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # from the end of the header, in bytes, as is the end
    end: int


def _read_hugging_face_hparams(model_dir: str) -> dict[str, int]:
    """The hparams in `config.json`. Raises ValueError if `gpt2.gpt2` does not compute the model."""
    path = Path(model_dir, "config.json")
    hparams, config = _read_hparams(path, HUGGING_FACE_HPARAMS)
    supported = {**SUPPORTED_CONFIG, "n_inner": (None, 4 * hparams["n_embd"])}
    for key, values in supported.items():
        value = config.get(key, values[0])
        if value not in values:
            raise ValueError(f"{path}: {key} is {value!r:.80}; only {values} can be computed")
    return hparams


def _read_safetensors_header(data: memoryview) -> tuple[dict, int]:
    """-> the JSON object in the header, and where the header ends."""
    size = int.from_bytes(data[:8], "little")
    if size > min(MAX_SAFETENSORS_HEADER, len(data) - 8):
        raise ValueError(f"a header of {size} bytes is not possible")
    return _parse_object(bytes(data[8 : 8 + size])), 8 + size


def _safetensors_entry(name: str, fields: Any) -> _SafetensorsEntry:
    """What the header says of a tensor, from its JSON object. Raises ValueError for nonsense."""
    try:
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        begin, end = offsets
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name!r:.80} is {fields!r:.80}") from None
    if type(dtype) is not str or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"{name!r:.80} cannot be {fields!r:.200}")
    if dtype in SAFETENSORS_DTYPES:
        size = np.dtype(SAFETENSORS_DTYPES[dtype]).itemsize * math.prod(shape)
        if end - begin != size:
            raise ValueError(f"{name!r:.80} has {size} bytes, but {end - begin} in the file")
    return _SafetensorsEntry(dtype, tuple(shape), begin, end)


def _check_places(entries: dict[str, _SafetensorsEntry], n_bytes: int) -> None:
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


def _read_safetensors(path: Path) -> tuple[dict[str, _SafetensorsEntry], dict, memoryview]:
    """-> {name: entry} of every tensor, the metadata, and the values, mapped into memory."""
    try:
        data = _map_file(path)
        header, header_end = _read_safetensors_header(data)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not a JSON object")
        entries = {name: _safetensors_entry(name, fields) for name, fields in header.items()}
        values = data[header_end:]
        _check_places(entries, len(values))
        by_name = {name.removeprefix("transformer."): entry for name, entry in entries.items()}
        if len(by_name) < len(entries):
            raise ValueError("it has a tensor twice, with transformer. before its name and without")
    except ValueError as error:
        raise ValueError(f"{path} is not a complete, valid safetensors file: {error}") from None
    return by_name, metadata, values


def _safetensors_array(values: memoryview, entry: _SafetensorsEntry) -> np.ndarray:
    """The values of a tensor as they lie in the file, [n]; bfloat16 as float32."""
    if entry.dtype not in SAFETENSORS_DTYPES:
        raise ValueError(f"its dtype is {entry.dtype!r:.80}, not one of {[*SAFETENSORS_DTYPES]}")
    array = np.frombuffer(values[entry.begin : entry.end], SAFETENSORS_DTYPES[entry.dtype])
    if entry.dtype == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _read_hugging_face_folder(model_dir: str) -> tuple[dict[str, int], dict]:
    """-> hparams, params of a folder in Hugging Face's layout."""
    hparams = _read_hugging_face_hparams(model_dir)
    path = Path(model_dir, "model.safetensors")
    entries, _, values = _read_safetensors(path)
    shapes = {name: entry.shape for name, entry in entries.items()}

    def read(name):
        return _safetensors_array(values, entries[name])

    return hparams, _collect(path, hparams, _hugging_face_name, shapes, read)


def _is_conversion(model_dir: str) -> bool:
    """Whether the safetensors file is a copy of a checkpoint in the same folder.

    Earlier versions of this file wrote such copies, and marked them.
    """
    _, metadata, _ = _read_safetensors(Path(model_dir, "model.safetensors"))
    return bool(metadata.get("openai_sha256"))


# ------------------------------------------------------------------ writing a model folder


UNFINISHED = "unfinished-"  # how a name begins while the file or folder is being written
DAY = 86400  # seconds
LOCKED = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what locking fails with if another has it


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file for this process -> whether it is ours; None where there are no locks.

    The system ends a lock when the file is closed, or the process ends, however that ends.
    """
    try:
        if fcntl is None:  # Windows
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # others cannot use the byte that is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in LOCKED else None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _no_links(path: str | Path, flags: int) -> int:
    """An opener for `open`, which fails if the file is a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _open_locked(path: Path) -> int | None:
    """A file descriptor with the lock of an unfinished file or folder, None if there are no locks.

    Raises BlockingIOError if another process has the lock, or has just removed what was at `path`;
    another OSError if the file cannot be opened.
    """
    if fcntl is None:  # Windows opens no folders, and removes no open files
        return None
    descriptor = _no_links(path, os.O_RDONLY | os.O_NONBLOCK)
    is_ours = try_lock(descriptor)
    if is_ours and _is_at(path, descriptor):
        return descriptor
    os.close(descriptor)
    if is_ours is None:
        return None
    raise BlockingIOError(errno.EWOULDBLOCK, "another process has it", str(path))


def _remove(path: Path) -> None:
    import shutil

    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _clear_unfinished(paths: Iterable[Path]) -> None:
    """Remove those of our unfinished files and folders that no living process is writing.

    Where there are no locks, those that are a day old are taken for that.
    """
    for path in paths:
        with contextlib.suppress(OSError):  # a living process writes it; or it is gone, or a link
            descriptor = _open_locked(path)
            if descriptor is not None or time.time() - path.lstat().st_mtime > DAY:
                _remove(path)
            if descriptor is not None:
                os.close(descriptor)


@contextlib.contextmanager
def _unfinished(left_over: Iterable[Path], make: Callable[[], Path]) -> Iterator[Path]:
    """A new temporary file or folder, which `make` makes; locked, and removed in the end.

    First, those of killed processes are removed, which may be `left_over`. Raises BlockingIOError
    if another process has it.
    """
    _clear_unfinished(left_over)
    attempts = 20
    while True:
        path = make()
        try:
            descriptor = _open_locked(path)
            break
        except (BlockingIOError, FileNotFoundError):
            # Another process may have taken it for unfinished, before it was locked.
            attempts -= 1
            if not attempts:
                raise
            time.sleep(0.02)
    try:
        yield path
    finally:
        if descriptor is None or _is_at(path, descriptor):  # else another process's, by now
            _remove(path)
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It is renamed to `path` if all went well, else removed.

    Raises OSError with the name of `path` if it cannot be written.
    """
    temporary = path.with_name(UNFINISHED + path.name)

    def make():
        os.close(_no_links(temporary, os.O_WRONLY | os.O_CREAT))  # or a link's target were emptied
        return temporary

    try:
        if path.exists() and not path.is_file():  # os.replace would put a file in place of a device
            raise OSError("expected a file there, or nothing")
        with _unfinished([temporary], make):
            yield temporary
            os.replace(temporary, path)
    except BlockingIOError:
        raise OSError(f"cannot write {path}: another process is writing it") from None
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


def _write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
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


def save_model_folder(
    model_dir: str,
    encoder: Encoder,
    hparams: dict[str, int],
    params: dict,
    dtype: type[np.floating] = np.float32,
) -> None:
    """Write a model in Hugging Face's layout, which `transformers` can read as well.

    dtype: of the weights on disk, float32 or float16. All four files are written elsewhere first,
    so that an unfinished folder is never taken for a model. If a model with the same configuration
    and vocabulary is there, as in training, its weights are replaced in one step. Those of another
    model stay as `model.safetensors.old` until the new files are in place; who loads the folder
    meanwhile waits for that. Raises OSError if writing fails, ValueError for weights that
    `_check_values` refuses, and for weights or a vocabulary of other sizes than `hparams` has.
    """
    from tempfile import mkdtemp

    if len(encoder.encoder) != hparams["n_vocab"]:
        raise ValueError(f"{len(encoder.encoder)} tokens do not fit n_vocab {hparams['n_vocab']}")
    if np.dtype(dtype) not in (np.float32, np.float16):
        raise ValueError(f"dtype {np.dtype(dtype)}: expected float32 or float16")
    expected = named(parameter_shapes(hparams))
    if {name: np.shape(array) for name, array in named(params).items()} != expected:
        raise ValueError(f"cannot write {model_dir}: the parameters are not of the sizes {hparams}")
    config = {key: values[0] for key, values in SUPPORTED_CONFIG.items()}
    for ours, theirs in HUGGING_FACE_HPARAMS.items():
        config[theirs] = hparams[ours]
    config |= {"architectures": ["GPT2LMHeadModel"], "torch_dtype": np.dtype(dtype).name}
    config |= {"bos_token_id": encoder.eot, "eos_token_id": encoder.eot, "n_ctx": hparams["n_ctx"]}
    merges = "".join(f"{left} {right}\n" for left, right in encoder.bpe_ranks)
    with np.errstate(over="ignore"):  # of values too large for float16: refused below
        stored = map_params(lambda name, array: np.asarray(array, dtype, "C"), params)
    _check_values(f"cannot write {model_dir}", stored, _hugging_face_name)
    tensors = {_hugging_face_name(name): array for name, array in named(stored).items()}

    os.makedirs(model_dir, exist_ok=True)
    folder = Path(model_dir)

    def make():
        return Path(mkdtemp(prefix=UNFINISHED, dir=model_dir))

    with _unfinished(_unfinished_models(folder), make) as temporary:
        (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (temporary / "vocab.json").write_text(json.dumps(encoder.encoder), encoding="utf-8")
        (temporary / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        _write_safetensors(temporary / "model.safetensors", tensors)
        _put_in_place(temporary, folder)
    _mark_checked(folder / "model.safetensors", _version(folder / "model.safetensors"))


def _unfinished_models(folder: Path) -> Iterator[Path]:
    """What `save_model_folder` may have left in a folder. Whatever else has such a name stays."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):  # it is no folder, or gone
            if set(os.listdir(path)) <= set(HUGGING_FACE_FILES):
                yield path


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Move the four files of a model into a folder, in an order that never leaves a mixture.

    The three small files change only while there are no weights, and without weights the folder
    is not complete. If the small files are the same as before, they stay.
    """
    weights, old_weights = folder / "model.safetensors", folder / "model.safetensors.old"
    small_files = [name for name in HUGGING_FACE_FILES if name != weights.name]
    changed = [name for name in small_files if not _same_content(temporary / name, folder / name)]
    moves_aside = bool(changed) and weights.exists()
    if moves_aside:
        weights.replace(old_weights)
    for name in changed:
        (temporary / name).replace(folder / name)
    (temporary / weights.name).replace(weights)
    if moves_aside:
        old_weights.unlink(missing_ok=True)


def _same_content(path: Path, other: Path) -> bool:
    try:
        return read_file(path) == read_file(other)
    except OSError:
        return False


# That the values of a large file are good is noted beside it, or every start would read it all.

MARKED_SIZE = 1 << 26  # bytes, which are read in some 5 ms


def _version(path: str | Path) -> tuple[int, int, int] | None:
    """Changes when the file is written or replaced; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _checked_mark(path: str | Path, version: tuple[int, int, int]) -> tuple[Path, str]:
    """The file that says that `_check_values` passed the weights in `path`, and what is in it.

    Without the inode, so that a copy of the folder with its times is not read again.
    """
    size, time_ns, _ = version
    return Path(f"{path}.checked"), f"size {size} mtime_ns {time_ns}\n"


def _mark_checked(path: str | Path, version: tuple[int, int, int] | None) -> None:
    """Note that a version of a large file passed `_check_values`, if the folder can be written.

    Whoever replaces the file changes its time, and so the note no longer counts.
    """
    if version is None or version[0] < MARKED_SIZE:
        return
    mark, content = _checked_mark(path, version)
    with contextlib.suppress(OSError), replacing(mark) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _is_checked(path: str | Path, version: tuple[int, int, int] | None) -> bool:
    if version is None or version[0] < MARKED_SIZE:
        return False
    mark, content = _checked_mark(path, version)
    try:
        return read_file(mark) == content.encode()
    except OSError:
        return False


# ------------------------------------------------------------------ fetching a file

PAUSES = (0.5, 1, 2, 4)  # seconds before the second, third, ... attempt
MAX_REDIRECTS = 5
CHUNK_SIZE = 1 << 14
CONNECT_TIMEOUT = 5  # seconds
MAX_VALIDATOR = 1000  # characters
# A server has this long to begin its response, and then for each so many bytes of it. One that
# sends a byte a second is so left after a minute, not after years.
PROGRESS_SECONDS, PROGRESS_BYTES = 60, 1 << 16


class PublishedFile(NamedTuple):
    """A file to fetch, with its size in bytes and its SHA-256 where they are known."""

    name: str
    size: int | None = None
    sha256: str | None = None


class _Refused(OSError):
    """The server can be reached, but refuses to send the file, or sends a page about it."""


class _NotFound(_Refused):
    """The server says that there is no such file."""


class _TemporaryError(Exception):
    """An error that the next attempt may not meet."""


class _NoResponse(_TemporaryError):
    """The server was asked, and sent no response."""


class _Unreachable(_NoResponse):
    """There is no connection to the server, or no secure one."""


class _Busy(_TemporaryError):
    """The server says that it cannot send the file now."""


class _TooSlow(_TemporaryError):
    """The server sent less than PROGRESS_BYTES in PROGRESS_SECONDS."""


class _TooLong(_TemporaryError):
    """The server sends more bytes than it announced."""


def _is_plain_file(path: Path) -> bool:
    """Whether `path` is a file and no link, so that writing to it changes no other file."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


class _Part:
    """A partly downloaded file. It stays on disk, for the next run to continue.

    `<name>.part` has the bytes. `<name>.part.validator` has the ETag or the last-modified time
    that the server gave: if the file on the server has changed since, we start over.
    """

    def __init__(self, path: Path):
        self.path = Path(f"{path}.part")
        self._validator_path = Path(f"{path}.part.validator")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if _is_plain_file(self.path) else 0

    @property
    def validator(self) -> str:
        """What the server called this version of the file; "" if it did not."""
        if not _is_plain_file(self._validator_path):
            return ""
        text = self._validator_path.read_bytes()[:MAX_VALIDATOR].decode("latin-1")
        return text if re.fullmatch("[ -~]+", text) else ""  # it goes into a header

    def start_over(self, validator: str) -> None:
        """Empty the part, for a version of the file which the server calls `validator`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.discard()  # and make new files: if one was a link, what it led to stays as it is
        self.path.open("xb").close()
        if validator:
            with self._validator_path.open("x", encoding="latin-1") as file:
                file.write(validator)

    def open(self):
        """Open the part, to append to it."""
        return open(self.path, "ab", opener=_no_links)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)  # first, so that no old bytes get a new validator
        self._validator_path.unlink(missing_ok=True)

    def rename(self, path: Path) -> None:
        """Give the whole file its name. Another file of that name is kept as `<name>.old`."""
        old = Path(f"{path}.old")
        if path.exists():
            path.replace(old)
        self._validator_path.unlink(missing_ok=True)  # first: what has its name is not looked at
        self.path.replace(path)
        if old.is_file() and filecmp.cmp(path, old, shallow=False):
            old.unlink()


def _validator(response) -> str:
    """What the server calls this version of the file: its ETag, or else its last-modified time.

    What files may share that differ in some bytes does not count: a weak ETag (W/"..."), and a
    time less than a minute before the response, since times are in whole seconds and clocks
    differ (RFC 9110, section 8.8).
    """
    from email.utils import parsedate_to_datetime

    etag = response.headers.get("ETag", "")
    if re.fullmatch('"[ -~]*"', etag) and len(etag) <= MAX_VALIDATOR:
        return etag
    modified = response.headers.get("Last-Modified", "")
    try:
        sent_at = parsedate_to_datetime(response.headers.get("Date", ""))
        age = (sent_at - parsedate_to_datetime(modified)).total_seconds()
    except (ValueError, TypeError):  # what parsedate_to_datetime raises, by Python's version
        return ""
    return modified if age >= 60 else ""


def _get(url: str, headers: dict[str, str], file: PublishedFile):
    """Ask for a file -> the open response, and `file` with what the Hub says about it.

    Redirects are followed here, not by requests, for two reasons: the Hub gives a large file's
    size and hash in the response that redirects, and no cookies or passwords are sent anywhere.
    """
    from urllib.parse import urljoin, urlsplit

    import requests

    is_encrypted = urlsplit(url).scheme == "https"
    for _ in range(MAX_REDIRECTS + 1):
        response = requests.get(
            url,
            headers=headers,
            stream=True,
            timeout=(CONNECT_TIMEOUT, PROGRESS_SECONDS),
            allow_redirects=False,
            auth=lambda request: request,  # else requests sends the passwords in ~/.netrc
        )
        file = _with_size_and_hash(file, response.headers)
        if not response.is_redirect:
            return response, file
        response.close()
        try:
            url = urljoin(url, response.headers["Location"])
        except ValueError as error:  # no address at all
            raise _Refused(f"{url}: a redirect to nowhere: {error}") from None
        if is_encrypted and urlsplit(url).scheme != "https":
            raise _Refused(f"{url}: a redirect from https to an address without encryption")
    raise _Refused(f"{url}: more than {MAX_REDIRECTS} redirects")


def _with_size_and_hash(file: PublishedFile, headers) -> PublishedFile:
    """Add the size and SHA-256 in the headers of the Hub, where they are not known already."""
    sha256 = headers.get("X-Linked-Etag", "").strip('"')
    if file.sha256 is None and re.fullmatch("[0-9a-f]{64}", sha256):
        file = file._replace(sha256=sha256)
    size = headers.get("X-Linked-Size", "")
    if file.size is None and re.fullmatch(r"\d{1,18}", size):
        file = file._replace(size=int(size))
    return file


def _request_headers(part: _Part, file: PublishedFile) -> dict[str, str]:
    """Headers that ask for a file from where `part` ends.

    A part is only continued if we can tell that it is of the same file: by its validator, or in
    the end by a published hash. Otherwise we ask for the whole file.
    """
    headers = {"Accept-Encoding": "identity"}  # a compressed response could not be resumed
    if part.size and (part.validator or file.sha256):
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator  # if the file has changed, all of it is sent
    return headers


def _check_status(response, url: str, part: _Part) -> None:
    """Raise an error unless the response is a file, or the end of one.

    If the server has no bytes after those of `part`, the part is discarded, to start over.
    """
    status = f"{response.status_code} {response.reason}".strip()
    if response.status_code == 416:  # the part is as long as the file, or longer
        part.discard()
        raise _TemporaryError(status)
    if response.status_code == 429 or response.status_code >= 500:
        raise _Busy(status)
    if response.status_code in (401, 404):  # 401 is the Hub's status for an unknown repository
        raise _NotFound(f"{url}: {status}")
    if response.status_code not in (200, 206):
        raise _Refused(f"{url}: {status}")
    content_type = response.headers.get("Content-Type", "")
    if content_type.startswith("text/html"):
        raise _Refused(f"{url}: the server sends a page ({content_type}) instead of the file")
    encoding = response.headers.get("Content-Encoding", "")
    if encoding not in ("", "identity"):
        raise OSError(f"{url}: the server compresses the file ({encoding}) without being asked")


def _continued_range(response, part: _Part, file: PublishedFile) -> tuple[int, int]:
    """-> the byte at which the response continues `part`, and the size of the whole file.

    Both are in a header: `Content-Range: bytes 500-999/1000`. If the response does not continue
    `part`, the part is discarded, to start over. So it is if the response does not say that it is
    of the same version, unless a published hash will tell in the end.
    """
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", content_range)
    start, last, size = map(int, match.groups()) if match else (-1, -1, -1)
    validator = _validator(response)
    if part.size == 0 or part.validator == validator != "":
        same_version = True
    else:
        same_version = file.sha256 is not None and "" in (part.validator, validator)
    if not (same_version and start == part.size and start <= last < size):
        part.discard()
        raise _TemporaryError(f"not the bytes that we asked for: {content_range}")
    return start, size


def _start_and_size(response, url: str, part: _Part, file: PublishedFile) -> tuple[int, int]:
    """-> the byte of the file at which the response begins, and the size of the whole file."""
    if response.status_code == 200:  # the whole file, even if we asked for its end
        start = 0
        length = response.headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(r"\d{1,18}", length) else file.size
    else:
        start, size = _continued_range(response, part, file)
    if size is None:
        raise OSError(f"{url}: the server does not say how long the file is")
    if size > MAX_TEXT_FILE and not _is_weights(file.name):
        raise OSError(f"{url}: {size} bytes, which is too many for such a file")
    if file.size not in (None, size):
        raise OSError(f"{url}: {size} bytes, not the {file.size} of the published file")
    return start, size


def _progress_bar(name: str, start: int, size: int):
    from tqdm import tqdm

    return tqdm(
        desc=name,
        total=size,
        initial=start,
        unit="B",
        unit_scale=True,
        disable=None,  # shown only on a terminal
    )


def _append(response, chunks: Iterator[bytes], part: _Part, start: int, size: int) -> None:
    """Append a body to the part; empty the part first if the body is the whole file."""
    try:
        if start == 0:
            part.start_over(_validator(response))
        with part.open() as opened, _progress_bar(part.path.stem, start, size) as bar:
            for chunk in chunks:
                start += len(chunk)
                if start > size:
                    raise _TooLong(f"more than the {size} bytes that were announced")
                opened.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise OSError(f"cannot write {part.path}: {error.strerror}") from None


def _response_and_chunks(url: str, headers: dict[str, str], file: PublishedFile) -> Iterator:
    """Ask for a file, and yield what `_get` returns, then the body in pieces, as it was sent."""
    response, file = _get(url, headers, file)
    with response:
        yield response, file
        yield from response.raw.stream(CHUNK_SIZE, decode_content=False)


def _deliver(items: Iterator, arrived: queue.Queue, given_up: threading.Event) -> None:
    """Put (item, None) into a queue for each item, and (None, what ended them) in the end."""

    def put(item, end=None):
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                return arrived.put((item, end), timeout=0.1)

    with contextlib.closing(items):
        try:
            for item in items:
                put(item)
                if given_up.is_set():
                    return
        except Exception as error:
            put(None, error)
        else:
            put(None, StopIteration())


def _get_before(deadline: float, arrived: queue.Queue) -> tuple:
    """Take the next item out of a queue, or raise _TooSlow if none came until `deadline`."""
    while True:
        seconds = deadline - time.monotonic()
        try:
            # In short waits, because on Windows Ctrl-C does not end a long one.
            return arrived.get(timeout=min(max(seconds, 0), 0.5))
        except queue.Empty:
            if seconds <= 0:
                sent = f"less than {PROGRESS_BYTES} bytes in {PROGRESS_SECONDS} seconds"
                raise _TooSlow(sent) from None


def _in_time(items: Iterator) -> Iterator:
    """The same items, a response and then bytes, or _TooSlow if they come too slowly.

    They are taken in a thread: a read that gets a byte now and then neither ends nor times out.
    If it never ends, the thread is left to it. It writes nothing, and ends with the process.
    """
    arrived = queue.Queue(maxsize=16)
    given_up = threading.Event()
    threading.Thread(target=_deliver, args=(items, arrived, given_up), daemon=True).start()
    try:
        response, end = _get_before(time.monotonic() + PROGRESS_SECONDS, arrived)
        if end is not None:
            raise end
        yield response
        deadline, n_bytes = time.monotonic() + PROGRESS_SECONDS, 0
        while True:
            chunk, end = _get_before(deadline, arrived)
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            n_bytes += len(chunk)
            if n_bytes >= PROGRESS_BYTES:
                deadline, n_bytes = time.monotonic() + PROGRESS_SECONDS, 0
            yield chunk
    finally:
        given_up.set()


def _error_without_response(url: str, error) -> OSError | _TemporaryError:
    """The error to raise for an exception of requests if no response came."""
    if isinstance(error, ValueError):  # an invalid URL: another attempt is of no use
        return OSError(f"{url}: {error}")
    # Where there is no connection, the first argument is an error of urllib3 that has a reason.
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if reason is None:  # the connection was closed, or nothing came in time
        return _NoResponse(str(error))
    return _Unreachable(str(reason))


def _fetch_rest(url: str, part: _Part, file: PublishedFile) -> PublishedFile:
    """Ask once for the rest of a file, and append it to the part.

    Returns `file` with what the Hub says about it. Raises _TemporaryError if another attempt may
    succeed.
    """
    import requests
    import urllib3

    items = _in_time(_response_and_chunks(url, _request_headers(part, file), file))
    with contextlib.closing(items):
        try:
            response, file = next(items)
        except (requests.RequestException, ValueError) as error:
            raise _error_without_response(url, error) from None
        except _TooSlow as error:
            raise _NoResponse(str(error)) from None
        _check_status(response, url, part)
        start, size = _start_and_size(response, url, part, file)
        try:
            _append(response, items, part, start, size)
        except urllib3.exceptions.HTTPError as error:
            raise _TemporaryError(str(error)) from None
        except _TooLong:
            part.discard()
            raise
    if part.size != size:
        raise _TemporaryError(f"the connection ended after {part.size} of {size} bytes")
    return file


def _final_error(url: str, last_error: _TemporaryError, had_response: bool) -> OSError:
    """The error to raise when no more attempts are made."""
    if not had_response:
        return ConnectionError(f"cannot reach {url}: {last_error}")
    if isinstance(last_error, _Busy):
        return _Refused(f"{url}: {last_error}")
    return OSError(f"cannot fetch {url}: {last_error}; run again to continue")


def _complete(url: str, part: _Part, file: PublishedFile) -> PublishedFile:
    """Fetch the rest of a file in several attempts, with growing pauses -> as `_fetch_rest`.

    As long as the file grows by PROGRESS_BYTES in a few attempts, there may be any number of them.
    If there never was a connection, there is most likely no network, and we give up soon.
    """
    n_failures = 0  # since the file last grew by that
    most_bytes = 0
    had_connection = had_response = False
    while True:
        try:
            return _fetch_rest(url, part, file)
        except _TemporaryError as error:
            last_error = error
        if part.size >= most_bytes + PROGRESS_BYTES:
            most_bytes = part.size
            n_failures = 0
        n_failures += 1
        if not isinstance(last_error, _Unreachable):
            had_connection = True
        if not isinstance(last_error, _NoResponse):
            had_response = True
        pauses = PAUSES if had_connection else PAUSES[:1]
        if n_failures > len(pauses):
            raise _final_error(url, last_error, had_response)
        time.sleep(pauses[n_failures - 1])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_content(path: Path, url: str, file: PublishedFile) -> None:
    """Raise an error if a file is not what was published, or cannot be what its name says."""
    with open(path, "rb") as opened:
        beginning = opened.read(CHUNK_SIZE).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise _Refused(f"{url}: the server sends a page instead of the file")
    if file.sha256 and _sha256(path) != file.sha256:
        raise OSError(f"{url} is not the published file (wrong SHA-256), and was deleted")
    if file.name.endswith(".json") and not beginning.startswith(b"{"):
        raise OSError(f"{url} is not JSON, and was deleted")
    if not beginning and file.name != "merges.txt":  # which may have no merges
        raise OSError(f"{url} is empty, and was deleted")


def _fetch(url: str, model_dir: str, file: PublishedFile) -> None:
    """Fetch a file into a folder. It gets its name once it is whole and has been checked.

    Raises ConnectionError if the server never responds, _Refused if it refuses to send the file,
    OSError for any other failure.
    """
    path = Path(model_dir, file.name)
    part = _Part(path)
    if part.size != file.size:
        file = _complete(url, part, file)
    try:
        _check_content(part.path, url, file)
    except OSError:
        part.discard()
        raise
    _note_unchecked(model_dir, file.name)
    part.rename(path)


# ------------------------------------------------------------------ where models are published

OPENAI_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # or env GPT2_BASE_URL
HUB_URL = "https://huggingface.co"  # or env HF_ENDPOINT


class HubRepository(NamedTuple):
    """A model on the Hugging Face Hub."""

    name: str  # OWNER/NAME
    revision: str = "main"
    files: tuple[PublishedFile, ...] = (  # the large one last
        PublishedFile("config.json"),
        PublishedFile("vocab.json"),
        PublishedFile("merges.txt"),
        PublishedFile("model.safetensors"),
    )


CHECKPOINT = PublishedFile(
    "checkpoint", 77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"
)
ENCODER_JSON = PublishedFile(
    "encoder.json", 1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
)
VOCAB_BPE = PublishedFile(
    "vocab.bpe", 456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
)
OPENAI_FILES = {
    "124M": (
        CHECKPOINT,
        ENCODER_JSON,
        PublishedFile(
            "hparams.json", 90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"
        ),
        PublishedFile(
            "model.ckpt.data-00000-of-00001",
            497759232,
            "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
        ),
        PublishedFile(
            "model.ckpt.index",
            5215,
            "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
        ),
        PublishedFile(
            "model.ckpt.meta",
            471155,
            "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
        ),
        VOCAB_BPE,
    ),
    "355M": (
        CHECKPOINT,
        ENCODER_JSON,
        PublishedFile("hparams.json", 91),
        PublishedFile("model.ckpt.data-00000-of-00001", 1419292672),
        PublishedFile("model.ckpt.index", 10399),
        PublishedFile("model.ckpt.meta", 926519),
        VOCAB_BPE,
    ),
    "774M": (
        PublishedFile("checkpoint"),
        ENCODER_JSON,
        PublishedFile("hparams.json"),
        PublishedFile("model.ckpt.data-00000-of-00001", 3096120320),
        PublishedFile("model.ckpt.index"),
        PublishedFile("model.ckpt.meta"),
        VOCAB_BPE,
    ),
    "1558M": (
        PublishedFile("checkpoint"),
        ENCODER_JSON,
        PublishedFile("hparams.json"),
        PublishedFile("model.ckpt.data-00000-of-00001", 6230444800),
        PublishedFile("model.ckpt.index"),
        PublishedFile("model.ckpt.meta"),
        VOCAB_BPE,
    ),
}
SAME_ON_THE_HUB = {
    "124M": HubRepository(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        (
            PublishedFile(
                "config.json",
                665,
                "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
            ),
            ENCODER_JSON._replace(name="vocab.json"),
            VOCAB_BPE._replace(name="merges.txt"),
            PublishedFile(
                "model.safetensors",
                548105171,
                "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
            ),
        ),
    ),
    "355M": HubRepository("openai-community/gpt2-medium"),
    "774M": HubRepository("openai-community/gpt2-large"),
    "1558M": HubRepository("openai-community/gpt2-xl"),
}


# ------------------------------------------------------------------ what a folder lacks


def _is_whole(model_dir: str, file: PublishedFile) -> bool:
    """Whether the file is there, and of its published size where that is known."""
    path = Path(model_dir, file.name)
    return path.is_file() and file.size in (None, path.stat().st_size)


def _missing_openai_files(model_size: str, model_dir: str) -> list[str]:
    """The files that a folder needs for OpenAI's layout: not there, or of a wrong size."""
    present = os.listdir(model_dir) if os.path.isdir(model_dir) else []
    prefix = _checkpoint_prefix(model_dir) or "model.ckpt"
    needed = ["checkpoint", "encoder.json", "hparams.json", "vocab.bpe", f"{prefix}.index"]
    missing = [name for name in needed if name not in present]
    data_files = re.compile(re.escape(prefix) + r"\.data-\d{5}-of-\d{5}")
    if not any(data_files.fullmatch(name) for name in present):
        missing.append(f"{prefix}.data-00000-of-00001")
    for file in OPENAI_FILES.get(model_size, ()):
        if file.name in present and not _is_whole(model_dir, file):
            missing.append(file.name)
    return missing


def _missing_hugging_face_files(model_dir: str) -> list[str]:
    """The files that a folder needs for Hugging Face's layout, and does not have.

    Sizes are not compared: somebody's own model may be in a folder called 124M, and its files have
    other sizes than the published ones. `_fetch` gives a file its name only when it is whole.
    """
    return [name for name in HUGGING_FACE_FILES if not Path(model_dir, name).is_file()]


def _what_is_missing(model_size: str, model_dir: str) -> str:
    names = os.listdir(model_dir) if os.path.isdir(model_dir) else []
    names = [name for name in names if name != UNCHECKED]  # the lock, which goes with this error
    found = f"has {sorted(names)}" if names else "is empty or not there"
    hugging_face = _missing_hugging_face_files(model_dir)
    openai = _missing_openai_files(model_size, model_dir)
    return (
        f"{model_dir} {found}: lacks {hugging_face} of Hugging Face's layout, {openai} of OpenAI's"
    )


def _complete_layout(model_size: str, model_dir: str) -> tuple[str, str] | None:
    """The layout in which a folder is read, or None if it is not complete in either.

    If it is in both, the safetensors file holds somebody's own weights, and Hugging Face's layout
    is read. There is one exception: if an earlier version of this file made the safetensors file
    from the checkpoint, OpenAI's layout is read, because the checkpoint may have changed since.
    """
    has_openai = not _missing_openai_files(model_size, model_dir)
    has_hugging_face = not _missing_hugging_face_files(model_dir)
    if has_hugging_face and not (has_openai and _is_conversion(model_dir)):
        return HUGGING_FACE_LAYOUT
    if has_openai:
        return OPENAI_LAYOUT
    return None


# ------------------------------------------------------------------ reading a folder as a whole

REPLACING_SECONDS = 2  # how long to wait for another process that replaces a model
CHANGING_SECONDS = 20  # how long to try reading a model that is replaced again and again


def _files_of_layout(model_dir: str, layout: tuple[str, str]) -> list[str]:
    """The paths of the files that are read, the weights last."""
    if layout == HUGGING_FACE_LAYOUT:
        return [os.path.join(model_dir, name) for name in HUGGING_FACE_FILES]
    names = ("checkpoint", "hparams.json", *OPENAI_LAYOUT)
    prefix = _openai_prefix(model_dir)
    paths = [os.path.join(model_dir, name) for name in names]
    return [*paths, f"{prefix}.index", f"{prefix}.data-00000-of-00001"]


def _is_being_replaced(model_dir: str) -> bool:
    """Whether `save_model_folder` has moved the old weights aside, and not put new ones there."""
    weights = os.path.join(model_dir, "model.safetensors")
    return os.path.exists(f"{weights}.old") and not os.path.exists(weights)


def _settled_layout(model_size: str, model_dir: str) -> tuple[str, str] | None:
    """What `_complete_layout` says once nobody is replacing the model, or no longer seems to."""
    deadline = time.monotonic() + REPLACING_SECONDS
    layout = _complete_layout(model_size, model_dir)
    while layout is None and _is_being_replaced(model_dir) and time.monotonic() < deadline:
        time.sleep(0.01)
        layout = _complete_layout(model_size, model_dir)
    # A model that was replaced while we looked is complete now.
    return layout or _complete_layout(model_size, model_dir)


def _read_model(model_dir: str, layout: tuple[str, str]) -> tuple[Encoder, dict[str, int], dict]:
    """-> encoder, hparams, params of a folder that is complete in a layout; all of one model.

    If a file was replaced while it was read, which `save_model_folder` does, it is read again.
    """
    started = time.monotonic()
    while True:
        paths = _files_of_layout(model_dir, layout)
        versions = [_version(path) for path in paths]
        try:
            model, error = _read_model_once(model_dir, layout, paths[-1], versions[-1]), None
        except (ValueError, OSError) as caught:
            model, error = None, caught
        is_settled = versions == [_version(path) for path in paths]
        lacks_weights = layout == HUGGING_FACE_LAYOUT and _is_being_replaced(model_dir)
        patience = REPLACING_SECONDS if is_settled else CHANGING_SECONDS
        if (is_settled and not lacks_weights) or time.monotonic() - started > patience:
            break
        time.sleep(0.01)
    if not is_settled:
        raise OSError(f"{model_dir} is being written by another process") from error
    if error:
        raise error
    return model


def _read_model_once(
    model_dir: str, layout: tuple[str, str], weights: str, version: tuple[int, int, int] | None
) -> tuple[Encoder, dict[str, int], dict]:
    # The tokenizer and the weights of the same layout: in a folder with both they may differ.
    models_dir, name = os.path.split(model_dir)
    encoder = get_encoder(name, models_dir, [layout])
    if layout == OPENAI_LAYOUT:
        (hparams, params), name_in_file = _read_openai_folder(model_dir), _openai_name
    else:
        (hparams, params), name_in_file = _read_hugging_face_folder(model_dir), _hugging_face_name
    if len(encoder.encoder) != hparams["n_vocab"]:
        raise ValueError(
            f"{os.path.join(model_dir, layout[0])} has {len(encoder.encoder)} tokens, "
            f"but the model has {hparams['n_vocab']}, one for each row of {name_in_file('wte')}"
        )
    if not _is_checked(weights, version):
        _check_values(weights, params, name_in_file)
        _mark_checked(weights, version)
    return encoder, hparams, params


def _is_weights(name: str) -> bool:
    return name == "model.safetensors" or ".data-" in name


def _misfits(model_size: str, model_dir: str) -> tuple[str, list[str]]:
    """Why a folder cannot be read, and the files that may be the cause; "" if it can be read.

    The weights are among these files only if all others can be read.
    """
    layout = _complete_layout(model_size, model_dir)
    if layout == HUGGING_FACE_LAYOUT:
        names = HUGGING_FACE_FILES
    else:
        names = [file.name for file in OPENAI_FILES["124M"]]
    others = [name for name in names if not _is_weights(name)]
    if layout is None:
        return _what_is_missing(model_size, model_dir), others
    folder = Path(model_dir)
    try:
        get_encoder(folder.name, str(folder.parent), [layout])
        if layout == OPENAI_LAYOUT:
            _read_hparams(folder / "hparams.json", OPENAI_HPARAMS)
            if _checkpoint_prefix(model_dir) is None:
                raise ValueError(f"{folder / 'checkpoint'} names no checkpoint")
        else:
            _read_hugging_face_hparams(model_dir)
    except ValueError as error:
        return str(error), others
    try:
        _read_model(model_dir, layout)
    except ValueError as error:
        return str(error), list(names)
    except ImportError:  # only TensorFlow can read it, and is not there
        pass
    return "", []


# ------------------------------------------------------------------ one download at a time
#
# While files are fetched into a folder, the file `download.unfinished` is in it, and its presence
# says that the folder may not be read yet. Whoever fetches holds a lock on it. The system ends the
# lock when the process ends, however it ends; the file then stays, with the names of the files that
# were fetched, for the next run to complete and check the folder.

UNCHECKED = "download.unfinished"


def _is_being_fetched(model_dir: str) -> bool:
    """Whether a download into the folder is under way, or was left unfinished."""
    return os.path.lexists(os.path.join(model_dir, UNCHECKED))


def _wait_for_lock(path: Path):
    """The lock file, open and locked, once no other process has it; None if it cannot be made."""
    has_waited = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab", opener=_no_links)  # noqa: SIM115
        except OSError:
            return None  # a folder that cannot be written is reported when a file is written
        is_ours = try_lock(file.fileno()) is not False
        if is_ours and _is_at(path, file.fileno()):
            return file
        file.close()
        if not is_ours:  # else the process before us has just finished
            if not has_waited:
                notice = f"{path.parent}: another process is downloading this model; waiting"
                print(notice, file=sys.stderr)
            has_waited = True
            time.sleep(0.1)


@contextlib.contextmanager
def _one_download(model_dir: str) -> Iterator[None]:
    """Keep other processes from downloading into a folder; wait while another one does."""
    path = Path(model_dir, UNCHECKED)
    new_folders = [folder for folder in path.parents if not os.path.exists(folder)]
    lock = _wait_for_lock(path)
    try:
        yield
        _remove_lock_file(path, lock)
    except BaseException:
        if not _unchecked(model_dir):
            _remove_lock_file(path, lock)
        raise
    finally:
        if lock is not None:
            lock.close()
        for folder in new_folders:
            with contextlib.suppress(OSError):  # those that have something in them stay
                folder.rmdir()


def _remove_lock_file(path: Path, lock) -> None:
    try:
        path.unlink(missing_ok=True)  # before the lock ends, so that nobody locks it in between
    except OSError:
        if lock is not None:
            lock.close()  # Windows removes no open file
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _note_unchecked(model_dir: str, name: str) -> None:
    """Note that a file was fetched, and is to be checked with the rest of its folder."""
    path = Path(model_dir, UNCHECKED)
    with (
        contextlib.suppress(OSError),
        open(path, "a", encoding="utf-8", opener=_no_links) as file,
    ):
        file.write(f"{name}\n")


def _unchecked(model_dir: str) -> list[str]:
    """The files of a folder that were fetched, and not yet checked with the rest of it."""
    try:
        names = Path(model_dir, UNCHECKED).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return [name for name in names if Path(model_dir, name).is_file()]


def _delete_fetched(model_dir: str, names: Iterable[str]) -> None:
    """Delete those of the files that were fetched, so that they are fetched again."""
    for name in set(names).intersection(_unchecked(model_dir)):
        Path(model_dir, name).unlink()


def _put_aside(model_dir: str, names: Iterable[str]) -> None:
    """Make room for other files: delete those that were fetched, rename those that were there."""
    _delete_fetched(model_dir, names)
    for name in names:
        path = Path(model_dir, name)
        if path.exists():
            path.replace(f"{path}.old")


# ------------------------------------------------------------------ fetching a model
#
# To add another place that models come from: write a function like `_fetch_openai_files`, which
# calls `_fetch` for each file that the folder lacks, and lets its ConnectionError and _Refused
# pass, since they mean that another place should be asked. Call it in `_fetch_published_model` if
# it has OpenAI's four models, or else in `_fetch_model`.


def _fetch_openai_files(base_url: str, model_size: str, model_dir: str) -> None:
    """Fetch those of the seven files of OpenAI's layout that a folder does not have."""
    from urllib.parse import quote

    unknown = tuple(PublishedFile(file.name) for file in OPENAI_FILES["124M"])
    for file in OPENAI_FILES.get(model_size, unknown):
        if not _is_whole(model_dir, file):
            _fetch(f"{base_url}/{quote(model_size)}/{file.name}", model_dir, file)


def _fetch_hub_file(repository: HubRepository, model_dir: str, file: PublishedFile) -> None:
    """Fetch a file of a repository. If it is not there, the error says what is needed."""
    from urllib.parse import quote

    hub_url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB_URL
    url = f"{hub_url}/{quote(repository.name)}/resolve/{repository.revision}/{file.name}"
    try:
        _fetch(url, model_dir, file)
    except _NotFound as error:
        if file.name == "model.safetensors":
            hint = "a repository with only a pickle (pytorch_model.bin) is not read"
        else:
            hint = f"a public repository with {', '.join(HUGGING_FACE_FILES)} is needed"
        raise _NotFound(f"{error}: {hint}") from None


def _fetch_from_hub(repository: HubRepository, model_dir: str, notice: str = "") -> None:
    """Fetch those of the four files of Hugging Face's layout that a folder does not have.

    `notice` is printed on standard error once the Hub has sent the configuration.
    """
    for file in repository.files:
        if not Path(model_dir, file.name).is_file():
            _fetch_hub_file(repository, model_dir, file)
        if file.name == "config.json":
            try:
                _read_hugging_face_hparams(model_dir)  # refuse others before fetching weights
            except ValueError:
                _delete_fetched(model_dir, [file.name])
                raise
            if notice:
                print(notice, file=sys.stderr)


def _fetch_published_model(model_size: str, model_dir: str) -> None:
    """Fetch one of OpenAI's four models: from OpenAI, or else the same weights from the Hub."""
    try:
        _fetch_openai_files(OPENAI_URL, model_size, model_dir)
        return
    except (ConnectionError, _Refused) as error:
        openai_error = error
    repository = SAME_ON_THE_HUB[model_size]
    notice = f"{openai_error}; fetching {repository.name} from the Hugging Face Hub instead"
    try:
        _fetch_from_hub(repository, model_dir, notice)
    except (ConnectionError, _Refused) as error:
        raise type(error)(f"{openai_error}; {error}") from None


def _fetch_model(model_size: str, model_dir: str) -> None:
    """Fetch those files of a model that a folder does not have, from where its name says."""
    mirror = os.environ.get("GPT2_BASE_URL", "").rstrip("/")
    if "/" in model_size:
        _fetch_from_hub(HubRepository(model_size), model_dir)
    elif mirror:
        _fetch_openai_files(mirror, model_size, model_dir)
    elif model_size in OPENAI_FILES:
        _fetch_published_model(model_size, model_dir)
    else:
        raise FileNotFoundError(
            f"{_what_is_missing(model_size, model_dir)}; "
            f"to download, name one of {', '.join(OPENAI_FILES)}, or OWNER/NAME for one on the "
            "Hugging Face Hub"
        )


def _fetch_and_check(model_size: str, model_dir: str) -> tuple[str, list[str]]:
    """Fetch what a folder lacks -> what `_misfits` says of the folder then."""
    if _complete_layout(model_size, model_dir) is None:
        _fetch_model(model_size, model_dir)
    return _misfits(model_size, model_dir)


def download_gpt2_files(model_size: str, model_dir: str) -> None:
    """Fetch those files of a model that the folder `model_dir` does not have, and check it.

    model_size: "124M", "355M", "774M" or "1558M"; OWNER/NAME for a GPT-2 on the Hugging Face Hub.
    The four come from OpenAI. If its server refuses, sends a web page or cannot be reached, they
    come from the Hub, in Hugging Face's layout, and a line on standard error says so. Nothing is
    fetched into a folder that is complete in either layout.

    Environment: GPT2_BASE_URL is the address of a mirror of OpenAI's files. All models but
    OWNER/NAME then come from it and from nowhere else, and they may have any name. OWNER/NAME
    always comes from the Hub. HF_ENDPOINT is the Hub's address.

    A file is called `<name>.part` until it is whole, and a later run continues it. Its size and
    SHA-256 are checked where they are published, or the Hub gives them. In the end the folder is
    read: files that cannot be, or do not fit each other, are fetched a second time. A file that was
    there before the download is then kept as `<name>.old`.

    One process fetches at a time, others wait for it. A server that sends less than
    PROGRESS_BYTES in PROGRESS_SECONDS is asked again, and given up after a few such attempts.
    Raises FileNotFoundError for an unknown model, the built-in ConnectionError if no server can be
    reached, OSError for any other failure, ValueError for files that are not a GPT-2.
    """
    with _one_download(model_dir):
        problem, names = _fetch_and_check(model_size, model_dir)
        if problem:  # fetch all but the weights once more
            _put_aside(model_dir, [name for name in names if not _is_weights(name)])
            problem, names = _fetch_and_check(model_size, model_dir)
        if problem:
            _put_aside(model_dir, names)
            raise ValueError(f"{problem}; run again to fetch it anew")


# ------------------------------------------------------------------ loading a model


ON_WINDOWS = os.name == "nt"
# What a folder cannot be called there: devices, whatever follows a dot; some characters; an end
# that Windows drops.
NOT_ON_WINDOWS = re.compile(
    r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?|.*[<>\"|?*\x00-\x1f].*|.*[. ]", re.IGNORECASE
)


def _check_model_size(model_size: str, models_dir: str) -> None:
    """Raise ValueError unless it names a folder within `models_dir`: NAME, or OWNER/NAME."""
    names = model_size.split("/")
    wrong = len(names) > 2 or re.search(r"[\\:\0]", model_size)
    wrong = wrong or any(name in ("", ".", "..") for name in names)
    if wrong or (ON_WINDOWS and any(map(NOT_ON_WINDOWS.fullmatch, names))):
        raise ValueError(
            f"model_size should name a folder in {models_dir}, "
            f"or OWNER/NAME on the Hugging Face Hub, not {model_size!r}"
        )


def load_encoder_hparams_and_params(
    model_size: str, models_dir: str
) -> tuple[Encoder, dict[str, int], dict]:
    """Load the model in `models_dir/model_size` -> encoder, hparams, params; or download it first.

    model_size: "124M", "355M", "774M" or "1558M"; OWNER/NAME for a GPT-2 on the Hugging Face Hub;
    or any other folder that is there. hparams: n_vocab, n_ctx, n_embd, n_head, n_layer. params:
    nested as in `parameter_shapes`, float32, wherever possible read-only views of the file.
    Raises what `download_gpt2_files` and `load_gpt2_params_from_tf_ckpt` raise, OSError for files
    that cannot be read, and ValueError for a name that leaves `models_dir`, files that are not a
    GPT-2 or do not belong together, and weights that are NaN or huge; each message is one line.

    Weights of 64 MB or more are searched for such values once, which `<name>.checked` beside them
    notes. Another process may replace the model meanwhile: what is returned is all of one model.
    """
    _check_model_size(model_size, models_dir)
    model_dir = os.path.join(models_dir, model_size)
    layout = None if _is_being_fetched(model_dir) else _settled_layout(model_size, model_dir)
    if layout is None:
        download_gpt2_files(model_size, model_dir)
        layout = _complete_layout(model_size, model_dir)
    if layout is None:
        raise FileNotFoundError(_what_is_missing(model_size, model_dir))
    return _read_model(model_dir, layout)


def load_model(model_size: str | None, models_dir: str):
    """(encoder, hparams, params) of the named model; default 124M, or offline the bundled one."""
    if model_size is not None:
        return load_encoder_hparams_and_params(model_size, models_dir)
    try:
        return load_encoder_hparams_and_params("124M", models_dir)
    except ConnectionError as error:
        print(
            f"{error}; using the small bundled model, which only knows Python. "
            "For GPT-2 124M, restore the connection or set GPT2_BASE_URL to a mirror",
            file=sys.stderr,
        )
        bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
        return load_encoder_hparams_and_params("python", bundled)


def damage_in(params):
    return "the logits are not finite numbers"
