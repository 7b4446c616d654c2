"""average.py: the average of two models."""

import subprocess
import sys

import numpy as np
import pytest

import average
from command_line import run
from encoder import Encoder
from tests.fixtures.random_models import TINY, random_params
from utils import load_encoder_hparams_and_params, named, save_model_folder

SYMBOLS = [chr(ord("!") + i) for i in range(60)]


@pytest.fixture
def folders(tmp_path):
    """Two models of one shape, and their parameters."""
    encoder = Encoder({symbol: i for i, symbol in enumerate([*SYMBOLS, "<|endoftext|>"])}, [])
    params = [random_params(TINY, seed=seed) for seed in (0, 1)]
    for name, p in zip(("first", "second"), params, strict=True):
        save_model_folder(tmp_path / name, encoder, TINY, p)
    return tmp_path, params


@pytest.mark.parametrize("part", [0, 0.25, 1])
def test_each_parameter_is_the_weighted_mean(folders, part):
    folder, (first, second) = folders
    average.main(str(folder / "first"), str(folder / "second"), str(folder / "out"), part)
    _, hparams, params = load_encoder_hparams_and_params("out", str(folder))
    assert hparams == TINY
    for name, p in named(params).items():
        expected = part * named(first)[name] + (1 - part) * named(second)[name]
        np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-7)


def test_the_command_that_its_help_shows(folders, monkeypatch):
    folder, _ = folders
    example = next(line for line in average.main.__doc__.split("\n") if "python " in line)
    example = example.replace("../polished", "first").replace("../cooled", "second")
    arguments = example.split("average.py")[1].replace("models/mine", "out").split()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["average.py", *arguments])
    run(average.main)
    assert (folder / "out" / "model.safetensors").is_file()


def test_models_of_other_sizes_have_no_average(folders):
    folder, (first, _) = folders
    encoder, _, _ = load_encoder_hparams_and_params("first", str(folder))
    shorter = {**first, "blocks": first["blocks"][:1]}
    save_model_folder(folder / "shorter", encoder, {**TINY, "n_layer": 1}, shorter)
    with pytest.raises(ValueError, match="sizes"):
        average.main(str(folder / "first"), str(folder / "shorter"), str(folder / "out"))
    assert not (folder / "out").exists()


def run_average(*arguments):
    command = [sys.executable, average.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_model_of_the_present_folder(folders, monkeypatch):
    folder, _ = folders
    monkeypatch.chdir(folder / "first")
    average.main(".", "../second", "../out")
    assert (folder / "out" / "model.safetensors").exists()


def test_what_is_not_given_is_named_in_one_line():
    done = run_average("--first", "models/python")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "--second" in done.stderr


def test_other_merges_make_other_ids(folders):
    folder, params = folders
    vocabulary = {t: i for i, t in enumerate([*SYMBOLS[:57], "AB", "BC", "ABC", "<|endoftext|>"])}
    for name, merges in (("one", ["A B", "B C", "AB C"]), ("other", ["B C", "A B", "A BC"])):
        save_model_folder(folder / name, Encoder(vocabulary, merges), TINY, params[0])
    with pytest.raises(ValueError, match="vocabulary"):
        average.main(str(folder / "one"), str(folder / "other"), str(folder / "out"))
