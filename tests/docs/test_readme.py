"""The README: its Python runs, its options are the help page, its links lead somewhere."""

import functools
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

import explain
import gpt2

ROOT = Path(gpt2.__file__).parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/benchmarks.md",
    "docs/reliability.md",
    "docs/training.md",
    "docs/tutorial.md",
    "docs/where_to_change.md",
    "models/python/README.md",
]


def test_its_python_runs(monkeypatch, capsys):
    pytest.importorskip("sybil", reason="runs the Python blocks")
    from sybil import Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser

    monkeypatch.chdir(ROOT)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "README.md")
    for block in document.examples():
        block.evaluate()
    namespace = document.namespace
    assert capsys.readouterr().out.strip()
    assert namespace["logits"].shape == (len(namespace["ids"]), namespace["hparams"]["n_vocab"])
    assert all(len(text) > 40 for text in namespace["texts"])


@pytest.mark.parametrize(
    ("heading", "main"), [("Options", gpt2.main), ("Looking inside", explain.main)]
)
def test_its_options_are_the_help_page(heading, main):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    options = text.split(f"## {heading}")[1].split("```")[1]
    assert options.strip() == inspect.getdoc(main)


def test_the_comparison_that_it_shows(monkeypatch, tmp_path, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split("queries, keys and values:")[1].split("```")[1].strip()
    prompt = "Not all heroes wear capes."
    model = {"model_size": "python", "models_dir": str(ROOT / "models")}
    monkeypatch.chdir(tmp_path)
    explain.main(prompt, dump="values.npz", **model)
    with monkeypatch.context() as patch:
        exact = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2, [np.float32])
        patch.setattr(gpt2, "gelu", functools.wraps(gpt2.gelu)(lambda x: exact(x)))
        explain.main(prompt, dump="theirs.npz", **model)
    arrays = dict(np.load("theirs.npz"))
    kept = {name: array for name, array in arrays.items() if name[-7:-1] != ".attn."}
    np.savez("theirs.npz", **kept)
    with pytest.raises(SystemExit):
        explain.main("theirs.npz", compare="values.npz", **model)
    printed = capsys.readouterr().out.strip()
    last_digits = r"(?<=\.\d{5})\d+"  # they depend on the order of additions
    assert re.sub(last_digits, "", printed) == re.sub(last_digits, "", shown)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_linked_exist(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []
