"""Fixtures that several test files use."""

import pytest

import fast_generation
import gpt2


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by the number of inputs of each pass through the model."""
    lengths = []
    for module, name in ((gpt2, "gpt2"), (fast_generation, "gpt2_on_all_cores")):
        plain = getattr(module, name)

        def counted(inputs, *args, plain=plain, **kwargs):
            lengths.append(len(inputs))
            return plain(inputs, *args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return lengths
