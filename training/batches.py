"""What a model learns from next: windows of token ids, and how they are drawn.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. That every
other window begins where a document does is ours.
"""

import functools
from collections.abc import Iterable

import numpy as np

from encoder import Encoder

N_PROMPTS, LONGEST_PROMPT = 16, 48  # of `draw_prompts`; the latter in tokens


class Batches:
    """Draws from `ids`, all documents in a row, each with `<|endoftext|>` after it.

    Windows have `n_ctx` ids. What is drawn depends on `rng`, and on the order of the calls.
    """

    def __init__(
        self, ids: np.ndarray, encoder: Encoder, n_ctx: int, rng: np.random.Generator
    ) -> None:
        self.ids, self.encoder, self.n_ctx, self.rng = ids, encoder, n_ctx, rng
        self.document_starts = np.append(0, np.flatnonzero(ids == encoder.eot) + 1)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """`n` random windows: -> inputs and targets, each [n, n_ctx]"""
        return windows(self.ids, self.draw_starts(n), self.n_ctx)

    def draw_starts(self, n: int) -> np.ndarray:
        """Where `n` random windows begin in `ids`: -> [n]

        Every other one is moved back to the start of its document, if that is not far: a prompt
        begins there too.
        """
        documents = self.document_starts
        starts = self.rng.integers(0, len(self.ids) - self.n_ctx, n)
        of_document = documents[np.searchsorted(documents, starts, side="right") - 1]
        moved = (starts - of_document < self.n_ctx) & (np.arange(n) % 2 == 0)
        return np.where(moved, of_document, starts)

    def draw_prompts(self) -> list[list[int]]:
        """The first lines of N_PROMPTS random documents, or as many of their ids as fit a prompt"""
        starts = (self.rng.choice(self.document_starts[:-1]) for _ in range(N_PROMPTS))
        return [self._first_line(start) for start in starts]

    def _first_line(self, start: int) -> list[int]:
        ids = self.ids[start : start + min(LONGEST_PROMPT, self.n_ctx // 2)]
        ends = np.flatnonzero(np.isin(ids, [*newline_ids(self.encoder), self.encoder.eot]))
        return ids[: max(1, ends[0])].tolist() if len(ends) else ids.tolist()


def windows(ids: np.ndarray, starts: Iterable[int], n_ctx: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `n_ctx` ids that begin at `starts`, and the target of each of their ids.

    A target is the id that comes next. ids [n_tokens], B starts -> inputs and targets, [B, n_ctx].

    >>> inputs, targets = windows(np.array([10, 11, 12, 13, 14]), [0, 2], 2)
    >>> inputs.tolist(), targets.tolist()
    ([[10, 11], [12, 13]], [[11, 12], [13, 14]])
    """
    positions = np.asarray(starts)[:, None] + np.arange(n_ctx)  # [B, n_ctx]
    return ids[positions], ids[positions + 1]


def spread_windows(
    ids: np.ndarray, n_ctx: int, n_windows: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """About `n_windows` windows at equal distances over all of `ids`, none overlapping."""
    distance = max(n_ctx, len(ids) // n_windows)
    return windows(ids, range(0, len(ids) - n_ctx, distance), n_ctx)


@functools.cache
def newline_ids(encoder: Encoder) -> np.ndarray:
    """The ids of the tokens that have a newline in them: each of them begins a line."""
    ids = encoder.encoder.values()
    return np.array([token_id for token_id in ids if "\n" in encoder.decode([token_id])])
