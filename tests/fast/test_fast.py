"""fast/: products, functions in pieces, guesses and threads give what plain NumPy gives."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

import gpt2
from fast import product, schedule, threads

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
