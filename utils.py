"""Model folders: fetch one, read one, write one.

A GPT-2 is a folder `models_dir/model_size/` in one of two layouts. OpenAI's has a TensorFlow
checkpoint, Hugging Face's a safetensors file. Both are mapped into memory as they lie on disk, so
that loading costs neither time nor a second copy, and neither needs a framework.

Left out: weights in pickles, safetensors in several files, and configurations other than
`SUPPORTED_CONFIG`. This file also works copied alone, next to `encoder.py`.

Sources: github.com/openai/gpt-2 (the layout); github.com/google/leveldb, doc/table_format.md and
github.com/tensorflow/tensorflow, core/protobuf/tensor_bundle.proto (the checkpoint);
github.com/huggingface/safetensors (the other file).
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoder import Encoder, get_encoder

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
    file: str | Path,
    hparams: dict[str, int],
    name_in_file: Callable[[str], str],
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
) -> dict:
    """The nested parameters of a file, each float32 and of the shape that `hparams` asks for.

    `shapes` has every tensor of the file, under its name there; `read(name)` gives its values.
    """

    def parameter(name, shape):
        name = name_in_file(name)
        if name not in shapes:
            raise ValueError(f"{file}: {name} is missing")
        if tuple(shapes[name]) not in (shape, (1, *shape)):  # OpenAI: [1, n_in, n_out]
            raise ValueError(f"{file}: {name} should be {shape}, is {tuple(shapes[name])}")
        try:
            array = read(name)
            # A copy only if the values are not float32, or lie where a processor may not read one.
            return np.require(array, np.float32, ["ALIGNED"]).reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: cannot read {name}: {error}") from None

    n_layer = hparams["n_layer"]
    one_more = name_in_file(f"blocks.{n_layer}.ln_1.g")
    if one_more in shapes:
        raise ValueError(f"{file}: n_layer is {n_layer}, but there is {one_more}")
    return map_params(parameter, parameter_shapes(hparams))


def _map_file(path: str | Path) -> memoryview:
    """The bytes of a file, read-only, without reading them yet."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_hparams(path: Path, names: dict[str, str]) -> tuple[dict[str, int], dict]:
    """-> hparams, and all of the JSON object in the file, where they have other `names`."""
    try:
        config = json.loads(path.read_bytes())
        hparams = {ours: config[theirs] for ours, theirs in names.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not (or not all of) a configuration: {error!r}") from None
    for name, number in hparams.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{path}: {names[name]} should be 1 or more, is {number!r}")
    if hparams["n_embd"] % hparams["n_head"]:
        n_embd, n_head = hparams["n_embd"], hparams["n_head"]
        raise ValueError(f"{path}: n_embd {n_embd} should be a multiple of n_head {n_head}")
    return hparams, config


# ------------------------------------------------------------------ OpenAI's layout
#
# A checkpoint of TensorFlow is an index and a data file. The data file holds the values of all
# tensors, one after the other. The index is a table in LevelDB's format, and says where:
#
#     key                         value, a protocol buffer
#     ""                          BundleHeaderProto: number of data files, byte order
#     "model/h0/attn/c_attn/b"    BundleEntryProto: dtype, shape, data file, offset, size
#     "model/h0/attn/c_attn/w"    ...

OPENAI_HPARAMS = {name: name for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER_SIZE = 48
NO_COMPRESSION = 0
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
LITTLE_ENDIAN = 0
DT_FLOAT = 1  # TensorFlow's number for float32


class _UnusualCheckpoint(Exception):
    """A checkpoint that may be in order, but is made in a way which we do not read."""


class _BundleEntry(NamedTuple):
    """What the index says of a tensor."""

    dtype: int  # TensorFlow's number
    shape: tuple[int, ...]
    offset: int  # in the data file, in bytes, as is the size
    size: int
    in_slices: bool


def _make_crc32c_table() -> list[int]:
    """The remainder of each byte, divided by Castagnoli's polynomial (bits reversed)."""
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            is_odd = remainder & 1
            remainder >>= 1
            if is_odd:
                remainder ^= 0x82F63B78
        table.append(remainder)
    return table


def _crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, section 12.1. Some 15 MB a second: for an index, not for weights.

    >>> hex(_crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _make_crc32c_table()
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    return checksum ^ 0xFFFFFFFF


def _masked(checksum: int) -> int:
    """A CRC as LevelDB stores it: the CRC of data that contains CRCs would be a poor one."""
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """-> a number, and where it ends. It has 7 bits in a byte, the lowest first; the byte's high
    bit is set if another byte follows.

    >>> _read_varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    number = 0
    for i, byte in enumerate(data[start : start + 10]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, start + i + 1
    raise ValueError("a number in it does not end")


def _read_block(table: bytes, offset: int, size: int) -> bytes:
    """The content of one block. A trailer follows it: compression [1 byte], checksum [4 bytes]."""
    end = offset + size
    content, trailer = table[offset:end], table[end : end + 5]
    if len(trailer) < 5:
        raise ValueError("a block in it lies beyond its end")
    compression, checksum = trailer[0], int.from_bytes(trailer[1:], "little")
    if _masked(_crc32c(content + trailer[:1])) != checksum:
        raise ValueError("it is damaged: a checksum is wrong")
    if compression != NO_COMPRESSION:
        raise _UnusualCheckpoint("its index is compressed")
    return content


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block. A key is written as what differs from the one before.

    An entry is: bytes shared with the last key, other bytes of the key, bytes of the value (three
    varints), the rest of the key, the value. Some offsets of entries stand at the end of the block
    [4 bytes each], then their number [4 bytes].
    """
    n_offsets = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * n_offsets
    start, key = 0, b""
    while start < end:
        n_shared, start = _read_varint(block, start)
        n_other, start = _read_varint(block, start)
        n_value, start = _read_varint(block, start)
        key = key[:n_shared] + block[start : start + n_other]
        start += n_other
        yield key, block[start : start + n_value]
        start += n_value
    if start != end:
        raise ValueError("an entry in it lies beyond its block")


def _read_block_at(table: bytes, handle: bytes) -> bytes:
    """The block that a handle stands for: its offset and its size, two varints."""
    offset, start = _read_varint(handle, 0)
    size, _ = _read_varint(handle, start)
    return _read_block(table, offset, size)


def _read_table(table: bytes) -> dict[bytes, bytes]:
    """{key: value} of a table. Its blocks are found by another block, and that by the footer.

    The footer is: handle of the metaindex (which is empty here), handle of the index, zeros up to
    40 bytes, a magic number [8 bytes].
    """
    footer = table[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE or not footer.endswith(TABLE_MAGIC):
        raise ValueError("it does not end as a table does")
    _, start = _read_varint(footer, 0)
    _, start = _read_varint(footer, start)
    index = _read_block_at(table, footer[start:])
    entries = {}
    for _, handle in _block_entries(index):
        entries.update(_block_entries(_read_block_at(table, handle)))
    return entries


def _read_message(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """A protocol buffer -> {field: number} and {field: [bytes, ...]}, which a message may be in.

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
        elif wire_type == FIXED32:  # only checksums, which we do not need
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
    """BundleEntryProto: dtype = 1, shape = 2, offset = 4, size = 5, slices = 7."""
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
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        in_slices=7 in byte_strings,
    )


def _read_index(path: Path) -> dict[str, _BundleEntry]:
    """{name: entry} of every tensor in a checkpoint's index file."""
    table = _read_table(path.read_bytes())
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
    end = entry.offset + entry.size
    if entry.size != 4 * math.prod(entry.shape):
        raise ValueError(f"{entry.size} bytes for the shape {entry.shape}")
    if end > len(data):
        raise ValueError(f"it ends at byte {end}, the data file at {len(data)}")
    return np.frombuffer(data[entry.offset : end], "<f4")


def _read_checkpoint(prefix: str, hparams: dict[str, int]) -> dict:
    """The nested parameters of a checkpoint. Raises _UnusualCheckpoint for some."""
    try:
        entries = _read_index(Path(f"{prefix}.index"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{prefix}.index is not (or not all of) a checkpoint: {error}") from None
    data_file = f"{prefix}.data-00000-of-00001"
    try:
        data = _map_file(data_file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{data_file}: cannot read the weights: {error}") from None
    shapes = {name: entry.shape for name, entry in entries.items()}
    return _collect(
        prefix, hparams, _openai_name, shapes, lambda name: _tensor_view(data, entries[name])
    )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """For TensorFlow's C++ code, which logs to file descriptor 2 whatever it is told."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _read_checkpoint_with_tensorflow(prefix: str, hparams: dict[str, int], why: str) -> dict:
    """The nested parameters of a checkpoint that only TensorFlow reads; `why` is that so."""
    with _silent_stderr():
        try:
            import tensorflow as tf
        except ImportError as error:
            remedy = "pip install tensorflow, or use a safetensors folder"
            raise ImportError(f"{prefix}: {why}; to read it {remedy} ({error})") from None
        try:
            reader = tf.train.load_checkpoint(prefix)
            shapes = reader.get_variable_to_shape_map()
            names = {_openai_name(name) for name in named(parameter_shapes(hparams))}
            arrays = {name: reader.get_tensor(name) for name in names & shapes.keys()}
        except Exception as error:  # of many types, with many lines
            message = " ".join(str(error).split())
            raise ValueError(f"{prefix}: TensorFlow cannot read it: {message}") from None
    return _collect(prefix, hparams, _openai_name, shapes, arrays.__getitem__)


def load_gpt2_params_from_tf_ckpt(tf_ckpt_path: str, hparams: dict[str, int]) -> dict:
    """OpenAI's checkpoint ("models/124M/model.ckpt") as nested float32 arrays, w [n_in, n_out].

    The arrays are read-only views of the data file. Checked are the index and all sizes, not the
    values: their checksums would take half a minute. Checkpoints in several files, or of other
    types than float32, are read through TensorFlow: ImportError where it is not installed.
    Raises ValueError for what is damaged, or not as in `hparams`.
    """
    prefix = str(tf_ckpt_path)
    try:
        return _read_checkpoint(prefix, hparams)
    except _UnusualCheckpoint as reason:
        why = str(reason)
    return _read_checkpoint_with_tensorflow(prefix, hparams, why)


def _checkpoint_prefix(model_dir: str) -> str | None:
    """What the names of the checkpoint's files begin with, as the file `checkpoint` says.

    It may be a path, and from another machine: its last part counts. None if there is no such file.
    """
    try:
        text = Path(model_dir, "checkpoint").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    path = re.search(r'^\s*model_checkpoint_path:\s*"(.+)"', text, re.MULTILINE)
    return re.split(r"[/\\]", path[1])[-1] if path else None


def _read_openai_folder(model_dir: str) -> tuple[dict[str, int], dict]:
    """-> hparams, params of a folder in OpenAI's layout."""
    hparams, _ = _read_hparams(Path(model_dir, "hparams.json"), OPENAI_HPARAMS)
    prefix = os.path.join(model_dir, _checkpoint_prefix(model_dir) or "model.ckpt")
    return hparams, load_gpt2_params_from_tf_ckpt(prefix, hparams)


# ------------------------------------------------------------------ Hugging Face's layout
#
# A safetensors file is: length of the header [8 bytes], header (JSON), values of all tensors.

HUGGING_FACE_FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
HUGGING_FACE_HPARAMS = OPENAI_HPARAMS | {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
SUPPORTED_CONFIG = {  # what config.json may say, the default first
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # one formula
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _read_hugging_face_hparams(model_dir: str) -> dict[str, int]:
    """The hparams of `config.json`. Raises ValueError for a model that is not quite a GPT-2."""
    hparams, config = _read_hparams(Path(model_dir, "config.json"), HUGGING_FACE_HPARAMS)
    supported = {**SUPPORTED_CONFIG, "n_inner": (None, 4 * hparams["n_embd"])}
    for key, values in supported.items():
        value = config.get(key, values[0])
        if value not in values:
            raise ValueError(f"{model_dir}: {key} is {value!r}; we can compute {values}")
    return hparams


def _read_safetensors(file: Path) -> tuple[dict[str, dict], dict[str, str], memoryview]:
    """-> {name: dtype, shape and data_offsets}, the metadata, and the values, mapped."""
    try:
        data = _map_file(file)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__", {})
        tensors = {name.removeprefix("transformer."): header[name] for name in header}
        for name, tensor in tensors.items():
            if not {"dtype", "shape", "data_offsets"} <= tensor.keys():
                raise ValueError(f"{name} is not all there")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not (or not all of) a safetensors file: {error}") from None
    return tensors, metadata, data[start:]


def _safetensors_array(values: memoryview, tensor: dict) -> np.ndarray:
    """The values of one tensor, [n], as they lie in the file; bfloat16 as float32."""
    begin, end = tensor["data_offsets"]
    array = np.frombuffer(values[begin:end], SAFETENSORS_DTYPES[tensor["dtype"]])
    if tensor["dtype"] == "BF16":  # the upper half of a float32; NumPy has no such type
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _read_hugging_face_folder(model_dir: str) -> tuple[dict[str, int], dict]:
    """-> hparams, params of a folder in Hugging Face's layout."""
    hparams = _read_hugging_face_hparams(model_dir)
    file = Path(model_dir, "model.safetensors")
    tensors, _, values = _read_safetensors(file)
    shapes = {name: tensor["shape"] for name, tensor in tensors.items()}
    params = _collect(
        file,
        hparams,
        _hugging_face_name,
        shapes,
        lambda name: _safetensors_array(values, tensors[name]),
    )
    return hparams, params


def _is_conversion(model_dir: str) -> bool:
    """Whether the safetensors file is a copy of a checkpoint in the same folder.

    Earlier versions of this file wrote such copies, and marked them.
    """
    _, metadata, _ = _read_safetensors(Path(model_dir, "model.safetensors"))
    return bool(metadata.get("openai_sha256"))


# ------------------------------------------------------------------ writing a model folder


def _write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0  # the format, transformers insists on
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": f"F{8 * array.itemsize}",
            "shape": array.shape,
            "data_offsets": [start, end],
        }
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
    """Write a model in Hugging Face's layout: `transformers` can read the folder, and so can we.

    `dtype` on disk: float32 or float16. All four files are first written elsewhere: half of them
    cannot be taken for a whole model. Raises OSError if that fails.
    """
    from tempfile import TemporaryDirectory

    config = {key: values[0] for key, values in SUPPORTED_CONFIG.items()}
    for ours, theirs in HUGGING_FACE_HPARAMS.items():
        config[theirs] = hparams[ours]
    config |= {"architectures": ["GPT2LMHeadModel"], "torch_dtype": np.dtype(dtype).name}
    config |= {"bos_token_id": encoder.eot, "eos_token_id": encoder.eot, "n_ctx": hparams["n_ctx"]}
    merges = "".join(f"{left} {right}\n" for left, right in encoder.bpe_ranks)
    tensors = {
        _hugging_face_name(name): np.asarray(array, dtype, "C")
        for name, array in named(params).items()
    }

    os.makedirs(model_dir, exist_ok=True)
    with TemporaryDirectory(prefix="unfinished-", dir=model_dir) as temporary:
        Path(temporary, "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        Path(temporary, "vocab.json").write_text(json.dumps(encoder.encoder), encoding="utf-8")
        Path(temporary, "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        _write_safetensors(Path(temporary, "model.safetensors"), tensors)
        Path(model_dir, "model.safetensors").unlink(missing_ok=True)
        for name in HUGGING_FACE_FILES:  # the weights last: until then the folder is not complete
            Path(temporary, name).replace(Path(model_dir, name))


# ------------------------------------------------------------------ fetching a file

PAUSES = (0.5, 1, 2, 4)  # seconds before the second, third, ... try
MAX_REDIRECTS = 5
CHUNK_SIZE = 1 << 14
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 60  # seconds


class PublishedFile(NamedTuple):
    """A file to fetch, with its size in bytes and its SHA-256 where they are known."""

    name: str
    size: int | None = None
    sha256: str | None = None


class _Refused(OSError):
    """The server can be reached, and does not give the file."""


class _TemporaryError(Exception):
    """What went wrong may go right the next time; if it never does, it is a `final` error."""

    def __init__(self, reason, final: type[OSError] = OSError):
        super().__init__(str(reason))
        self.final = final


class _Part:
    """The beginning of a file, kept between runs until it is whole.

    `<name>.part` has the bytes. `<name>.part.validator` has what the server calls this version of
    the file, its ETag or time of change: a file that has changed since must not be continued.
    """

    def __init__(self, path: Path):
        self.path = Path(f"{path}.part")
        self._validator_path = Path(f"{path}.part.validator")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def validator(self) -> str:
        """Empty if there is none."""
        if not self._validator_path.is_file():
            return ""
        return self._validator_path.read_text(encoding="latin-1")

    def start_over(self, validator: str) -> None:
        """Empty the part. From now on it is of the version `validator`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.open("wb").close()  # first, so that no old bytes get a new validator
        if validator:
            self._validator_path.write_text(validator, encoding="latin-1")
        else:
            self._validator_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)

    def rename(self, path: Path) -> None:
        """Give the file its own name. One that was there, and was wrong, becomes `<name>.old`."""
        if path.exists():
            path.replace(f"{path}.old")  # perhaps somebody's work
        self.path.replace(path)
        self._validator_path.unlink(missing_ok=True)


def _validator(answer) -> str:
    """What the server calls this version of the file. A weak ETag (W/"...") may name several."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified", "")


def _get(url: str, headers: dict[str, str], file: PublishedFile):
    """-> the open answer to a request, and `file` with what the server says of it.

    Redirects are followed by hand. The Hub tells a large file's size and hash in the answer that
    redirects; and so nothing but the URL and our headers is sent on, neither cookies nor logins.
    """
    from urllib.parse import urljoin

    import requests

    for _ in range(MAX_REDIRECTS + 1):
        answer = requests.get(
            url,
            headers=headers,
            stream=True,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            auth=lambda request: request,  # without it, requests would look into ~/.netrc
        )
        file = _with_details_from_hub(file, answer.headers)
        if not answer.is_redirect:
            return answer, file
        answer.close()
        url = urljoin(url, answer.headers["Location"])
    raise _Refused(f"{url}: more than {MAX_REDIRECTS} redirects")


def _with_details_from_hub(file: PublishedFile, headers) -> PublishedFile:
    """The file with its size and SHA-256, if they were unknown and the Hub tells them."""
    sha256 = headers.get("X-Linked-Etag", "").strip('"')
    if file.sha256 is None and re.fullmatch("[0-9a-f]{64}", sha256):
        file = file._replace(sha256=sha256)
    size = headers.get("X-Linked-Size", "")
    if file.size is None and size.isdecimal():
        file = file._replace(size=int(size))
    return file


def _request_headers(part: _Part, file: PublishedFile) -> dict[str, str]:
    """Ask for all of a file, or for what `part` lacks, if that is sure to be of the same file."""
    # A compressed answer could be neither resumed nor compared with its length.
    headers = {"Accept-Encoding": "identity"}
    if part.size and (part.validator or file.sha256):
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator  # else the server sends all of it
    return headers


def _check_status(answer, url: str, part: _Part) -> None:
    """Raise an error unless the answer is the file, or its end."""
    status = f"{answer.status_code} {answer.reason}".strip()
    if answer.status_code == 416:  # the part is as long as the file, or longer
        part.discard()
        raise _TemporaryError(status)
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _TemporaryError(status, _Refused)
    if answer.status_code not in (200, 206):
        raise _Refused(f"{url}: {status}")
    content_type = answer.headers.get("Content-Type", "")
    if content_type.startswith("text/html"):
        raise OSError(f"{url}: a page of {content_type} came, not the file")
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise OSError(f"{url}: the server compresses the file ({encoding}), unasked")


def _start_and_size(answer, url: str, part: _Part, file: PublishedFile) -> tuple[int, int]:
    """-> where in the file the answer begins, and how large the whole file is, in bytes."""
    if answer.status_code == 200:  # all of it, even if we asked for the end
        start, size = 0, answer.headers.get("Content-Length", str(file.size))
    else:  # Content-Range: bytes 500-999/1000
        content_range = answer.headers.get("Content-Range", "")
        numbers = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        start, size = (int(numbers[1]), numbers[2]) if numbers else (None, "")
        same_version = part.validator in ("", _validator(answer)) or not _validator(answer)
        if start != part.size or not same_version:
            part.discard()
            raise _TemporaryError(f"another part came than we asked for: {content_range}")
    if not size.isdecimal():
        raise OSError(f"{url}: the server does not say how long the file is")
    if file.size not in (None, int(size)):
        raise OSError(f"{url}: {size} bytes, not the {file.size} of the published file")
    return start, int(size)


def _append(answer, part: _Part, start: int, size: int) -> None:
    """Write the answer to the end of the part, or, from start 0, to a new one."""
    import requests
    from tqdm import tqdm

    bar = tqdm(
        desc=part.path.stem,
        total=size,
        initial=start,
        unit="B",
        unit_scale=True,
        disable=None,  # shown on a terminal only
    )
    try:
        if start == 0:
            part.start_over(_validator(answer))
        with open(part.path, "ab") as opened, bar:
            for chunk in answer.iter_content(CHUNK_SIZE):
                opened.write(chunk)
                bar.update(len(chunk))
    except requests.RequestException:  # of the network: these are OSErrors, too
        raise
    except OSError as error:
        raise OSError(f"cannot write {part.path}: {error.strerror}") from None
    if part.size != size:
        raise _TemporaryError(f"{part.size} of {size} bytes came")


def _try_to_complete(url: str, part: _Part, file: PublishedFile) -> PublishedFile:
    """Ask for what the part lacks, and append it -> `file` with what the server says of it."""
    answer, file = _get(url, _request_headers(part, file), file)
    with answer:
        _check_status(answer, url, part)
        start, size = _start_and_size(answer, url, part, file)
        _append(answer, part, start, size)
    return file


def _temporary_error(url: str, error) -> _TemporaryError:
    """What an exception of requests means."""
    import requests

    if isinstance(error, ValueError):  # such as for a URL that is none
        raise OSError(f"{url}: {error}") from None
    reason = getattr(error.args[0], "reason", None) if error.args else None
    no_connection = reason is not None and not isinstance(error, requests.exceptions.SSLError)
    return _TemporaryError(reason or error, ConnectionError if no_connection else OSError)


def _complete(url: str, part: _Part, file: PublishedFile) -> PublishedFile:
    """Complete the part, trying again with growing pauses -> `file`, with what the server says.

    As long as each try gets further, there may be any number of them. If the server was never
    reached there is most likely no network at all, which a user wants to know soon.
    """
    import requests

    n_failures, furthest, reached = 0, 0, False
    while True:
        try:
            return _try_to_complete(url, part, file)
        except _TemporaryError as error:
            trouble = error
        except requests.RequestException as error:
            trouble = _temporary_error(url, error)
        if part.size > furthest:
            n_failures, furthest = 0, part.size
        n_failures += 1
        reached = reached or trouble.final is not ConnectionError
        pauses = PAUSES if reached else PAUSES[:1]
        if n_failures > len(pauses):
            break
        time.sleep(pauses[n_failures - 1])
    if not reached:
        raise ConnectionError(f"cannot reach {url}: {trouble}")
    final = _Refused if trouble.final is _Refused else OSError
    raise final(f"cannot fetch {url}: {trouble}; run again to go on")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url: str, model_dir: str, file: PublishedFile) -> None:
    """Fetch a file into a folder. It gets its name when it is whole and checked.

    Raises ConnectionError if the server cannot be reached, else OSError.
    """
    path = Path(model_dir, file.name)
    part = _Part(path)
    if part.size != file.size:
        file = _complete(url, part, file)
    if file.sha256 and _sha256(part.path) != file.sha256:
        part.discard()
        raise OSError(f"{url} is not the published file: its SHA-256 is wrong; it was deleted")
    if file.name.endswith(".json") and not part.path.read_bytes().lstrip().startswith(b"{"):
        part.discard()
        raise OSError(f"{url} is not JSON; it was deleted")
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


def _missing_openai_files(model_dir: str, model_size: str) -> list[str]:
    """What a folder lacks to be read in OpenAI's layout; files of a wrong size count as well."""
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
    """What a folder lacks to be read in Hugging Face's layout."""
    return [name for name in HUGGING_FACE_FILES if not Path(model_dir, name).is_file()]


def _what_is_missing(model_size: str, model_dir: str) -> str:
    found = f"has {os.listdir(model_dir)}" if os.path.isdir(model_dir) else "is not there"
    hugging_face = _missing_hugging_face_files(model_dir)
    openai = _missing_openai_files(model_dir, model_size)
    return (
        f"{model_dir} {found}: lacks {hugging_face} of Hugging Face's layout, {openai} of OpenAI's"
    )


# ------------------------------------------------------------------ fetching a model


def _fetch_openai_files(base_url: str, model_size: str, model_dir: str) -> None:
    """Fetch what a folder lacks of the seven files of OpenAI's layout."""
    from urllib.parse import quote

    unknown = tuple(PublishedFile(file.name) for file in OPENAI_FILES["124M"])
    for file in OPENAI_FILES.get(model_size, unknown):
        if not _is_whole(model_dir, file):
            _fetch(f"{base_url}/{quote(model_size)}/{file.name}", model_dir, file)


def _fetch_from_hub(repository: HubRepository, model_dir: str, notice: str = "") -> None:
    """Fetch what a folder lacks of the four files of Hugging Face's layout.

    `notice` goes to standard error once it is clear that the Hub can be reached.
    """
    from urllib.parse import quote

    hub_url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB_URL
    for file in repository.files:
        url = f"{hub_url}/{quote(repository.name)}/resolve/{repository.revision}/{file.name}"
        try:
            if not Path(model_dir, file.name).is_file():
                _fetch(url, model_dir, file)
        except _Refused as error:
            needed = f"needed is a public repository with {', '.join(HUGGING_FACE_FILES)}"
            if file.name == "model.safetensors":
                needed = "a repository with only a pickle (pytorch_model.bin) is not read"
            raise _Refused(f"{error}; {needed}") from None
        if file.name == "config.json":
            _read_hugging_face_hparams(model_dir)  # refuses other models before the large file
            if notice:
                print(notice, file=sys.stderr)


def _fetch_published_model(model_size: str, model_dir: str) -> None:
    """Fetch one of OpenAI's four models: from OpenAI, or the same weights from the Hub."""
    try:
        return _fetch_openai_files(OPENAI_URL, model_size, model_dir)
    except (ConnectionError, _Refused) as error:
        first_error = error
    repository = SAME_ON_THE_HUB[model_size]
    notice = f"{first_error}; fetching {repository.name} from the Hugging Face Hub instead"
    try:
        _fetch_from_hub(repository, model_dir, notice)
    except (ConnectionError, _Refused) as error:
        raise type(error)(f"{first_error}; {error}") from None


def download_gpt2_files(model_size: str, model_dir: str) -> None:
    """Fetch what the folder `model_dir` lacks of a model.

    model_size: one of OpenAI's ("124M", "355M", "774M", "1558M"), or OWNER/NAME for a GPT-2 on the
    Hugging Face Hub. OpenAI's come from OpenAI, and if it refuses or cannot be reached from the
    Hub, in its layout; a line on standard error says so. With env GPT2_BASE_URL they come from
    there and nowhere else, under any name. Env HF_ENDPOINT stands for the Hub's address.

    A file is called `<name>.part`, and resumed, until it is whole by published size and hash, or by
    the length that the server tells. Raises FileNotFoundError for an unknown model, the built-in
    ConnectionError if no server can be reached, OSError for other trouble, and ValueError for a
    model on the Hub which is not a GPT-2.
    """
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
            f"we can fetch {', '.join(OPENAI_FILES)}, and OWNER/NAME from the Hugging Face Hub"
        )


# ------------------------------------------------------------------ loading a model


def _check_model_size(model_size: str, models_dir: str) -> None:
    """Raise ValueError unless it is the name of a folder in models_dir, or OWNER/NAME."""
    names = model_size.split("/")
    wrong_name = any(name in ("", ".", "..") for name in names)
    if wrong_name or len(names) > 2 or re.search(r"[\\:\0]", model_size):
        raise ValueError(
            f"model_size should name a folder in {models_dir}, "
            f"or OWNER/NAME on the Hugging Face Hub, not {model_size!r}"
        )


def _folder_reader(model_dir: str, model_size: str) -> Callable | None:
    """The function that reads a folder, or None if it is complete in neither layout.

    Hugging Face's layout comes first: with both, it is somebody's own weights. A conversion by an
    earlier version of this file is different: the checkpoint beside it is the same, or newer.
    """
    has_openai = not _missing_openai_files(model_dir, model_size)
    has_hugging_face = not _missing_hugging_face_files(model_dir)
    if has_hugging_face and not (has_openai and _is_conversion(model_dir)):
        return _read_hugging_face_folder
    if has_openai:
        return _read_openai_folder
    return None


def load_encoder_hparams_and_params(
    model_size: str, models_dir: str
) -> tuple[Encoder, dict[str, int], dict]:
    """-> encoder, hparams, params of the model in `models_dir/model_size`, downloaded if need be.

    model_size: the name of a folder there, one of OpenAI's models ("124M"), or OWNER/NAME for one
    of the Hugging Face Hub. hparams: n_vocab, n_ctx, n_embd, n_head, n_layer. params: nested as in
    `parameter_shapes`, float32, by preference read-only views of the file.
    Raises ValueError, OSError or ImportError, in one line; ConnectionError if there is no network.
    """
    _check_model_size(model_size, models_dir)
    model_dir = os.path.join(models_dir, model_size)
    read_folder = _folder_reader(model_dir, model_size)
    if read_folder is None:
        download_gpt2_files(model_size, model_dir)
        read_folder = _folder_reader(model_dir, model_size)
    if read_folder is None:
        raise FileNotFoundError(_what_is_missing(model_size, model_dir))
    encoder = get_encoder(model_size, models_dir)
    hparams, params = read_folder(model_dir)
    return encoder, hparams, params
