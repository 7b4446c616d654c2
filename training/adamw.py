"""AdamW, the optimizer of whatever Muon does not take.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
"""

import math
from collections.abc import Iterable

import numpy as np

from utils import named


class AdamW:
    """Adam with decoupled weight decay. Step n, for every parameter p:

        mean   = beta1 * mean   + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad^2
        p      = p - learning_rate * weight_decay * p
        p      = p - learning_rate * mean' / (sqrt(square') + eps)

    Both averages start at 0 and are too small at first; mean' = mean / (1 - beta1^n) and
    square' = square / (1 - beta2^n) correct that. grad is the gradient, scaled down if all
    gradients together, as one vector, are longer than `clip`. Only matrices and token embeddings
    decay, not biases, gains and position embeddings.
    """

    def __init__(
        self,
        params: dict,
        *,
        weight_decay: float = 0.1,
        clip: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self.weight_decay, self.clip, self.betas, self.eps = weight_decay, clip, betas, eps
        self.n_steps = 0
        self.mean = {name: np.zeros_like(p) for name, p in named(params).items()}
        self.square = {name: np.zeros_like(p) for name, p in named(params).items()}

    def step(self, params: dict, grads: dict, learning_rate: float) -> None:
        """Change `params` in place by one step; `grads` has at least the names of `params`.

        Both are nested or flat. Gradients of other parameters do not count towards `clip`.
        """
        self.n_steps += 1
        params, grads = named(params), named(grads)
        shrink = min(1.0, self.clip / (length(grads[name] for name in params) + 1e-6))
        beta1, beta2 = self.betas
        mean_rate = learning_rate / (1 - beta1**self.n_steps)
        square_scale = 1 / math.sqrt(1 - beta2**self.n_steps)
        for name, p in params.items():
            grad = grads[name] * shrink
            mean, square = self.mean[name], self.square[name]
            mean += (1 - beta1) * (grad - mean)
            square += (1 - beta2) * (grad * grad - square)
            if decays(name, p):
                p *= 1 - learning_rate * self.weight_decay
            p -= mean_rate * mean / (np.sqrt(square) * square_scale + self.eps)


def decays(name: str, p: np.ndarray) -> bool:
    """Whether weight decay applies to the parameter `p` of that name."""
    return p.ndim == 2 and name != "wpe"


def length(arrays: Iterable[np.ndarray]) -> float:
    """The Euclidean length of all arrays together, as if they were one vector."""
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))
