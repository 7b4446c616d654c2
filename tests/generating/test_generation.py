"""Generation: with guesses and without, several texts at once; always what plain decoding gives."""

import inspect
import itertools
import json
import os
import signal
import statistics
import threading

import numpy as np
import pytest

import gpt2
from fast import threads
from generating import guessing, side_by_side
from tests.fixtures.random_models import random_params
from utils import load_encoder_hparams_and_params

SIZES = {"n_vocab": 40, "n_ctx": 32, "n_embd": 24, "n_head": 3, "n_layer": 2}
N_HEAD = SIZES["n_head"]


def prompts(n_prompts, n_vocab, longest, seed):
    """Random prompts, every other one of which repeats itself."""
    rng = np.random.default_rng(seed)
    for i in range(n_prompts):
        ids = rng.integers(0, n_vocab, rng.integers(1, longest + 1)).tolist()
        yield ids * 3 if i % 2 else ids


@pytest.fixture
def even_clock(monkeypatch):
    """Every pass takes equally long, so that guesses pay wherever they hold."""
    monkeypatch.setattr(guessing, "perf_counter", itertools.count().__next__)


# ---------------------------------------------------------------- guesses


# With a scale of 0.02 all logits are nearly equal, with 0.5 the texts soon run in circles.
@pytest.mark.parametrize("scale", [0.02, 0.1, 0.2, 0.5])
def test_random_models_write_the_same_ids(scale, even_clock):
    params = random_params(SIZES, scale=scale)
    for i, inputs in enumerate(prompts(230, 40, 20, seed=1)):
        n_tokens = 1 + (7 * i) % 90  # past the window of 32, too
        plain = gpt2.generate(inputs, params, N_HEAD, n_tokens, lookup=False)
        assert gpt2.generate(inputs, params, N_HEAD, n_tokens) == plain


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


def test_the_bundled_model_writes_the_same_ids(bundled, even_clock):
    encoder, hparams, params = bundled
    for inputs in code_prompts(encoder, 100):
        plain = gpt2.generate(inputs, params, hparams["n_head"], 60, lookup=False)
        assert gpt2.generate(inputs, params, hparams["n_head"], 60) == plain


def test_ids_do_not_depend_on_how_long_passes_take(passes, monkeypatch):
    """The clock decides when to guess, and nothing else."""
    params = random_params({**SIZES, "n_ctx": 300})
    found, n_passes = [], set()
    for seed in range(5):
        ticks = iter(np.cumsum(np.random.default_rng(seed).exponential(size=1000)))
        monkeypatch.setattr(guessing, "perf_counter", lambda ticks=ticks: next(ticks))
        passes.clear()
        found.append(gpt2.generate([1, 2, 3] * 4, params, N_HEAD, 80))
        n_passes.add(len(passes))
    assert all(ids == found[0] for ids in found)
    assert len(n_passes) > 1  # the clocks did lead to other guesses


def test_text_that_repeats_takes_few_passes(passes, even_clock):
    params = random_params({**SIZES, "n_ctx": 300})  # this one soon writes nothing but 32
    new_ids = gpt2.generate([1, 2, 3], params, N_HEAD, 80)
    assert new_ids[-40:] == [32] * 40
    assert len(passes) < 80 / 2.5


def test_text_that_does_not_repeat_costs_next_to_nothing(passes, even_clock):
    params = random_params({**SIZES, "n_vocab": 5000, "n_ctx": 300})
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 60, 200).tolist()  # pairs recur by chance, fours hardly do
    gpt2.generate(inputs, params, N_HEAD, 60)
    assert sum(n_seq for _, n_seq in passes) - len(inputs) < 80


def test_guesses_stop_where_passes_over_several_positions_are_slow(passes, monkeypatch):
    """A machine on which n positions take n times as long: there is nothing to gain."""
    now = 0

    def clock():
        nonlocal now
        now += passes[-1][1] if passes else 1  # before and after a pass alike
        return now

    monkeypatch.setattr(guessing, "perf_counter", clock)
    params = random_params({**SIZES, "n_ctx": 300})
    gpt2.generate([1, 2, 3], params, N_HEAD, 200)
    assert sum(n_seq for _, n_seq in passes) < 1.1 * 200


def test_stop_id_ends_the_text_in_the_middle_of_a_guess(even_clock):
    params = random_params(SIZES, scale=0.5)
    inputs = [1, 2, 3] * 5
    plain = gpt2.generate(inputs, params, N_HEAD, 30, lookup=False)
    for stop_id in sorted(set(plain)):
        until = plain[: plain.index(stop_id)]
        assert gpt2.generate(inputs, params, N_HEAD, 30, stop_id=stop_id) == until


def test_a_choice_too_close_to_call_is_left_to_a_pass_of_its_own():
    logits = np.zeros((3, 5), np.float32)
    logits[0, 2], logits[1, 3], logits[1, 4], logits[2, 0] = 5, 7, 7 + 1e-5, 5
    assert guessing.confirmed([2, 4], logits) == ([2], False)
    logits[1, 3] = 6
    assert guessing.confirmed([2, 4], logits) == ([2, 4, 0], True)
    assert guessing.confirmed([2, 3], logits) == ([2, 4], True)


def test_what_is_not_sure_is_decided_by_the_next_pass_over_one_position(
    passes, monkeypatch, even_clock
):
    params = random_params({**SIZES, "n_ctx": 300})
    plain = gpt2.generate([1, 2, 3], params, N_HEAD, 80, lookup=False)
    passes.clear()
    monkeypatch.setattr(guessing, "too_close", lambda logits: True)
    assert gpt2.generate([1, 2, 3], params, N_HEAD, 80) == plain
    guessed = [i for i, (_, n_seq) in enumerate(passes) if i > 0 and n_seq > 1]
    assert guessed and all(passes[i + 1] == (1, 1) for i in guessed)


# ---------------------------------------------------------------- several texts side by side


def write_side_by_side(texts, params, n_tokens, seeds, n_head=N_HEAD, **options):
    """The new ids of each text; text i draws with seeds[i]."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    found = [[] for _ in texts]
    for i, new_id in gpt2.generate_side_by_side(
        texts, params, n_head, n_tokens, rngs=rngs, **options
    ):
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
    found = write_side_by_side(texts, params, 70, range(12), stop_id=7, **options)
    for seed, (ids, new_ids) in enumerate(zip(texts, found, strict=True)):
        rng = np.random.default_rng(seed)
        assert new_ids == gpt2.generate(ids, params, N_HEAD, 70, stop_id=7, rng=rng, **options)


def test_a_text_whose_choice_is_not_sure_is_asked_alone(monkeypatch):
    params = random_params(SIZES)
    texts = list(prompts(4, 40, 20, seed=5))
    plain = gpt2.gpt2

    def upside_down(inputs, *args, **kwargs):
        logits = plain(inputs, *args, **kwargs)
        return logits if len(inputs) == 1 else -logits

    monkeypatch.setattr(gpt2, "gpt2", upside_down)
    monkeypatch.setattr(side_by_side, "too_close", lambda logits: True)
    for ids, new_ids in zip(texts, write_side_by_side(texts, params, 50, range(4)), strict=True):
        assert new_ids == gpt2.generate(ids, params, N_HEAD, 50, lookup=False)


def test_no_texts_give_nothing_and_a_text_of_no_ids_is_refused():
    params = random_params(SIZES)
    assert write_side_by_side([], params, 5, []) == []
    with pytest.raises(ValueError, match="0 ids"):
        write_side_by_side([[1, 2], []], params, 5, range(2))


def test_texts_side_by_side_read_each_prompt_once_and_then_go_on_together(passes):
    texts = [[1, 2, 3], list(range(20)), [5, 6]]
    write_side_by_side(texts, random_params(SIZES), 12, range(3), temperature=1.0)
    assert passes == [(1, 3), (1, 20), (1, 2), *11 * [(3, 1)]]


def test_texts_of_the_bundled_model_side_by_side(bundled):
    encoder, hparams, params = bundled
    texts, n_head = list(code_prompts(encoder, 8)), hparams["n_head"]
    found = write_side_by_side(texts, params, 40, range(8), n_head)
    for ids, new_ids in zip(texts, found, strict=True):
        assert new_ids == gpt2.generate(ids, params, n_head, 40)


@pytest.mark.parametrize("n_prompt", [1, 2, 20, 50])
def test_several_samples_of_one_prompt_read_it_once_and_go_on_as_alone(n_prompt, passes):
    params = random_params(SIZES)
    ids = np.random.default_rng(4).integers(0, 40, n_prompt).tolist()
    found = write_side_by_side([ids] * 3, params, 40, range(3), temperature=1.0)
    if n_prompt < SIZES["n_ctx"]:
        assert passes[:2] == [(1, n_prompt), (3, 1)]
    else:  # each text drops half of its window, and reads the rest again
        assert passes[:5] == [(1, SIZES["n_ctx"]), *3 * [(1, 17)], (3, 1)]
    for seed, new_ids in enumerate(found):
        rng = np.random.default_rng(seed)
        assert new_ids == gpt2.generate(ids, params, N_HEAD, 40, rng=rng, temperature=1.0)


# ---------------------------------------------------------------- passes over several positions


@pytest.mark.parametrize("n_before", [0, 1, 150])
@pytest.mark.parametrize("n_new", [1, 2, 16, 17, 101, 300])
def test_a_pass_over_several_positions_is_the_textbook_pass(n_before, n_new, n_threads):
    params = random_params({**SIZES, "n_ctx": 450, "n_embd": 72}, scale=0.2, dtype=np.float64)
    ids = np.random.default_rng(6).integers(0, 40, n_before + n_new).tolist()
    n_last = min(n_new, 5)
    expected, expected_k, expected_v = textbook(ids, params)
    caches = gpt2.empty_caches(params, N_HEAD)
    if n_before:
        gpt2.gpt2([ids[:n_before]], **params, n_head=N_HEAD, caches=caches)
    new = [ids[n_before:]]
    logits = gpt2.gpt2(new, **params, n_head=N_HEAD, caches=caches, n_last=n_last)
    np.testing.assert_allclose(logits[0], expected[-n_last:], atol=1e-9)
    for cache, k, v in zip(caches, expected_k, expected_v, strict=True):
        assert cache.n_cached == [len(ids)]
        np.testing.assert_allclose(cache.k[0, :, : len(ids)], k, atol=1e-9)
        np.testing.assert_allclose(cache.v[0, :, : len(ids)], v, atol=1e-9)


def textbook(ids, params):
    """Logits, and each block's keys and values, by the 60 lines: nothing is spread over cores."""
    import gpt2_pico as pico

    x = params["wte"][ids] + params["wpe"][: len(ids)]
    all_k, all_v = [], []
    for block in params["blocks"]:
        qkv = pico.linear(pico.layer_norm(x, **block["ln_1"]), **block["attn"]["c_attn"])
        _, k, v = qkv.reshape(len(ids), 3, N_HEAD, -1).transpose(1, 2, 0, 3)
        all_k.append(k)
        all_v.append(v)
        x = pico.transformer_block(x, **block, n_head=N_HEAD)
    return pico.layer_norm(x, **params["ln_f"]) @ params["wte"].T, all_k, all_v


@pytest.mark.parametrize("n_seq", [1, 5, 70])
def test_several_texts_in_one_pass_are_each_the_textbook_pass(n_seq, n_threads):
    params = random_params({**SIZES, "n_ctx": 100}, dtype=np.float64)
    ids = np.random.default_rng(8).integers(0, 40, (4, n_seq))
    logits = gpt2.gpt2(ids, **params, n_head=N_HEAD)
    assert logits.shape == (4, n_seq, 40)
    for text, rows in zip(ids, logits, strict=True):
        np.testing.assert_allclose(rows, gpt2.gpt2(text, **params, n_head=N_HEAD), atol=1e-9)


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
        caches = gpt2.empty_caches(params, N_HEAD)
        logits = gpt2.gpt2([[1] * n_new], **params, n_head=N_HEAD, caches=caches)
        assert {logits.dtype, *dtypes} == {np.dtype(np.float32)}


# ---------------------------------------------------------------- threads and forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of any fork among threads
def test_a_child_forked_between_generations_writes_the_same_ids(bundled):
    encoder, hparams, params = bundled
    prompts = list(code_prompts(encoder, 8))[4:]
    prompts.append(prompts[0] * 20)  # long enough that its work is shared out

    def write():
        return [gpt2.generate(prompt, params, hparams["n_head"], 30) for prompt in prompts]

    ids = write()  # the parent has threads now
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        os._exit(0 if write() == ids else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert write() == ids


def test_blas_has_its_threads_again_after_overlapping_and_unfinished_generations(bundled):
    encoder, hparams, params = bundled
    before = [blas.num_threads for blas in threads._blas_libraries()]
    prompts, halfway = list(code_prompts(encoder, 12)), []

    def write_some(i):
        stream = gpt2.generate_stream(prompts[i], params, hparams["n_head"], 20 + i)
        next(stream)
        halfway.append(stream)  # left halfway in the thread that has ended
        gpt2.generate(prompts[i], params, hparams["n_head"], 20 + i)

    writers = [threading.Thread(target=write_some, args=(i,)) for i in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(halfway) == 12
    assert [blas.num_threads for blas in threads._blas_libraries()] == before
