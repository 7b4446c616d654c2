"""The benchmarks' command lines: they explain themselves, and say what is wrong in one line."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = (
    "ablation",
    "bundled",
    "chart",
    "compare",
    "exactness",
    "loss",
    "page",
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


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--only", "baseline,sgd"], ["sgd", "growing_batch"]),
        (["--tokens", "0"], ["--tokens", "0"]),
        (["--minutes", "-1"], ["--minutes", "-1"]),
        (["--data", "no_such_folder"], ["no_such_folder"]),
    ],
)
def test_a_wrong_option_of_the_ablation_is_one_line(arguments, names, tmp_path):
    done = run("ablation", "--out", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2 and done.stdout == ""
    error = done.stderr.splitlines()[-1]
    assert error.startswith("python -m bench.ablation: ") and all(name in error for name in names)
    assert "Traceback" not in done.stderr


def test_two_variants_give_a_table_and_curves_and_are_not_run_again(tmp_path):
    pytest.importorskip("matplotlib")
    texts = [f"def f{i}(x):\n    return x + {i}\n" * 3 for i in range(200)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "data.jsonl").write_text(lines, encoding="utf-8")
    out, names = tmp_path / "out", ["baseline", "batch_8"]
    arguments = ["--data", str(tmp_path / "data.jsonl"), "--out", str(out)]
    arguments += ["--only", ",".join(names), "--tokens", "8192"]
    done = run("ablation", *arguments)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[0] for row in rows] == names
    assert [row[2:4] for row in rows] == [["2", "8,192"], ["4", "8,192"]]
    svg = (out / "ablation.svg").read_bytes()
    texts_drawn = {text.text for text in ElementTree.fromstring(svg).findall(".//{*}text")}
    assert {*names, "million tokens"} <= texts_drawn

    again = run("ablation", *arguments)
    assert again.returncode == 0 and "step" not in again.stderr
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == table
    assert (out / "ablation.svg").read_bytes() == svg
