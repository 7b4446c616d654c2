"""training/average.py: the average of two models."""

import sys

import numpy as np
import pytest
from random_models import TINY, random_params

from command_line import run
from encoder import Encoder
from training import average
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
    example = next(line for line in average.main.__doc__.split("\n") if "python -m" in line)
    example = example.replace("../polished", "first").replace("../cooled", "second")
    arguments = example.split("training.average")[1].replace("models/mine", "out").split()
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
