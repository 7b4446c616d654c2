"""training/batches.py: windows of ids, and which tokens begin a line."""

import numpy as np
import pytest

from encoder import ENDOFTEXT, Encoder
from training.batches import newline_ids, spread_windows, windows


def test_targets_are_the_inputs_one_later():
    inputs, targets = windows(np.arange(20), [0, 7], 4)
    assert inputs.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4], [8, 9, 10, 11]]


@pytest.mark.parametrize(("n_ids", "n_windows"), [(5, 1), (9, 2), (100, 24), (10_000, 100)])
def test_held_out_windows_are_spread_over_all_ids(n_ids, n_windows):
    n_ctx = 4
    inputs, targets = spread_windows(np.arange(n_ids), n_ctx)
    assert len(inputs) == len(targets) == n_windows
    starts = inputs[:, 0]
    assert starts[0] == 0 and len(set(np.diff(starts))) <= 1  # equal distances
    assert all(np.diff(starts) >= n_ctx)  # none overlapping
    assert targets[-1, -1] > 0.9 * (n_ids - n_ctx)


def test_each_token_with_a_newline_begins_a_line():
    vocabulary = {ENDOFTEXT: 0, "Ċ": 1, "Ġ": 2, "x": 3, "ĊĠ": 4}  # Ċ is a newline, Ġ a space
    assert newline_ids(Encoder(vocabulary, ["Ċ Ġ"])).tolist() == [1, 4]
