"""The 60 lines: that they are 60, and the same model as gpt2.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_pico
from tests.fixtures.random_models import SHAPES, TINY, random_params, random_prompt
from utils import load_encoder_hparams_and_params

PICO = Path(gpt2_pico.__file__)


def test_it_has_at_most_60_lines_of_at_most_100_columns():
    lines = PICO.read_text(encoding="utf-8").split("\n")
    assert len(lines) - 1 <= 60
    assert max(map(len, lines)) <= 100


def test_it_needs_nothing_of_ours_but_utils():
    imports = [
        line.split()[1]
        for line in PICO.read_text(encoding="utf-8").split("\n")
        if line.strip().startswith(("import ", "from "))
    ]
    assert sorted(imports) == ["fire", "numpy", "utils"]


def test_ruff_would_change_only_its_blank_lines():
    pytest.importorskip("ruff")
    source = PICO.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=100", "-"]
    done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8", check=True)

    def without_blank_lines(text):
        return [line for line in text.split("\n") if line]

    assert without_blank_lines(done.stdout) == without_blank_lines(source)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_its_logits_equal_those_of_gpt2(name, dtype, bound):
    hparams = SHAPES[name]
    params, inputs = random_params(hparams, dtype=dtype), random_prompt(hparams)
    logits = gpt2_pico.gpt2(inputs, **params, n_head=hparams["n_head"])
    assert logits.dtype == dtype
    expected = gpt2.gpt2(inputs, **params, n_head=hparams["n_head"])
    assert np.abs(logits - expected).max() <= bound


def test_an_empty_prompt_starts_from_the_end_mark():
    models_dir = str(PICO.parent / "models")
    encoder, hparams, params = load_encoder_hparams_and_params("python", models_dir)
    ids = gpt2.generate([encoder.eot], params, hparams["n_head"], 5)
    assert gpt2_pico.main("", 5, "python", models_dir) == encoder.decode(ids)


@pytest.mark.parametrize(
    "arguments",
    [["--model_size", "124"], ["--models_dir", "5"], ["1.5"], ["ten"]],
    ids=" ".join,
)
def test_what_it_cannot_use_is_one_line(arguments):
    command = [sys.executable, PICO, "x", *arguments, "--model_size=python"]
    if "--model_size" in arguments:
        command.pop()
    done = subprocess.run(command, cwd=PICO.parent, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("gpt2_pico.py: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("seed", range(5))
def test_its_greedy_ids_are_those_of_gpt2(seed):
    params, inputs = random_params(TINY, seed), random_prompt(TINY, 4, seed)
    before = list(inputs)
    ids = gpt2_pico.generate(inputs, params, TINY["n_head"], 12)
    assert ids == gpt2.generate(inputs, params, TINY["n_head"], 12)
    assert inputs == before
