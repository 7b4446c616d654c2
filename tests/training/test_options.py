"""training/options.py: presets, what is refused, and that a command line becomes `Options`."""

import dataclasses
import re
import sys

import pytest

from command_line import run
from training.options import LIMITS, OF_THE_MODEL, OPTIMIZERS, PRESETS, Options


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_what_was_not_given(preset):
    options = dataclasses.asdict(Options(preset=preset, n_ctx=7))
    assert options["n_ctx"] == 7
    assert options | {"n_ctx": PRESETS[preset]["n_ctx"]} == options | PRESETS[preset]


def test_a_model_brings_its_sizes_and_its_vocabulary():
    options = Options(init_from="somewhere")
    assert {getattr(options, name) for name in OF_THE_MODEL} == {None}
    assert options.n_ctx == PRESETS["python"]["n_ctx"]
    for name in OF_THE_MODEL:
        with pytest.raises(ValueError, match="init_from"):
            Options(init_from="somewhere", **{name: PRESETS["python"][name]})


@pytest.mark.parametrize("name", LIMITS)
def test_each_number_has_its_limits(name):
    _, low, *high = LIMITS[name]
    Options(**{"n_head": 1} | {name: low})
    for wrong in [low - 1, *(value + 0.1 for value in high)]:
        with pytest.raises(ValueError, match=f"--{name}"):
            Options(**{name: wrong})


def test_the_help_names_each_option_and_its_default():
    table = Options.__doc__[Options.__doc__.index("    --data WHAT") :]
    entries = dict(re.findall(r"^    --(\w+)(.*?)(?=^    --|\Z)", table, re.M | re.S))
    defaults = {f.name: f.default for f in dataclasses.fields(Options)} | PRESETS["python"]
    assert list(entries) == list(dataclasses.asdict(Options()))
    for name, value in defaults.items():
        if not isinstance(value, str | bool | None):
            assert f"({value:g})" in entries[name]
    assert set(OPTIMIZERS) == set(re.findall(r"(\w+):", entries["optimizer"]))


def test_a_command_line_becomes_options(monkeypatch):
    given = []
    monkeypatch.setattr(sys, "argv", ["train.py", "--n-ctx=32", "--half", "--data", "1,2"])
    run(given.append, Options)
    assert given == [Options(n_ctx=32, half=True, data="1,2")]


def test_wrong_options_do_not_reach_the_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--n_head=5"])
    with pytest.raises(SystemExit, match="--n_head 5 does not divide"):
        run(lambda options: pytest.fail("called"), Options)
