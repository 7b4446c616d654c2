"""training/muon.py: orthogonal updates, a step against float64, and that q, k and v stand apart."""

import numpy as np
import pytest

from tests.fixtures.random_models import TINY, random_params
from training.muon import Muon, is_block_matrix, orthogonalized
from utils import named

C_ATTN, C_FC, C_PROJ = "blocks.0.attn.c_attn.w", "blocks.0.mlp.c_fc.w", "blocks.0.mlp.c_proj.w"
LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 0.02, 0.1, 0.95


def matrices(seed, scale=1.0):
    """The matrices of TINY's blocks, {name: array}."""
    params = named(random_params(TINY, seed=seed, scale=scale))
    return {name: p for name, p in params.items() if is_block_matrix(name)}


def singular_values(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
def test_all_singular_values_come_near_1(shape):
    matrix = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    values = singular_values(orthogonalized(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    assert singular_values(matrix).max() > 2 * values.max()


def test_singular_vectors_stay():
    matrix = np.random.default_rng(0).standard_normal((20, 40))
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonalized(matrix) @ vt.T  # diagonal if the vectors are the same
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-12)
    assert np.diag(turned).min() > 0.6


def quintic(matrix):
    """The five steps on the singular values themselves, instead of on the matrix."""
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    s = s / np.sqrt(np.sum(s**2))
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


def reference_steps(params, many_grads):
    """The parameters after steps with each of `many_grads`, by the formula, in float64."""
    params = {name: p.astype(np.float64) for name, p in params.items()}
    mean = {name: np.zeros_like(p) for name, p in params.items()}
    for grads in many_grads:
        for name, grad in grads.items():
            mean[name] = MOMENTUM * mean[name] + (1 - MOMENTUM) * grad
            ahead = MOMENTUM * mean[name] + (1 - MOMENTUM) * grad
            if "c_attn" in name:
                n = len(ahead)
                thirds = ahead[:, :n], ahead[:, n : 2 * n], ahead[:, 2 * n :]
                update = np.hstack([quintic(third) for third in thirds])
            else:
                n_in, n_out = ahead.shape
                update = quintic(ahead) * max(1, n_out / n_in) ** 0.5
            params[name] *= 1 - LEARNING_RATE * WEIGHT_DECAY
            params[name] -= LEARNING_RATE * update
    return params


@pytest.mark.parametrize("grad_scale", [1e-6, 1.0])
def test_steps_follow_the_formula(grad_scale):
    params, many_grads = matrices(0), [matrices(seed, grad_scale) for seed in (1, 2, 3)]
    expected = reference_steps(params, many_grads)
    optimizer = Muon(params, weight_decay=WEIGHT_DECAY)
    for grads in many_grads:
        optimizer.step(params, grads, LEARNING_RATE)
    for name, p in params.items():
        np.testing.assert_allclose(p, expected[name], atol=1e-5)


def test_q_k_and_v_stand_apart():
    """Without gradients for v, all of v stays; a large gradient of q does not shrink k's step."""
    params = {C_ATTN: np.zeros((16, 48), np.float32)}
    grad = np.random.default_rng(0).standard_normal((16, 48), dtype=np.float32)
    grad[:, :16] *= 1000
    grad[:, 32:] = 0
    Muon(params).step(params, {C_ATTN: grad}, LEARNING_RATE)
    q, k, v = np.split(params[C_ATTN], 3, axis=1)
    assert (v == 0).all()
    for third in (q, k):
        values = singular_values(third / LEARNING_RATE)
        assert values.min() > 0.3 and values.max() < 1.3


def test_wide_matrices_take_larger_steps():
    params = matrices(0)
    before = {name: p.copy() for name, p in params.items()}
    Muon(params, weight_decay=0.0).step(params, matrices(1), LEARNING_RATE)
    steps = {name: singular_values(p - before[name]).mean() for name, p in params.items()}
    assert steps[C_FC] == pytest.approx(2 * steps[C_PROJ], rel=0.1)  # n_out / n_in is 4, and 1 / 4


def test_gradients_of_zeros_only_decay():
    params = matrices(0)
    before = {name: p.copy() for name, p in params.items()}
    no_gradients = {name: np.zeros_like(p) for name, p in params.items()}
    Muon(params, weight_decay=0.5).step(params, no_gradients, learning_rate=0.1)
    for name, p in params.items():
        np.testing.assert_allclose(p, 0.95 * before[name], rtol=1e-6)


def test_float32_stays_float32():
    params = matrices(0)
    optimizer = Muon(params)
    optimizer.step(params, matrices(1), LEARNING_RATE)
    assert orthogonalized(params[C_FC]).dtype == np.float32
    for arrays in (params, optimizer.mean):
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("n_cores", [1, 2, 3])
def test_the_number_of_cores_changes_nothing(n_cores, monkeypatch):
    def after_a_step(n):
        monkeypatch.setattr("training.muon.cores", lambda: n)
        monkeypatch.setattr("fast.threads.cores", lambda: n)
        params = matrices(0)
        Muon(params).step(params, matrices(1), LEARNING_RATE)
        return params

    expected = after_a_step(1)
    for name, p in after_a_step(n_cores).items():
        np.testing.assert_array_equal(p, expected[name])
