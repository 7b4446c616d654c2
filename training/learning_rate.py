"""How large the steps of the optimizers are over a run.

Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
2024.
"""

WARMUP_STEPS = 100


def trapezoid(n_steps: int, part_done: float, cooldown: float) -> float:
    """What a peak learning rate is multiplied by, from 0 to 1: a warm-up, a plateau, a cooldown.

    It rises in a straight line over the first WARMUP_STEPS steps, stays at 1, and falls in a
    straight line to 0 over the last part `cooldown` of the run. Until that begins nothing depends
    on how long the run will be. `n_steps` counts the step that is being made, `part_done`, from 0
    to 1, what was done before it.

    >>> [round(trapezoid(n, n / 1000, cooldown=0.4), 2) for n in (1, 50, 100, 600, 800, 1000)]
    [0.01, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    factor = min(1.0, n_steps / WARMUP_STEPS)
    part_left = max(0.0, 1 - part_done)
    if part_left < cooldown:
        factor = min(factor, part_left / cooldown)
    return factor
