"""OpenAI's weights, a TensorFlow checkpoint: read in place, without TensorFlow.

A checkpoint is an index and a data file, whose names begin alike ("model.ckpt"). The data file is
the values of all tensors, one tensor after the other. The index says where each of them is. It is a
table in LevelDB's format, sorted by key:

    key                         value (a protocol buffer)
    ""                          BundleHeaderProto: number of data files, byte order
    "model/h0/attn/c_attn/b"    BundleEntryProto: dtype, shape, offset, size
    "model/h0/attn/c_attn/w"    ...

Left out: what OpenAI's own checkpoints do not use (several data files, other dtypes, a compressed
index). Such a checkpoint is read through TensorFlow, where that is installed.

Sources: github.com/google/leveldb, doc/table_format.md, and github.com/tensorflow/tensorflow,
core/protobuf/tensor_bundle.proto.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_files.disk import map_file, read_file
from model_files.parameters import check_shapes, collect

TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER_SIZE = 48
NO_COMPRESSION = 0
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
LITTLE_ENDIAN = 0
DT_FLOAT = 1  # TensorFlow's number for float32


class _Unusual(Exception):
    """A checkpoint that may be fine, but uses a part of the format that we do not read."""


class _Entry(NamedTuple):
    """What the index says of a tensor."""

    dtype: int  # TensorFlow's number
    shape: tuple[int, ...]
    shard: int  # the number of the data file, from 0
    offset: int  # in the data file, in bytes, as is the size
    size: int
    in_slices: bool


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
    except _Unusual as reason:
        why = str(reason)
    return _read_with_tensorflow(prefix, hparams, why)


def data_size(index: Path, hparams: dict[str, int]) -> int | None:
    """How long the data file of an index is; None if only TensorFlow can tell.

    Raises ValueError if the index is damaged or does not fit `hparams`.
    """
    try:
        entries = _read_index(index)
    except _Unusual:
        return None
    check_shapes(index, hparams, openai_name, {name: entries[name].shape for name in entries})
    return _end(entries)


def checkpoint_name(path: Path) -> str | None:
    """What the names of the checkpoint's files begin with, as the text file `checkpoint` says.

    It may say the path on another machine: only the last part of it is used. None if there is no
    such file, or it does not say, or says what is no name.
    """
    try:
        text = str(read_file(path), "utf-8", "replace")
    except OSError:
        return None
    said = re.search(r'^\s*model_checkpoint_path:\s*"(.+)"', text, re.MULTILINE)
    name = re.split(r"[/\\]", said[1])[-1] if said else ""
    return name if name.isprintable() and 0 < len(name) < 200 else None


def openai_name(name: str) -> str:
    """The name of a parameter in OpenAI's checkpoint.

    >>> openai_name("blocks.11.attn.c_attn.w"), openai_name("wte")
    ('model/h11/attn/c_attn/w', 'model/wte')
    """
    return "model/" + name.replace("blocks.", "h").replace(".", "/")


# ---------------------------------------------------------------- the two files


def _read_checkpoint(prefix: str, hparams: dict[str, int]) -> dict:
    """The nested parameters of a checkpoint, or _Unusual."""
    entries = _read_index(Path(f"{prefix}.index"))
    data_file = f"{prefix}.data-00000-of-00001"
    try:
        data = map_file(data_file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{data_file}: cannot read the weights: {error}") from None
    if len(data) != _end(entries):
        raise ValueError(f"{data_file} has {len(data)} bytes, its index says {_end(entries)}")
    shapes = {name: entry.shape for name, entry in entries.items()}
    return collect(prefix, hparams, openai_name, shapes, lambda name: _array(data, entries[name]))


def _end(entries: dict[str, _Entry]) -> int:
    return max((entry.offset + entry.size for entry in entries.values()), default=0)


def _array(data: np.ndarray, entry: _Entry) -> np.ndarray:
    """The values of a tensor as they lie in the data file: [n] float32, read-only."""
    if entry.dtype != DT_FLOAT:
        raise _Unusual(f"its weights are not all float32 (type {entry.dtype})")
    if entry.in_slices:
        raise _Unusual("it has tensors in several slices")
    if entry.shard != 0:
        raise ValueError(f"it is in data file {entry.shard}, but there is only data file 0")
    return data[entry.offset : entry.offset + entry.size].view("<f4")


def _read_index(path: Path) -> dict[str, _Entry]:
    """{name: entry} of every tensor in a checkpoint's index file."""
    try:
        table = _read_table(read_file(path))
        if b"" not in table:
            raise ValueError("it has no header")
        _check_bundle_header(table.pop(b""))
        return {key.decode("utf-8", "replace"): _read_bundle_entry(table[key]) for key in table}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a complete, valid checkpoint: {error}") from None


def _check_bundle_header(message: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2."""
    numbers, _ = _read_message(message)
    if numbers.get(1) != 1:
        raise _Unusual(f"it has {numbers.get(1)} data files")
    if numbers.get(2, LITTLE_ENDIAN) != LITTLE_ENDIAN:
        raise _Unusual("it is big-endian")


def _read_bundle_entry(message: bytes) -> _Entry:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, slices = 7."""
    numbers, byte_strings = _read_message(message)
    shape = ()
    for shape_message in byte_strings.get(2, []):  # TensorShapeProto: dim = 2
        _, dims = _read_message(shape_message)
        for dim in dims.get(2, []):  # Dim: size = 1
            dim_numbers, _ = _read_message(dim)
            shape += (dim_numbers.get(1, 0),)
    return _Entry(
        dtype=numbers.get(1, 0),
        shape=shape,
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        in_slices=7 in byte_strings,
    )


# ---------------------------------------------------------------- a table of LevelDB


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


def _read_block_at(table: bytes, handle: bytes) -> bytes:
    """The content of the block that a handle (its offset and size, two varints) points to.

    A trailer follows it: compression [1 byte], checksum [4 bytes].
    """
    offset, start = _read_varint(handle, 0)
    size, _ = _read_varint(handle, start)
    end = offset + size
    content, trailer = table[offset:end], table[end : end + 5]
    if len(trailer) < 5:
        raise ValueError("it is cut short")
    compression, checksum = trailer[0], int.from_bytes(trailer[1:], "little")
    if _masked(_crc32c(content + trailer[:1])) != checksum:
        raise ValueError("it is damaged, a checksum is wrong")
    if compression != NO_COMPRESSION:
        raise _Unusual("its index is compressed")
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


def _masked(checksum: int) -> int:
    """A checksum as LevelDB stores it: so that checksums of data with checksums stay reliable."""
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


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


# ---------------------------------------------------------------- a protocol buffer


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


# ---------------------------------------------------------------- unusual checkpoints


def _read_with_tensorflow(prefix: str, hparams: dict[str, int], why: str) -> dict:
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
            return collect(prefix, hparams, openai_name, shapes, reader.get_tensor)
        except ValueError:  # our own, which says what does not fit
            raise
        except Exception as error:  # of many types, with many lines
            message = " ".join(str(error).split())
            raise ValueError(f"{prefix}: TensorFlow cannot read it: {message}") from None


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
