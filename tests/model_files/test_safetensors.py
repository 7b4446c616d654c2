"""A safetensors file: what its header may say, and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_files.safetensors import read_safetensors
from tests.fixtures.checkpoints import assert_same, hf_tensors, message_of, write_safetensors
from tests.fixtures.random_models import TINY, random_params


@pytest.fixture(scope="module")
def tiny():
    return random_params(TINY)


@pytest.fixture
def path(tmp_path, tiny):
    write_safetensors(tmp_path / "model.safetensors", hf_tensors(tiny))
    return tmp_path / "model.safetensors"


def refusal(path):
    """The message of the error that reading a file raises."""
    with pytest.raises(ValueError) as error:
        read_safetensors(path, TINY)
    assert str(path) in message_of(error)
    return message_of(error)


@pytest.mark.parametrize("length", range(8))
def test_a_header_of_any_length(path, tiny, length):
    write_safetensors(path, hf_tensors(tiny), {"note": "x" * length})
    assert_same(read_safetensors(path, TINY), tiny)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": 5, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [24], "data_offsets": [0]},
        {"dtype": "F32", "shape": [24]},
        {"dtype": "F32", "shape": [24], "data_offsets": [0, 96.0]},
        {"dtype": "F32", "shape": [24], "data_offsets": [False, 96]},
        {"dtype": "F32", "shape": [24], "data_offsets": [96, 0]},
        [],
        None,
    ],
)
def test_a_header_that_makes_no_sense_is_refused(path, entry):
    header = json.dumps({"ln_f.bias": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(96))
    refusal(path)


@pytest.mark.parametrize("where", ["before", "after"])
def test_offsets_outside_the_file_are_refused(path, where):
    """A slice from -192 to -96 would be as long as the tensor, and of other values."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    n_bytes = 4 * TINY["n_embd"]
    begin = -2 * n_bytes if where == "before" else len(content) - end
    header["ln_f.bias"]["data_offsets"] = [begin, begin + n_bytes]
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])
    refusal(path)


def test_bytes_that_the_header_does_not_know_are_refused(path):
    """The format has the values end where the file ends: a longer file is damaged."""
    path.write_bytes(path.read_bytes() + b"more")
    refusal(path)


def test_a_damaged_safetensors_file_is_refused(path):
    content = path.read_bytes()
    page = b"<html>Please log in</html>"
    cuts = [content[:n] for n in (0, 5, 8, 50, 2000, len(content) // 2, len(content) - 1)]
    for broken in [*cuts, page, b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"]:
        path.write_bytes(broken)
        refusal(path)


def change_header(path, change):
    """Put change(header) in place of a safetensors file's header: a dict, or its text."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = change(json.loads(content[8:end]))
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def moved(name, begin, end):
    """A change of a header: a tensor's offsets differ by so many bytes."""

    def change(header):
        offsets = header[name]["data_offsets"]
        fields = header[name] | {"data_offsets": [offsets[0] + begin, offsets[1] + end]}
        return header | {name: fields}

    return change


@pytest.mark.parametrize(
    "change",
    [
        moved("ln_f.weight", -96, -96),  # over the tensor before it, with a hole after it
        moved("ln_f.weight", 0, -4),
        moved("ln_f.weight", 0, 4),
        lambda header: header | {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}},
        lambda header: header | {"a": {"dtype": "I8", "shape": [0], "data_offsets": [2, 2]}},
        lambda header: {name: header[name] for name in header if name != "wpe.weight"},
        lambda header: header | {"ln_f.bias": header["ln_f.bias"] | {"shape": [24.0]}},
        lambda header: header | {"ln_f.bias": header["ln_f.bias"] | {"shape": [-24]}},
        lambda header: header | {"ln_f.bias": header["ln_f.bias"] | {"shape": "24"}},
        lambda header: header | {"ln_f.bias": header["ln_f.bias"] | {"dtype": ["F32"]}},
        lambda header: header | {"transformer.ln_f.bias": header["ln_f.bias"]},
        lambda header: header | {"__metadata__": None},
        lambda header: json.dumps(header)[:-1] + ', "ln_f.bias": null}',
        lambda header: json.dumps(header)[:-1] + ', "a": ' + "[" * 100_000 + "}",
        lambda header: json.dumps(header) + " " * 100_000_000,
    ],
)
def test_a_header_with_holes_overlaps_or_doubled_names_is_refused(path, change):
    change_header(path, change)
    assert len(refusal(path)) < 1000


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny") / "model.safetensors"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_header_is_refused_or_makes_no_difference(whole_file, tiny, data):
    path = whole_file
    write_safetensors(path, hf_tensors(tiny))
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    start = data.draw(st.integers(0, end - 1))
    inserted = data.draw(st.binary(max_size=8) | st.sampled_from([b"-1", b"null", b"{}", b"[]"]))
    removed = data.draw(st.integers(0, min(8, end - start)))
    path.write_bytes(content[:start] + inserted + content[start + removed :])
    try:
        params = read_safetensors(path, TINY)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert_same(params, tiny)
