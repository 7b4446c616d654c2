"""Choosing the next id from logits: the best one, or a random one among the better ones.

Sources: Fan et al., "Hierarchical Neural Story Generation", 2018 (top-k); Holtzman et al., "The
Curious Case of Neural Text Degeneration", 2020 (top-p, or nucleus sampling).
"""

from dataclasses import dataclass

import numpy as np

from command_line import check


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. To add a way, add a field, its check, and a cut in `candidates`.

    temperature  0 takes the best; otherwise logits are divided by it before the softmax
    top_k        only the k best may be chosen; 0: all
    top_p        only the smallest set of the best whose probabilities sum to this or more
    seed         of the random numbers; None: others each time
    Raises ValueError for a value that is out of its range.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    ValueError: --top_p 1.5: expected a number from 0 to 1
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self):
        check("temperature", self.temperature, float, 0)
        check("top_k", self.top_k, int, 0)
        check("top_p", self.top_p, float, 0, 1)
        if self.seed is not None:
            check("seed", self.seed, int, 0)

    def rng(self, i: int = 0) -> np.random.Generator:
        """The random numbers of text i: those of `seed` + i."""
        return np.random.default_rng(None if self.seed is None else self.seed + i)

    def candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids that may be chosen, best first, and how probable each is: [n] both.

        logits [n_vocab]. The probabilities sum to 1 before top-p cuts some of them off.

        >>> ids, p = Sampling(temperature=1, top_p=0.8).candidates(np.log([0.1, 0.4, 0.2, 0.3]))
        >>> ids, p.round(3)
        (array([1, 3, 2]), array([0.4, 0.3, 0.2]))
        """
        if self.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1, logits.dtype)
        ids = np.argsort(-logits, kind="stable")[: self.top_k or None]
        # The best is subtracted first: a tiny temperature then gives -inf, never inf - inf.
        smallest = float(np.finfo(logits.dtype).tiny)  # as a float32, 1e-46 would be 0
        with np.errstate(over="ignore"):
            p = np.exp((logits[ids] - logits[ids[0]]) / max(self.temperature, smallest))
        p /= p.sum()
        before = np.cumsum(p) - p  # for each id, the sum over all better ones
        n_kept = max(1, np.count_nonzero(before < self.top_p))
        return ids[:n_kept], p[:n_kept]

    def sample(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """Choose one id from logits [n_vocab]."""
        if self.temperature == 0:
            return int(logits.argmax())
        ids, p = self.candidates(logits)
        cumulative = np.cumsum(p)
        draw = rng.random() * cumulative[-1]
        return int(ids[np.searchsorted(cumulative, draw)])  # the first whose sum reaches the draw


def sample(
    logits: np.ndarray,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
) -> int:
    """Choose one id from logits [n_vocab] in the way of `Sampling`, without making one.

    rng: a new one by default.

    >>> logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    >>> sample(logits)
    1
    >>> rng = np.random.default_rng(0)
    >>> sorted({sample(logits, temperature=1, top_p=0.8, rng=rng) for _ in range(100)})
    [1, 2, 3]
    """
    return Sampling(temperature, top_k, top_p).sample(logits, rng or np.random.default_rng())
