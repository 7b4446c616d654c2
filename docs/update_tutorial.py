"""Renews docs/tutorial.md and its figures, for instance after the bundled model was replaced.

    python -m docs.update_tutorial

The Python blocks of the tutorial are run in their order, as its reader runs them. What each prints
stands below it, in a block marked `output`, and is rewritten where it differs. A block that prints
nothing has none. Then docs/figures.py draws the figures. tests/docs/ fails where the
tutorial shows something else than what its blocks print. Takes a minute; needs sybil, matplotlib.
"""

import argparse
import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from unittest import SkipTest

import numpy as np

from docs.figures import draw_all
from fast.threads import one_blas_thread

DOCS = Path(__file__).resolve().parent
TUTORIAL = DOCS / "tutorial.md"
DECIMAL = re.compile(r" *(-?\d+\.\d*) *")


class Output(NamedTuple):
    """What a Python block printed, beside what the document shows."""

    line: int  # of the output block, or of a Python block that should have one
    start: int  # where the output block begins and ends in the text; equal if there is none
    end: int
    shown: str
    printed: str


def same_but_for_rounding(shown: str, printed: str) -> bool:
    """Whether two outputs are equal, or differ by one in the last digit of a decimal fraction.

    Processors round differently, so one of them may print 0.125 and another 0.126.

    >>> same_but_for_rounding("[ 0.125 -1.   ]", "[0.126 -1.]")
    True
    >>> same_but_for_rounding("loss 3.12", "loss 3.14")
    False
    """
    parts, other_parts = (
        DECIMAL.split(without_margin(shown)),
        DECIMAL.split(without_margin(printed)),
    )
    if parts[::2] != other_parts[::2] or len(parts) != len(other_parts):  # the text between numbers
        return False
    for number, other in zip(parts[1::2], other_parts[1::2], strict=True):
        n_digits = max(len(text.split(".")[1]) for text in (number, other))
        if abs(float(number) - float(other)) > 1.01 * 10**-n_digits:
            return False
    return True


def without_margin(text: str) -> str:
    """`text` without white space at the end of its lines, and without blank lines around it."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def run_blocks(path: Path, namespace: dict | None = None) -> Iterator[Output]:
    """Run the Python blocks of a Markdown file in order: yield each output, shown or not.

    `namespace` receives the names that they define. What stands between
    <!-- skip: start if(...) --> and <!-- skip: end --> is left out where the condition holds. It
    may use `find_spec` and the names of the blocks before it.
    """
    from sybil import Sybil
    from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

    parsers = [PythonCodeBlockParser(), CodeBlockParser("output", lambda example: None)]
    document = Sybil(parsers=[*parsers, SkipParser()]).parse(path)
    document.namespace = {} if namespace is None else namespace
    document.namespace["find_spec"] = find_spec
    printed, line_of_block = "", 0
    with np.printoptions(), one_blas_thread:  # the document may set its own print options
        for example in document.examples():
            is_output = document.text.startswith("```output", example.start)
            if not is_output and printed.strip():
                yield Output(line_of_block, example.start, example.start, "", printed)
                printed = ""
            try:
                with redirect_stdout(io.StringIO()) as stdout:
                    example.evaluate()
            except SkipTest:
                continue
            if is_output:
                block = document.text[example.start : example.end]
                shown = block.removeprefix("```output\n").removesuffix("```")
                yield Output(example.line, example.start, example.end, shown, printed)
            printed, line_of_block = stdout.getvalue(), example.line
    if printed.strip():
        yield Output(line_of_block, len(document.text), len(document.text), "", printed)


def wrong_outputs(path: Path) -> list[str]:
    """A line for each output of a Markdown file that its Python blocks do not print."""
    return [
        f"{path.name}:{output.line}: shown {output.shown!r}, printed {output.printed!r}"
        for output in run_blocks(path)
        if not same_but_for_rounding(output.shown, output.printed)
    ]


def renew(path: Path, namespace: dict | None = None) -> list[int]:
    """Rewrite the outputs of a Markdown file that are wrong: -> the lines where they stood.

    `namespace` is that of `run_blocks`. Raises ValueError for a block that prints something and has
    no output block.
    """
    text = path.read_text(encoding="utf-8")
    new_text, end_of_last, lines = "", 0, []
    for output in run_blocks(path, namespace):
        if output.start == output.end:
            raise ValueError(
                f"{path}, line {output.line}: this block prints {output.printed[:40]!r}; "
                "put an empty ```output block below it"
            )
        if not same_but_for_rounding(output.shown, output.printed):
            block = f"```output\n{without_margin(output.printed)}\n```"
            new_text += text[end_of_last : output.start] + block
            end_of_last = output.end
            lines.append(output.line)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(new_text + text[end_of_last:], encoding="utf-8")
    unfinished.replace(path)
    return lines


def main() -> None:
    """Renew the tutorial's outputs, and then draw its figures with the names it has defined."""
    argparse.ArgumentParser(
        prog="python -m docs.update_tutorial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    names = {}
    try:
        lines = renew(TUTORIAL, names)
    except ValueError as error:
        sys.exit(f"docs.update_tutorial: {error}")
    print(f"{TUTORIAL}: outputs renewed at lines {lines}" if lines else f"{TUTORIAL} is up to date")
    draw_all(names, DOCS / "figures")


if __name__ == "__main__":
    main()
