"""Train a GPT-2 from text in NumPy: the program.

This file has the loop, what it writes, and the command line. What it is made of is in `training/`:
`data.py` (documents, tokenizer, token ids), `layers.py` (the model with its backward pass),
`muon.py` and `adamw.py` (the optimizers), `learning_rate.py` (how large their steps are over a
run), `checkpoint.py` (what a stopped run goes on from), `lock.py` (one training at a time in a
folder). Source of the whole: Radford et al., "Language Models are Unsupervised Multitask Learners",
2019.

Left out: mixed precision, more than one machine, text that does not fit in memory.
"""

import csv
import math
import shutil
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: no traceback

import numpy as np

from command_line import check, check_memory, run
from encoder import ENDOFTEXT, Encoder
from fast.threads import one_blas_thread
from gpt2 import generate, generate_side_by_side
from model_files.disk import UNFINISHED, replacing
from training.adamw import AdamW
from training.checkpoint import (
    Run,
    fingerprint,
    forget_newest,
    load_checkpoint,
    save_checkpoint,
)
from training.data import (
    make_encoder,
    read_documents,
    split,
    spread_windows,
    token_ids,
    windows,
)
from training.layers import batch_loss, batch_loss_and_grads, init_params
from training.learning_rate import trapezoid
from training.lock import only_training_in
from training.muon import Muon, is_block_matrix
from training.unlikelihood import newline_ids, repeats, unlikelihood_loss_and_grads
from utils import load_encoder_hparams_and_params, map_params, named, save_model_folder

# ---------------------------------------------------------------- what a run is told


@dataclass(frozen=True)
class Options:
    """The options of one run: those of `main`, where they are explained, with all sizes known."""

    data: str | None
    held_out: str | None
    out: str
    preset: str
    tokenizer: str
    init_from: str | None
    n_layer: int
    n_head: int
    n_embd: int
    n_ctx: int
    batch_size: int
    steps: int
    minutes: float | None
    optimizer: str
    learning_rate: float
    muon_learning_rate: float
    cooldown: float
    unlikelihood: float
    weight_decay: float
    grad_clip: float
    dropout: float
    seed: int
    eval_every: int
    half: bool
    resume: bool

    def validate(self) -> None:
        """Raise ValueError for an option that is out of its range."""
        for name in ("data", "held_out", "out", "tokenizer", "init_from"):
            if getattr(self, name) == "":
                raise ValueError(f"--{name} is empty: give it a value, or leave it out")
        for name in ("n_layer", "n_head", "n_embd", "n_ctx", "batch_size", "steps", "eval_every"):
            check(name, getattr(self, name), int, 1)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"--optimizer {self.optimizer}: expected one of {', '.join(OPTIMIZERS)}"
            )
        check("learning_rate", self.learning_rate, float, 0)
        check("muon_learning_rate", self.muon_learning_rate, float, 0)
        check("cooldown", self.cooldown, float, 0, 1)
        check("unlikelihood", self.unlikelihood, float, 0)
        check("weight_decay", self.weight_decay, float, 0)
        check("grad_clip", self.grad_clip, float, 1e-9)
        if self.minutes is not None:
            check("minutes", self.minutes, float, 1e-3)
        check("dropout", self.dropout, float, 0, 0.99)
        check("seed", self.seed, int, 0)
        if self.n_embd % self.n_head:
            raise ValueError(f"--n_head {self.n_head} does not divide --n_embd {self.n_embd}")
        n_params = self.n_embd * (12 * self.n_layer * self.n_embd + self.n_ctx)  # and those of wte
        sizes = f"n_layer {self.n_layer}, n_embd {self.n_embd} and n_ctx {self.n_ctx}"
        check_memory(4 * 4 * n_params, sizes)  # float32; with gradients and two running means
        n_inputs = self.batch_size * self.n_ctx * self.n_embd
        check_memory(4 * self.n_layer * n_inputs, f"batch_size {self.batch_size} with {sizes}")


OPTIMIZERS = ("muon", "adamw")
# On --resume:
MAY_CHANGE = ("batch_size", "steps", "minutes", "cooldown", "eval_every", "resume", "out")

# With --unlikelihood: how often the model writes texts, how many, and how long they are.
STEPS_BETWEEN_TEXTS, N_TEXTS = 2, 16
LONGEST_PROMPT, LONGEST_NEW = 48, 96  # tokens


# ---------------------------------------------------------------- what a run writes


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


def write_log(path: Path, history: list[dict]) -> None:
    """Write `history`, one dict for each evaluation, as a CSV file."""
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, history[0].keys())
        writer.writeheader()
        writer.writerows(history)


def matplotlib_found() -> bool:
    """Whether the curve of the losses can be drawn; if not, standard error says so."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        say(f"no loss.svg, since matplotlib is missing ({error}): pip install matplotlib")
        return False
    return True


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


def write_loss_svg(path: Path, history: list[dict]) -> None:
    """Draw `loss_figure` as an SVG; the same history gives the same bytes."""
    from matplotlib import rc_context

    # A fixed salt keeps the ids in the file the same; text stays text, not outlines of letters.
    settings = {"svg.hashsalt": "loss", "svg.fonttype": "none"}
    with replacing(path) as temporary, rc_context(settings):
        loss_figure(history).savefig(temporary, format="svg", metadata={"Date": None})


# ---------------------------------------------------------------- the run


class Training:
    """One run: its data, model and optimizers, and what has happened so far.

    `history` has one dict for each evaluation, `best` is the lowest held-out loss, `n_tokens` is
    how many tokens it has learned from, `minutes` is the time that it has taken, all its sessions
    together. The folder --out has to be there.
    """

    def __init__(self, options: Options) -> None:
        self.options, self.out = options, Path(options.out)
        self.history, self.best, self.n_tokens, self.minutes = [], math.inf, 0, 0.0
        self.saved_step = 0
        self.rng = np.random.default_rng(options.seed)
        self.check_folders()
        run, arrays, is_older = self.load_checkpoint() if options.resume else (None, {}, False)
        if options.init_from:
            self.load_model()
        self.read_data(run)
        if not options.init_from:
            self.make_model()
        self.make_optimizers()
        if run:
            self.restore(run, arrays)
        self.check_disk()
        if is_older:
            forget_newest(self.out)
        self.draws_curve = matplotlib_found()

    def check_folders(self) -> None:
        """Refuse to write over something else, or to read what is not there, before any work."""
        options = self.options
        names = [path.name for path in self.out.iterdir()]
        if not options.resume and any(not name.startswith(UNFINISHED) for name in names):
            raise FileExistsError(f"{self.out} is not empty: name another --out, or --resume it")
        if options.init_from and not Path(options.init_from).is_dir():
            raise FileNotFoundError(f"--init_from {options.init_from}: there is no such folder")

    def check_disk(self) -> None:
        """Refuse to start where what a run writes would not fit: at most three checkpoints at a
        time, each of parameters and two averages, and a model."""
        in_full = 10 * sum(p.nbytes for p in named(self.params).values())
        there = sum(path.stat().st_size for path in self.out.iterdir() if path.is_file())
        needed, free = in_full - there, shutil.disk_usage(self.out).free
        if free < needed:
            raise OSError(f"{self.out} has {free} bytes left; a run needs {needed}")

    def load_model(self) -> None:
        """The model of --init_from with its tokenizer; float32 arrays that may be written to."""
        n_ctx = self.options.n_ctx
        folder = Path(self.options.init_from).resolve()  # "." has no name
        encoder, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
        if encoder.eot is None:
            raise ValueError(f"--init_from {folder}: its vocabulary has no {ENDOFTEXT}")
        if n_ctx > hparams["n_ctx"]:
            raise ValueError(f"--n_ctx {n_ctx}: {folder} has only {hparams['n_ctx']}")
        self.encoder, self.hparams = encoder, hparams
        self.params = map_params(lambda name, p: np.array(p, np.float32), params)

    def load_checkpoint(self) -> tuple[Run, dict[str, np.ndarray], bool]:
        """What `save_state` wrote, and whether it is the one before the newest, which is damaged.

        Raises ValueError if the options are others now.
        """
        try:
            run, arrays, damaged = load_checkpoint(self.out)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"--resume: {error}") from None
        for line in damaged:
            say(f"{line}; going on from the checkpoint before it, step {run.n_steps}")
        changed = [
            f"--{name} {run.options.get(name)}"
            for name, value in asdict(self.options).items()
            if name not in MAY_CHANGE and run.options.get(name) != value
        ]
        if changed:
            raise ValueError(f"--resume: the run in {self.out} had {', '.join(changed)}")
        return run, arrays, bool(damaged)

    def read_data(self, run: Run | None) -> None:
        """Documents -> training and held-out ids, and always the same held-out windows.

        A new model's encoder is made here too, since it may learn from the training documents. That
        of a resumed `run` is in its checkpoint. Raises ValueError if a resumed run had other data.
        """
        options = self.options
        train, held_out = self.read_texts()
        if run:
            self.encoder = Encoder(run.vocabulary, run.merges)
        elif not options.init_from:
            with said_if_slow(f"making the tokenizer {options.tokenizer}"):
                self.encoder = make_encoder(options.tokenizer, train)
        with said_if_slow(f"encoding {len(train)} documents to train on, {len(held_out)} held out"):
            self.train_ids = token_ids(train, self.encoder)
            self.held_out_ids = token_ids(held_out, self.encoder)
        self.data = {
            "training documents": fingerprint(self.train_ids),
            "held-out documents": fingerprint(self.held_out_ids),
        }
        for what, now in self.data.items():
            if run and run.data.get(what) != now:
                raise ValueError(
                    f"--resume: the {what} of the run in {self.out} were others "
                    f"({run.data.get(what)}; now {now}): give it the same --data (without one: "
                    "the same Python, for its standard library), or a new --out"
                )
        if min(len(self.train_ids), len(self.held_out_ids)) <= options.n_ctx:
            held_out_too = " or --held_out" if options.held_out else ""
            raise ValueError(
                f"{len(self.train_ids)} tokens to train on and {len(self.held_out_ids)} held out "
                f"are too few for windows of {options.n_ctx}: give more --data{held_out_too}, or a "
                "smaller --n_ctx"
            )
        ends = np.flatnonzero(self.train_ids == self.encoder.eot)
        self.document_starts = np.append(0, ends + 1)
        self.newlines = newline_ids(self.encoder)
        self.held_out_batch = spread_windows(self.held_out_ids, options.n_ctx)
        # A lone surrogate, which JSON may have, is encoded as U+FFFD: three bytes either way.
        n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in held_out)
        n_bytes += len(held_out)  # one for each <|endoftext|>
        self.tokens_per_byte = len(self.held_out_ids) / n_bytes

    def read_texts(self) -> tuple[list[str], list[str]]:
        """Documents to train on and held-out ones: two sources, or one that is split."""
        options = self.options
        with said_if_slow("reading documents"):
            documents = read_documents(options.data)
            if options.held_out is None:
                return split(documents, self.rng)
            return documents, read_documents(options.held_out, "--held_out")

    def make_model(self) -> None:
        """New parameters."""
        options = self.options
        self.hparams = {
            "n_vocab": len(self.encoder.encoder),
            "n_ctx": options.n_ctx,
            "n_embd": options.n_embd,
            "n_head": options.n_head,
            "n_layer": options.n_layer,
        }
        self.params = init_params(self.hparams, self.rng)

    def make_optimizers(self) -> None:
        """Muon for the matrices of the blocks, unless --optimizer is adamw; AdamW for the rest."""
        options, params = self.options, named(self.params)
        names = [name for name in params if is_block_matrix(name)]
        if options.optimizer == "adamw":
            names = []
        self.matrices = {name: params[name] for name in names}
        self.rest = {name: p for name, p in params.items() if name not in names}
        self.muon = Muon(self.matrices, weight_decay=options.weight_decay)
        self.adamw = AdamW(self.rest, weight_decay=options.weight_decay, clip=options.grad_clip)

    @property
    def n_steps(self) -> int:
        """How many steps the run has made."""
        return self.adamw.n_steps

    def train(self) -> None:
        """Train until --steps or --minutes are over; evaluate and save on the way.

        There is a checkpoint from the first moment on, so that a run can be resumed whenever it is
        stopped. What is written after it is written once more on resuming.
        """
        if not self.options.resume:
            self.save_state()
        elif self.history:
            self.write_history()
        self.started = time.monotonic() - 60 * self.minutes
        losses = []  # since the last evaluation
        # BLAS keeps to one thread between the batches too. Its own threads would wait for more
        # work after each product, and so take cores from ours.
        with one_blas_thread, self.progress_bar() as bar:
            while self.part_done() < 1:
                step_started = time.monotonic()
                losses.append(self.step())
                self.minutes = (time.monotonic() - self.started) / 60
                self.show_progress(bar, losses[-1], time.monotonic() - step_started)
                if self.n_steps % self.options.eval_every == 0:
                    self.evaluate(float(np.mean(losses)))
                    losses.clear()
            if losses:
                self.evaluate(float(np.mean(losses)))

    def part_done(self) -> float:
        """The part of the run that is done, from 0 to 1; a little more when the time is over."""
        if self.options.minutes:
            return (time.monotonic() - self.started) / 60 / self.options.minutes
        return self.n_steps / self.options.steps

    def rate_factor(self) -> float:
        """What the peak learning rates are multiplied by in the next step, from 0 to 1."""
        return trapezoid(self.n_steps + 1, self.part_done(), self.options.cooldown)

    def draw_starts(self, n: int) -> np.ndarray:
        """Where `n` random windows begin in `train_ids`: -> [n]

        Every other one is moved back to the start of its document, if that is not far: a prompt
        begins there too.
        """
        n_ctx, documents = self.options.n_ctx, self.document_starts
        starts = self.rng.integers(0, len(self.train_ids) - n_ctx, n)
        of_document = documents[np.searchsorted(documents, starts, side="right") - 1]
        moved = (starts - of_document < n_ctx) & (np.arange(n) % 2 == 0)
        return np.where(moved, of_document, starts)

    def draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The next inputs and targets, each [batch_size, n_ctx]."""
        options = self.options
        return windows(self.train_ids, self.draw_starts(options.batch_size), options.n_ctx)

    def step(self) -> float:
        """One step of the optimizers on a random batch: -> its loss in nats per token"""
        options, factor = self.options, self.rate_factor()
        inputs, targets = self.draw_batch()
        loss, grads = batch_loss_and_grads(
            self.params,
            self.hparams["n_head"],
            inputs,
            targets,
            dropout=options.dropout,
            seed=(options.seed, self.n_steps),
        )
        self.check_finite(loss)
        if options.unlikelihood and self.n_steps % STEPS_BETWEEN_TEXTS == 0:
            self.add_unlikelihood(grads)
        self.muon.step(self.matrices, grads, factor * options.muon_learning_rate)
        self.adamw.step(self.rest, grads, factor * options.learning_rate)
        self.n_tokens += inputs.size
        return loss

    def add_unlikelihood(self, grads: dict) -> None:
        """Add the gradients of --unlikelihood for some greedy texts of the model's own."""
        params, n_head, eot = self.params, self.hparams["n_head"], self.encoder.eot
        n_new = min(LONGEST_NEW, self.options.n_ctx // 2)
        prompts = [self.draw_first_line() for _ in range(N_TEXTS)]
        new = [[] for _ in prompts]
        for i, new_id in generate_side_by_side(prompts, params, n_head, n_new, stop_id=eot):
            new[i].append(new_id)
        numbers = [
            repeats(prompt, ids, len(ids) < n_new, self.encoder, self.newlines)
            for prompt, ids in zip(prompts, new, strict=True)
        ]
        texts = [prompt + ids for prompt, ids in zip(prompts, new, strict=True)]
        _, more = unlikelihood_loss_and_grads(params, n_head, texts, numbers)
        grads, more = named(grads), named(more)
        for name, grad in grads.items():
            grad += self.options.unlikelihood * more[name]

    def draw_first_line(self) -> list[int]:
        """The ids of the first line of a random document, or as many of them as fit a prompt."""
        start = self.rng.choice(self.document_starts[:-1])
        longest = min(LONGEST_PROMPT, self.options.n_ctx // 2)
        ids = self.train_ids[start : start + longest]
        ends = np.flatnonzero(np.isin(ids, [*self.newlines, self.encoder.eot]))
        return ids[: max(1, ends[0])].tolist() if len(ends) else ids.tolist()

    def check_finite(self, loss: float) -> None:
        """Stop, rather than save what is broken: raises ValueError if the loss is not a number."""
        if not math.isfinite(loss):
            kept = f"step {self.history[-1]['step']} is kept" if self.history else "nothing is kept"
            raise ValueError(
                f"the loss is {loss} after step {self.n_steps}; {kept}; try a smaller "
                "--learning_rate or --muon_learning_rate, with another --out"
            )

    def progress_bar(self) -> Any:
        """tqdm's bar on standard error, if that is a terminal; of the steps, if those are set."""
        from tqdm import tqdm

        total = None if self.options.minutes else self.options.steps
        return tqdm(total=total, initial=self.n_steps, unit="step", disable=None)

    def show_progress(self, bar: Any, loss: float, seconds: float) -> None:
        """Move the bar on by one step, which took `seconds`."""
        options = self.options
        best = f"{self.best:.3f}" if self.history else "?"
        speed = options.batch_size * options.n_ctx / seconds
        text = f"loss {loss:.3f}, held-out {best}, {speed:.0f} tokens/s"
        if options.minutes:  # with --steps the bar itself knows how much is left
            text += f", {max(0.0, options.minutes - self.minutes):.1f} minutes left"
        bar.set_postfix_str(text, refresh=False)
        bar.update()

    def evaluate(self, loss: float) -> None:
        """Measure the held-out loss, keep the best model, write down and draw how it goes.

        `loss` is the mean over the steps since the last evaluation.
        """
        held_out_loss = batch_loss(self.params, self.hparams["n_head"], *self.held_out_batch)
        self.check_finite(held_out_loss)
        row = {
            "step": self.n_steps,
            "tokens": self.n_tokens,
            "minutes": round(self.minutes, 2),
            "loss": round(loss, 5),
            "held_out_loss": round(held_out_loss, 5),
            "bits_per_byte": round(held_out_loss / math.log(2) * self.tokens_per_byte, 5),
        }
        self.history.append(row)
        if held_out_loss < self.best:
            self.best = held_out_loss
            self.save_model()
        self.save_state()
        self.write_history()
        say(
            f"step {row['step']}: loss {loss:.4f}, held-out {held_out_loss:.4f} "
            f"({row['bits_per_byte']:.4f} bits per byte), {self.minutes:.1f} minutes"
        )
        say(textwrap.indent(self.sample(), "    "))

    def write_history(self) -> None:
        """The losses so far, as a table and as a drawing."""
        write_log(self.out / "log.csv", self.history)
        if self.draws_curve:
            write_loss_svg(self.out / "loss.svg", self.history)

    def sample(self, n_tokens: int = 60) -> str:
        """A text by the model as it is now, always with the same draws."""
        eot = self.encoder.eot
        ids = generate(
            [eot],
            self.params,
            self.hparams["n_head"],
            n_tokens,
            stop_id=eot,
            temperature=0.8,
            rng=np.random.default_rng(self.options.seed),
        )
        text = self.encoder.decode(ids)
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)

    def save_model(self) -> None:
        """Write the model as it is now, for `gpt2.py` to run."""
        dtype = np.float16 if self.options.half else np.float32
        save_model_folder(self.out, self.encoder, self.hparams, self.params, dtype=dtype)

    def state_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that steps change, by their names in the state file."""
        kinds = {
            "params": self.matrices | self.rest,
            "mean": self.muon.mean | self.adamw.mean,
            "square": self.adamw.square,
        }
        return {
            f"{kind}.{name}": array
            for kind, arrays in kinds.items()
            for name, array in arrays.items()
        }

    def save_state(self) -> None:
        """Write all that the rest of the run depends on."""
        run = Run(
            options=asdict(self.options),
            data=self.data,
            hparams=self.hparams,
            vocabulary=self.encoder.encoder,
            merges=[" ".join(pair) for pair in self.encoder.bpe_ranks],
            history=self.history,
            n_steps=self.n_steps,
            n_tokens=self.n_tokens,
            minutes=self.minutes,
            best=self.best,
            rng=self.rng.bit_generator.state,
        )
        save_checkpoint(self.out, run, self.state_arrays())
        self.saved_step = self.n_steps

    def restore(self, run: Run, arrays: dict[str, np.ndarray]) -> None:
        """Go back to where `save_state` was. Raises ValueError if the model is another one now."""
        here = self.state_arrays()
        shapes = {name: array.shape for name, array in here.items()}
        saved_shapes = {name: array.shape for name, array in arrays.items()}
        if run.hparams != self.hparams or saved_shapes != shapes:
            raise ValueError(
                f"--resume: the run in {self.out} has a model of {run.hparams}, not {self.hparams}"
            )
        for name, array in here.items():
            array[...] = arrays[name]
        self.history, self.minutes, self.best = run.history, run.minutes, run.best
        self.adamw.n_steps, self.n_tokens = run.n_steps, run.n_tokens
        self.rng.bit_generator.state = run.rng
        self.saved_step = run.n_steps


# ---------------------------------------------------------------- the command line

PRESETS = {
    "python": {  # for minutes to an hour on two cores
        "tokenizer": "bpe:2048",
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 192,
        "n_ctx": 256,
        "batch_size": 16,
        "dropout": 0.0,
    },
    "char_gpt": {  # a public tutorial's, which is in PyTorch
        "tokenizer": "char",
        "n_layer": 12,
        "n_head": 16,
        "n_embd": 128,
        "n_ctx": 64,
        "batch_size": 16,
        "dropout": 0.4,
    },
}


def main(
    data: str | None = None,
    held_out: str | None = None,
    out: str = "models/scratch",
    preset: str = "python",
    tokenizer: str | None = None,
    init_from: str | None = None,
    n_layer: int | None = None,
    n_head: int | None = None,
    n_embd: int | None = None,
    n_ctx: int | None = None,
    batch_size: int | None = None,
    steps: int = 5000,
    minutes: float | None = None,
    optimizer: str = "muon",
    learning_rate: float = 2e-3,
    muon_learning_rate: float = 0.01,
    cooldown: float = 0.4,
    unlikelihood: float = 0.0,
    weight_decay: float = 0.1,
    grad_clip: float = 1.0,
    dropout: float | None = None,
    seed: int = 0,
    eval_every: int = 250,
    half: bool = False,
    resume: bool = False,
) -> None:
    """Train a GPT-2 from text and write a model folder that gpt2.py runs.

      python train.py --out models/mine --minutes 10
      python gpt2.py "def add(a, b):" --model_size mine

    Each evaluation prints the losses, in nats per token, and a sample of text on standard error.
    It writes to --out the model if its held-out loss is the lowest so far, log.csv, what --resume
    needs and, if matplotlib is installed, loss.svg.

    The same command with --resume continues a stopped run from its last evaluation. With --steps,
    and on the same number of cores, the model is that of a run that was never stopped; with
    --minutes it is not, since the learning rate follows the clock. A run may be resumed with
    another --steps, for instance with fewer, so that its cooldown begins at once.

    --data WHAT           the functions of the standard library if not given; or a text file, a
                          *.jsonl file (each line is a document: {"text": ...}), a folder of *.py
                          (each function is one), *.jsonl or *.txt (each file is one), or the name
                          of an installed package
    --held_out WHAT       other documents for the held-out loss; without it, a tenth of --data
    --out FOLDER          the model folder to write (models/scratch)
    --preset NAME         python: the sizes below; char_gpt: a small tutorial's, 128 wide, 16 heads,
                          12 layers, 64 positions, characters, dropout 0.4
    --tokenizer NAME      char: bytes, no merges; bpe:N: N merges learned from the training text;
                          or a model folder, for its vocabulary (bpe:2048)
    --init_from FOLDER    fine-tune the model in this folder, with its sizes and vocabulary; for
                          instance models/124M, once gpt2.py has downloaded it
    --n_layer N           blocks (6)
    --n_head N            attention heads, a divisor of n_embd (6)
    --n_embd N            width (192)
    --n_ctx N             positions in the window (256)
    --batch_size N        windows in one step of the optimizer (16)
    --steps N             steps in all (5000)
    --minutes X           stop after this time instead
    --optimizer NAME      muon: Muon for the matrices of the blocks, AdamW for the rest; adamw:
                          AdamW for all (muon)
    --learning_rate X     AdamW's, at its peak, after a warm-up of 100 steps (0.002)
    --muon_learning_rate X
                          Muon's, likewise (0.01)
    --cooldown X          the last part of the run, in which both fall to 0 (0.4)
    --unlikelihood X      how much it counts that the model repeats itself: in every second step 16
                          texts of its own are looked at (0)
    --weight_decay X      of matrices and token embeddings (0.1)
    --grad_clip X         AdamW's gradients are scaled down to this length, all together (1)
    --dropout X           part of the numbers zeroed while training (0)
    --seed N              of the split, the first weights, the batches and the dropout (0)
    --eval_every N        steps from one evaluation to the next (250)
    --half                store the weights as float16, in half the bytes
    --resume              continue the run in --out from its last evaluation
    """
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    if init_from and any((tokenizer, n_layer, n_head, n_embd)):
        raise ValueError("--init_from brings its own sizes and vocabulary: leave those options out")

    def given_or_preset(name, value):
        return PRESETS[preset][name] if value is None else value

    options = Options(
        data=data,
        held_out=held_out,
        out=out,
        preset=preset,
        tokenizer=given_or_preset("tokenizer", tokenizer),
        init_from=init_from,
        n_layer=given_or_preset("n_layer", n_layer),
        n_head=given_or_preset("n_head", n_head),
        n_embd=given_or_preset("n_embd", n_embd),
        n_ctx=given_or_preset("n_ctx", n_ctx),
        batch_size=given_or_preset("batch_size", batch_size),
        steps=steps,
        minutes=minutes,
        optimizer=optimizer,
        learning_rate=learning_rate,
        muon_learning_rate=muon_learning_rate,
        cooldown=cooldown,
        unlikelihood=unlikelihood,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        dropout=given_or_preset("dropout", dropout),
        seed=seed,
        eval_every=eval_every,
        half=half,
        resume=resume,
    )
    options.validate()
    with only_training_in(Path(out)):
        training = Training(options)
        n_params = sum(p.size for p in named(training.params).values())
        say(
            f"{len(training.train_ids)} tokens to train on, {len(training.held_out_ids)} held out, "
            f"{len(training.encoder.encoder)} in the vocabulary; {n_params} parameters"
        )
        try:
            with warnings.catch_warnings():  # NumPy's of overflows: `check_finite` has a line on it
                warnings.simplefilter("ignore", RuntimeWarning)
                training.train()
        except KeyboardInterrupt:
            say(f"stopped; step {training.saved_step} is kept: --resume goes on from there")
            raise


if __name__ == "__main__":
    run(main)
