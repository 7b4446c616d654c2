"""training/model.py, batch_loss.py: the gradient against differences, PyTorch and JAX."""

import math

import numpy as np
import pytest

import gpt2
from tests.fixtures.gradients import check_gradient
from tests.fixtures.random_models import TINY, random_params
from training.adamw import AdamW
from training.batch_loss import batch_loss, batch_loss_and_grads, micro_batches
from training.model import block_backward, block_forward, forward, loss_and_grads
from utils import named

N_HEAD, N_EMBD = TINY["n_head"], TINY["n_embd"]
N_CTX = 9  # positions in each sequence of the batches


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def params():
    return random_params(TINY, dtype=np.float64)


def batch(n_seq=3):
    """Inputs and targets [n_seq, N_CTX] of random ids."""
    ids = np.random.default_rng(2).integers(0, TINY["n_vocab"], (n_seq, N_CTX + 1))
    return ids[:, :-1], ids[:, 1:]


def test_forward_computes_the_model_of_gpt2(params):
    inputs, _ = batch()
    logits, _ = forward(params, N_HEAD, inputs)
    logits = logits.reshape(*inputs.shape, TINY["n_vocab"])
    for ids, logits_of_sequence in zip(inputs, logits, strict=True):
        expected = gpt2.gpt2(ids, **params, n_head=N_HEAD)
        np.testing.assert_allclose(logits_of_sequence, expected, atol=1e-12)


def test_block_gradient(params, rng):
    n_seq, n_ctx = 2, 5
    block = params["blocks"][0]
    x = rng.standard_normal((n_seq * n_ctx, N_EMBD))
    out, saved = block_forward(x, block, N_HEAD, n_ctx)
    dout = rng.standard_normal(out.shape)
    dx, dblock = block_backward(dout, saved)

    def loss():
        return np.sum(block_forward(x, block, N_HEAD, n_ctx)[0] * dout)

    check_gradient(loss, {"x": x, **named(block)}, {"x": dx, **named(dblock)}, rng)


def test_whole_model_gradient(params, rng):
    inputs, targets = batch()
    _, grads = loss_and_grads(params, N_HEAD, inputs, targets)

    def loss():
        return loss_and_grads(params, N_HEAD, inputs, targets)[0]

    check_gradient(loss, named(params), named(grads), rng)


def test_dropout_gradient(params, rng):
    inputs, targets = batch()

    def with_dropout():
        same_draws = np.random.default_rng(5)
        return loss_and_grads(params, N_HEAD, inputs, targets, dropout=0.3, rng=same_draws)

    loss, grads = with_dropout()
    loss_without, _ = loss_and_grads(params, N_HEAD, inputs, targets)
    assert abs(loss - loss_without) > 1e-3
    check_gradient(lambda: with_dropout()[0], named(params), named(grads), rng)


def test_float32_stays_float32():
    loss, grads = loss_and_grads(random_params(TINY), N_HEAD, *batch())
    assert isinstance(loss, float)
    assert {grad.dtype for grad in named(grads).values()} == {np.dtype(np.float32)}


def test_gradients_equal_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch's autograd")
    pytest.importorskip("transformers")
    from tests.references.transformers_gpt2 import transformers_gpt2

    params = random_params(TINY)
    inputs, targets = batch()
    model = transformers_gpt2(params, TINY).double()  # so that all that rounds is ours
    logits = model(torch.tensor(inputs)).logits
    expected = torch.nn.functional.cross_entropy(
        logits.reshape(-1, TINY["n_vocab"]), torch.tensor(targets).reshape(-1)
    )
    expected.backward()
    loss, grads = loss_and_grads(params, N_HEAD, inputs, targets)
    assert abs(loss - expected.item()) < 1e-5
    theirs = dict(model.transformer.named_parameters())
    ours = named(grads)
    assert len(ours) == len(theirs)
    for name, grad in ours.items():
        *scope, leaf = name.split(".")
        leaf = {"w": "weight", "g": "weight", "b": "bias"}.get(leaf, f"{leaf}.weight")
        expected = theirs[".".join([*scope, leaf]).replace("blocks", "h")].grad.numpy()
        assert grad.dtype == np.float32
        assert np.linalg.norm(grad - expected) <= 1e-5 * np.linalg.norm(expected), name


@pytest.fixture
def jax_float64():
    """JAX, computing in float64 for one test."""
    jax = pytest.importorskip("jax", reason="compares with jax.grad")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


def test_gradients_equal_those_of_jax_through_gpt2(jax_float64, params, monkeypatch):
    jax = jax_float64
    monkeypatch.setattr(gpt2, "np", jax.numpy)
    inputs, targets = batch()

    def mean_loss(params):
        losses = []
        for ids, next_ids in zip(inputs, targets, strict=True):
            logits = gpt2.gpt2(ids, **params, n_head=N_HEAD)
            log_p = jax.nn.log_softmax(logits)
            losses.append(-log_p[np.arange(len(ids)), next_ids])
        return jax.numpy.mean(jax.numpy.array(losses))

    expected_loss, expected = jax.value_and_grad(mean_loss)(params)
    loss, grads = loss_and_grads(params, N_HEAD, inputs, targets)
    assert math.isclose(loss, expected_loss, rel_tol=1e-12)
    expected = named(expected)
    assert set(named(grads)) == set(expected)
    for name, grad in named(grads).items():
        np.testing.assert_allclose(grad, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


# ---------------------------------------------------------------- a batch on all cores


def test_micro_batches_give_the_gradients_of_the_whole_batch(params, monkeypatch):
    monkeypatch.setattr("training.batch_loss.MICRO_BATCH", 3 * N_CTX)
    monkeypatch.setattr("training.batch_loss.cores", lambda: 2)
    inputs, targets = batch(n_seq=7)
    sizes = [len(inputs) for inputs, _ in micro_batches(inputs, targets)]
    assert sizes == [3, 3, 1]
    loss, grads = loss_and_grads(params, N_HEAD, inputs, targets)
    sum_of_losses, sum_of_grads = batch_loss_and_grads(params, N_HEAD, inputs, targets)
    assert math.isclose(loss, sum_of_losses, rel_tol=1e-12)
    held_out_loss = batch_loss(params, N_HEAD, inputs, targets)
    assert math.isclose(loss, held_out_loss, rel_tol=1e-12)
    sum_of_grads = named(sum_of_grads)
    for name, grad in named(grads).items():
        np.testing.assert_allclose(sum_of_grads[name], grad, atol=1e-12)


def test_every_core_gets_a_micro_batch(monkeypatch):
    monkeypatch.setattr("training.batch_loss.cores", lambda: 4)
    sizes = [len(inputs) for inputs, _ in micro_batches(*batch(n_seq=8))]
    assert sizes == [2, 2, 2, 2]
    assert len(micro_batches(*batch(n_seq=2))) == 2


def test_the_same_seed_drops_the_same_numbers():
    params, (inputs, targets) = random_params(TINY), batch(n_seq=8)

    def grads(seed):
        return named(
            batch_loss_and_grads(params, N_HEAD, inputs, targets, dropout=0.3, seed=seed)[1]
        )

    first, again, other = grads((1, 2)), grads((1, 2)), grads((1, 3))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_ten_steps_follow_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    pytest.importorskip("transformers")
    from tests.references.transformers_gpt2 import transformers_gpt2

    params = random_params(TINY, scale=0.1)
    model = transformers_gpt2(params, TINY)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "wpe" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "wpe" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    ours = AdamW(params)
    inputs, targets = batch(n_seq=6)
    losses = []
    for _ in range(10):
        logits = model(torch.tensor(inputs)).logits.reshape(-1, TINY["n_vocab"])
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(targets).reshape(-1))
        theirs.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        loss, grads = batch_loss_and_grads(params, N_HEAD, inputs, targets)
        ours.step(params, grads, 1e-2)
        losses.append(loss)
        assert abs(loss - expected.item()) <= 1e-4
    assert losses[-1] < losses[0] - 0.5
