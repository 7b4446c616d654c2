"""A sample of every class of faults; `python -m tests.faults` runs them all."""

import random
from contextlib import closing
from itertools import islice

import pytest

from tests.faults import __main__ as command
from tests.faults.classes import CLASSES
from tests.faults.outcome import CLEAR_ERROR, RIGHT, judge


@pytest.mark.parametrize("faults", CLASSES, ids=lambda faults: faults.title)
def test_every_fault_ends_right_or_in_one_clear_line(faults, tmp_path):
    with closing(faults.cases(random.Random(f"0 {faults.title}"), tmp_path)) as cases:
        ended = {case.name: case.run() for case in islice(cases, faults.n_sample)}
    assert {name: how for name, how in ended.items() if how not in (RIGHT, CLEAR_ERROR)} == {}


@pytest.mark.parametrize(
    ("returncode", "stderr", "is_right"),
    [
        (0, "", False),
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 'wte'\n", False),
        (1, "", False),
        (-11, "gpt2.py: something\n", False),
        (2, "Aborted\n", False),
    ],
)
def test_judge_accepts_nothing_else(returncode, stderr, is_right):
    assert judge(returncode, stderr, is_right) not in (RIGHT, CLEAR_ERROR)


@pytest.mark.parametrize("argument", ["--only=no such class", "--seed=new"])
def test_the_command_refuses_what_it_does_not_know(argument, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["faults", argument])
    with pytest.raises(SystemExit) as end:
        command.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and argument.replace("=", " ") in err
