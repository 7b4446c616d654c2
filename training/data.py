"""What a model learns from: documents, and their token ids.

A document is a text that stands by itself, such as a function. To learn from another kind of file,
write a function that takes the path of such a file and returns its documents, and enter it in
`READERS`. No other code has to change: `documents_below` finds such files as it finds `*.py`.

Left out: text that does not fit in memory.
"""

import ast
import json
import os
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from encoder import Encoder

# ---------------------------------------------------------------- documents


def text_file(path: Path) -> list[str]:
    """The whole file as one document. Raises UnicodeDecodeError if it is not UTF-8."""
    return [path.read_text(encoding="utf-8")]


def json_lines(path: Path) -> Iterator[str]:
    """The documents of a JSON Lines file: each line is an object with a key "text".

    Format: https://jsonlines.org. Raises ValueError for a line that is something else.
    """
    with open(path, "rb") as file:  # bytes, so that a line that is not UTF-8 is named too
        for number, line in enumerate(file, start=1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, RecursionError, TypeError, KeyError):
                # not JSON, JSON of brackets in brackets, no object, no such key
                text = None
            if not isinstance(text, str):
                raise ValueError(f'{path}, line {number}: expected an object {{"text": "..."}}')
            yield text


def python_functions(path: Path) -> Iterator[str]:
    """The functions and methods of a file in their order, dedented; none if it cannot be parsed.

    A nested function is part of the outer one.
    """
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd strings in somebody else's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # templates, other encodings; the last two: too deep for the parser
    lines = source.split("\n")
    to_visit = [tree]
    while to_visit:
        node = to_visit.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
        else:
            to_visit += reversed(list(ast.iter_child_nodes(node)))


# How the name of a file ends -> the function that returns the documents of such a file. Within a
# folder a file is left out if that raises OSError or UnicodeDecodeError; ValueError ends the run.
READERS: dict[str, Callable[[Path], Iterable[str]]] = {
    ".py": python_functions,
    ".jsonl": json_lines,
    ".txt": text_file,
}
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}  # folders
MAX_NOTICES = 5


def read_documents(data: str | None = None, option: str = "--data") -> list[str]:
    """The documents to learn from: those of the file, folder or package that `data` names.

    None stands for Python's standard library. `option` is where the user gave the name.
    A file of a folder that cannot be read is left out, and standard error says so.
    Raises OSError or ValueError where there is nothing to read.
    """
    notices = []
    try:
        documents = documents_of(data, notices)
    except ValueError as error:
        raise ValueError(f"{option} {data}: {error}") from None
    for notice in notices[:MAX_NOTICES]:
        print(notice, file=sys.stderr)
    if len(notices) > MAX_NOTICES:
        print(f"and {len(notices) - MAX_NOTICES} more files are left out", file=sys.stderr)
    if not any(documents):
        kinds = ", ".join(f"*{ending}" for ending in READERS)
        raise ValueError(f"{option} {data}: nothing to learn from; expected text in files {kinds}")
    return documents


def documents_of(data: str | None, notices: list[str]) -> list[str]:
    """`read_documents`, but the result may be empty, errors do not name the option, and `notices`
    gets a line for each file that is left out."""
    if data is None:
        return documents_below(Path(sysconfig.get_paths()["stdlib"]), notices)
    path = Path(data)
    if path.is_file():  # a *.py file that is named by itself is one document
        reader = text_file if path.suffix == ".py" else READERS.get(path.suffix, text_file)
        return list(reader(path))
    if path.is_dir():
        return documents_below(path, notices, with_texts=True)
    return documents_below(package_folder(data), notices)


def documents_below(folder: Path, notices: list[str], with_texts: bool = False) -> list[str]:
    """The documents of all files below `folder`, each once, without the folders in LEFT_OUT.

    Plain text files are read only if `with_texts`: then all of them, and they come last.
    """
    documents, texts = {}, []  # a dict, not a set, since it keeps the order
    for ending, reader in READERS.items():
        for path in files_below(folder, ending):
            if reader is text_file:
                texts += documents_if_readable(path, reader, notices) if with_texts else []
            elif LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
                documents.update(dict.fromkeys(documents_if_readable(path, reader, notices)))
    return [*documents, *texts]


def files_below(folder: Path, ending: str) -> list[Path]:
    """What is below `folder` and no folder itself, sorted. Folders that are links are not entered.

    `os.walk` leaves out what it may not list or what has just gone; `Path.rglob` may raise.
    """
    places = ((place, names) for place, _, names in os.walk(folder))
    return sorted(Path(place, n) for place, names in places for n in names if n.endswith(ending))


def documents_if_readable(
    path: Path, reader: Callable[[Path], Iterable[str]], notices: list[str]
) -> list[str]:
    """The documents of a file; none, and a notice, if it cannot be read."""
    try:
        return list(reader(path))
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except OSError as error:
        reason = error.strerror
    notices.append(f"{path} is left out: {reason}")
    return []


def package_folder(name: str) -> Path:
    """The folder of an installed package, by its import name."""
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("no file, folder or package of that name")
    return Path(spec.submodule_search_locations[0])


def split(
    documents: list[str], rng: np.random.Generator, held_out: float = 0.1
) -> tuple[list[str], list[str]]:
    """Documents to train on, and the part `held_out` of them. A single one is cut near its end."""
    if len(documents) == 1:
        cut = round((1 - held_out) * len(documents[0]))
        return [documents[0][:cut]], [documents[0][cut:]]
    order = rng.permutation(len(documents))
    n_held_out = max(1, int(held_out * len(documents)))
    return [documents[i] for i in order[n_held_out:]], [documents[i] for i in order[:n_held_out]]


# ---------------------------------------------------------------- token ids


def token_ids(documents: list[str], encoder: Encoder) -> np.ndarray:
    """All documents, each followed by the id of `<|endoftext|>`: ids [n_tokens], int32."""
    parts = [[*encoder.encode(text), encoder.eot] for text in documents]
    return np.concatenate(parts).astype(np.int32)
