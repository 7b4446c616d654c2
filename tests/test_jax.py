"""The textbook functions run unchanged under jax.numpy: logits, gradients, batches."""

import types
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_pico
from tests.fixtures.random_models import TINY, random_params, random_prompt

jax = pytest.importorskip("jax", reason="runs the model under jax.numpy")

N_HEAD = TINY["n_head"]


@pytest.fixture(params=[gpt2, gpt2_pico], ids=["gpt2", "gpt2_pico"])
def model(request):
    """The module with its one line changed that imports NumPy, in float64."""
    path = Path(request.param.__file__)
    source = path.read_text(encoding="utf-8")
    line = "\nimport numpy as np\n"
    assert source.count(line) == 1
    module = types.ModuleType(f"{path.stem}_under_jax")
    changed = source.replace(line, "\nimport jax.numpy as np\n")
    exec(compile(changed, path, "exec"), module.__dict__)
    jax.config.update("jax_enable_x64", True)
    yield module
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def numpy_params():
    return random_params(TINY, dtype=np.float64)


@pytest.fixture
def params(numpy_params, model):
    return jax.tree.map(jax.numpy.asarray, numpy_params)


@pytest.fixture
def inputs():
    return random_prompt(TINY, 9)


@pytest.fixture
def expected_logits(numpy_params, inputs):
    return gpt2.gpt2(inputs, **numpy_params, n_head=N_HEAD)


def mean_logit(model, params, inputs):
    return model.gpt2(inputs, **params, n_head=N_HEAD).mean()


def test_logits_are_those_of_numpy(expected_logits, model, params, inputs):
    logits = model.gpt2(jax.numpy.array(inputs), **params, n_head=N_HEAD)
    assert isinstance(logits, jax.Array)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-10)


def test_logits_compile(expected_logits, model, params, inputs):
    compiled = jax.jit(lambda params, inputs: model.gpt2(inputs, **params, n_head=N_HEAD))
    logits = compiled(params, jax.numpy.array(inputs))
    np.testing.assert_allclose(logits, expected_logits, atol=1e-10)


def test_gradients_are_those_of_small_differences(model, params, inputs):
    ids = jax.numpy.array(inputs)
    grads = jax.grad(lambda params: mean_logit(model, params, ids))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    direction = jax.tree.map(lambda p: np.cos(np.arange(p.size)).reshape(p.shape), params)

    def moved(step):
        shifted = jax.tree.map(lambda p, d: p + step * d, params, direction)
        return mean_logit(model, shifted, ids)

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    products = jax.tree.map(lambda g, d: (g * d).sum(), grads, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-6)


def test_vmap_takes_several_texts(model, params):
    texts = jax.numpy.array([random_prompt(TINY, 9, seed) for seed in range(3)])
    batched = jax.vmap(lambda ids: model.gpt2(ids, **params, n_head=N_HEAD))(texts)
    for ids, logits in zip(texts, batched, strict=True):
        expected = model.gpt2(ids, **params, n_head=N_HEAD)
        np.testing.assert_allclose(logits, expected, atol=1e-10)
