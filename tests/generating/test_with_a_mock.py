"""Generation with a model of a few lines: what is asked of it, and what is made of its logits."""

import itertools

import numpy as np

from generating import guessing
from generating.guessing import ids_with_guesses
from generating.sampling import Sampling
from generating.side_by_side import side_by_side
from generating.window import Window


class Cache:
    """Counts positions; keeps nothing of them."""

    def __init__(self, n_cached):
        self.n_cached = n_cached

    def keep(self, n):
        self.n_cached[:] = n

    def copy_from(self, other):
        self.keep(other.n_cached[0])

    def __getitem__(self, texts):
        return Cache(self.n_cached[texts])


class CountingModel:
    """After id i comes i + 1, and after n_vocab - 1 comes 0. `passes` has the shapes of the ids."""

    n_vocab = 10

    def __init__(self, n_ctx=8):
        self.n_ctx, self.passes = n_ctx, []

    def empty_caches(self, n_texts, n_positions):
        return [Cache(np.zeros(n_texts, int))]

    def logits(self, ids, caches, n_last):
        self.passes.append(ids.shape)
        caches[0].n_cached += ids.shape[1]
        assert max(caches[0].n_cached) <= self.n_ctx
        return 5 * np.eye(self.n_vocab)[(ids[:, -n_last:] + 1) % self.n_vocab]


def test_a_window_reads_each_id_once_and_half_of_it_again_when_it_is_full():
    model = CountingModel(n_ctx=4)
    window = Window([7, 8], model)
    for _ in range(5):
        window.append([int(window.logits()[-1].argmax())])
    assert model.passes == [(1, 2), (1, 1), (1, 1), (1, 3), (1, 1)]
    assert window.ids == [1, 2, 3]  # of 7, 8, 9, 0, 1, 2, 3


def test_a_window_has_the_end_of_a_long_text():
    assert Window(range(100), CountingModel(n_ctx=4)).ids == [96, 97, 98, 99]


def test_a_guess_is_read_with_the_text_and_forgotten_where_it_was_wrong():
    window = Window([1, 2], CountingModel())
    assert window.logits([3, 5]).argmax(-1).tolist() == [3, 4, 6]
    window.append([3, 4])
    assert window.unread() == [4]
    window.read_last_again()
    assert window.unread() == [4]


def test_greedy_ids_take_few_passes_where_the_text_repeats_itself(monkeypatch):
    monkeypatch.setattr(guessing, "perf_counter", itertools.count().__next__)
    model = CountingModel(n_ctx=200)
    assert list(ids_with_guesses(Window([0], model), 100)) == [(1 + i) % 10 for i in range(100)]
    assert len(model.passes) < 40


def test_texts_go_on_together_until_they_end():
    model = CountingModel()
    texts, made = [[1], [5], [1, 2]], [[], [], []]
    for i, new_id in side_by_side(model, texts, 5, Sampling(), [None] * 3, stop_id=4):
        made[i].append(new_id)
    assert made == [[2, 3], [6, 7, 8, 9, 0], [3]]
    # Each prompt by itself, then all that still run.
    assert model.passes == [(1, 1), (1, 1), (1, 2), (3, 1), (2, 1), (1, 1), (1, 1)]
