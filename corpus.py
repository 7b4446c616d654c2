"""The Python code that the bundled model learned from: fetch it, clean it, write it as documents.

    python corpus.py --out ../corpus

installs the packages below, without what they depend on, into folders of their own (--out must not
be within the project, whose files tools would then read), and writes five files of documents, one
JSON object a line (`{"source": "django/utils/text.py", "text": "def ..."}`):

- `train.jsonl`: the standard library of this Python and the packages of `PACKAGES`;
- `cooldown.jsonl`, for the end of the training: half of it the functions of the standard library
  just as they stand, each `COOLDOWN_TIMES`, the other half those documents of `train.jsonl` that
  are short, without a docstring, and have no line twice;
- `polish.jsonl`, for the very end: those of the functions that have no docstring, and those of the
  short documents that have no comment either;
- `held_out.jsonl`: the code of one file in fifty of the packages, so that no neighbour of a
  held-out function was trained on (not of the standard library, whose functions `train.py` splits);
- `unseen.jsonl`: two packages, `UNSEEN`, of which nothing is in the other files.

A document is a function; a class, or a part of it below its `class` line; or the beginning of a
file, with its imports. What is left out: tests, most docstrings, functions that are very long or
nearly all literals, and what was already there (see `Seen`). The functions of the standard library
that `train.py` holds out by itself are in none of the files.

Left out: documents other than code; code that is neither in the standard library nor in a wheel
without compiled parts.
"""

import ast
import json
import subprocess
import sys
import sysconfig
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command_line import run
from training.data import LEFT_OUT, read_documents, split


class Package(NamedTuple):
    name: str
    version: str
    licence: str
    times: int = 1  # how often its documents stand in train.jsonl


STANDARD_LIBRARY = Package("the standard library", "", "PSF-2.0", times=2)
PACKAGES = [
    Package("algorithms", "1.0.1", "MIT", times=3),
    Package("boltons", "26.2.0", "BSD-3-Clause"),
    Package("celery", "5.7.0", "BSD-3-Clause"),
    Package("cirq-core", "1.7.0", "Apache-2.0"),
    Package("click", "8.5.1", "BSD-3-Clause"),
    Package("dask", "2026.8.0", "BSD-3-Clause"),
    Package("discord.py", "2.7.1", "MIT"),
    Package("django", "5.2.19", "BSD-3-Clause"),
    Package("flask", "3.1.3", "BSD-3-Clause"),
    Package("fonttools", "4.68.0", "MIT"),
    Package("homeassistant", "2024.3.3", "Apache-2.0"),
    Package("ipython", "9.18.1", "BSD-3-Clause"),
    Package("keras", "3.15.1", "Apache-2.0"),
    Package("langchain-community", "0.4.2", "MIT"),
    Package("manim", "0.22.0", "MIT"),
    Package("mlflow", "3.18.0", "Apache-2.0"),
    Package("more-itertools", "11.2.1", "MIT"),
    Package("mpmath", "1.4.1", "BSD-3-Clause"),
    Package("nltk", "3.10.4", "Apache-2.0"),
    Package("nova", "34.0.0", "Apache-2.0"),
    Package("pennylane", "0.45.1", "Apache-2.0"),
    Package("prompt_toolkit", "3.0.53", "BSD-3-Clause"),
    Package("pygorithm", "1.0.4", "MIT", times=3),
    Package("pyomo", "6.10.1", "BSD-3-Clause"),
    Package("pypdf", "7.1.1", "BSD-3-Clause"),
    Package("pytest", "9.2.0", "MIT"),
    Package("pywikibot", "11.9.0", "MIT"),
    Package("rich", "15.0.0", "MIT"),
    Package("setuptools", "84.2.1", "MIT"),
    Package("sphinx", "9.0.4", "BSD-2-Clause"),
    Package("sqlalchemy", "2.1.9", "MIT"),
    Package("streamlit", "1.67.0", "Apache-2.0"),
    Package("sympy", "1.14.0", "BSD-3-Clause"),
    Package("textual", "8.2.8", "MIT"),
    Package("transformers", "5.24.0", "Apache-2.0"),
    Package("trimesh", "5.2.0", "MIT"),
    Package("twisted", "26.10.0", "MIT"),
    Package("wagtail", "8.0.1", "BSD-3-Clause"),
    Package("werkzeug", "3.1.9", "BSD-3-Clause"),
    Package("xarray", "2026.9.0", "Apache-2.0"),
]
UNSEEN = [
    Package("jedi", "0.20.1", "MIT"),
    Package("mongoengine", "0.29.3", "MIT"),
]

MOST_OF_ONE_PACKAGE = 7_000_000  # bytes
SMALLEST, LARGEST = 40, 6000  # bytes of a function
CLASS_PART = 1800  # bytes of a class, or of the beginning of a file, in one document
LONGEST_LINE = 120
MOST_LITERALS = 0.4  # of the bytes of a function
LONGEST_DOCSTRING = 1000  # characters
SUMMARY = 88  # bytes of a docstring's first paragraph that may stand for all of it
HELD_OUT_FILES = 50  # one file in so many is held out
COOLDOWN_TIMES = 3  # how often a function of the standard library is in the cooldown
COOLDOWN_LONGEST = 1000  # characters of the other documents there

# ---------------------------------------------------------------- fetching


def install(package: Package, folder: Path) -> Path:
    """The wheel of a package, without compiled parts, unpacked into a folder of its own."""
    target = folder / package.name
    if not target.exists():
        print(f"installing {package.name} {package.version}", file=sys.stderr)
        options = "--quiet --no-deps --no-compile --only-binary=:all: --ignore-requires-python"
        options += " --platform any --implementation py --abi none --target"
        requirement = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "install", *options.split(), target, requirement]
        subprocess.run(command, check=True)
    return target


def python_files(folder: Path) -> list[Path]:
    """The *.py below `folder`, without tests: in an order that any machine has."""
    left_out = LEFT_OUT | {"testing", "idlelib", "_vendor", "vendored", "migrations", "locale"}
    paths = [path.relative_to(folder) for path in folder.rglob("*.py")]
    paths = [path for path in paths if left_out.isdisjoint(path.parts)]
    paths = [p for p in paths if not p.name.startswith(("test_", "conftest"))]
    paths = [p for p in paths if not p.name.endswith(("_test.py", "_tests.py", "_pb2.py"))]
    return [folder / path for path in sorted(paths, key=lambda path: path.parts)]


# ---------------------------------------------------------------- docstrings

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


def docstring_node(definition: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a function, class or module."""
    if definition.body and isinstance(definition.body[0], ast.Expr):
        value = definition.body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return definition.body[0]
    return None


def summary_line(docstring: str) -> str | None:
    """A docstring's first paragraph in one line, if it is short and safe to quote."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    if not paragraph or len(paragraph) > SUMMARY or '"' in paragraph or "\\" in paragraph:
        return None
    return f'"""{paragraph}"""'


def shorten_docstrings(source: str, rng: np.random.Generator, keep: float, shorten: float) -> str:
    """`source` with a part `keep` of its docstrings as they are, a part `shorten` cut to a line.

    The others go, and so do docstrings whose first paragraph is too long for a line. Where nothing
    else is in a body, it is `pass`. Raises SyntaxError.
    """
    lines = source.split("\n")
    changes = []  # (first line, line after the last, new lines)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, DEFINITIONS):
            continue
        statement = docstring_node(node)
        if statement is None or lines[statement.lineno - 1][: statement.col_offset].strip():
            continue
        draw = rng.random()
        if draw < keep and len(statement.value.value) < LONGEST_DOCSTRING:
            continue
        summary = summary_line(statement.value.value) if draw < keep + shorten else None
        if summary is None and len(node.body) == 1:
            summary = "pass"
        new = [" " * statement.col_offset + summary] if summary else []
        changes.append((statement.lineno - 1, statement.end_lineno, new))
    for start, end, new in sorted(changes, reverse=True):
        if not new and end < len(lines) and not lines[end].strip():
            end += 1  # the empty line after it goes too
        lines[start:end] = new
    return "\n".join(lines)


# ---------------------------------------------------------------- what is left out


def worth_keeping(text: str, node: ast.AST) -> bool:
    """Whether the source of a function is of a fair size and mostly code."""
    if not SMALLEST <= len(text) <= LARGEST or not text.isascii():
        return False
    if max(map(len, text.split("\n"))) > LONGEST_LINE:
        return False
    if isinstance(node.body[-1], ast.Expr) and isinstance(node.body[-1].value, ast.Constant):
        return False  # nothing but `...` or a docstring
    literals = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return sum(len(str(value)) for value in literals) < MOST_LITERALS * len(text)


class Seen:
    """The functions so far, to recognise copies of them.

    A function is a copy if all of its lines, or seven in ten of its pairs of neighbouring lines,
    were there before. Indentation, empty lines, comments and decorators do not count.
    """

    def __init__(self) -> None:
        self.wholes, self.pairs = set(), set()

    def add_whole(self, text: str) -> None:
        """From now on a function of the same lines is a copy, but one of similar lines is not."""
        self.wholes.add(hash(tuple(code_lines(text))))

    def add(self, text: str) -> bool:
        """Add a function; -> whether it was new."""
        lines = code_lines(text)
        whole, pairs = hash(tuple(lines)), {hash(pair) for pair in pairwise(lines)}
        known = len(pairs & self.pairs)
        is_copy = whole in self.wholes or (len(pairs) > 2 and known >= 0.7 * len(pairs))
        self.wholes.add(whole)
        self.pairs |= pairs
        return not is_copy


def code_lines(text: str) -> list[str]:
    """The lines without their indentation; neither empty ones nor comments nor decorators."""
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith(("#", "@"))]


# ---------------------------------------------------------------- documents


class Reader:
    """Makes the documents of files; knows what was there before.

    `keep` and `shorten` are the parts of docstrings that stay as they are and in one line.
    """

    def __init__(self, seen: Seen, keep: float, shorten: float) -> None:
        self.seen, self.keep, self.shorten = seen, keep, shorten

    def documents(self, path: Path, name: str) -> Iterator[str]:
        """The documents of the file at `path`; what is drawn at random depends on `name`."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        try:
            source = path.read_text(encoding="utf-8").expandtabs(4)
            source = shorten_docstrings(source, rng, self.keep, self.shorten)
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # templates, others
            return
        lines = source.split("\n")
        statements = tree.body
        if rng.random() < 0.3:
            beginning, statements = self.beginning(statements, lines)
            if beginning:
                yield beginning
        for node in statements:
            yield from self.below(node, lines, rng)

    def below(self, node: ast.AST, lines: list[str], rng: np.random.Generator) -> Iterator[str]:
        """The documents of a statement and of what is within it."""
        if isinstance(node, FUNCTIONS):
            if (text := self.function(node, lines)) is not None:
                yield text
        elif isinstance(node, ast.ClassDef) and rng.random() < 0.5:
            yield from self.parts_of_class(node, lines)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    yield from self.below(child, lines, rng)

    def function(self, node: ast.AST, lines: list[str]) -> str | None:
        """The source of a function, dedented; None if it is left out."""
        text = textwrap.dedent("\n".join(lines[first_line(node) : node.end_lineno])) + "\n"
        return text if worth_keeping(text, node) and self.seen.add(text) else None

    def parts_of_class(self, node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
        """A class in parts, each of which begins with its `class` line."""
        start = first_line(node)
        head = lines[start : first_line(node.body[0])]
        part, n_members = "", 0
        for member in node.body:
            is_function = isinstance(member, FUNCTIONS)
            if is_function and self.function(member, lines) is None:
                continue
            text = "\n".join(lines[first_line(member) : member.end_lineno]) + "\n"
            if not is_function and (len(text) > 300 or not text.isascii()):
                continue
            if part and len(part) + len(text) > CLASS_PART:
                if n_members:
                    yield textwrap.dedent("\n".join(head) + "\n" + part)
                part, n_members = "", 0
            if part and is_function:
                part += "\n"
            part += text
            n_members += is_function
        if n_members:
            yield textwrap.dedent("\n".join(head) + "\n" + part)

    def beginning(self, body: list[ast.stmt], lines: list[str]) -> tuple[str, list[ast.stmt]]:
        """The imports of a file and what follows up to a class, as one document: -> it, the rest

        The document is empty if that is nothing but imports, or none.
        """
        is_import = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        start = end = is_import.index(True) if any(is_import) else len(body)
        text = ""
        while (
            end < len(body) and len(text) < CLASS_PART and not isinstance(body[end], ast.ClassDef)
        ):
            node = body[end]
            end += 1
            if isinstance(node, FUNCTIONS):
                part = self.function(node, lines)
                text += f"\n\n{part}" if part else ""
            elif node.end_lineno - node.lineno < 20:
                between = lines[first_line(node) - 1].strip() == "" and text != ""
                part = "\n".join(lines[first_line(node) : node.end_lineno]) + "\n"
                text += f"\n{part}" if between else part
        if all(is_import[start:end]) or not text.isascii():
            return "", body
        return text, body[end:]


def first_line(node: ast.stmt) -> int:
    """The index of a statement's first line, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1


# ---------------------------------------------------------------- all of it


def standard_library() -> tuple[list[str], list[str]]:
    """The functions that `train.py` without --data and --seed trains on, and those it holds out."""
    return split(read_documents(), np.random.default_rng(0))


def forms(text: str) -> Iterator[str]:
    """A function with its docstring as it is, in one line, and without it."""
    for keep, shorten in ((1, 0), (0, 1), (0, 0)):
        try:
            yield shorten_docstrings(text, np.random.default_rng(0), keep, shorten)
        except SyntaxError:  # a string within it stands further left than its first line
            yield text


def at_most(documents: list[dict], n_bytes: int, name: str) -> list[dict]:
    """The documents of as many files, drawn at random, as do not exceed `n_bytes` together."""
    sizes = Counter()
    for document in documents:
        sizes[document["source"]] += len(document["text"])
    files = sorted(sizes)
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(files))
    totals = np.cumsum([sizes[files[i]] for i in order])
    chosen = {files[i] for i in order[totals <= n_bytes]}
    return [document for document in documents if document["source"] in chosen]


def read_package(package: Package, folder: Path, reader: Reader) -> list[dict]:
    """The documents of all files of a package, and the names of the files."""
    documents = []
    for path in python_files(folder):
        source = path.relative_to(folder).as_posix()
        texts = reader.documents(path, source)
        documents += [{"source": source, "text": text} for text in texts]
    documents = at_most(documents, MOST_OF_ONE_PACKAGE, package.name)
    n_bytes = sum(len(document["text"]) for document in documents)
    print(f"{package.name}: {len(documents)} documents, {n_bytes} bytes", file=sys.stderr)
    return documents


def one_file_in(n: int, document: dict) -> bool:
    """Whether the file of a document is among one in `n`, which only depends on its name."""
    return zlib.crc32(document["source"].encode()) % n == 0


def cooldown_documents(functions: list[str], train: list[dict]) -> list[dict]:
    """Functions of the standard library, and about as many bytes of the other documents.

    What the model learns last is what its own text is most like: short documents, that end soon and
    do not repeat themselves.
    """
    of_library = [{"source": STANDARD_LIBRARY.name, "text": text} for text in functions]
    return COOLDOWN_TIMES * of_library + [d for d in train if is_short_and_plain(d["text"])]


def polish_documents(functions: list[str], train: list[dict]) -> list[dict]:
    """Functions of the standard library without docstrings, and other documents like them."""
    others = [d for d in train if is_short_and_plain(d["text"]) and not has_comment(d["text"])]
    return [
        {"source": STANDARD_LIBRARY.name, "text": text}
        for text in functions
        if not has_docstring(text)
    ] + others


def has_docstring(text: str) -> bool:
    """Whether there are triple quotes in it, which may also be those of another string."""
    return '"""' in text or "'''" in text


def is_short_and_plain(text: str) -> bool:
    """Whether a document is short, has no docstring (nor its like), and no line twice."""
    lines = [line for line in text.split("\n") if line.strip()]
    plain = not has_docstring(text) and len(lines) == len(set(lines))
    return plain and len(text) <= COOLDOWN_LONGEST


def has_comment(text: str) -> bool:
    """Whether a line of it is a comment."""
    return any(line.lstrip().startswith("#") for line in text.split("\n"))


def write_documents(path: Path, documents: Iterable[dict]) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(document) + "\n")


def main(out: str) -> None:
    """Fetch Python code that may be used freely, and write it as documents for train.py.

      python corpus.py --out ../corpus
      python train.py --data ../corpus/train.jsonl --held_out ../corpus/held_out.jsonl

    --out FOLDER    where the packages are installed and the documents written: some 700 MB
    """
    folder, packages = Path(out), Path(out) / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    some_docstrings = Reader(seen, keep=0.15, shorten=0.35)
    unseen = []
    for package in UNSEEN:
        unseen += read_package(package, install(package, packages), some_docstrings)
    # The standard library may keep what is similar to its held-out functions, as train.py has it.
    functions, held_out_functions = standard_library()
    held_out_functions = [form for text in held_out_functions for form in forms(text)]
    for text in held_out_functions:
        seen.add_whole(text)
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    known = {STANDARD_LIBRARY: read_package(STANDARD_LIBRARY, stdlib, Reader(seen, 0.8, 0.1))}
    for text in held_out_functions:
        seen.add(text)
    for package in PACKAGES:
        known[package] = read_package(package, install(package, packages), some_docstrings)
    train = STANDARD_LIBRARY.times * known.pop(STANDARD_LIBRARY)
    held_out = []
    for package, documents in known.items():
        held_out += [d for d in documents if one_file_in(HELD_OUT_FILES, d)]
        train += package.times * [d for d in documents if not one_file_in(HELD_OUT_FILES, d)]
    write_documents(folder / "train.jsonl", train)
    write_documents(folder / "cooldown.jsonl", cooldown_documents(functions, train))
    write_documents(folder / "polish.jsonl", polish_documents(functions, train))
    write_documents(folder / "held_out.jsonl", held_out)
    write_documents(folder / "unseen.jsonl", unseen)


if __name__ == "__main__":
    run(main)
