"""The benchmarks' command lines: they explain themselves, and say what is wrong in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    "bundled",
    "chart",
    "compare",
    "exactness",
    "loss",
    "tokenizer",
    "training",
    "whole_run",
)


def run(benchmark, *arguments):
    command = [sys.executable, "-m", f"bench.{benchmark}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_help_explains_and_runs_nothing(benchmark):
    done = run(benchmark, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m bench.{benchmark}" in done.stdout
    assert len(done.stdout.splitlines()) > 5
    assert "| --- |" not in done.stdout  # no table of figures
    assert not done.stderr


@pytest.mark.parametrize(
    ("arguments", "known_name"),
    [
        (["--only", "gpt3.py"], "transformers"),
        (["--tasks", "decode,sleep"], "prefill512"),
        (["--no-such-option"], "--no-such-option"),
        (["--against", "no/such/folder"], "no/such/folder"),
        (["--rounds", "0"], "0"),
    ],
)
def test_a_wrong_choice_is_one_line_with_the_names_there_are(arguments, known_name):
    done = run("compare", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert known_name in done.stderr
