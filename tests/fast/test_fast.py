"""fast/: products, functions in pieces, guesses and threads give what plain NumPy gives."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

import gpt2
from fast import lookup, product, schedule, threads

# ---------------------------------------------------------------- products


@pytest.mark.parametrize("n_rows", [1, 2, 5, 16, 40, 100])
@pytest.mark.parametrize("shape", [(700, 500), (64, 5000), (5000, 64), (3, 4)])
def test_products_equal_plain_ones(n_rows, shape, n_threads):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((n_rows, shape[0])), rng.standard_normal(shape)
    for weights in (w, np.ascontiguousarray(w.T).T):  # as a layer's, and as wte.T lies
        np.testing.assert_allclose(product.product(x, weights), x @ w, atol=1e-10)


def test_products_keep_leading_axes():
    x, w = np.ones((2, 3, 4, 5)), np.ones((5, 6))
    assert product.product(x, w).shape == (2, 3, 4, 6)


# ---------------------------------------------------------------- functions in pieces


@pytest.mark.parametrize("shape", [(1, 8), (64, 8), (65, 8), (3, 100, 8), (1000, 8)])
def test_a_function_by_rows_equals_the_plain_one(shape, n_threads):
    x = np.random.default_rng(0).standard_normal(shape)
    g, b = np.random.default_rng(1).standard_normal((2, 8))
    plain = gpt2.layer_norm.__wrapped__(x, g, b)
    np.testing.assert_allclose(gpt2.layer_norm(x, g, b), plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_q", [1, 64, 150, 200])
@pytest.mark.parametrize("n_texts", [1, 2, 3])
def test_attention_in_pieces_equals_the_plain_one(n_q, n_texts, n_threads, monkeypatch):
    monkeypatch.setattr(schedule, "SMALL_ATTENTION", 0)
    rng = np.random.default_rng(7)
    q, k, v = (300 * rng.standard_normal((n_texts, 3, 200, 8)) for _ in range(3))
    q = q[:, :, -n_q:]
    n_seq = rng.integers(n_q, 201, n_texts)  # some texts are shorter than others
    mask = gpt2.causal_mask(n_q, 200, n_seq, q.dtype)
    plain = gpt2.attention.__wrapped__(q, k, v, mask)
    np.testing.assert_allclose(gpt2.attention(q, k, v, mask), plain, atol=1e-9)


def test_keys_that_no_query_of_a_piece_may_see_are_left_out(monkeypatch):
    monkeypatch.setattr(schedule, "SMALL_ATTENTION", 0)
    seen = []

    @schedule.by_queries
    def noted(q, k, v, mask):
        seen.append((q.shape[-2], k.shape[-2]))
        return q

    monkeypatch.setattr(threads, "cores", lambda: 1)
    q = np.ones((2, 150, 4))
    noted(q, q, q, gpt2.causal_mask(150, 150, 150, q.dtype))
    assert seen == [(64, 64), (64, 128), (22, 150)]


# ---------------------------------------------------------------- guesses


def guesses_with_costs(ids, costs=None):
    """`Guesses` that have seen passes of so many guessed ids take so long."""
    guesses = lookup.Guesses(ids)
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
    assert lookup.Guesses([1, 2, 3, 4, 1, 2, 3, 4]).guess(room=7) == []


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


# ---------------------------------------------------------------- threads


def needs_fork(test):
    """Python 3.12 and newer warn of any fork among threads."""
    test = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")(test)


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_work_is_shared_out_once_and_in_order(n, n_threads):
    parts = threads.share_out(lambda start, end: list(range(start, end)), n)
    assert [i for part in parts for i in part] == list(range(n))
    assert len(parts) == max(1, min(n, n_threads))


def blas_threads():
    """The thread counts of NumPy's BLAS; PyTorch, where it is loaded, has one of its own."""
    return {blas.num_threads for blas in threads._blas_libraries()}


def test_blas_keeps_to_one_thread_until_the_last_one_leaves():
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with threads.one_blas_thread:
            inside.set()
            leave.wait()

    other = threading.Thread(target=stay)
    with threads.one_blas_thread:
        other.start()
        inside.wait()
        assert blas_threads() == {1}
    assert blas_threads() == {1}  # the other one is still inside
    leave.set()
    other.join()
    assert blas_threads() == before


@needs_fork
def test_a_forked_child_can_share_out_work(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    threads.share_out(lambda start, end: None, 2)  # the parent has a pool of threads
    context = multiprocessing.get_context("fork")
    child = context.Process(target=threads.share_out, args=(lambda start, end: None, 2))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0


@needs_fork
def test_a_child_forked_while_inside_keeps_the_limit_in_order():
    def work():
        with threads.one_blas_thread:
            inside = blas_threads()
        os._exit(0 if inside == {1} and threads.one_blas_thread._n_inside == 0 else 1)

    with threads.one_blas_thread:
        child = os.fork()
        if child == 0:
            threads.one_blas_thread.__exit__()
            work()
    _, status = os.waitpid(child, 0)
    assert status == 0


@needs_fork
def test_a_fork_waits_until_other_threads_have_left_blas():
    inside, leave, forked = threading.Event(), threading.Event(), threading.Event()

    def stay():
        with threads.no_fork.here(), threads.no_fork.here():
            inside.set()
            leave.wait()

    def fork():
        child = os.fork()
        if child == 0:
            with threads.no_fork.here():  # free for the child's only thread
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        forked.set()

    others = [threading.Thread(target=stay), threading.Thread(target=fork)]
    others[0].start()
    inside.wait()
    others[1].start()
    assert not forked.wait(0.2)
    leave.set()
    for other in others:
        other.join()
    assert forked.is_set()


@needs_fork
def test_who_forks_inside_does_not_wait_for_itself():
    with threads.no_fork.here():
        child = os.fork()
        if child == 0:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_in_one_part_waits_for_the_others(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    others_done = []

    def work(start, end):
        if start == 0:
            raise ValueError("the first part")
        time.sleep(0.2)
        others_done.append(blas_threads())

    with pytest.raises(ValueError, match="the first part"):
        threads.share_out(work, 2)
    assert others_done == [{1}]  # and BLAS was still theirs


def test_a_thread_limit_set_while_somebody_is_inside_holds_afterwards(monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    before = blas_threads()
    try:
        with threads.one_blas_thread:
            threads.use_threads(1)
        assert blas_threads() == {1} and threads.cores() == 1
    finally:
        threads.one_blas_thread.lift_to(max(before))
