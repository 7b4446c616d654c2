"""What guesses from the text (`lookup`) bring and cost: texts of several kinds, with and without.

Texts that repeat much gain; texts that do not, pay for guesses that were wrong. To say how much the
texts that gain least pay, one has to find them. But the least of sixty measurements is also the one
that noise hit hardest. So one half of the rounds chooses the tenths, the other half is reported.
"""

import argparse
import inspect
import logging
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.contenders import load_model, project_module

N_PROMPT = 120  # ids of a piece of code
N_PARAGRAPH = 60  # ids of the paragraph that is repeated
QUICK_STEP = 5  # a quick run takes every fifth piece
N_TIMED = 100  # tokens timed, after the first, which reads the prompt
PIECES, PARAGRAPH, NO_REPEAT = "pieces of code", "a paragraph three times", "no repetition"


# ---------------------------------------------------------------- measuring


def measure(small: Path, large: Path, short: list[int], paragraph: list[int], step: int) -> dict:
    """One round: {kind of text: [[seconds a token without guesses, with them], ...]}.

    `small` is the folder of the bundled model, which continues every `step`th piece of library
    code; `large` is that of a random model, which goes through `paragraph` again and again, and
    then continues `short`, which repeats nothing.
    """
    encoder, hparams, params = load_model(small)
    pieces = list(library_code(encoder))[::step]
    both_ways(pieces[0], params, hparams["n_head"])  # warms up
    of_pieces = [both_ways(ids, params, hparams["n_head"]) for ids in pieces]
    _, hparams, params = load_model(large)
    n_head = hparams["n_head"]
    return {
        PIECES: of_pieces,
        PARAGRAPH: [both_ways(3 * paragraph, reciting(params, paragraph), n_head)],
        NO_REPEAT: [both_ways(short, params, n_head)],
    }


def both_ways(ids: list[int], params: dict, n_head: int) -> tuple[float, float]:
    """Seconds for a token without guesses, and with them."""
    return time_a_token(ids, params, n_head, False), time_a_token(ids, params, n_head, True)


def time_a_token(ids: list[int], params: dict, n_head: int, lookup: bool) -> float:
    generate_stream = project_module("gpt2").generate_stream
    times = []
    for _ in generate_stream(ids, params, n_head, N_TIMED + 1, lookup=lookup):
        times.append(time.perf_counter())
    return (times[-1] - times[0]) / N_TIMED


def library_code(encoder) -> Iterator[list[int]]:
    """The first ids of the longer functions and classes of three modules of the library."""
    for module in (argparse, logging, tarfile):
        for _, member in sorted(inspect.getmembers(module)):
            is_own = getattr(member, "__module__", None) == module.__name__
            if is_own and (inspect.isfunction(member) or inspect.isclass(member)):
                ids = encoder.encode(inspect.getsource(member))
                if len(ids) > N_PROMPT:
                    yield ids[:N_PROMPT]


def reciting(params: dict, paragraph: list[int]) -> dict:
    """`params` changed into a model that goes through `paragraph` (ids) again and again.

    Random weights repeat nothing. So all that the blocks add is silenced, except for the last
    feed-forward layer, which has one hidden unit for each id of the paragraph: it answers to that
    id, and adds the embedding of the next. All of it costs the same time as before.
    """
    layer_norm = project_module("gpt2").layer_norm
    blocks = [silenced(block) for block in params["blocks"]]
    last = blocks[-1]
    c_fc, c_proj = zeros_like(last["mlp"]["c_fc"]), zeros_like(last["mlp"]["c_proj"])
    n = len(paragraph)
    seen = layer_norm(params["wte"][paragraph], **last["ln_2"])  # [n, n_embd]
    lengths = np.sum(seen * seen, axis=1, keepdims=True)
    c_fc["w"][:, :n] = (10 * seen / lengths).T  # 10 for the id of a unit, less for the others
    c_fc["b"] -= 5  # so that only the unit of the id is above 0
    following = paragraph[1:] + paragraph[:1]
    c_proj["w"][:n] = params["wte"][following]
    blocks[-1] = {**last, "mlp": {"c_fc": c_fc, "c_proj": c_proj}}
    return {**params, "wpe": np.zeros_like(params["wpe"]), "blocks": blocks}


def silenced(block: dict) -> dict:
    """A block that adds nothing to its input."""
    attn = {**block["attn"], "c_proj": zeros_like(block["attn"]["c_proj"])}
    mlp = {**block["mlp"], "c_proj": zeros_like(block["mlp"]["c_proj"])}
    return {**block, "attn": attn, "mlp": mlp}


def zeros_like(linear: dict) -> dict:
    return {name: np.zeros_like(array) for name, array in linear.items()}


# ---------------------------------------------------------------- summing up


def summary(rounds: list[dict]) -> dict[str, tuple[float, float]]:
    """{row: (tokens a second without guesses, with them)} of two or more rounds of `measure`.

    The rounds with even numbers choose the tenths of the pieces; the figures are of the others.
    """
    chosen_by = medians([r[PIECES] for r in rounds[0::2]])  # [n_pieces, 2]
    reported = medians([r[PIECES] for r in rounds[1::2]])
    by_gain = np.argsort(chosen_by[:, 0] / chosen_by[:, 1])  # the least gain first
    tenth = max(1, len(by_gain) // 10)
    seconds = {
        f"bundled model, {len(by_gain)} {PIECES}": reported.mean(axis=0),
        "the tenth of them that gains most": reported[by_gain[-tenth:]].mean(axis=0),
        "the tenth of them that gains least": reported[by_gain[:tenth]].mean(axis=0),
        f"124M, {PARAGRAPH}": medians([r[PARAGRAPH] for r in rounds])[0],
        f"124M, {NO_REPEAT}": medians([r[NO_REPEAT] for r in rounds])[0],
    }
    return {row: (1 / plain, 1 / guessed) for row, (plain, guessed) in seconds.items()}


def medians(rounds: list[list]) -> np.ndarray:
    """[n_rounds, n_texts, 2] -> [n_texts, 2]"""
    return np.median(np.array(rounds), axis=0)
