"""corpus.py: what becomes a document, what is left out, and that nothing leaks."""

import ast
import itertools
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import corpus
from corpus import Package, Reader, Seen, forms, shorten_docstrings

DOCUMENTED = '''\
class Stack:
    """A pile of things.

    The last one in is the first one out.
    """

    def push(self, item):
        """Put an item on top.

        item: anything
        """
        self.items.append(item)

    def peek(self):
        """Look at the top."""
'''


def shortened(source: str, keep: float, shorten: float) -> str:
    return shorten_docstrings(source, np.random.default_rng(0), keep, shorten)


def test_a_docstring_stays_as_it_is():
    assert shortened(DOCUMENTED, 1, 0) == DOCUMENTED


def test_a_docstring_is_cut_to_its_first_line():
    short = shortened(DOCUMENTED, 0, 1)
    docstrings = [
        ast.get_docstring(node)
        for node in ast.walk(ast.parse(short))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    ]
    assert docstrings == ["A pile of things.", "Put an item on top.", "Look at the top."]


def test_a_docstring_goes_and_an_empty_body_is_pass():
    without = shortened(DOCUMENTED, 0, 0)
    assert '"""' not in without
    assert ast.unparse(ast.parse(without)) == textwrap.dedent("""\
        class Stack:

            def push(self, item):
                self.items.append(item)

            def peek(self):
                pass""")


@pytest.mark.parametrize(
    "docstring", ['"""Says \\"no\\"."""', "'''A \"quoted\" word.'''", '"""\n"""']
)
def test_what_cannot_be_shortened_safely_goes(docstring):
    source = f"def f():\n    {docstring}\n    return 1\n"
    assert ast.unparse(ast.parse(shortened(source, 0, 1))) == "def f():\n    return 1"


def test_code_on_the_line_of_a_docstring_is_not_lost():
    source = 'def f(): "Twice."; return 2\n'
    assert "return 2" in shortened(source, 0, 0)


# ---------------------------------------------------------------- what is left out

FUNCTION = """\
def area(self, width, height):
    if width < 0:
        raise ValueError(width)
    scale = self.scale
    return scale * width * height
"""


def test_a_copy_is_recognised_by_its_lines():
    seen = Seen()
    assert seen.add(FUNCTION)
    assert not seen.add(FUNCTION)
    assert not seen.add(textwrap.indent("# Said twice.\n@cached\n" + FUNCTION, "    "))
    assert not seen.add(FUNCTION.replace("return scale", "return 2 * scale"))
    assert seen.add(FUNCTION.replace("width", "length"))


def test_after_add_whole_only_the_same_lines_are_a_copy():
    seen = Seen()
    seen.add_whole(FUNCTION)
    assert seen.add(FUNCTION.replace("return scale", "return 2 * scale"))
    assert not seen.add(FUNCTION)


def documents_of(source: str, tmp_path: Path, name: str = "a.py", reader: Reader | None = None):
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    return list((reader or Reader(Seen(), keep=1, shorten=0)).documents(path, name))


@pytest.mark.parametrize(
    "body",
    [
        "return [" + "'a word', " * 20 + "]",  # nearly all literals
        "x = 1\n    " + "y = x\n    " * 1000 + "return y",  # very long
        "return '" + "é" * 10 + "' + name + other + more",
        "...",
    ],
)
def test_functions_that_are_left_out(body, tmp_path):
    assert documents_of(f"def function(name, other, more):\n    {body}\n", tmp_path) == []


@pytest.mark.parametrize("source", ["def (:", "x = '\udcff'", "(" * 300, "\0"])
def test_a_file_that_cannot_be_parsed_has_no_documents(source, tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(source.encode("utf-8", "surrogateescape"))
    assert list(Reader(Seen(), 1, 0).documents(path, "a.py")) == []


# ---------------------------------------------------------------- documents


def big_class(n_methods: int) -> str:
    method = "    def method_{0}(self, value):\n        value_{0} = self.scale * value\n{1}"
    lines = "".join(f"        value_{{0}} += self.part_{k}(value)\n" for k in range(8))
    methods = [
        (method + lines).format(i, "") + f"        return value_{i}\n" for i in range(n_methods)
    ]
    return "class Thing(Base):\n    size = 3\n\n" + "\n".join(methods)


def test_a_class_is_cut_into_parts_below_its_first_line(tmp_path):
    n_methods, source = 20, big_class(20)
    seen_ways = set()
    for i in range(20):
        documents = documents_of(source, tmp_path, f"{i}.py")
        names = re.findall(r"def method_(\d+)", "".join(documents))
        assert names == [str(k) for k in range(n_methods)]  # each method once, in order
        whole = documents[0].startswith("class Thing")
        seen_ways.add(whole)
        for text in documents:
            ast.parse(text)
            assert text.startswith("class Thing(Base):\n" if whole else "def method_")
    assert seen_ways == {True, False}  # some classes in parts, of others the methods alone


def test_the_beginning_of_a_file_is_a_document_with_its_imports(tmp_path):
    source = f"'''About it.'''\nimport os\nfrom sys import argv\n\nSIZE = 3\n\n\n{FUNCTION}"
    beginnings = 0
    for i in range(30):
        documents = documents_of(source, tmp_path, f"{i}.py")
        text = "".join(documents)
        assert text.count("def area") == 1
        if len(documents) == 1 and text.startswith("import os\nfrom sys import argv\n\nSIZE = 3\n"):
            beginnings += 1
        else:
            assert documents == [FUNCTION]
    assert 3 <= beginnings <= 20


def test_the_same_file_gives_the_same_documents(tmp_path):
    source = big_class(9) + FUNCTION + DOCUMENTED
    reader = [Reader(Seen(), keep=0.3, shorten=0.3) for _ in range(2)]
    first, second = (documents_of(source, tmp_path, "x.py", r) for r in reader)
    assert first == second


# ---------------------------------------------------------------- all of it


STANDING = ["def standing():\n    return 1\n"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What main writes for two small packages and a stand-in for the standard library."""
    out = tmp_path_factory.mktemp("corpus")
    for name in ("known", "other", "unknown", "stdlib"):
        folder = out / "packages" / name / name
        (folder / "tests").mkdir(parents=True)
        for i in range(120):
            text = FUNCTION.replace("scale", f"{name}_{i}").replace("width", f"w_{i}_{name}")
            (folder / f"file_{i}.py").write_text(text, encoding="utf-8")
        (folder / "tests" / "some.py").write_text(FUNCTION, encoding="utf-8")
        (folder / "test_more.py").write_text(FUNCTION, encoding="utf-8")
    stdlib = out / "packages" / "stdlib"
    held_out = [(stdlib / "stdlib" / f"file_{i}.py").read_text("utf-8") for i in range(0, 120, 10)]
    copied = "class A:\n" + textwrap.indent("@property\n" + held_out[0], "    ")
    (out / "packages" / "known" / "known" / "vendored.py").write_text(copied, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            corpus, "PACKAGES", [Package("known", "1", "MIT", 3), Package("other", "1", "")]
        )
        patch.setattr(corpus, "UNSEEN", [Package("unknown", "1", "MIT")])
        patch.setattr(corpus, "standard_library", lambda: (STANDING, held_out))
        patch.setattr(corpus.sysconfig, "get_paths", lambda: {"stdlib": str(stdlib)})
        corpus.main(str(out))
    names = ("train", "cooldown", "polish", "held_out", "unseen")
    lines = {name: (out / f"{name}.jsonl").read_text("utf-8").splitlines() for name in names}
    return {name: [json.loads(line) for line in lines[name]] for name in names}, held_out


def test_no_test_is_a_document(written):
    documents, _ = written
    for document in itertools.chain(*documents.values()):
        assert FUNCTION not in document["text"]


def test_no_file_is_both_trained_on_and_held_out(written):
    documents, _ = written
    sources = {name: {d["source"] for d in documents[name]} for name in documents}
    assert not sources["train"] & sources["held_out"]
    assert 0 < len(sources["held_out"]) < 30
    # The functions of the standard library are also in the other files, by another split.
    assert not any(source.startswith("stdlib") for source in sources["held_out"])
    assert len(sources["train"] | sources["held_out"]) > 340  # of 3 x 120 less 12


def test_an_unseen_package_is_nowhere_else(written):
    documents, _ = written
    assert len(documents["unseen"]) == 120
    assert not any("unknown" in d["text"] for d in documents["train"] + documents["held_out"])


def test_a_held_out_function_of_the_standard_library_is_nowhere_even_copied(written):
    documents, held_out = written
    texts = [d["text"] for name in documents for d in documents[name]]
    for function in held_out:
        marker = re.search(r"w_\d+_stdlib", function)[0]
        assert not any(marker in text for text in texts)


def test_the_cooldown_has_functions_as_they_stand_and_documents_of_the_training(written):
    documents, _ = written
    texts = [d["text"] for d in documents["cooldown"]]
    assert texts[:3] == 3 * STANDING
    expected = [d for d in documents["train"] if corpus.is_short_and_plain(d["text"])]
    assert documents["cooldown"][3:] == expected != []
    assert [d["text"] for d in documents["polish"][:1]] == STANDING
    assert documents["polish"][1:] == expected  # none has a comment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    x += 1\n\n    return x\n\n", True),
        ("def f(x):\n    x += 1\n    x += 1\n", False),
        ('def f(x):\n    """What it does."""\n', False),
        ("def f(x):\n    '''What it does.'''\n", False),
        ("def f(x):\n    return " + 300 * "x + ", False),
    ],
)
def test_short_and_plain_documents(text, expected):
    assert corpus.is_short_and_plain(text) == expected


def test_a_comment_is_a_line_of_its_own():
    assert corpus.has_comment("def f():\n    # what\n    pass\n")
    assert not corpus.has_comment("def f():\n    pass  # what\n")


def test_documents_of_some_packages_stand_more_than_once(written):
    documents, _ = written
    texts = [d["text"] for d in documents["train"]]
    for name, times in (("stdlib", 2), ("known", 3), ("other", 1)):
        counts = {texts.count(text) for text in texts if f"_{name}," in text}
        assert counts == {times}


def test_a_package_over_the_limit_gives_whole_files():
    documents = [{"source": f"{i // 3}", "text": "x" * 10} for i in range(300)]
    kept = corpus.at_most(documents, 700, "name")
    assert 600 < sum(len(d["text"]) for d in kept) <= 700
    files = [d["source"] for d in kept]
    assert all(files.count(file) == 3 for file in files)
    assert kept == [d for d in documents if d["source"] in files]


def test_all_forms_of_a_function_with_a_docstring():
    function = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
    whole, short, without = forms(function)
    assert whole == function
    assert "One." in short and "Two." not in short and '"""' not in without
