"""A model that learns, in NumPy: its parameters, and one step of the optimizers that change them.

`run.py` has all else. A program that trains in another way, on a GPU for instance, brings a class
of its own with the methods of `Learner`, and hands it to `Run`.
"""

import math

import numpy as np

from encoder import Encoder
from training.adamw import AdamW
from training.batch_loss import batch_loss, batch_loss_and_grads
from training.muon import Muon, is_block_matrix
from training.options import Options
from training.unlikelihood import own_texts_loss_and_grads
from utils import named

LONGEST_NEW = 96  # tokens in a text of the model's own


class Learner:
    """`params`, and its optimizers: Muon for the matrices of the blocks, unless --optimizer is
    adamw; AdamW for the rest. `params` are changed in place."""

    def __init__(self, params: dict, n_head: int, encoder: Encoder, options: Options) -> None:
        self.params, self.n_head, self.encoder, self.options = params, n_head, encoder, options
        uses_muon = options.optimizer == "muon"
        is_for_muon = {name: uses_muon and is_block_matrix(name) for name in named(params)}
        self.matrices = {name: p for name, p in named(params).items() if is_for_muon[name]}
        self.rest = {name: p for name, p in named(params).items() if not is_for_muon[name]}
        self.muon = Muon(self.matrices, weight_decay=options.weight_decay)
        self.adamw = AdamW(self.rest, weight_decay=options.weight_decay, clip=options.grad_clip)

    def step(
        self, inputs: np.ndarray, targets: np.ndarray, prompts: list[list[int]], factor: float
    ) -> float:
        """One step on a batch [B, T]: -> its loss in nats per token

        prompts: beginnings of texts that the model then writes, whose repeats count by
        --unlikelihood; factor: what the peak learning rates are multiplied by. If the loss is not
        finite, nothing is changed.
        """
        options = self.options
        loss, grads = batch_loss_and_grads(
            self.params,
            self.n_head,
            inputs,
            targets,
            dropout=options.dropout,
            # The optimizer counts the steps of the whole run, also of one that was resumed: each
            # step drops other numbers, and the same ones as if the run had never been stopped.
            seed=(options.seed, self.adamw.n_steps),
        )
        if not math.isfinite(loss):
            return loss
        if prompts:
            self._add_unlikelihood(grads, prompts)
        self.muon.step(self.matrices, grads, factor * options.muon_learning_rate)
        self.adamw.step(self.rest, grads, factor * options.learning_rate)
        return loss

    def _add_unlikelihood(self, grads: dict, prompts: list[list[int]]) -> None:
        n_new = min(LONGEST_NEW, self.options.n_ctx // 2)
        _, of_texts = own_texts_loss_and_grads(
            self.params, self.n_head, prompts, n_new, self.encoder
        )
        named_of_texts = named(of_texts)
        for name, grad in named(grads).items():
            grad += self.options.unlikelihood * named_of_texts[name]

    def loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The mean loss of a batch [B, T] in nats per token; nothing is learned from it."""
        return batch_loss(self.params, self.n_head, inputs, targets)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that steps change, by their names in a checkpoint."""
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

    def load(self, arrays: dict[str, np.ndarray], n_steps: int) -> None:
        """Go back to where `arrays` were saved, after `n_steps` steps."""
        for name, array in self.arrays().items():
            array[...] = arrays[name]
        self.adamw.n_steps = n_steps
