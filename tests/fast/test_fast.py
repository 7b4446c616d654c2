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


@pytest.mark.parametrize("n_rows", [1, 2, 5, 16, 40, 200])
@pytest.mark.parametrize("shape", [(700, 500), (64, 5000), (5000, 64), (3, 4)])
def test_products_equal_plain_ones(n_rows, shape, n_threads):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((n_rows, shape[0])), rng.standard_normal(shape)
    b = rng.standard_normal(shape[1])
    for weights in (w, np.ascontiguousarray(w.T).T):  # as a layer's, and as wte.T lies
        np.testing.assert_allclose(product.product(x, weights), x @ w, atol=1e-10)
        np.testing.assert_allclose(product.product(x, weights, b), x @ w + b, atol=1e-10)


def test_a_row_is_multiplied_alike_where_blas_has_one_thread():
    """As after a prompt: there the one row is shared out."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 768), np.float32), rng.standard_normal((5000, 768), np.float32)
    plain = product.product(x, w.T)
    with product.blas_threads_for(1000):
        np.testing.assert_allclose(product.product(x, w.T), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_texts", [1, 2, 100])
def test_products_keep_leading_axes(n_texts):
    x, w = np.ones((n_texts, 3, 4, 5)), np.ones((5, 6))
    assert product.product(x, w).shape == (n_texts, 3, 4, 6)


# ---------------------------------------------------------------- functions in pieces


@pytest.fixture
def always_in_pieces(monkeypatch):
    """Small arrays too are cut into pieces, and shared out."""
    monkeypatch.setattr(schedule, "PIECE_SIZE", 100)
    monkeypatch.setattr(schedule, "SHARED_ABOVE", 0)
    monkeypatch.setattr(schedule, "SHARED_ATTENTION", 0)


@pytest.mark.parametrize("shape", [(1, 8), (64, 8), (65, 8), (3, 100, 8), (1000, 8)])
def test_a_function_by_rows_equals_the_plain_one(shape, n_threads, always_in_pieces):
    x = np.random.default_rng(0).standard_normal(shape)
    g, b = np.random.default_rng(1).standard_normal((2, 8))
    plain = gpt2.layer_norm.__wrapped__(x, g, b)
    np.testing.assert_allclose(gpt2.layer_norm(x, g, b), plain, rtol=0, atol=1e-14)


def attention_inputs(n_q, n_texts):
    """q, k, v and mask; some texts are shorter than others."""
    rng = np.random.default_rng(7)
    q, k, v = (300 * rng.standard_normal((n_texts, 3, 200, 8)) for _ in range(3))
    n_seq = rng.integers(n_q, 201, n_texts)
    return q[:, :, -n_q:], k, v, gpt2.causal_mask(n_q, 200, n_seq, q.dtype)


@pytest.mark.parametrize("n_q", [1, 64, 150, 200])
@pytest.mark.parametrize("n_texts", [1, 2, 3])
def test_attention_in_pieces_equals_the_plain_one(n_q, n_texts, n_threads, monkeypatch):
    q, k, v, mask = attention_inputs(n_q, n_texts)
    plain = gpt2.attention.__wrapped__(q, k, v, mask)
    np.testing.assert_allclose(gpt2.attention(q, k, v, mask), plain, atol=1e-9)
    monkeypatch.setattr(schedule, "SHARED_ATTENTION", 0)
    np.testing.assert_allclose(gpt2.attention(q, k, v, mask), plain, atol=1e-9)


def test_keys_that_no_query_of_a_piece_may_see_are_left_out():
    seen = []

    @schedule.by_queries(hidden=-5.0)
    def noted(q, k, v, mask):
        seen.append((q.shape[-2], k.shape[-2], mask.shape[-1]))
        return q

    q = np.ones((2, 150, 4))
    noted(q, q, q, np.triu(np.full((150, 150), -5.0), k=1))
    assert seen == [(64, 64, 64), (64, 128, 128), (22, 150, 150)]
    seen.clear()
    noted(q, q, q, 0.0)
    assert seen == [(64, 150, 150), (64, 150, 150), (22, 150, 150)]


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


def test_an_error_in_another_part_is_raised_and_the_next_work_is_done(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)

    def work(start, end):
        if start > 0:
            raise ValueError(f"the part from {start}")
        return start

    for _ in range(2):
        with pytest.raises(ValueError, match="the part from 1"):
            threads.share_out(work, 3)
        assert threads.share_out(lambda start, end: (start, end), 3) == [(0, 1), (1, 2), (2, 3)]


def test_several_threads_share_out_at_once(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    wrong = []

    def keep_sharing(k):
        for _ in range(300):
            if threads.share_out(lambda start, end: (k, start), 2) != [(k, 0), (k, 1)]:
                wrong.append(k)

    others = [threading.Thread(target=keep_sharing, args=(k,)) for k in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert wrong == []


def test_a_thread_limit_set_while_somebody_is_inside_holds_afterwards(monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    before = blas_threads()
    try:
        with threads.one_blas_thread:
            threads.use_threads(1)
        assert blas_threads() == {1} and threads.cores() == 1
    finally:
        threads.one_blas_thread.lift_to(max(before))
