"""bench/ablation.py: what its variants do differently, and that a stopped run goes on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import ablation
from utils import named

N_CTX, BATCH_SIZE, N_STEPS = 16, 4, 12
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": N_CTX, "batch_size": BATCH_SIZE}
N_TOKENS = N_STEPS * BATCH_SIZE * N_CTX


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(variant) -> its run, at a tiny size."""
    path = tmp_path / "data.txt"
    path.mkdir()
    for i in range(100):
        (path / f"{i:03}.txt").write_text(f"{i} " * (1 + i % 20), encoding="utf-8")
    monkeypatch.setattr(ablation.Run, "kept", {})

    def start_variant(name, **changes):
        variant = ablation.VARIANTS[name]
        folder = tmp_path / name
        options = ablation.options_of(variant, folder, str(path), None, N_TOKENS, None)
        options = replace(options, tokenizer="char", **SIZES, steps=N_STEPS, eval_every=4)
        options = replace(options, **changes)
        Path(options.out).mkdir(exist_ok=True)
        return variant.run(options)

    return start_variant


def test_all_variants_start_from_the_same_weights_and_draw_the_same_windows(start):
    runs = [start(name) for name in ("baseline", "adamw", "cosine")]
    for run in runs[1:]:
        for name, p in named(run.learner.params).items():
            np.testing.assert_array_equal(p, named(runs[0].learner.params)[name])
    first, *others = (run.draw_starts(BATCH_SIZE).tolist() for run in runs)
    assert all(starts == first for starts in others)
    assert runs[0].data.train_ids is runs[1].data.train_ids  # not encoded twice


@pytest.mark.parametrize("name", ["random_starts", "baseline", "all_starts"])
def test_which_windows_are_moved_to_the_start_of_a_document(name, start):
    run = start(name)
    starts = np.array([run.draw_starts(BATCH_SIZE) for _ in range(100)])
    documents = run.batches.document_starts
    documents = documents[np.searchsorted(documents, starts, "right") - 1]
    could_be_moved = (documents < starts) & (starts < documents + N_CTX)
    assert could_be_moved[:, 0::2].any() == (name == "random_starts")
    assert could_be_moved[:, 1::2].any() == (name != "all_starts")


def shapes_of_batches(run):
    shapes, draw_batch = [], run.draw_batch

    def noted():
        inputs, targets = draw_batch()
        shapes.append(inputs.shape)
        return inputs, targets

    run.draw_batch = noted
    run.train()
    return shapes


def test_a_growing_batch_has_three_sizes_for_as_many_tokens_each(start, monkeypatch):
    monkeypatch.setattr(ablation, "GROWING_BATCH", (2, 4, 8))
    run = start("growing_batch", steps=24)
    shapes = shapes_of_batches(run)
    assert shapes == [(2, N_CTX)] * 16 + [(4, N_CTX)] * 8 + [(8, N_CTX)] * 4
    assert run.state.history[-1]["tokens"] == 24 * BATCH_SIZE * N_CTX


def test_a_growing_window_keeps_the_tokens_of_a_step(start):
    shapes = shapes_of_batches(start("growing_window"))
    assert shapes == [(2 * BATCH_SIZE, N_CTX // 2)] * 8 + [(BATCH_SIZE, N_CTX)] * 4


def test_an_average_of_the_weights_is_what_is_evaluated(start):
    run, baseline = start("average"), start("baseline", cooldown=0.0)
    averages = {name: p.astype(np.float64) for name, p in named(baseline.learner.params).items()}
    for _ in range(3):
        run.step()
        baseline.step()
        for name, p in named(baseline.learner.params).items():
            averages[name] += 0.01 * (p - averages[name])
    run.evaluate(1.0)
    for name, p in named(run.learner.params).items():
        # Training goes on with the weights themselves.
        np.testing.assert_array_equal(p, named(baseline.learner.params)[name])
        np.testing.assert_allclose(named(run.learner.average)[name], averages[name], atol=1e-6)
    for name, p in named(baseline.learner.params).items():
        p[...] = averages[name]
    baseline.evaluate(1.0)
    assert run.state.history[0]["held_out_loss"] == pytest.approx(
        baseline.state.history[0]["held_out_loss"]
    )


@pytest.mark.parametrize("name", ["average", "growing_batch"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(name, start, tmp_path):
    whole = start(name, out=str(tmp_path / "whole"))
    whole.train()
    stopped = start(name)
    for _ in range(whole.options.eval_every):
        stopped.step()
    stopped.evaluate(1.0)
    resumed = start(name, resume=True)
    resumed.train()
    assert resumed.state.history[-1]["held_out_loss"] == whole.state.history[-1]["held_out_loss"]
    expected = whole.learner.arrays()
    for key, array in resumed.learner.arrays().items():
        np.testing.assert_array_equal(array, expected[key])


def test_a_finished_run_is_not_made_again_nor_taken_for_another(start):
    options = start("baseline").options
    variant = ablation.VARIANTS["baseline"]
    result = ablation.result_of(variant, options)
    assert result["history"][-1]["step"] == N_STEPS
    assert ablation.result_of(variant, options) == result
    with pytest.raises(ValueError, match="steps"):
        ablation.result_of(variant, replace(options, steps=2 * N_STEPS))
