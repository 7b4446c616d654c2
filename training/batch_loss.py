"""The loss of a batch and its gradients, on all cores.

The products of a small model are too small to share out among cores, and the rest of NumPy runs on
one of them. So each core takes whole sequences of the batch, some at a time: a micro-batch. The
order in which gradients are added up depends only on the number of cores, so the same seed gives
the same bytes.

Letters for dimensions are those of `layers.py`.
"""

from collections.abc import Iterable

import numpy as np

from fast.threads import cores, share_out
from training.layers import cross_entropy
from training.model import forward, loss_and_grads
from utils import named

MICRO_BATCH = 1024  # tokens: the arrays of a small model then about fit a core's cache


def micro_batches(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """A batch [B, T] in micro-batches: at least one for each core if it has that many sequences"""
    n_texts, n_ctx = inputs.shape
    n_each = max(1, min(MICRO_BATCH // n_ctx, n_texts // cores()))
    starts = range(0, n_texts, n_each)
    return [(inputs[i : i + n_each], targets[i : i + n_each]) for i in starts]


def batch_loss_and_grads(
    params: dict,
    n_head: int,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    dropout: float = 0.0,
    seed: tuple[int, ...] = (),
) -> tuple[float, dict]:
    """`loss_and_grads` of a batch [B, T], on all cores. `seed` is that of the dropout."""
    batch = micro_batches(inputs, targets)

    def one(i):
        rng = np.random.default_rng([*seed, i])  # so that no draw depends on the other threads
        options = {"dropout": dropout, "rng": rng, "n_targets": targets.size}
        return loss_and_grads(params, n_head, *batch[i], **options)

    def several(start, end):
        return add_up(one(i) for i in range(start, end))

    return add_up(share_out(several, len(batch)))


def batch_loss(params: dict, n_head: int, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean loss of a batch [B, T] in nats per token, on all cores, without dropout."""
    batch = micro_batches(inputs, targets)

    def one(i):
        logits, _ = forward(params, n_head, batch[i][0])
        loss, _ = cross_entropy(logits, batch[i][1].ravel(), targets.size)
        return loss

    def several(start, end):
        return sum(one(i) for i in range(start, end))

    return sum(share_out(several, len(batch)))


def add_up(losses_and_grads: Iterable[tuple[float, dict]]) -> tuple[float, dict]:
    """The sums of (loss, gradients) pairs, in their order. Changes the first gradients in place."""
    losses_and_grads = iter(losses_and_grads)
    total_loss, total_grads = next(losses_and_grads)
    totals = named(total_grads)
    for loss, grads in losses_and_grads:
        total_loss += loss
        for name, grad in named(grads).items():
            totals[name] += grad
    return total_loss, total_grads
