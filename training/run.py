"""One run: draw, step, now and then evaluate and save; and how it goes on after it was stopped.

It knows neither gradients nor optimizers: those are the learner's. What it learns from is in
`data.py`, `tokenizer.py` and `batches.py`, what it shows in `log.py`, what it goes on from in
`checkpoint.py`.
"""

import math
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encoder import ENDOFTEXT, Encoder
from fast.threads import one_blas_thread
from model_files.parameters import check_values
from training import checkpoint, log
from training.batches import Batches, spread_windows
from training.data import read_documents, split, token_ids
from training.folder import check_disk
from training.learner import Learner
from training.learning_rate import trapezoid
from training.model import init_params
from training.options import Options
from training.tokenizer import make_encoder
from utils import (
    load_encoder_hparams_and_params,
    map_params,
    named,
    parameter_shapes,
    save_model_folder,
)

SIZES = ("n_ctx", "n_embd", "n_head", "n_layer")
STEPS_BETWEEN_TEXTS = 2  # with --unlikelihood: how often the model writes some of its own


class Data(NamedTuple):
    """What a run learns from, and what it is measured on."""

    encoder: Encoder
    train_ids: np.ndarray
    held_out_ids: np.ndarray
    tokens_per_byte: float  # of the held-out documents

    def fingerprints(self) -> dict[str, str]:
        return {
            "training documents": checkpoint.fingerprint(self.train_ids),
            "held-out documents": checkpoint.fingerprint(self.held_out_ids),
        }


class Run:
    """One run, into the folder --out, which has to be there.

    `data` is what it learns from, `batches` draws from that, `learner` is the model that learns,
    and `state` is how far it is.
    """

    def __init__(self, options: Options, make_learner: Callable[..., Learner] = Learner) -> None:
        """Get all ready for the first step, or with --resume for the next one.

        Raises ValueError or OSError for what a user may do wrong.
        """
        self.options, self.out = options, Path(options.out)
        self.rng = np.random.default_rng(options.seed)
        if options.resume:
            self._resume(make_learner)
        else:
            self._begin(make_learner)
        self.saved_step = self.state.n_steps
        self.batches = Batches(self.data.train_ids, self.data.encoder, options.n_ctx, self.rng)
        self.held_out_batch = spread_windows(self.data.held_out_ids, options.n_ctx)

    # ---------------------------------------------------------------- how it begins

    def _begin(self, make_learner: Callable[..., Learner]) -> None:
        """With a new model, or that of --init_from."""
        options = self.options
        if options.init_from:
            encoder, hparams, params = model_to_fine_tune(options)
            self.data = self.read_data(encoder)
        else:
            self.data = self.read_data(None)
            encoder = self.data.encoder
            hparams = {"n_vocab": len(encoder.encoder)}
            hparams |= {name: getattr(options, name) for name in SIZES}
            params = init_params(hparams, self.rng)
        check_disk(self.out, params)
        self.learner = make_learner(params, hparams["n_head"], encoder, options)
        self.state = checkpoint.State(
            options=asdict(options),
            data=self.data.fingerprints(),
            hparams=hparams,
            vocabulary=encoder.encoder,
            merges=[" ".join(pair) for pair in encoder.bpe_ranks],
            history=[],
            n_steps=0,
            n_tokens=0,
            minutes=0.0,
            best=math.inf,
            rng=self.rng.bit_generator.state,
        )

    def _resume(self, make_learner: Callable[..., Learner]) -> None:
        """With the model of the run in --out, where that was last saved."""
        state, arrays = checkpoint.load(self.out)
        checkpoint.check_same_options(state, self.options)
        encoder = Encoder(state.vocabulary, state.merges)
        self.data = self.read_data(encoder)
        checkpoint.check_same_data(state, self.data.fingerprints(), self.out)
        shapes = parameter_shapes(state.hparams)
        params = map_params(lambda _, shape: np.empty(shape, np.float32), shapes)
        self.learner = make_learner(params, state.hparams["n_head"], encoder, self.options)
        expected = {name: array.shape for name, array in self.learner.arrays().items()}
        if expected != {name: array.shape for name, array in arrays.items()}:
            raise ValueError(f"--resume: what is saved in {self.out} does not fit its model")
        self.learner.load(arrays, state.n_steps)
        self.rng.bit_generator.state = state.rng
        state.options = asdict(self.options)
        self.state = state

    def read_data(self, encoder: Encoder | None) -> Data:
        """Documents -> token ids. Without an encoder, one is made as --tokenizer says."""
        options = self.options
        with log.said_if_slow("reading documents"):
            train = read_documents(options.data)
            if options.held_out is None:
                train, held_out = split(train, self.rng)
            else:
                held_out = read_documents(options.held_out, "--held_out")
        if encoder is None:
            with log.said_if_slow(f"making the tokenizer {options.tokenizer}"):
                encoder = make_encoder(options.tokenizer, train)
        counts = f"{len(train)} documents to train on, {len(held_out)} held out"
        with log.said_if_slow(f"encoding {counts}"):
            train_ids, held_out_ids = token_ids(train, encoder), token_ids(held_out, encoder)
        if min(len(train_ids), len(held_out_ids)) <= options.n_ctx:
            held_out_too = " or --held_out" if options.held_out else ""
            raise ValueError(
                f"{len(train_ids)} tokens to train on and {len(held_out_ids)} held out "
                f"are too few for windows of {options.n_ctx}: give more --data{held_out_too}, or a "
                "smaller --n_ctx"
            )
        # A lone surrogate, which JSON may have, is encoded as U+FFFD: three bytes either way.
        n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in held_out)
        n_bytes += len(held_out)  # one for each <|endoftext|>
        return Data(encoder, train_ids, held_out_ids, len(held_out_ids) / n_bytes)

    # ---------------------------------------------------------------- how it goes on

    def train(self) -> None:
        """Train until --steps or --minutes are over; evaluate and save on the way.

        There is a checkpoint from the first moment on, so that a run can be resumed whenever it is
        stopped.
        """
        n_params = sum(p.size for p in named(self.learner.params).values())
        log.say(
            f"{len(self.data.train_ids)} tokens to train on, {len(self.data.held_out_ids)} held "
            f"out, {len(self.data.encoder.encoder)} in the vocabulary; {n_params} parameters"
        )
        if not self.options.resume:
            self.save_state()
        try:
            with warnings.catch_warnings():  # NumPy's of overflows: `check_finite` has a line on it
                warnings.simplefilter("ignore", RuntimeWarning)
                self._loop()
        except KeyboardInterrupt:
            log.say(f"stopped; step {self.saved_step} is kept: --resume goes on from there")
            raise

    def _loop(self) -> None:
        options, state = self.options, self.state
        self.started = time.monotonic() - 60 * state.minutes
        losses = []  # since the last evaluation
        # BLAS keeps to one thread between the batches too. Its own threads would wait for more
        # work after each product, and so take cores from ours.
        with one_blas_thread, log.progress_bar(state.n_steps, options) as bar:
            while self.part_done() < 1:
                step_started = time.monotonic()
                losses.append(self.step())
                state.minutes = (time.monotonic() - self.started) / 60
                seconds = time.monotonic() - step_started
                log.show_progress(bar, options, state, losses[-1], seconds)
                if state.n_steps % options.eval_every == 0:
                    self.evaluate(float(np.mean(losses)))
                    losses.clear()
            if losses:
                self.evaluate(float(np.mean(losses)))

    def part_done(self) -> float:
        """The part of the run that is done, from 0 to 1; a little more when the time is over."""
        if self.options.minutes:
            return (time.monotonic() - self.started) / 60 / self.options.minutes
        return self.state.n_steps / self.options.steps

    def rate_factor(self) -> float:
        """What the peak learning rates are multiplied by in the next step, from 0 to 1."""
        return trapezoid(self.state.n_steps + 1, self.part_done(), self.options.cooldown)

    def step(self) -> float:
        """One step on a random batch: -> its loss in nats per token"""
        factor = self.rate_factor()
        inputs, targets = self.draw_batch()
        writes_texts = self.options.unlikelihood and self.state.n_steps % STEPS_BETWEEN_TEXTS == 0
        prompts = self.batches.draw_prompts() if writes_texts else []
        loss = self.learner.step(inputs, targets, prompts, factor)
        self.check_finite(loss)
        self.state.n_steps += 1
        self.state.n_tokens += inputs.size
        return loss

    def draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The next inputs and targets, each [batch_size, n_ctx]."""
        return self.batches.draw(self.options.batch_size)

    def check_finite(self, loss: float) -> None:
        """Stop, rather than save what is broken: raises ValueError if the loss is not a number."""
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} after step {self.state.n_steps}; step {self.saved_step} is "
                "kept; try a smaller --learning_rate or --muon_learning_rate, with another --out"
            )

    # ---------------------------------------------------------------- what it leaves

    def evaluate(self, loss: float) -> None:
        """Measure the held-out loss, keep the best model, write down and draw how it goes.

        `loss` is the mean over the steps since the last evaluation. The state comes last: whoever
        resumes a run that died on the way does all of this again.
        """
        state, learner, encoder = self.state, self.learner, self.data.encoder
        held_out_loss = learner.loss(*self.held_out_batch)
        self.check_finite(held_out_loss)
        row = {
            "step": state.n_steps,
            "tokens": state.n_tokens,
            "minutes": round(state.minutes, 2),
            "loss": round(loss, 5),
            "held_out_loss": round(held_out_loss, 5),
            "bits_per_byte": round(held_out_loss / math.log(2) * self.data.tokens_per_byte, 5),
        }
        state.history.append(row)
        if held_out_loss < state.best:
            state.best = held_out_loss
            self.save_model()
        log.write_losses(self.out, state.history)
        self.save_state()
        log.say(
            f"step {row['step']}: loss {loss:.4f}, held-out {held_out_loss:.4f} "
            f"({row['bits_per_byte']:.4f} bits per byte), {state.minutes:.1f} minutes"
        )
        text = log.sample_text(learner.params, state.hparams["n_head"], encoder, self.options.seed)
        log.say(textwrap.indent(text, "    "))

    def save_model(self) -> None:
        """Write the model as it is now, for `gpt2.py` to run."""
        dtype = np.float16 if self.options.half else np.float32
        params, hparams = self.learner.params, self.state.hparams
        save_model_folder(self.out, self.data.encoder, hparams, params, dtype=dtype)

    def save_state(self) -> None:
        """Write all that the rest of the run depends on."""
        self.state.rng = self.rng.bit_generator.state
        checkpoint.save(self.out, self.state, self.learner.arrays())
        self.saved_step = self.state.n_steps


def model_to_fine_tune(options: Options) -> tuple[Encoder, dict[str, int], dict]:
    """The model of --init_from: -> encoder, hparams, params as float32 that may be written to"""
    folder = Path(options.init_from).resolve()  # "." has no name
    if not folder.is_dir():
        raise FileNotFoundError(f"--init_from {options.init_from}: there is no such folder")
    encoder, hparams, params = load_encoder_hparams_and_params(folder.name, str(folder.parent))
    if encoder.eot is None:
        raise ValueError(f"--init_from {folder}: its vocabulary has no {ENDOFTEXT}")
    if options.n_ctx > hparams["n_ctx"]:
        raise ValueError(f"--n_ctx {options.n_ctx}: {folder} has only {hparams['n_ctx']}")
    options.check_memory(hparams["n_layer"], hparams["n_embd"])
    check_values(folder, params)
    return encoder, hparams, map_params(lambda _, p: np.array(p, np.float32), params)
