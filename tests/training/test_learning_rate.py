"""training/learning_rate.py: the course of the rate over a run."""

import numpy as np

from training.learning_rate import WARMUP_STEPS, trapezoid


def test_the_rate_warms_up_stays_and_cools_down_to_0():
    n_steps, cooldown = 10 * WARMUP_STEPS, 0.4
    rates = [trapezoid(n, (n - 1) / n_steps, cooldown) for n in range(1, n_steps + 2)]
    first_of_cooldown = round(0.6 * n_steps)
    warmup, plateau = rates[:WARMUP_STEPS], rates[WARMUP_STEPS : first_of_cooldown + 1]
    np.testing.assert_allclose(np.diff(warmup), 1 / WARMUP_STEPS)
    assert warmup[0] > 0 and warmup[-1] == 1 and set(plateau) == {1}
    np.testing.assert_allclose(np.diff(rates[first_of_cooldown:]), -1 / (cooldown * n_steps))
    assert rates[-2] > 0 and rates[-1] == 0  # only after the last step


def test_a_run_that_is_over_or_has_no_cooldown():
    assert trapezoid(1000, 1.01, 0.4) == 0
    assert trapezoid(1000, 1.0, 0.0) == trapezoid(1000, 1.01, 0.0) == 1
