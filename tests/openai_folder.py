"""A tiny model in OpenAI's layout, written without TensorFlow: bytes of its seven files.

The index is made by hand, as doc/table_format.md of LevelDB and tensor_bundle.proto describe it,
but without checksums of the weights, which only TensorFlow would look at.
"""

import json

from checkpoints import openai_variables

from encoder import byte_level_vocab

DATA = "model.ckpt.data-00000-of-00001"
# The first merges of every byte-level BPE that has seen English: a vocabulary of 260 tokens.
MERGES = ["Ġ t", "h e", "Ġt he"]


def openai_files(params, hparams):
    """{file name: bytes} of a model whose vocabulary is 256 bytes, `MERGES` and <|endoftext|>."""
    vocabulary = [token for token in byte_level_vocab() if len(token) == 1]
    vocabulary += [merge.replace(" ", "") for merge in MERGES] + ["<|endoftext|>"]
    assert hparams["n_vocab"] == len(vocabulary)
    variables = openai_variables(params)
    names = sorted(variables)
    entries, offset = [(b"", b"\x08\x01\x1a\x02\x08\x01")], 0  # one data file, version 1
    for name in names:
        size = variables[name].nbytes
        entries.append((name.encode(), bundle_entry(variables[name].shape, offset, size)))
        offset += size
    texts = {
        "checkpoint": 'model_checkpoint_path: "model.ckpt"\n',
        "encoder.json": json.dumps({token: i for i, token in enumerate(vocabulary)}),
        "hparams.json": json.dumps(hparams),
        "model.ckpt.meta": "\n\x01m",  # which nothing reads
        "vocab.bpe": "\n".join(["#version: 0.2", *MERGES, ""]),
    }
    files = {name: text.encode() for name, text in texts.items()}
    files["model.ckpt.index"] = table(entries)
    files[DATA] = b"".join(variables[name].tobytes() for name in names)
    return dict(sorted(files.items()))


def varint(number):
    """Seven bits in each byte, the lowest first; the high bit says that another byte follows."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def number_field(field, number):
    return varint(field << 3) + varint(number)


def bytes_field(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def bundle_entry(shape, offset, size):
    """BundleEntryProto: dtype = 1 (float32 is 1), shape = 2, offset = 4, size = 5."""
    dims = b"".join(bytes_field(2, number_field(1, n)) for n in shape)
    place = number_field(4, offset) + number_field(5, size)
    return number_field(1, 1) + bytes_field(2, dims) + place


def crc32c(content):
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum >> 1) ^ (0x82F63B78 * (checksum & 1))
    return checksum ^ 0xFFFFFFFF


def block(entries):
    """[(key, value)] as a block and its trailer: whole keys, one restart point, no compression."""
    content = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    checksum = crc32c(content + b"\0")
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return content, b"\0" + masked.to_bytes(4, "little")


def table(entries):
    """[(key, value)], sorted, as a table of one block."""
    written, handles = b"", []
    for block_entries in (entries, []):  # the data, the metaindex
        content, trailer = block(block_entries)
        handles.append(varint(len(written)) + varint(len(content)))
        written += content + trailer
    data_handle, metaindex_handle = handles
    content, trailer = block([(b"\xff", data_handle)])
    index_handle = varint(len(written)) + varint(len(content))
    footer = (metaindex_handle + index_handle).ljust(40, b"\0")
    return written + content + trailer + footer + 0xDB4775248B80FB57.to_bytes(8, "little")
