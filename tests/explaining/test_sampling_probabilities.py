"""The script behind the sliders, in a real browser, is held against what `gpt2.sample` draws."""

from itertools import product
from urllib.parse import quote

import numpy as np
import pytest

from explaining.page import FOLDER
from tests.fixtures import browser
from tests.fixtures.drawing import drawing_probabilities

if browser.missing():
    message = f"{browser.missing()}: the script is not tried in a browser"
    pytest.skip(message, allow_module_level=True)

PROBABILITIES = """async ([module, cases]) => {
    const { bestFirst, samplingProbabilities } = await import(module);
    return cases.map(([numbers, ...options]) => {
        const logits = Float32Array.from(numbers);
        const ids = bestFirst(logits);
        return [[...ids], [...samplingProbabilities(logits, ids, ...options)]];
    });
}"""
TEMPERATURES = [0.0, 1e-300, 1e-46, 1e-3, 0.3, 1.0, 2.0, 50.0]
TOP_PS = [0.0, 1e-9, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0]


def some_logits():
    """Of small vocabularies: all different, with ties, all equal, far apart."""
    rng = np.random.default_rng(0)
    for n_vocab in (1, 2, 10, 30):
        logits = rng.normal(0, 2, n_vocab).astype(np.float32)
        yield from (logits, np.round(logits), np.zeros_like(logits), 100 * logits)


def cases():
    """(logits, temperature, top_k, top_p) of every kind."""
    rng = np.random.default_rng(1)
    for logits in some_logits():
        n_vocab = len(logits)
        top_ks = sorted({0, 1, 2, n_vocab - 1, n_vocab, n_vocab + 7})
        settings = list(product(TEMPERATURES, top_ks, TOP_PS))
        for k in rng.choice(len(settings), 40, replace=False):
            yield logits, *settings[k]
    for top_p in (0.08, 0.64):  # a sum meets it exactly, as a float32
        yield np.zeros(25, np.float32), 1.0, 0, top_p
    large = rng.normal(0, 3, 50257).astype(np.float32)
    for options in [(1.0, 0, 1.0), (2.0, 0, 0.9), (0.7, 40, 0.95)]:
        yield large, *options


def test_the_sliders_show_what_sample_draws():
    script = (FOLDER / "sampling_probabilities.js").read_text(encoding="utf-8")
    all_cases = list(cases())
    with browser.chromium() as chromium:
        arguments = [[logits.tolist(), *options] for logits, *options in all_cases]
        module = f"data:text/javascript,{quote(script)}"
        found = chromium.new_page().evaluate(PROBABILITIES, [module, arguments])
    for (logits, *options), (ids, probabilities) in zip(all_cases, found, strict=True):
        np.testing.assert_array_equal(ids, np.argsort(-logits, kind="stable"))
        n_best = len(ids) if len(ids) < 100 else 4
        shares = drawing_probabilities(logits, n_best, *options)
        expected = [shares.get(i, 0.0) for i in ids[:n_best]]
        # `sample` adds up float32 numbers: 50,257 of them sum to 1.0001.
        np.testing.assert_allclose(
            probabilities[:n_best], expected, rtol=1e-4, atol=1e-6, err_msg=f"{options}"
        )
        assert sum(probabilities) == pytest.approx(1)
