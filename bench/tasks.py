"""What bench.compare times within a process: each task takes a contender with its model loaded and
returns seconds, or None where the contender has no such thing."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from bench.contenders import Generator

N_VOCAB = 50257
SHORT = np.random.default_rng(0).integers(0, N_VOCAB, 10).tolist()
LONG = np.random.default_rng(1).integers(0, N_VOCAB, 1000).tolist()
N_PREFILL = 512
TEXTS_SEED = 2


@dataclass
class Lengths:
    """How many tokens the tasks take."""

    decode: int = 65
    decode_without_cache: int = 4
    at_1000: int = 16
    texts: int = 17


FULL = Lengths()
QUICK = Lengths(decode=33, decode_without_cache=3, at_1000=9, texts=9)


def times_of(items: Iterable) -> list[float]:
    """Seconds at which each item of an iterator comes, from now."""
    start = time.perf_counter()
    return [time.perf_counter() - start for _ in items]


def between(times: list[float]) -> float:
    """The median time between two tokens; the first, which reads the prompt, is left out."""
    return statistics.median(np.diff(times))


def decode(generator: Generator, lengths: Lengths) -> float:
    """A token after a prompt of 10."""
    n_tokens = lengths.decode if generator.has_cache else lengths.decode_without_cache
    return between(times_of(generator.stream(SHORT, n_tokens)))


def decode_at_1000(generator: Generator, lengths: Lengths) -> float | None:
    """A token after a prompt of 1000."""
    if not generator.has_cache:
        return None
    return between(times_of(generator.stream(LONG, lengths.at_1000)))


def prefill(generator: Generator, lengths: Lengths) -> float | None:
    """The first token after a prompt of 512, the second time."""
    if not generator.has_cache:
        return None
    times_of(generator.stream(LONG[:N_PREFILL], 1))
    return times_of(generator.stream(LONG[:N_PREFILL], 1))[0]


def several_texts(n_texts: int) -> Callable[[Generator, Lengths], float | None]:
    """-> a task: one token in each of that many texts"""

    def task(generator, lengths):
        if generator.batch is None:
            return None
        shape = n_texts, len(SHORT)
        prompts = np.random.default_rng(TEXTS_SEED).integers(0, N_VOCAB, shape).tolist()
        times = []
        for n_tokens in (1, lengths.texts):
            start = time.perf_counter()
            generator.batch(prompts, n_tokens)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / (lengths.texts - 1)

    return task


TASKS = {
    "decode": decode,
    "position1000": decode_at_1000,
    "prefill512": prefill,
    "texts8": several_texts(8),
    "texts32": several_texts(32),
}
