"""training/adamw.py: the optimizer against torch.optim.AdamW, and what weight decay applies to."""

import numpy as np
import pytest

from tests.fixtures.random_models import TINY, random_params
from training.adamw import AdamW
from utils import map_params, named


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_adamw_follows_pytorch(rng):
    torch = pytest.importorskip("torch", reason="compares with torch.optim.AdamW")
    params = {"wpe": rng.standard_normal((3, 4)), "w": rng.standard_normal((3, 4)), "b": np.ones(4)}
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    groups = [
        {"params": [theirs["w"]], "weight_decay": 0.1},
        {"params": [theirs["wpe"], theirs["b"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    ours = AdamW(params, weight_decay=0.1, clip=1.0)
    for _ in range(10):
        grads = {name: rng.standard_normal(p.shape) for name, p in params.items()}
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        reference.step()
        ours.step(params, grads, 0.01)
    for name, p in params.items():
        np.testing.assert_allclose(p, theirs[name].detach().numpy(), rtol=1e-10)


def test_only_matrices_and_token_embeddings_decay():
    params = random_params(TINY)
    before = {name: p.copy() for name, p in named(params).items()}
    no_gradients = map_params(lambda name, p: np.zeros_like(p), params)
    AdamW(params, weight_decay=0.5).step(params, no_gradients, learning_rate=0.1)
    for name, p in named(params).items():
        decays = name == "wte" or name.endswith(".w")
        np.testing.assert_allclose(p, before[name] * (0.95 if decays else 1), rtol=1e-6)


def test_float32_stays_float32():
    params = random_params(TINY)
    optimizer = AdamW(params)
    optimizer.step(params, random_params(TINY, seed=1), learning_rate=0.1)
    for arrays in (named(params), optimizer.mean, optimizer.square):
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
