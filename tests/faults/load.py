"""Load: long texts, many calls, many threads. Memory and speed stay, and so do the ids.

`python -m tests.faults.load KIND N` is the process that is measured, and prints JSON.
"""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import gpt2
import utils
from tests.faults.outcome import RIGHT, Case, FaultClass

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20
MOST_GROWTH = 12 * MB  # from the end of the first quarter: the ids of the text, and some noise
MOST_SLOWER = 2.0  # the fast part of the last quarter against that of the second
PROMPTS = ("def add(a, b):\n", "import os\n\n" + "x = 1\n" * 40, "class Stack:\n" * 3)
N_TOKENS = 40  # in one call


class Model:
    """The bundled model, and what it writes after each prompt when nothing else runs."""

    def __init__(self):
        self.encoder, hparams, self.params = utils.load_model("python", str(ROOT / "models"))
        self.n_head = hparams["n_head"]
        self.prompts = [self.encoder.encode(text) for text in PROMPTS]
        self.alone = [self.write(i) for i in range(len(PROMPTS))]

    def stream(self, i: int, n_tokens: int, **options: object) -> Iterator[int]:
        return gpt2.generate_stream(self.prompts[i], self.params, self.n_head, n_tokens, **options)

    def write(self, i: int) -> list[int]:
        return list(self.stream(i, N_TOKENS))


def memory() -> int:
    """The bytes of memory that this process has now."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def tokens(model: Model, n: int) -> Iterator[bool]:
    """One text of `n` tokens, past the window many times; the first ones once more at the end."""
    found = []
    for new_id in model.stream(0, n, temperature=1.0, rng=np.random.default_rng(0)):
        found.append(new_id)
        yield True
    again = model.stream(0, n // 10, temperature=1.0, rng=np.random.default_rng(0))
    yield list(again) == found[: n // 10]


def calls(model: Model, n: int) -> Iterator[bool]:
    """`n` calls of `generate`, one after the other; some generators are left halfway."""
    for k in range(n):
        i = k % len(PROMPTS)
        next(model.stream(i, N_TOKENS))
        yield model.write(i) == model.alone[i]


def eight_threads(model: Model, seconds: int) -> Iterator[bool]:
    """Eight threads generate for so long."""
    right, end = [], time.monotonic() + seconds

    def work(i: int) -> None:
        while time.monotonic() < end:
            right.append(model.write(i) == model.alone[i])

    threads = [threading.Thread(target=work, args=(k % len(PROMPTS),)) for k in range(8)]
    for thread in threads:
        thread.start()
    n_seen = 0
    while any(thread.is_alive() for thread in threads):
        while n_seen == len(right) and any(thread.is_alive() for thread in threads):
            time.sleep(0.001)
        yield all(right[n_seen:])
        n_seen = len(right)


KINDS: dict[str, Callable[[Model, int], Iterator[bool]]]
KINDS = {"tokens": tokens, "calls": calls, "threads": eight_threads}


def measure(kind: str, n: int) -> dict[str, float]:
    """Run a load: whether all ids were right, how memory grew (bytes), how times grew (ratio)."""
    model = Model()
    all_right, sizes, times = True, [], [time.monotonic()]
    for is_right in KINDS[kind](model, n):
        all_right &= is_right
        sizes.append(memory())
        times.append(time.monotonic())
    quarter = len(sizes) // 4
    took = np.diff(times)[:-1]
    second, last = took[quarter : 2 * quarter], took[3 * quarter :]
    return {
        "right": all_right,
        "growth": max(sizes[3 * quarter :]) - sizes[quarter],
        "slower": float(np.quantile(last, 0.2) / np.quantile(second, 0.2)),
    }


def run_load(kind: str, n: int, judges_speed: bool) -> str:
    command = [sys.executable, "-m", "tests.faults.load", kind, str(n)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        return f"status {done.returncode}: {done.stderr[-500:]!r}"
    found = json.loads(done.stdout)
    if not found["right"]:
        return "other ids than alone"
    if found["growth"] > MOST_GROWTH:
        return f"{found['growth'] / MB:.1f} MB of memory more than after the first quarter"
    if judges_speed and found["slower"] > MOST_SLOWER:
        return f"{found['slower']:.2f} times as slow in the end"
    return RIGHT


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Short loads first, then those that count; Linux only, which tells a process its memory."""
    del rng, folder
    while True:
        for kind, n in (("tokens", 600), ("calls", 20), ("threads", 2)):
            yield Case(f"{kind} {n}", partial(run_load, kind, n, judges_speed=False))
        for kind, n in (("tokens", 10_000), ("calls", 1000), ("threads", 600)):
            yield Case(f"{kind} {n}", partial(run_load, kind, n, judges_speed=True))


LOAD = FaultClass("load: 10,000 tokens, 1,000 calls, 8 threads for 10 minutes", 6, 3, cases)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
