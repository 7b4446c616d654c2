"""Fixtures that several test files use."""

import signal

import numpy as np
import pytest

import gpt2
from fast import threads

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as after `pytest &` in a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the programs are to notice it


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by (n_texts, n_seq) at each pass through the model with a cache."""
    shapes = []
    plain = gpt2.gpt2

    def noted(inputs, *args, **kwargs):
        shapes.append(np.shape(inputs))
        return plain(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2, "gpt2", noted)
    return shapes


@pytest.fixture(params=[1, 2, 3])
def n_threads(request, monkeypatch):
    """As if there were so many cores."""
    monkeypatch.setattr(threads, "cores", lambda: request.param)
    return request.param
