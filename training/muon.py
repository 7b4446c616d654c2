"""Muon, the optimizer of the weight matrices inside the blocks. The rest stays with AdamW.

Sources: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (the
method and its coefficients); Liu et al., "Muon is Scalable for LLM Training", 2025 (its weight
decay).
"""

import math

import numpy as np

from fast.threads import cores, share_out
from utils import named

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # a, b, c of `orthogonalized`


class Muon:
    """Momentum, made orthogonal. Step by step, for every matrix p [n_in, n_out]:

        mean   = momentum * mean + (1 - momentum) * grad
        ahead  = momentum * mean + (1 - momentum) * grad
        update = sqrt(max(1, n_out / n_in)) * orthogonalized(ahead)
        p      = p - learning_rate * weight_decay * p
        p      = p - learning_rate * update

    grad is the gradient, and mean its moving average, which starts at 0. ahead is what mean would
    be if the same gradient came once more (Nesterov). orthogonalized(ahead) keeps its directions,
    and makes each about equally long; so the size of the gradient does not matter. The root keeps
    the outputs of wide matrices as large as those of square ones. The weights of q, k and v, which
    `c_attn.w` holds side by side, count as three matrices.
    """

    def __init__(self, params: dict, *, weight_decay: float = 0.1, momentum: float = 0.95) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self.mean = {name: np.zeros_like(p) for name, p in named(params).items()}

    def step(self, params: dict, grads: dict, learning_rate: float) -> None:
        """Change `params` in place by one step; `grads` has at least the names of `params`.

        Both are nested or flat. Each core works on matrices of its own.
        """
        grads, matrices = named(grads), []
        for name, p in named(params).items():
            arrays = (matrices_of(name, array) for array in (p, grads[name], self.mean[name]))
            matrices += zip(*arrays, strict=True)
        matrices.sort(key=lambda arrays: cost(arrays[0]), reverse=True)
        n_shares = cores()

        def shares(start, end):
            for share in range(start, end):
                # Dealt out like cards, the dearest first: then the shares cost about the same.
                for p, grad, mean in matrices[share::n_shares]:
                    self.step_matrix(p, grad, mean, learning_rate)

        share_out(shares, n_shares)

    def step_matrix(
        self, p: np.ndarray, grad: np.ndarray, mean: np.ndarray, learning_rate: float
    ) -> None:
        """One step of a single matrix; changes `p` and `mean` in place."""
        n_in, n_out = p.shape
        grad = (1 - self.momentum) * grad
        mean *= self.momentum
        mean += grad
        ahead = self.momentum * mean + grad
        p *= 1 - learning_rate * self.weight_decay
        p -= learning_rate * math.sqrt(max(1, n_out / n_in)) * orthogonalized(ahead)


def orthogonalized(matrix: np.ndarray, n_steps: int = 5) -> np.ndarray:
    """The matrix with all singular values near 1 (0.7 to 1.2): [m, n] -> [m, n]

    The matrix is divided by its length, so that no singular value is above 1. Then each
    Newton-Schulz step is a polynomial that sends every singular value s to a*s + b*s^3 + c*s^5,
    and needs only products:

        gram = x @ x.T
        x    = a * x + (b * gram + c * gram @ gram) @ x

    a, b and c are chosen so that small values grow fast. A matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = np.ascontiguousarray(matrix.T if is_tall else matrix)  # the side of gram is the shorter
    x = x / (np.linalg.norm(x) + 1e-12)
    for _ in range(n_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if is_tall else x


def is_block_matrix(name: str) -> bool:
    """Whether a parameter is one of the matrices that Muon is made for.

    >>> is_block_matrix("blocks.0.mlp.c_fc.w"), is_block_matrix("blocks.0.mlp.c_fc.b")
    (True, False)
    """
    return name.startswith("blocks.") and name.endswith(".w")


def matrices_of(name: str, array: np.ndarray) -> list[np.ndarray]:
    """The array itself, but of `c_attn.w` [C, 3 C] the parts of q, k and v, each [C, C]; views"""
    return np.split(array, 3, axis=1) if name.endswith("c_attn.w") else [array]


def cost(matrix: np.ndarray) -> int:
    """How long a step of a matrix takes, as the number of multiplications in `x @ x.T`."""
    return min(matrix.shape) * matrix.size
