"""The facade: names of models, loading one, and a gpt2.py of the reader's own beside it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2
import utils
from model_files import published
from tests.fixtures.checkpoints import (
    HUGGING_FACE_FILES,
    OPENAI_FILES,
    assert_same,
    hf_tensors,
    message_of,
    write_hf_folder,
)
from tests.fixtures.openai_folder import openai_files
from tests.fixtures.random_models import TINY, random_params

ROOT = Path(__file__).parents[1]
MINI = {"n_vocab": 260, "n_ctx": 32, "n_embd": 24, "n_head": 3, "n_layer": 2}


def load(name, models_dir):
    return utils.load_encoder_hparams_and_params(name, str(models_dir))


def python(code, *args):
    """Run `code` in a Python that can import utils; sys.argv[1:] are `args`. -> out, err"""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    return process.stdout, process.stderr


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("GPT2_BASE_URL", raising=False)


@pytest.fixture(scope="module")
def mini():
    return random_params(MINI)


def write_openai_folder(folder, params):
    folder.mkdir(parents=True)
    for name, content in openai_files(params, MINI).items():
        (folder / name).write_bytes(content)


@pytest.fixture(params=["openai", "hugging_face"])
def folder(request, tmp_path, mini):
    """A model folder in either layout."""
    if request.param == "openai":
        write_openai_folder(tmp_path / "model", mini)
    else:
        write_hf_folder(tmp_path / "model", TINY, hf_tensors(random_params(TINY)))
    return tmp_path / "model"


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
    for name in [*found, *needed, *published.OPENAI_FILES, "mini"]:
        assert name in message_of(error)
    assert not list(tmp_path.glob("*/download.lock"))


def test_a_name_that_no_folder_can_have_leaves_no_folder_behind(tmp_path):
    with pytest.raises(OSError, match="x" * 300):
        load("x" * 300, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# ---------------------------------------------------------------- loading


def state(folder):
    """All that reading could change: files with their times."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_reading_a_folder_writes_and_says_nothing(folder):
    code = "import sys, utils; utils.load_encoder_hparams_and_params(*sys.argv[1:])"
    before = state(folder)
    assert python(code, folder.name, folder.parent) == ("", "")
    assert state(folder) == before and os.listdir(folder.parent) == [folder.name]


def test_loading_imports_nothing_heavy(folder):
    code = (
        "import sys, utils; utils.load_encoder_hparams_and_params(*sys.argv[1:]);"
        "heavy = {'tensorflow', 'requests', 'urllib3', 'tqdm', 'safetensors', 'tempfile'};"
        "print(heavy & {*sys.modules})"
    )
    assert python(code, folder.name, folder.parent) == ("set()\n", "")


def test_a_model_that_is_named_is_loaded_without_a_word(folder, capsys):
    assert utils.load_model("model", str(folder.parent))[1] == load("model", folder.parent)[1]
    assert capsys.readouterr() == ("", "")


def test_offline_the_bundled_model_takes_the_place_of_124m(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    params = utils.load_model(None, str(tmp_path))[2]
    assert_same(params, load("python", ROOT / "models")[2])
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "http://127.0.0.1:9" in error
    with pytest.raises(ConnectionError):  # it is no other model's substitute
        utils.load_model("124M", str(tmp_path))


# ---------------------------------------------------------------- a gpt2.py of the reader's own

# It is written as the public tutorial's: it imports the same function, which returns the same three
# things, and takes the parameters by the same keys.
PROMPT = "the heroes wear capes"
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
ids = encoder.encode("the heroes wear capes")
for _ in range(5):
    assert len(ids) < hparams["n_ctx"]
    ids.append(int(np.argmax(model(ids, **params, n_head=hparams["n_head"])[-1])))
print(*ids)
print(ascii(encoder.decode(ids)))
assert "gpt2" not in sys.modules
'''


@pytest.fixture
def own_folder(tmp_path, mini):
    """A copy of the project without gpt2.py and what stands on it, with models/mini."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("utils.py", "encoder.py"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "model_files", folder / "model_files")
    write_openai_folder(folder / "models" / "mini", mini)
    return folder


def run_alone(folder, *arguments):
    process = subprocess.run(
        [sys.executable, "-E", *arguments],  # -E: no PYTHONPATH either
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
    )
    assert process.stderr == ""
    return process.stdout


def test_a_readers_own_model_runs_beside_our_files(own_folder, mini):
    (own_folder / "my_gpt2.py").write_text(TUTORIAL, encoding="utf-8")
    encoder = load("mini", own_folder / "models")[0]
    prompt = encoder.encode(PROMPT)
    ids = prompt + gpt2.generate(prompt, mini, MINI["n_head"], 5)
    expected = f"{' '.join(map(str, ids))}\n{encoder.decode(ids)!a}\n"
    assert run_alone(own_folder, "my_gpt2.py") == expected


def test_the_60_lines_run_beside_our_files(own_folder, mini):
    shutil.copy(ROOT / "gpt2_pico.py", own_folder)
    encoder = load("mini", own_folder / "models")[0]
    ids = gpt2.generate(encoder.encode(PROMPT), mini, MINI["n_head"], 5)
    arguments = [PROMPT, "--n_tokens_to_generate=5", "--model_size=mini"]
    assert run_alone(own_folder, "gpt2_pico.py", *arguments) == encoder.decode(ids) + "\n"
