"""Greedy generation that guesses ahead where a text repeats itself.

A pass over one position is limited by reading all weights from memory. A pass over ten also reads
them only once, and takes little longer. So where the last few ids of a text have occurred before,
what followed them then is taken as a guess at what follows now. One pass over the whole guess shows
what the model would choose after each of its ids, and its correct beginning is kept. The ids are
those that a pass for each id would give.

Source: Saxena, "Prompt Lookup Decoding", 2023.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter

import numpy as np

from generating.guesses import Guesses
from generating.window import Window

TOO_CLOSE = 1e-4  # relative to the best logit, or to 1; rounding errors are about 1e-6


def ids_with_guesses(window: Window, n_tokens: int) -> Iterator[int]:
    """Yield the `n_tokens` most likely ids that continue `window`, often several for one pass.

    `guesses` is told how long each pass took, by which it decides how long a guess should be and
    whether guessing pays. Its guesses are empty until it knows how long one position takes.
    """
    guesses = Guesses(window.ids)  # it keeps a copy
    was_clear = True  # all choices of the last pass
    while n_tokens > 0:
        has_one_unread = len(window.unread()) == 1  # more: a prompt, or the half-window reread
        # A pass gives one id more than it was given guesses.
        room = min(window.model.n_ctx - len(window.ids), n_tokens - 1)
        guess = guesses.guess(room) if has_one_unread and was_clear else []
        start = perf_counter()
        logits = window.logits(guess)
        seconds = perf_counter() - start
        new_ids, was_clear = confirmed(guess, logits)
        if new_ids:
            window.append(new_ids)
        else:  # the first choice was too close: a pass without a guess decides
            window.read_last_again()
        for new_id in new_ids:
            guesses.append(new_id)
        if has_one_unread:
            guesses.record_pass(seconds, len(guess), len(new_ids))
        n_tokens -= len(new_ids)
        yield from new_ids


def confirmed(guess: Sequence[int], logits: np.ndarray) -> tuple[list[int], bool]:
    """The ids that the model itself chooses: the correct beginning of `guess`, and one id more.

    logits [1 + len(guess), n_vocab] follow the text, and each id of the guess.
    If there is a guess and a choice is too close, the ids end before it and the second value is
    False. Without a guess it is a pass over one position, whose choice counts.
    """
    new_ids = []
    for row, guessed_id in zip(logits, [*guess, None], strict=True):
        if guess and too_close(row):
            return new_ids, False
        new_ids.append(int(row.argmax()))
        if new_ids[-1] != guessed_id:
            break
    return new_ids, True


def too_close(logits: np.ndarray) -> bool:
    """Whether the best of logits [n_vocab] is so little above the second that rounding may decide.

    A pass over several positions or texts adds up in another order than a pass over one position,
    and so rounds differently. A choice that is too close is left to a pass over one position.
    """
    best = logits.max()
    return np.count_nonzero(logits >= best - TOO_CLOSE * max(1.0, abs(float(best)))) > 1
