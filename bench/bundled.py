"""How good the bundled model is, and what it writes.

1. Bits per byte on code that it has not learned from, over 100 windows spread evenly: the functions
   of the standard library that `train.py` holds out by itself; with --corpus FOLDER, made by
   `python corpus.py --out FOLDER`, also files held out of the training packages, and two
   packages of which it saw nothing, as documents like those it learned from and as functions just
   as they stand in the files.
2. The signatures in `bench/signatures.txt`, of functions of those two packages, each continued
   greedily by up to 100 tokens, to the model's own end or, where that does not come, to the end of
   the last whole line: how many are then Python for its parser, and how many of the lines of a
   continuation are distinct (empty ones do not count).
3. Prompts continued in the same way, and once more at temperature 0.8.

--write_signatures chooses the signatures anew, from --corpus. Half a minute on two cores.
"""

import ast
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.measure import ROOT, Options, write_json
from corpus import UNSEEN, python_files, standard_library
from gpt2 import generate
from training.batch_loss import batch_loss
from training.batches import spread_windows
from training.data import python_functions, read_documents, token_ids
from utils import load_encoder_hparams_and_params

SIGNATURES = ROOT / "bench" / "signatures.txt"
N_SIGNATURES = 100
PROMPTS = [
    "def fibonacci(n):",
    "def is_prime(n):",
    "class Stack:",
    "import os",
    "def read_json(path):",
    "def add(a, b):",
    "def factorial(n):",
    "def reverse(text):",
    "def count_words(text):",
    "def write_file(path, data):",
    "def parse_args(argv):",
    "def __init__(self, name, value=None):",
    "def __repr__(self):",
    "def __eq__(self, other):",
    "def get(self, key, default=None):",
    "def main():",
    "async def connect(self, host, port):",
    "@property\ndef size(self):",
    "class Queue:\n    def __init__(self):",
    "from collections import",
]
TEMPERATURE, SEED = 0.8, 0
N_TOKENS = 100


# ---------------------------------------------------------------- bits per byte


def bits_per_byte(model, documents: list[str]) -> float:
    """Over 100 windows spread evenly over the documents, each closed by `<|endoftext|>`."""
    encoder, hparams, params = model
    ids = token_ids(documents, encoder)
    n_bytes = sum(len(text.encode("utf-8")) + 1 for text in documents)  # 1: <|endoftext|>
    batch = spread_windows(ids, hparams["n_ctx"])
    loss = batch_loss(params, hparams["n_head"], *batch)  # nats per token
    return loss / math.log(2) * len(ids) / n_bytes


def code_it_has_not_seen(corpus: Path | None) -> Iterator[tuple[str, list[str]]]:
    """What to measure bits per byte on: names and documents."""
    yield "standard library, held-out functions", standard_library()[1]
    if corpus:
        yield (
            "held-out files of the training packages",
            read_documents(str(corpus / "held_out.jsonl")),
        )
        names = " and ".join(package.name for package in UNSEEN)
        yield f"{names}, as documents", read_documents(str(corpus / "unseen.jsonl"))
        yield f"{names}, functions as they stand", unseen_functions(corpus)


def unseen_functions(corpus: Path) -> list[str]:
    """All functions of the packages that are not trained on, just as they stand in the files."""
    paths = [p for package in UNSEEN for p in python_files(corpus / "packages" / package.name)]
    return [text for path in paths for text in python_functions(path)]


# ---------------------------------------------------------------- continuations


def write_signatures(corpus: Path) -> None:
    """Choose the signatures that stand on one line, of functions spread evenly over all."""
    signatures = {}  # a dict, not a set, since it keeps the order
    for text in unseen_functions(corpus):
        try:
            function = ast.parse(text).body[0]
        except SyntaxError:  # a string within it stands further left than its first line
            continue
        line = text.partition("\n")[0]
        if line.endswith(":") and function.lineno == 1 and len(function.body) > 1:
            signatures[line] = None
    chosen = list(signatures)[:: len(signatures) // N_SIGNATURES][:N_SIGNATURES]
    SIGNATURES.write_text("\n".join(chosen) + "\n", encoding="utf-8")


def continuation(model, prompt: str, **sampling) -> str:
    """The text after the prompt: all of it if it ended by itself, otherwise its whole lines."""
    encoder, hparams, params = model
    ids = generate(
        encoder.encode(prompt),
        params,
        hparams["n_head"],
        N_TOKENS,
        stop_id=encoder.eot,
        **sampling,
    )
    text = encoder.decode(ids)
    if len(ids) < N_TOKENS:
        return text
    return text[: text.rfind("\n") + 1]


def parses(source: str) -> bool:
    """Whether Python's parser takes it."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def code_lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.split("\n") if line.strip()]


def count_signatures(model, signatures: list[str]) -> dict[str, float]:
    """How many continuations parse, and how many of their lines are distinct."""
    n_parsed = n_lines = n_distinct = 0
    for signature in signatures:
        text = continuation(model, signature)
        n_parsed += parses(signature + text)
        lines = code_lines(text)
        n_lines += len(lines)
        n_distinct += len(set(lines))
    return {
        "signatures": len(signatures),
        "parse": n_parsed / len(signatures),
        "lines": n_lines,
        "distinct": n_distinct / max(1, n_lines),
    }


def show(prompt: str, text: str, how: str) -> None:
    verdict = "parses" if parses(prompt + text) else "does not parse"
    print(f"--- {how}: {verdict}")
    print(textwrap.indent(prompt + text.rstrip("\n"), "    "))


def main():
    options = Options("bench.bundled", __doc__)
    options.add_argument("--model_size", default="python", help="a model folder (python)")
    options.add_argument("--models_dir", default=str(ROOT / "models"), help="where it is (models)")
    options.add_argument("--corpus", type=Path, help="what corpus.py wrote (not measured on)")
    options.add_argument("--write_signatures", action="store_true", help="and nothing else")
    options.add_json()
    arguments = options.parse_args()
    if arguments.write_signatures:
        if not arguments.corpus:
            options.error("--write_signatures needs --corpus")
        return write_signatures(arguments.corpus)
    model = load_encoder_hparams_and_params(arguments.model_size, arguments.models_dir)
    figures = {"bits_per_byte": {}}
    for name, documents in code_it_has_not_seen(arguments.corpus):
        figures["bits_per_byte"][name] = round(bits_per_byte(model, documents), 3)
        print(f"{figures['bits_per_byte'][name]:.3f} bits per byte: {name}")
    signatures = SIGNATURES.read_text(encoding="utf-8").splitlines()
    figures |= count_signatures(model, signatures)
    print(
        f"{figures['parse']:.0%} of {len(signatures)} continued signatures parse, "
        f"{figures['distinct']:.2f} of {figures['lines']} lines are distinct\n"
    )
    for prompt in PROMPTS:
        show(prompt, continuation(model, prompt), "greedy")
        rng = np.random.default_rng(SEED)
        text = continuation(model, prompt, temperature=TEMPERATURE, rng=rng)
        show(prompt, text, f"temperature {TEMPERATURE}, seed {SEED}")
    write_json(figures, arguments.json)


if __name__ == "__main__":
    main()
