"""A text as the model sees it, and how much of it has been read.

A model, here and in all of `generating/`, is an object with three members; `gpt2.Model` is one:

    n_ctx                                   how many positions it can see
    empty_caches(n_texts, n_positions)      what it keeps of the positions that it has read: a list
    logits(ids, caches, n_last)             ids [n_texts, n_seq], which follow what is in the
                                            caches -> logits [n_texts, n_last, n_vocab]

Of a cache only this is used: `n_cached` [n_texts], how many positions of each text are in it, and
`keep(n)`, which forgets all but the first n.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Window:
    """The last n_ctx ids of a text at most, and caches of those that the model has read.

    To continue a text, call `logits`, which reads what is unread, choose the next id from the last
    row of the result, and `append` it: it is then the only unread one.

    caches: of this text alone; by default new ones, which then belong to this window.
    """

    def __init__(self, ids: Iterable[int], model: Any, caches: list | None = None):
        self.model = model
        self.ids = list(ids)[-model.n_ctx :]
        self.caches = caches or model.empty_caches(1, model.n_ctx)

    def unread(self) -> list[int]:
        """The ids that are not in the caches."""
        return self.ids[self.caches[0].n_cached[0] :]

    def logits(self, guess: Sequence[int] = ()) -> np.ndarray:
        """Read what is unread, and then the ids of `guess`, which may or may not come next.

        -> the logits after the text, and after each id of the guess: [1 + len(guess), n_vocab]
        """
        ids = np.array([[*self.unread(), *guess]])  # [n_texts = 1, n_seq]
        return self.model.logits(ids, self.caches, n_last=1 + len(guess))[0]

    def append(self, new_ids: Sequence[int]) -> None:
        """Add ids that were chosen, after `logits` has read all before them. The last one is unread
        then; of a guess, what was not chosen is forgotten.

        A window that has become too long drops its oldest half, and has to read the rest again.
        """
        self.ids += new_ids
        if len(self.ids) <= self.model.n_ctx:
            self.read_last_again()
        else:
            self.ids = self.ids[(self.model.n_ctx + 1) // 2 :]
            self._keep(0)  # positions are absolute: what is left needs new keys and values

    def read_last_again(self) -> None:
        """Forget the last id, and whatever was read after it: the next `logits` reads it again."""
        self._keep(len(self.ids) - 1)

    def _keep(self, n: int) -> None:
        for cache in self.caches:
            cache.keep(n)
