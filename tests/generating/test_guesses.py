"""Guesses at the next ids: what they are, and that they pay."""

from generating.guesses import Guesses


def guesses_with_costs(ids, costs=None):
    """`Guesses` that have seen passes of so many guessed ids take so long."""
    guesses = Guesses(ids)
    for n_guessed, seconds in (costs or {0: 1.0, 1: 1.0, 3: 1.0, 7: 1.0}).items():
        guesses.record_pass(seconds, n_guessed, n_new=1 + n_guessed)
    return guesses


def test_guesses_are_what_followed_and_go_round():
    guesses = guesses_with_costs([9, 1, 2, 3, 4, 5, 1, 2, 3, 4])
    assert guesses.guess(room=3) == [5, 1, 2]
    assert guesses.guess(room=7) == [5, 1, 2, 3, 4, 5, 1]
    assert guesses.guess(room=0) == guesses.guess(room=-1) == []
    guesses.append(7)
    assert guesses.guess(room=7) == []


def test_there_is_no_guess_before_a_single_pass_was_timed():
    assert Guesses([1, 2, 3, 4, 1, 2, 3, 4]).guess(room=7) == []


def test_guesses_are_longer_where_the_text_repeats_itself_more():
    once, often = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8] * 10
    costs = {0: 1.0, 1: 1.2, 3: 1.5, 7: 2.0, 15: 3.0}
    short = guesses_with_costs(once, costs).guess(room=31)
    assert 0 < len(short) < len(guesses_with_costs(often, costs).guess(room=31))


def test_a_text_that_never_goes_on_as_before_gets_no_guesses():
    ids = []
    for i in range(20):
        ids += [1, 2, 3, 4, 100 + i]
    costs = {0: 1.0, 1: 1.2, 3: 1.2, 7: 1.2}
    assert guesses_with_costs([*ids, 1, 2, 3, 4], costs).guess(room=31) == []


def test_guesses_that_cost_more_than_they_bring_are_not_made():
    costs = {0: 1.0, 1: 2.0, 3: 4.0, 7: 8.0, 15: 16.0, 31: 32.0}
    assert guesses_with_costs([1, 2, 3, 4] * 10, costs).guess(room=31) == []


def test_what_fails_is_not_tried_for_long():
    """Whatever the text: the time lost stays a small part of the whole."""
    guesses = guesses_with_costs([1, 2, 3, 4] * 10, {0: 1.0, 1: 1.5, 3: 1.5, 7: 1.5, 15: 1.5})
    guesses.hit_rate, guesses.gained = 0.95, 0.0
    seconds = 0.0
    for _ in range(200):  # the text repeats itself, yet each guess made is wrong
        guess = guesses.guess(room=31)
        took = 1.5 if guess else 1.0
        guesses.record_pass(took, len(guess), n_new=1)
        seconds += took
    assert 200 < seconds < 1.05 * 200
