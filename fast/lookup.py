"""Guesses at what a text says next, from what it has said before.

Texts repeat themselves: where the last few ids have occurred before, what followed them then is a
guess at what follows now (prompt lookup decoding, Saxena, 2023). A model can check a whole guess in
one pass, which takes longer than a pass over one position but not as many times as long.

Whether that pays depends on the text and on the machine. So `Guesses` keeps count of how often the
text did go on as before, whether a guess was made or not, and of how long passes took; it guesses
as many ids as make the most of the time, or none. And it never spends more than a small part of the
time on guesses that fail.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median


class Guesses:
    """What came after the latest earlier occurrence of the last `n_match` ids of a text.

    >>> guesses = Guesses([1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    >>> guesses.took(seconds=0.1, n_guessed=0, n_new=1)
    >>> guesses.next(room=1)
    [5]
    """

    n_match = 4
    longest = 31  # ids in a guess
    may_lose = 0.02  # of the time of plain decoding so far, and ...
    at_first = 2.0  # ... the time of this many single passes to begin with

    def __init__(self, ids: Iterable[int]):
        self.ids = []
        self.after = {}  # the last n_match ids -> where the text went on after them
        self.found = None  # where it went on the last time it had come to the present ids
        self.hit_rate = 0.5  # how often it went on as it had the last time
        # How long the last passes took, by the doublings of their guesses: 0, 1, 2-3, 4-7, ... ids
        self.seconds = [deque(maxlen=7) for _ in range(1 + self.longest.bit_length())]
        self.n_new = 0  # ids that passes gave
        self.lost = 0.0  # by guesses that failed, in single passes
        for i in ids:
            self.append(i)

    def append(self, new_id: int) -> None:
        """The text goes on with `new_id`."""
        if self.found is not None:
            hit = self.ids[self.found] == new_id
            self.hit_rate += (hit - self.hit_rate) / 8
        self.ids.append(new_id)
        key = tuple(self.ids[-self.n_match :])
        self.found = self.after.get(key)
        self.after[key] = len(self.ids)

    def next(self, room: int) -> list[int]:
        """The ids that may come next, at most `room`; none where a guess would not pay."""
        if self.found is None or not self.seconds[0]:
            return []
        period = len(self.ids) - self.found  # a text that repeats its very end goes round in it
        n = self._best_length(min(room, self.longest))
        return [self.ids[self.found + i % period] for i in range(n)]

    def took(self, seconds: float, n_guessed: int, n_new: int) -> None:
        """A pass over the newest id and `n_guessed` guessed ones took so long and gave `n_new`."""
        self.seconds[n_guessed.bit_length()].append(seconds)
        self.n_new += n_new
        if n_guessed:
            self.lost = max(0.0, self.lost + self._cost(n_guessed) - n_new)

    def _best_length(self, most: int) -> int:
        """How many ids to guess, up to `most`: as many as give the most new ids for their time."""
        budget = self.at_first + self.may_lose * self.n_new - self.lost
        best, best_rate = 0, 1.0
        expected = chance = 1.0  # new ids: one in any case, and one more for each right guess
        for n in range(1, most + 1):
            chance *= self.hit_rate
            expected += chance
            fills_its_kind = n == most or n.bit_length() < (n + 1).bit_length()
            if fills_its_kind and expected > best_rate * self._cost(n) <= 1 + budget:
                best, best_rate = n, expected / self._cost(n)
        return best

    def _cost(self, n: int) -> float:
        """How long a pass over `n` guessed ids takes, in single passes, by those seen so far.

        Where none of that length has been seen: a quarter more for each doubling.
        """
        kind = seen = n.bit_length()
        while not self.seconds[seen]:
            seen -= 1
        return 1.25 ** (kind - seen) * median(self.seconds[seen]) / median(self.seconds[0])
