"""Guesses at what a text says next, from what it has said before.

Texts repeat themselves: where the last few ids have occurred before, what followed them then is a
guess at what follows now (prompt lookup decoding, Saxena, 2023). A model can check a whole guess in
one pass, which takes longer than a pass over one position, but far less than one pass per position.

Whether that pays depends on the text and on the machine. So `Guesses` keeps count of how often the
text did go on as before, whether a guess was made or not, and of how long passes took. It guesses
as many ids as give the most new ids for their time, or none; and it never spends more than a small
part of the time on guesses that fail.
"""

from collections import deque
from collections.abc import Iterable

N_MATCH = 4  # so many ids have to have occurred before
LONGEST = 31  # ids in a guess
# What guesses may lose altogether, in passes over one position: so many to begin with, and of each
# id that was made so much.
INITIAL_LOSS = 2.0
LOSS_SHARE = 0.02
MOST_KEPT = 10.0  # what guesses have gained, as far as it may be risked again; in such passes, too


class Guesses:
    """Predicts the next ids of a text from its own repetitions, if that pays.

    >>> guesses = Guesses([1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    >>> guesses.record_pass(seconds=0.1, n_guessed=0, n_new=1)
    >>> guesses.guess(room=1)
    [5]
    """

    def __init__(self, ids: Iterable[int]):
        self.ids = []
        self.next_position = {}  # N_MATCH ids -> the position after their latest occurrence
        self.match = None  # the position after the previous occurrence of the last ids, if any
        self.hit_rate = 0.5  # how often, of late, the text went on as it had before
        # The times of the last passes. Guesses of 1, 2-3, 4-7, 8-15 and 16-31 ids share a list.
        self.seconds = [deque(maxlen=7) for _ in range(1 + LONGEST.bit_length())]
        self.n_new = 0  # ids that passes gave
        self.gained = 0.0  # by guesses, in passes over one position; less than 0: lost
        for i in ids:
            self.append(i)

    def append(self, new_id: int) -> None:
        """The text goes on with `new_id`."""
        if self.match is not None:
            hit = self.ids[self.match] == new_id
            self.hit_rate += (hit - self.hit_rate) / 8
        self.ids.append(new_id)
        last_ids = tuple(self.ids[-N_MATCH:])
        self.match = self.next_position.get(last_ids)
        self.next_position[last_ids] = len(self.ids)

    def guess(self, room: int) -> list[int]:
        """The ids that may come next, at most `room`; none where a guess would not pay.

        There is none before the time of a pass without a guess was recorded.
        """
        if self.match is None or not self.seconds[0]:
            return []
        n = self._best_length(min(room, LONGEST))
        repeated = len(self.ids) - self.match  # where that is too short, it is repeated once more
        return [self.ids[self.match + i % repeated] for i in range(n)]

    def record_pass(self, seconds: float, n_guessed: int, n_new: int) -> None:
        """A pass over the newest id and `n_guessed` more took `seconds` and gave `n_new` ids."""
        self.seconds[n_guessed.bit_length()].append(seconds)
        self.n_new += n_new
        if n_guessed:
            self.gained = min(MOST_KEPT, self.gained + n_new - self._cost(n_guessed))

    def _best_length(self, longest: int) -> int:
        """How many ids to guess: as many as give the most new ids for their time.

        Only the longest guess of each list in `seconds` is considered: it costs no more than the
        shorter ones.
        """
        budget = INITIAL_LOSS + LOSS_SHARE * self.n_new + self.gained
        best, best_rate = 0, 1.0
        expected = chance = 1.0  # new ids: one in any case, and one more for each right guess
        for n in range(1, longest + 1):
            chance *= self.hit_rate
            expected += chance
            if n == longest or n + 1 == 2 ** n.bit_length():
                cost = self._cost(n)
                if expected / cost > best_rate and cost - 1 <= budget:
                    best, best_rate = n, expected / cost
        return best

    def _cost(self, n: int) -> float:
        """How long a pass with `n` guessed ids takes, in passes over one position.

        Judged by the passes recorded so far; where none has been of that length, a quarter more
        than one of the next shorter length, and so on.
        """
        length = known = n.bit_length()
        while not self.seconds[known]:
            known -= 1
        return 1.25 ** (length - known) * _median(self.seconds[known]) / _median(self.seconds[0])


def _median(numbers: Iterable[float]) -> float:
    """The middle one of the numbers. The module `statistics` would take longer to import."""
    numbers = sorted(numbers)
    return numbers[len(numbers) // 2]
