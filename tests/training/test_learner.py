"""training/learner.py: what its dropout depends on."""

import numpy as np

from tests.fixtures.random_models import TINY, random_params
from training.learner import Learner
from training.options import Options
from training.tokenizer import make_encoder

IDS = np.random.default_rng(0).integers(0, TINY["n_vocab"], (4, 9))


def step(learner):
    """A step that changes no parameter: its loss depends on the dropout alone."""
    return learner.step(IDS[:, :-1], IDS[:, 1:], prompts=[], factor=0.0)


def new_learner(seed):
    encoder = make_encoder("char", [])
    options = Options(out="out", dropout=0.3, seed=seed)
    return Learner(random_params(TINY), TINY["n_head"], encoder, options)


def test_each_step_drops_other_numbers_and_a_resumed_run_the_same():
    learner = new_learner(seed=0)
    losses = [step(learner) for _ in range(3)]
    assert len({*losses, step(new_learner(seed=1))}) == 4
    resumed = new_learner(seed=0)
    resumed.load(learner.arrays(), n_steps=2)
    assert step(resumed) == losses[2]
