"""What a run shows: lines and a progress bar on standard error, samples of text, and the losses as
a table and a drawing.
"""

import csv
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from encoder import Encoder
from gpt2 import generate
from model_files.disk import replacing
from training.checkpoint import State
from training.options import Options


def say(line: str) -> None:
    """Print on standard error, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def said_if_slow(line: str, seconds: float = 2.0) -> Iterator[None]:
    """Say what is being done inside, if that takes longer than `seconds`."""
    timer = threading.Timer(seconds, say, [line])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def progress_bar(n_done: int, options: Options) -> Any:
    """tqdm's bar on standard error, if that is a terminal; of the steps, if those are set."""
    from tqdm import tqdm

    n_steps = None if options.minutes else options.steps
    return tqdm(total=n_steps, initial=n_done, unit="step", disable=None)


def show_progress(bar: Any, options: Options, state: State, loss: float, seconds: float) -> None:
    """Move the bar on by one step, which had this loss and took so long."""
    best = f"{state.best:.3f}" if state.history else "?"
    speed = options.batch_size * options.n_ctx / seconds
    text = f"loss {loss:.3f}, held-out {best}, {speed:.0f} tokens/s"
    if options.minutes:  # with --steps the bar itself knows how much is left
        text += f", {max(0.0, options.minutes - state.minutes):.1f} minutes left"
    bar.set_postfix_str(text, refresh=False)
    bar.update()


def write_losses(folder: Path, history: list[dict]) -> None:
    """`history`, one dict for each evaluation, as log.csv and, with matplotlib, loss.svg."""
    write_table(folder / "log.csv", history)
    if matplotlib_found():
        write_curve(folder / "loss.svg", history)


def write_table(path: Path, history: list[dict]) -> None:
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, history[0].keys())
        writer.writeheader()
        writer.writerows(history)


@functools.cache
def matplotlib_found() -> bool:
    """Whether the curve of the losses can be drawn; if not, standard error says so, once."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        say(f"no loss.svg, since matplotlib is missing ({error}): pip install matplotlib")
        return False
    return True


def write_curve(path: Path, history: list[dict]) -> None:
    """Draw `loss_figure` as an SVG; the same history gives the same bytes."""
    from matplotlib import rc_context

    # A fixed salt keeps the ids in the file the same; text stays text, not outlines of letters.
    settings = {"svg.hashsalt": "loss", "svg.fonttype": "none"}
    with replacing(path) as temporary, rc_context(settings):
        loss_figure(history).savefig(temporary, format="svg", metadata={"Date": None})


def loss_figure(history: list[dict]) -> Any:
    """Both losses of `history` over the steps: -> matplotlib.figure.Figure"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")  # inches
    axes = figure.subplots()
    steps = [row["step"] for row in history]
    for key, label in (("loss", "training"), ("held_out_loss", "held out")):
        axes.plot(steps, [row[key] for row in history], marker=".", label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def sample_text(params: dict, n_head: int, encoder: Encoder, seed: int, n_tokens: int = 60) -> str:
    """A text by the model as it is now, always with the same draws."""
    ids = generate(
        [encoder.eot],
        params,
        n_head,
        n_tokens,
        stop_id=encoder.eot,
        temperature=0.8,
        rng=np.random.default_rng(seed),
    )
    text = encoder.decode(ids)
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
