"""training/layers.py: every gradient against central differences."""

import numpy as np
import pytest

from tests.fixtures.gradients import check_gradient
from training import layers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def check_layer(forward, backward, x, rng, **weights):
    """Check dx and the gradients of `weights` for the loss sum(out * random)."""
    out, saved = forward(x.copy(), **weights)
    dout = rng.standard_normal(out.shape)
    result = backward(dout, saved)
    dx, dweights = result if weights else (result, {})

    def loss():
        return np.sum(forward(x.copy(), **weights)[0] * dout)

    check_gradient(loss, {"x": x, **weights}, {"x": dx, **dweights}, rng)


def test_linear_gradient(rng):
    x, w, b = (rng.standard_normal(shape) for shape in ((7, 5), (5, 4), 4))
    check_layer(layers.linear_forward, layers.linear_backward, x, rng, w=w, b=b)


def test_layer_norm_gradient(rng):
    x, g, b = rng.standard_normal((5, 6)) + 1, rng.standard_normal(6), rng.standard_normal(6)
    check_layer(layers.layer_norm_forward, layers.layer_norm_backward, x, rng, g=g, b=b)


def test_gelu_gradient(rng):
    x = 3 * rng.standard_normal((6, 4))
    check_layer(layers.gelu_forward, layers.gelu_backward, x, rng)


def test_gelu_of_many_rows_is_that_of_each_row(rng):
    x = rng.standard_normal((2 * layers.GELU_ROWS + 1, 3))
    out, slope = layers.gelu_forward(x.copy())
    for i, row in enumerate(x):
        out_of_row, slope_of_row = layers.gelu_forward(row[None].copy())
        assert np.array_equal(out[i], out_of_row[0]) and np.array_equal(slope[i], slope_of_row[0])


@pytest.mark.parametrize("n_head", [1, 2, 6])
@pytest.mark.parametrize("scores_at_a_time", [layers.SCORES_AT_A_TIME, 50])
def test_attention_gradient(n_head, scores_at_a_time, rng, monkeypatch):
    monkeypatch.setattr(layers, "SCORES_AT_A_TIME", scores_at_a_time)
    n_seq, n_ctx, n_embd = 3, 5, 6
    qkv = rng.standard_normal((n_seq * n_ctx, 3 * n_embd))

    def forward(qkv):
        return layers.attention_forward(qkv, n_head, n_ctx)

    check_layer(forward, layers.attention_backward, qkv, rng)


def test_embedding_gradient(rng):
    inputs = np.array([[0, 3, 3], [1, 3, 0]])  # ids that occur more than once, and not at all
    arrays = {"wte": rng.standard_normal((5, 4)), "wpe": rng.standard_normal((6, 4))}
    out, saved = layers.embedding_forward(inputs, **arrays)
    dout = rng.standard_normal(out.shape)
    dwte, dwpe = layers.embedding_backward(dout, saved)

    def loss():
        return np.sum(layers.embedding_forward(inputs, **arrays)[0] * dout)

    check_gradient(loss, arrays, {"wte": dwte, "wpe": dwpe}, rng)


def test_cross_entropy_gradient(rng):
    logits, targets = rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    _, dlogits = layers.cross_entropy(logits, targets)

    def loss():
        return layers.cross_entropy(logits, targets)[0]

    check_gradient(loss, {"logits": logits}, {"logits": dlogits}, rng)


def test_dropout_zeroes_its_part_and_keeps_the_mean(rng):
    x, mask = layers.dropout_forward(np.ones((500, 400), np.float32), 0.4, rng)
    assert x.dtype == mask.dtype == np.float32
    assert abs((x == 0).mean() - 0.4) < 0.01 and abs(x.mean() - 1) < 0.01
    assert len(np.unique(x)) == 2
    same, mask = layers.dropout_forward(x, 0.4, None)
    assert same is x and mask is None
