"""fast_generation.py: what plain decoding gives, always, in fewer passes and on all cores."""

import inspect
import json
import statistics

import numpy as np
import pytest
from random_models import random_params

import fast_generation
import gpt2
from utils import load_encoder_hparams_and_params

SIZES = {"n_vocab": 40, "n_ctx": 32, "n_embd": 24, "n_head": 3, "n_layer": 2}


def prompts(n_prompts, n_vocab, longest, seed):
    """Random prompts, every other one of which repeats itself."""
    rng = np.random.default_rng(seed)
    for i in range(n_prompts):
        ids = rng.integers(0, n_vocab, rng.integers(1, longest + 1)).tolist()
        yield ids * 3 if i % 2 else ids


# ---------------------------------------------------------------- guesses


# With a scale of 0.02 all logits are nearly equal, with 0.5 the texts soon run in circles.
@pytest.mark.parametrize("scale", [0.02, 0.1, 0.2, 0.5])
def test_random_models_write_the_same_ids(scale):
    params = random_params(SIZES, scale=scale)
    for i, inputs in enumerate(prompts(230, 40, 20, seed=1)):
        n_tokens = 1 + (7 * i) % 90  # past the window of 32, too
        plain = gpt2.generate(inputs, params, 3, n_tokens, lookup=False)
        assert gpt2.generate(inputs, params, 3, n_tokens) == plain


@pytest.fixture(scope="module")
def bundled():
    return load_encoder_hparams_and_params("python", "models")


def code_prompts(encoder, n_prompts):
    """The beginnings of functions of the standard library, of many lengths: lists of ids."""
    functions = [
        inspect.getsource(function)
        for module in (json, statistics, inspect)
        for _, function in sorted(inspect.getmembers(module, inspect.isfunction))
    ]
    for i in range(n_prompts):
        ids = encoder.encode(functions[i % len(functions)])
        yield ids[: 1 + (13 * i) % 250]


def test_the_bundled_model_writes_the_same_ids(bundled):
    encoder, hparams, params = bundled
    for inputs in code_prompts(encoder, 100):
        plain = gpt2.generate(inputs, params, hparams["n_head"], 60, lookup=False)
        assert gpt2.generate(inputs, params, hparams["n_head"], 60) == plain


def test_text_that_repeats_takes_few_passes(passes):
    params = random_params({**SIZES, "n_ctx": 300})  # this one soon writes nothing but 32
    new_ids = gpt2.generate([1, 2, 3], params, 3, 80)
    assert new_ids[-40:] == [32] * 40
    assert len(passes) < 80 / 2.5


def test_text_that_does_not_repeat_costs_next_to_nothing(passes):
    params = random_params({**SIZES, "n_vocab": 5000, "n_ctx": 300})
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 60, 200).tolist()  # pairs recur by chance, fours hardly do
    gpt2.generate(inputs, params, 3, 60)
    assert len(passes) <= 60 and sum(passes) - len(inputs) < 80


def test_stop_id_ends_the_text_in_the_middle_of_a_guess():
    params = random_params(SIZES, scale=0.5)
    inputs = [1, 2, 3] * 5
    plain = gpt2.generate(inputs, params, 3, 30, lookup=False)
    for stop_id in sorted(set(plain)):
        until = plain[: plain.index(stop_id)]
        assert gpt2.generate(inputs, params, 3, 30, stop_id=stop_id) == until


def test_guesses_are_what_followed_and_go_round():
    guesses = fast_generation.Guesses([9, 1, 2, 3, 4, 5, 1, 2, 3, 4])
    assert guesses.next(room=3) == [5, 1, 2]
    assert guesses.next(room=7) == [5, 1, 2, 3, 4, 5, 1]
    assert guesses.next(room=0) == []
    guesses.append(7)
    assert guesses.next(room=7) == []


def test_guesses_grow_while_right_and_stop_while_wrong():
    guesses = fast_generation.Guesses([1, 2, 3, 4] * 10)
    first = len(guesses.next(room=100))
    guesses.learn(first, first)
    assert len(guesses.next(room=100)) > first
    for _ in range(5):
        guesses.learn(8, 0)
    assert guesses.next(room=100) == []  # only after a match longer than these


def test_a_choice_too_close_to_call_is_left_to_a_pass_of_its_own():
    logits = np.zeros((3, 5), np.float32)
    logits[0, 2], logits[1, 3], logits[1, 4], logits[2, 0] = 5, 7, 7 + 1e-5, 5
    assert fast_generation.agreed([2, 4], logits) == ([2], False)
    logits[1, 3] = 6
    assert fast_generation.agreed([2, 4], logits) == ([2, 4, 0], True)
    assert fast_generation.agreed([2, 3], logits) == ([2, 4], True)


def test_what_is_not_clear_is_decided_by_the_next_pass_over_one_position(passes, monkeypatch):
    params = random_params({**SIZES, "n_ctx": 300})
    plain = gpt2.generate([1, 2, 3], params, 3, 80, lookup=False)
    passes.clear()
    monkeypatch.setattr(fast_generation, "too_close", lambda logits: True)
    assert gpt2.generate([1, 2, 3], params, 3, 80) == plain
    guessed = [i for i, n_inputs in enumerate(passes) if i > 0 and n_inputs > 1]
    assert guessed and all(passes[i + 1] == 1 for i in guessed)


# ---------------------------------------------------------------- several texts side by side


def write_side_by_side(texts, params, n_head, n_tokens, seeds, **options):
    windows = [gpt2.Window(ids, params, n_head) for ids in texts]
    rngs = [np.random.default_rng(seed) for seed in seeds]
    found = [[] for _ in texts]
    for i, new_id in fast_generation.side_by_side(windows, n_tokens, rngs=rngs, **options):
        found[i].append(new_id)
    return found


@pytest.mark.parametrize("scale", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9}, {"temperature": 1.0, "top_k": 10, "top_p": 0.9}],
    ids=["greedy", "sampled", "cut"],
)
def test_each_text_of_a_ragged_batch_equals_its_own_run(scale, options):
    params = random_params(SIZES, scale=scale)
    texts = list(prompts(12, 40, 40, seed=3))
    found = write_side_by_side(texts, params, 3, 70, range(12), stop_id=7, **options)
    for seed, (ids, new_ids) in enumerate(zip(texts, found, strict=True)):
        rng = np.random.default_rng(seed)
        assert new_ids == gpt2.generate(ids, params, 3, 70, stop_id=7, rng=rng, **options)


def test_a_text_whose_choice_is_not_clear_is_asked_alone(monkeypatch):
    params = random_params(SIZES)
    texts = list(prompts(4, 40, 20, seed=5))
    together = fast_generation.few_positions

    def upside_down(ids, *args):
        return together(ids, *args) * (1 if len(ids) == 1 else -1)

    monkeypatch.setattr(fast_generation, "few_positions", upside_down)
    monkeypatch.setattr(fast_generation, "too_close", lambda logits: True)
    for ids, new_ids in zip(texts, write_side_by_side(texts, params, 3, 50, range(4)), strict=True):
        assert new_ids == gpt2.generate(ids, params, 3, 50, lookup=False)


def test_no_texts_give_nothing_and_a_text_of_no_ids_is_refused():
    params = random_params(SIZES)
    assert write_side_by_side([], params, 3, 5, []) == []
    with pytest.raises(ValueError, match="0 ids"):
        write_side_by_side([[1, 2], []], params, 3, 5, range(2))


def test_texts_side_by_side_read_each_prompt_once(passes):
    texts = [[1, 2, 3], list(range(20)), [5, 6]]
    write_side_by_side(texts, random_params(SIZES), 3, 12, range(3), temperature=1.0)
    assert passes == [2, 19, 1]


def test_texts_of_the_bundled_model_side_by_side(bundled):
    encoder, hparams, params = bundled
    texts = list(code_prompts(encoder, 8))
    found = write_side_by_side(texts, params, hparams["n_head"], 40, range(8))
    for ids, new_ids in zip(texts, found, strict=True):
        assert new_ids == gpt2.generate(ids, params, hparams["n_head"], 40)


@pytest.mark.parametrize("n_prompt", [1, 2, 20, 50])
def test_copies_of_a_prompt_go_on_as_it_would_alone(n_prompt):
    params = random_params(SIZES)
    ids = np.random.default_rng(4).integers(0, 40, n_prompt).tolist()
    windows = fast_generation.copies(ids, params, 3, 3)
    assert all(window.caches[0].n_seq == min(n_prompt, 32) - 1 for window in windows)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    found = [[], [], []]
    for i, new_id in fast_generation.side_by_side(windows, 40, rngs=rngs, temperature=1.0):
        found[i].append(new_id)
    for seed, new_ids in enumerate(found):
        rng = np.random.default_rng(seed)
        assert new_ids == gpt2.generate(ids, params, 3, 40, rng=rng, temperature=1.0)


# ---------------------------------------------------------------- passes and products


@pytest.fixture(params=[1, 2, 3])
def n_threads(request, monkeypatch):
    monkeypatch.setattr(fast_generation, "cores", lambda: request.param)
    return request.param


@pytest.mark.parametrize("n_before", [0, 1, 150])
@pytest.mark.parametrize("n_new", [1, 2, 16, 17, 101, 300])
def test_a_pass_over_several_positions_is_the_textbook_pass(n_before, n_new, n_threads):
    sizes = {**SIZES, "n_ctx": 450, "n_embd": 72}
    params = random_params(sizes, scale=0.2, dtype=np.float64)
    ids = np.random.default_rng(6).integers(0, 40, n_before + n_new).tolist()
    n_last = min(n_new, 5)
    caches = [gpt2.KVCache(3, 450, 24, np.float64) for _ in params["blocks"]]
    if n_before:
        nothing = fast_generation.gpt2_on_all_cores(ids[:n_before], params, 3, caches, n_last=0)
        assert nothing.shape == (0, 40)
    new = ids[n_before:]
    found = fast_generation.gpt2_on_all_cores(new, params, 3, caches, n_last)
    np.testing.assert_allclose(found, gpt2.gpt2(ids, **params, n_head=3)[-n_last:], atol=1e-9)
    expected = [gpt2.KVCache(3, 450, 24, np.float64) for _ in params["blocks"]]
    gpt2.gpt2(ids, **params, n_head=3, caches=expected)
    for cache, plain in zip(caches, expected, strict=True):
        assert cache.n_seq == plain.n_seq == len(ids)
        np.testing.assert_allclose(cache.k[:, : len(ids)], plain.k[:, : len(ids)], atol=1e-9)
        np.testing.assert_allclose(cache.v[:, : len(ids)], plain.v[:, : len(ids)], atol=1e-9)


def test_attention_takes_the_largest_scores():
    rng = np.random.default_rng(7)
    q, k, v = rng.standard_normal((3, 2, 200, 8))
    q, k = 300 * q[:, 50:], 300 * k
    found = np.empty_like(q)
    fast_generation.causal_attention(q, k, v, found)
    mask = np.triu(np.full((150, 200), -1e10), 51)
    np.testing.assert_allclose(found, gpt2.attention(q, k, v, mask), atol=1e-9)


def test_passes_keep_float32(monkeypatch):
    """Within, too: float64 would be rounded again on its way into the caches and sums."""
    dtypes = set()
    for name, function in (("exp", np.exp), ("tanh", np.tanh)):  # attention and gelu

        def noted(x, *args, plain=function, **kwargs):
            dtypes.add(x.dtype)
            return plain(x, *args, **kwargs)

        monkeypatch.setattr(np, name, noted)
    params = random_params({**SIZES, "n_ctx": 100})
    for n_new in (2, 100):
        caches = [gpt2.KVCache(3, 100, 8, np.float32) for _ in params["blocks"]]
        logits = fast_generation.gpt2_on_all_cores([1] * n_new, params, 3, caches)
        assert {logits.dtype, *dtypes} == {np.dtype(np.float32)}


@pytest.mark.parametrize("n_rows", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("shape", [(700, 500), (64, 5000), (5000, 64)])
def test_products_of_a_few_rows(n_rows, shape, n_threads):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((n_rows, shape[0])), rng.standard_normal(shape)
    for weights in (w, np.ascontiguousarray(w.T).T):  # as a layer's, and as wte.T lies
        np.testing.assert_allclose(fast_generation.product(x, weights), x @ w, atol=1e-10)
