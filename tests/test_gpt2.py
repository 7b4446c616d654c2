"""The model: against pinned references, its shapes and dtypes, its cache, its sampling."""

import copy
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
import gpt2_pico
from tests.fixtures.random_models import GPT2_124M, SHAPES, TINY, random_params, random_prompt

N_HEAD = TINY["n_head"]
REFERENCE = np.load(Path(__file__).parent / "references" / "reference_logits.npz")


def plain_generate(inputs, params, n_head, n):
    """Greedy decoding with no cache: all positions again for each token, cut as `generate` cuts."""
    n_ctx = len(params["wpe"])
    window, new = list(inputs)[-n_ctx:], []
    for _ in range(n):
        if len(window) > n_ctx:
            window = window[(n_ctx + 1) // 2 :]
        new.append(int(np.argmax(gpt2.gpt2(window, **params, n_head=n_head)[-1])))
        window.append(new[-1])
    return new


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_logits_equal_the_pinned_reference(name, dtype, bound):
    hparams = SHAPES[name]
    params = random_params(hparams, dtype=dtype)
    logits = gpt2.gpt2(random_prompt(hparams), **params, n_head=hparams["n_head"])
    reference = REFERENCE[f"{name}.float64"]
    assert np.abs(reference).max() > 1  # or the bound would say little
    assert logits.shape == reference.shape == (hparams["n_ctx"], hparams["n_vocab"])
    assert np.abs(logits - reference).max() <= bound


@pytest.mark.parametrize("name", SHAPES)
def test_float32_errs_no_more_than_the_reference_does_in_float32(name):
    hparams = SHAPES[name]
    logits = gpt2.gpt2(random_prompt(hparams), **random_params(hparams), n_head=hparams["n_head"])
    exact = REFERENCE[f"{name}.float64"]
    ours = np.sqrt(np.mean((logits - exact) ** 2))
    theirs = np.sqrt(np.mean((REFERENCE[f"{name}.float32"] - exact) ** 2))
    # Two correct roundings of one sum differ by chance; a lost bit would double the error.
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("name", SHAPES)
def test_live_transformers_agree_with_the_pinned_file(name):
    pytest.importorskip("transformers", reason="compares with transformers live")
    pytest.importorskip("torch")
    from tests.references.transformers_gpt2 import transformers_logits

    hparams = SHAPES[name]
    live = transformers_logits(random_params(hparams), hparams, random_prompt(hparams), "float64")
    assert np.abs(live - REFERENCE[f"{name}.float64"]).max() < 1e-10


def test_logits_at_the_124M_shape_equal_transformers():
    pytest.importorskip("transformers", reason="compares with transformers live")
    pytest.importorskip("torch")
    from tests.references.transformers_gpt2 import transformers_logits

    params = random_params(GPT2_124M, scale=0.05)
    inputs = random_prompt(GPT2_124M, n_seq=48)
    reference = transformers_logits(params, GPT2_124M, inputs)
    logits = gpt2.gpt2(inputs, **params, n_head=GPT2_124M["n_head"])
    assert np.abs(reference).max() > 1
    assert np.abs(logits - reference).max() <= 1e-4


# ---------------------------------------------------------------- dtypes and shapes


class Watched(np.ndarray):
    """An array that notes the type of every value computed from it."""

    seen: ClassVar[set] = set()

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        def plain(x):
            return x.view(np.ndarray) if isinstance(x, Watched) else x

        if out is not None:
            kwargs["out"] = tuple(map(plain, out))
        result = np.asarray(getattr(ufunc, method)(*map(plain, inputs), **kwargs))
        self.seen.add((ufunc.__name__, result.dtype))
        return result.view(Watched) if out is None else out[0]


def watched(params):
    if isinstance(params, dict):
        return {key: watched(value) for key, value in params.items()}
    if isinstance(params, list):
        return [watched(value) for value in params]
    return params.view(Watched)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", [gpt2, gpt2_pico])
def test_no_value_on_the_way_is_wider_than_the_parameters(model, dtype, monkeypatch):
    monkeypatch.setattr(Watched, "seen", set())
    params = watched(random_params(TINY, dtype=dtype))
    assert model.gpt2([1, 2, 3], **params, n_head=N_HEAD).dtype == dtype
    if model is gpt2:
        model.generate([1, 2, 3], params, N_HEAD, 3)
    assert {name for name, _ in Watched.seen} >= {"matmul", "exp", "tanh", "sqrt", "add"}
    assert {found for _, found in Watched.seen} - {np.dtype(bool)} == {np.dtype(dtype)}


def test_shapes_of_each_layer():
    block = random_params(TINY)["blocks"][0]
    n_seq, n_embd = 5, TINY["n_embd"]
    x = np.random.default_rng(0).standard_normal((n_seq, n_embd)).astype(np.float32)
    assert gpt2.linear(x, **block["attn"]["c_attn"]).shape == (n_seq, 3 * n_embd)
    assert gpt2.linear(x, **block["mlp"]["c_fc"]).shape == (n_seq, 4 * n_embd)
    for out in (
        gpt2.gelu(x),
        gpt2.softmax(x),
        gpt2.layer_norm(x, **block["ln_1"]),
        gpt2.ffn(x, **block["mlp"]),
        gpt2.mha(x, **block["attn"], n_head=N_HEAD),
        gpt2.transformer_block(x, **block, n_head=N_HEAD),
    ):
        assert out.shape == (n_seq, n_embd)
    q, k, v = x[:2, :8], x[:, :8], x[:, 8:16]  # two queries, five keys, of one head
    assert gpt2.attention(q, k, v, np.zeros((2, n_seq), np.float32)).shape == (2, 8)


def test_softmax_takes_scores_of_any_size():
    p = gpt2.softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32))
    np.testing.assert_allclose(p, [[1, 0], [0.5, 0.5]])


def test_no_position_sees_a_later_one():
    params = random_params(TINY)
    inputs = random_prompt(TINY)
    logits = gpt2.gpt2(inputs, **params, n_head=N_HEAD)
    changed = gpt2.gpt2([*inputs[:9], (inputs[9] + 1) % 61, *inputs[10:]], **params, n_head=N_HEAD)
    np.testing.assert_array_equal(logits[:9], changed[:9])
    assert (np.abs(logits[9:] - changed[9:]).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("inputs", [[], list(range(17))])
def test_inputs_that_do_not_fit_the_window_are_refused(inputs):
    with pytest.raises(ValueError, match=r"\d+"):
        gpt2.gpt2(inputs, **random_params(TINY), n_head=N_HEAD)


# ---------------------------------------------------------------- the cache


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 1000))
def test_cached_logits_equal_the_plain_ones_however_the_inputs_are_cut(cuts, seed):
    params = random_params(TINY, seed=seed % 3, dtype=np.float64)
    inputs = random_prompt(TINY, seed=seed)
    plain = gpt2.gpt2(inputs, **params, n_head=N_HEAD)
    caches = gpt2.empty_caches(params, N_HEAD)
    start = 0
    for end in np.cumsum(cuts):
        if end > len(inputs):
            break
        new = [inputs[start:end]]
        logits = gpt2.gpt2(new, **params, n_head=N_HEAD, caches=caches)
        assert logits.shape == (1, end - start, TINY["n_vocab"])
        np.testing.assert_allclose(logits[0], plain[start:end], rtol=0, atol=1e-12)
        start = end


@pytest.mark.parametrize("cuts", [[300], [1, 299], [200, 100], [150, 1, 149]])
def test_cached_logits_of_long_inputs(cuts):
    hparams = SHAPES["long"]  # longer than what attention takes at a time
    params, inputs = random_params(hparams), random_prompt(hparams)
    caches = gpt2.empty_caches(params, hparams["n_head"])
    for end, n_seq in zip(np.cumsum(cuts), cuts, strict=True):
        new = [inputs[end - n_seq : end]]
        logits = gpt2.gpt2(new, **params, n_head=hparams["n_head"], caches=caches, n_last=1)
        assert logits.shape == (1, 1, hparams["n_vocab"])
        reference = REFERENCE["long.float64"][end - 1]
        np.testing.assert_allclose(logits[0, 0], reference, rtol=0, atol=1e-4)


def test_a_cache_with_less_room_than_the_window_refuses_what_does_not_fit():
    params = random_params(TINY)
    caches = gpt2.empty_caches(params, N_HEAD, n_positions=4)
    gpt2.gpt2([[1, 2, 3, 4]], **params, n_head=N_HEAD, caches=caches)
    with pytest.raises(ValueError, match="4"):
        gpt2.gpt2([[5]], **params, n_head=N_HEAD, caches=caches)


@pytest.mark.parametrize("n_last", [0, -1, 4])
def test_more_logits_than_inputs_are_refused(n_last):
    with pytest.raises(ValueError, match="n_last"):
        gpt2.gpt2([1, 2, 3], **random_params(TINY), n_head=N_HEAD, n_last=n_last)


def test_a_full_cache_refuses_one_more():
    params = random_params(TINY)
    caches = gpt2.empty_caches(params, N_HEAD)
    gpt2.gpt2([random_prompt(TINY)], **params, n_head=N_HEAD, caches=caches)
    with pytest.raises(ValueError, match="16"):
        gpt2.gpt2([[1]], **params, n_head=N_HEAD, caches=caches)


# ---------------------------------------------------------------- generate


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_prompt", [1, 7, 15, 16])
def test_greedy_ids_equal_those_of_the_plain_loop_past_the_window_too(seed, n_prompt):
    params = random_params(TINY, seed)
    inputs = random_prompt(TINY, n_prompt, seed)
    new = gpt2.generate(inputs, params, N_HEAD, 50)
    assert new == plain_generate(inputs, params, N_HEAD, 50)
    assert all(type(i) is int for i in new)


@pytest.mark.parametrize("n_ctx", [1, 2, 3])
def test_the_smallest_windows_go_on_for_as_long_as_asked(n_ctx):
    params = random_params(TINY | {"n_ctx": n_ctx})
    assert gpt2.generate([5, 6, 7, 8], params, N_HEAD, 9) == plain_generate(
        [5, 6, 7, 8], params, N_HEAD, 9
    )


def test_a_prompt_longer_than_the_window_is_cut_to_its_end():
    params, inputs = random_params(TINY), random_prompt(TINY, 40)
    assert gpt2.generate(inputs, params, N_HEAD, 4) == gpt2.generate(
        inputs[-16:], params, N_HEAD, 4
    )


def test_generate_leaves_the_inputs_alone_and_returns_only_new_ids():
    params, inputs = random_params(TINY), [3, 1, 4]
    before = copy.deepcopy(params)
    new = gpt2.generate(inputs, params, N_HEAD, 5)
    assert inputs == [3, 1, 4] and len(new) == 5
    assert gpt2.generate(inputs, params, N_HEAD, 0) == []
    np.testing.assert_equal(params, before)


def test_generate_makes_one_full_pass_and_then_one_position_a_step(passes):
    gpt2.generate(random_prompt(TINY, 10), random_params(TINY), N_HEAD, 5)
    assert passes == [(1, 10), *4 * [(1, 1)]]


def test_generate_ends_before_stop_id():
    params, inputs = random_params(TINY), random_prompt(TINY, 5)
    new = gpt2.generate(inputs, params, N_HEAD, 30)
    stop_id = new[4]
    assert gpt2.generate(inputs, params, N_HEAD, 30, stop_id=stop_id) == new[: new.index(stop_id)]
    unused = next(i for i in range(61) if i not in new)
    assert gpt2.generate(inputs, params, N_HEAD, 30, stop_id=unused) == new


def test_generate_from_nothing_is_refused():
    with pytest.raises(ValueError, match="0 ids"):
        gpt2.generate([], random_params(TINY), N_HEAD, 5)


def test_the_same_seed_gives_the_same_ids():
    params = random_params(TINY)

    def ids(seed):
        rng = np.random.default_rng(seed)
        return gpt2.generate([1, 2], params, N_HEAD, 30, temperature=1, top_p=0.95, rng=rng)

    assert ids(7) == ids(7)
    assert len({tuple(ids(seed)) for seed in range(5)}) == 5
