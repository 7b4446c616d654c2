"""training/data.py: documents from each kind of source, and their token ids."""

import json
import warnings

import numpy as np
import pytest

from training.data import (
    MAX_NOTICES,
    READERS,
    python_functions,
    read_documents,
    split,
    token_ids,
)
from training.tokenizer import learn_bpe

# ---------------------------------------------------------------- documents

SOURCE = '''
import os

@decorated
def first(a,
          b=1):
    """Adds."""
    def inner():
        return a
    return inner() + b


class Thing:
    def method(self):
        return "é"

    async def other(self): pass

if True:
    def first_again(): ...
'''


@pytest.fixture
def source_folder(tmp_path):
    folder = tmp_path / "source"
    (folder / "tests").mkdir(parents=True)
    (folder / "a.py").write_text(SOURCE, encoding="utf-8")
    (folder / "b.py").write_text(SOURCE, encoding="utf-8")
    (folder / "broken.py").write_text("def (:", encoding="utf-8")
    (folder / "latin.py").write_bytes(b"def f(): return '\xe9'")
    (folder / "tests" / "c.py").write_text("def test_it(): ...", encoding="utf-8")
    return folder


def test_every_function_and_method_once_and_dedented(source_folder):
    functions = read_documents(str(source_folder))
    assert [text.split("(")[0] for text in functions] == [
        "def first",
        "def method",
        "async def other",
        "def first_again",
    ]
    assert functions[0].startswith("def first(a,\n          b=1):\n    ")
    assert functions[1] == 'def method(self):\n    return "é"\n'


def test_a_folder_gives_its_text_files_after_its_functions(source_folder):
    (source_folder / "notes.txt").write_text("Zwölf", encoding="utf-8")
    documents = read_documents(str(source_folder))
    assert documents[-1] == "Zwölf" and len(documents) == 5


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "notes.txt").write_text("Zwölf\n\nBoxkämpfer", encoding="utf-8")
    assert read_documents(str(tmp_path / "notes.txt")) == ["Zwölf\n\nBoxkämpfer"]


def test_a_source_file_named_by_itself_is_one_document(source_folder):
    assert read_documents(str(source_folder / "a.py")) == [SOURCE]


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell["source"] for cell in cells if cell["cell_type"] == "code"]


def test_another_kind_of_file_needs_one_entry(source_folder, monkeypatch):
    cells = [{"cell_type": "code", "source": "print(1)"}, {"cell_type": "markdown", "source": "a"}]
    text = json.dumps({"cells": cells})
    (source_folder / "notes.ipynb").write_text(text, encoding="utf-8")
    (source_folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(source_folder.parent)
    monkeypatch.chdir(source_folder)  # so that "source" is a package, and no folder

    assert "print(1)" not in read_documents("source")
    monkeypatch.setitem(READERS, ".ipynb", code_cells)
    assert read_documents("notes.ipynb") == ["print(1)"]
    for folder_or_package in (str(source_folder), "source"):
        documents = read_documents(folder_or_package)
        assert documents[-1] == "print(1)" and len(documents) == 5
    (source_folder / "notes.ipynb").write_text('{"cells": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="ipynb"):
        read_documents("notes.ipynb")


def test_an_installed_package_gives_its_functions():
    documents = read_documents("hypothesis")
    assert len(documents) > 100 and all("def " in text for text in documents)


def test_the_standard_library_is_what_there_is_to_learn_from_by_default():
    assert len(read_documents()) > 10_000


@pytest.mark.parametrize("name", ["no_such_package", "no such folder", "json.decoder"])
def test_data_that_is_not_there_is_reported_by_its_name(name):
    with pytest.raises(ValueError, match=f"--data {name}"):
        read_documents(name)


@pytest.mark.parametrize("content", [b"", b"caf\xe9"])
def test_files_without_readable_text_are_reported(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match="--data"):
        read_documents(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="--data"):
        read_documents(str(tmp_path))


def test_a_text_file_that_is_not_utf_8_is_left_out_of_a_folder(source_folder, capsys):
    n_before = len(read_documents(str(source_folder)))
    for name, content in (("a.txt", b"caf\xe9"), ("b.txt", b"read"), ("c.txt", b"\xff\xfed\0")):
        (source_folder / name).write_bytes(content)
    documents = read_documents(str(source_folder))
    assert documents[-1] == "read" and len(documents) == n_before + 1
    lines = capsys.readouterr().err.splitlines()
    assert ["a.txt" in lines[0], "c.txt" in lines[1], len(lines)] == [True, True, 2]


def test_of_many_files_that_are_left_out_a_few_are_named(tmp_path, capsys):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_bytes(b"\xe9")
    (tmp_path / "good.txt").write_text("read", encoding="utf-8")
    assert read_documents(str(tmp_path)) == ["read"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_NOTICES + 1 and f"{20 - MAX_NOTICES} more" in lines[-1]


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("kind", ["link to itself", "folder"])
def test_what_is_no_file_is_left_out_of_a_folder(kind, ending, source_folder, capsys):
    expected = read_documents(str(source_folder))
    path = source_folder / f"odd{ending}"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    assert read_documents(str(source_folder)) == expected
    assert (path.name in capsys.readouterr().err) == (kind != "folder")


def test_a_file_that_vanishes_is_left_out(source_folder, capsys, monkeypatch):
    def vanishing(path):
        path.unlink()
        return python_functions(path)

    expected = read_documents(str(source_folder))  # a.py and b.py have the same functions
    plain = READERS[".py"]
    monkeypatch.setitem(
        READERS, ".py", lambda path: (vanishing if path.name == "a.py" else plain)(path)
    )
    assert read_documents(str(source_folder)) == expected
    assert "a.py" in capsys.readouterr().err


DEEP = 100_000
TOO_DEEP = {
    "elifs": "if x: pass\n" + "elif x: pass\n" * 5000,
    "brackets": "x = " + "[" * DEEP + "]" * DEEP,
    "open brackets": "x = " + "(" * DEEP,
    "signs": "x = " + "-" * DEEP + "1",
    "sums": "x = " + "1+" * DEEP + "1",
}


@pytest.mark.parametrize("source", TOO_DEEP.values(), ids=TOO_DEEP)
def test_a_source_file_that_is_too_deep_for_the_parser_is_left_out(source, source_folder):
    expected = read_documents(str(source_folder))
    (source_folder / "deep.py").write_text(source, encoding="utf-8")
    assert read_documents(str(source_folder)) == expected


def test_a_warning_about_a_source_file_changes_nothing(tmp_path):
    function = "def f():\n    return '\\d'\n"  # "invalid escape sequence"
    (tmp_path / "a.py").write_text(function, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_documents(str(tmp_path)) == [function]


def test_each_line_of_a_jsonl_file_is_a_document(tmp_path):
    path, texts = tmp_path / "data.jsonl", ["def f():\n    pass\n", "Zwölf\u2028", "x"]
    lines = [json.dumps({"text": text, "source": "a.py"}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_documents(str(path)) == texts
    assert read_documents(str(tmp_path)) == texts


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"text",
        b'["text"]',
        b'"text"',
        b"{}",
        b'{"text": 1}',
        b"\xe9",
        pytest.param(b'{"text": ' + b"[" * 100_000, id="deep"),
        pytest.param(b'{"text": ' + b"9" * 10_000 + b"}", id="digits"),
    ],
)
def test_a_line_that_is_no_document_is_reported_with_its_number(line, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(ValueError, match=r"--held_out .*data\.jsonl, line 2:"):
        read_documents(str(path), "--held_out")


@pytest.mark.parametrize("n", [2, 10, 95])
def test_every_document_is_trained_on_or_held_out(n):
    documents = [str(i) for i in range(n)]
    kept, held_out = split(documents, np.random.default_rng(0))
    assert sorted(kept + held_out) == sorted(documents)
    assert len(held_out) == max(1, n // 10)


def test_another_seed_holds_out_other_documents():
    documents = [str(i) for i in range(95)]
    _, held_out = split(documents, np.random.default_rng(0))
    _, others = split(documents, np.random.default_rng(1))
    assert held_out != others


def test_a_single_document_is_cut():
    kept, held_out = split(["0123456789" * 10], np.random.default_rng(0))
    assert kept == ["0123456789" * 9] and held_out == ["0123456789"]


# ---------------------------------------------------------------- token ids


def test_each_document_is_followed_by_the_end_of_text():
    encoder = learn_bpe(["ab"], 0)
    ids = token_ids(["ab", "c"], encoder)
    assert ids.tolist() == [*encoder.encode("ab"), encoder.eot, *encoder.encode("c"), encoder.eot]
