"""Watching the model: the values, their names, their sources; and that it changes no result."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import gpt2
from explaining.watch import KINDS, RECORDED, kind_of, watch, watching
from tests.fixtures.random_models import TINY, random_params, random_prompt

N_HEAD, N_EMBD, N_LAYER = TINY["n_head"], TINY["n_embd"], TINY["n_layer"]
D_HEAD = N_EMBD // N_HEAD
N_SEQ = 7
IDS = random_prompt(TINY, N_SEQ)
BLOCK = [
    "ln_1",
    "attn.c_attn",
    *("attn.q", "attn.k", "attn.v", "attn.scores", "attn.weights", "attn.heads"),
    "attn.c_proj",
    "residual_after_attn",
    "ln_2",
    *("mlp.c_fc", "mlp.gelu", "mlp.c_proj"),
]


def block_names(i):
    return [*(f"h.{i}.{name}" for name in BLOCK), f"h.{i}"]


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def values(params):
    return watch(IDS, params, N_HEAD)


# ---------------------------------------------------------------- names, shapes, order


def test_the_values_come_in_the_order_of_computation(values):
    blocks = [name for i in range(N_LAYER) for name in block_names(i)]
    assert list(values) == ["wte", "wpe", "embeddings", *blocks, "ln_f", "logits"]
    assert [value.name for value in values.values()] == list(values)
    assert {kind_of(name) for name in values} == set(KINDS)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("wte", (N_SEQ, N_EMBD)),
        ("embeddings", (N_SEQ, N_EMBD)),
        ("h.1.attn.c_attn", (N_SEQ, 3 * N_EMBD)),
        ("h.1.attn.q", (N_HEAD, N_SEQ, D_HEAD)),
        ("h.1.attn.weights", (N_HEAD, N_SEQ, N_SEQ)),
        ("h.1.mlp.gelu", (N_SEQ, 4 * N_EMBD)),
        ("h.1", (N_SEQ, N_EMBD)),
        ("logits", (N_SEQ, TINY["n_vocab"])),
    ],
)
def test_shapes(values, name, shape):
    assert values[name].shape == values[name].array.shape == shape
    assert values[name].array.dtype == np.float32


def test_layers_that_share_their_parameters_have_names_of_their_own():
    params = random_params(TINY)
    params["blocks"] = [params["blocks"][0]] * 2
    params["blocks"][0]["ln_2"] = params["blocks"][0]["ln_1"]
    values = watch(IDS, params, N_HEAD)
    assert [name for name in values if name.startswith("h")] == block_names(0) + block_names(1)


# ---------------------------------------------------------------- the values themselves


def test_each_value_is_what_its_layer_makes_of_the_values_before(values, params):
    def array(name):
        return values[name].array

    np.testing.assert_array_equal(array("wte"), params["wte"][IDS])
    np.testing.assert_array_equal(array("wpe"), params["wpe"][:N_SEQ])
    np.testing.assert_array_equal(array("embeddings"), array("wte") + array("wpe"))
    before = "embeddings"
    for i, block in enumerate(params["blocks"]):
        h, attn, mlp = f"h.{i}", block["attn"], block["mlp"]
        assert_gives(gpt2.layer_norm, array(before), block["ln_1"], array(f"{h}.ln_1"))
        assert_gives(gpt2.linear, array(f"{h}.ln_1"), attn["c_attn"], array(f"{h}.attn.c_attn"))
        q, k, v = (array(f"{h}.attn.{name}") for name in "qkv")
        together = np.concatenate([q, k, v]).swapaxes(0, 1).reshape(N_SEQ, -1)
        np.testing.assert_array_equal(together, array(f"{h}.attn.c_attn"))
        scores = q @ k.swapaxes(1, 2) / np.float32(D_HEAD**0.5)
        is_seen = np.tri(N_SEQ, dtype=bool)
        recorded = array(f"{h}.attn.scores")
        np.testing.assert_allclose(recorded[:, is_seen], scores[:, is_seen], atol=1e-5)
        assert (recorded[:, ~is_seen] < -1e9).all()
        weights = array(f"{h}.attn.weights")
        np.testing.assert_array_equal(weights, gpt2.softmax(recorded))
        heads = array(f"{h}.attn.heads")
        np.testing.assert_array_equal(heads, weights @ v)
        merged = heads.swapaxes(0, 1).reshape(N_SEQ, N_EMBD)
        assert_gives(gpt2.linear, merged, attn["c_proj"], array(f"{h}.attn.c_proj"))
        after_attn = array(f"{h}.residual_after_attn")
        np.testing.assert_array_equal(after_attn, array(before) + array(f"{h}.attn.c_proj"))
        assert_gives(gpt2.layer_norm, after_attn, block["ln_2"], array(f"{h}.ln_2"))
        assert_gives(gpt2.linear, array(f"{h}.ln_2"), mlp["c_fc"], array(f"{h}.mlp.c_fc"))
        np.testing.assert_array_equal(array(f"{h}.mlp.gelu"), gpt2.gelu(array(f"{h}.mlp.c_fc")))
        assert_gives(gpt2.linear, array(f"{h}.mlp.gelu"), mlp["c_proj"], array(f"{h}.mlp.c_proj"))
        np.testing.assert_array_equal(array(h), after_attn + array(f"{h}.mlp.c_proj"))
        before = h
    assert_gives(gpt2.layer_norm, array(before), params["ln_f"], array("ln_f"))
    np.testing.assert_allclose(array("logits"), array("ln_f") @ params["wte"].T, atol=1e-5)


def assert_gives(layer, x, parameters, result):
    np.testing.assert_array_equal(result, layer(x, **parameters))


def test_the_values_are_copies(params):
    caches = gpt2.empty_caches(params, N_HEAD)
    first = watch([IDS], params, N_HEAD, caches=caches)
    kept = {name: value.array.copy() for name, value in first.items()}
    for cache in caches:
        cache.k[:] = cache.v[:] = 7
    for name, value in first.items():
        np.testing.assert_array_equal(value.array, kept[name])


# ---------------------------------------------------------------- results are those unwatched


def test_logits_are_those_of_an_unwatched_call_to_the_last_bit(values, params):
    np.testing.assert_array_equal(values["logits"].array, gpt2.gpt2(IDS, **params, n_head=N_HEAD))


def test_attention_that_is_otherwise_taken_in_pieces_is_taken_whole(n_threads):
    hparams = {"n_vocab": 50, "n_ctx": 300, "n_embd": 96, "n_head": 4, "n_layer": 1}
    params, ids = random_params(hparams), random_prompt(hparams)
    values = watch(ids, params, hparams["n_head"])
    assert values["h.0.attn.weights"].shape == (hparams["n_head"], len(ids), len(ids))
    unwatched = gpt2.gpt2(ids, **params, n_head=hparams["n_head"])
    assert np.abs(unwatched).max() > 1
    np.testing.assert_allclose(values["logits"].array, unwatched, rtol=1e-6, atol=1e-5)


def test_a_text_read_in_two_parts_with_a_cache(values, params):
    caches = gpt2.empty_caches(params, N_HEAD)
    start = 4
    watch([IDS[:start]], params, N_HEAD, caches=caches)
    rest = watch([IDS[start:]], params, N_HEAD, caches=caches)
    assert list(rest) == list(values)
    n_new = N_SEQ - start
    assert rest["h.1.attn.q"].shape == (1, N_HEAD, n_new, D_HEAD)
    assert rest["h.1.attn.k"].shape == (1, N_HEAD, N_SEQ, D_HEAD)
    for name, value in values.items():
        whole, part = value.array, rest[name].array[0]
        if kind_of(name) not in ("attn.k", "attn.v"):
            whole = whole[..., start:, :]
        np.testing.assert_allclose(part, whole, atol=1e-5, rtol=1e-5, err_msg=name)


def test_only_the_last_positions(values, params):
    last = watch(IDS, params, N_HEAD, n_last=2)
    np.testing.assert_allclose(last["logits"].array, values["logits"].array[-2:], atol=1e-5)
    assert last["h.1.residual_after_attn"].shape == (2, N_EMBD)


def test_float64_parameters_give_float64_values():
    values = watch(IDS, random_params(TINY, dtype=np.float64), N_HEAD)
    assert {value.array.dtype for value in values.values()} == {np.dtype(np.float64)}


# ---------------------------------------------------------------- the context


def test_a_generation_is_watched_and_writes_the_same_ids(params):
    expected = gpt2.generate(IDS, params, N_HEAD, 3, temperature=1, rng=np.random.default_rng(0))
    with watching() as values:
        ids = gpt2.generate(IDS, params, N_HEAD, 3, temperature=1, rng=np.random.default_rng(0))
    assert ids == expected
    # The values are those of the latest pass: over the second new id, after all before.
    np.testing.assert_array_equal(values["wte"].array, params["wte"][[ids[-2:-1]]])
    assert values["h.0.attn.weights"].shape == (1, N_HEAD, 1, N_SEQ + 2)


def test_the_functions_are_put_back_even_after_an_error(params):
    before = {name: getattr(gpt2, name) for name in RECORDED}
    watch(IDS, params, N_HEAD)
    with pytest.raises(ValueError, match="room"):
        watch(range(TINY["n_ctx"] + 1), params, N_HEAD)
    with pytest.raises(KeyError), watching():
        raise KeyError
    assert {name: getattr(gpt2, name) for name in RECORDED} == before


def test_an_error_within_a_pass_leaves_the_next_one_in_order(params, values):
    broken = random_params(TINY)
    broken["blocks"][1]["mlp"]["c_fc"]["w"] = np.ones((N_EMBD + 1, 4 * N_EMBD), np.float32)
    with watching() as again:
        with pytest.raises(ValueError, match="matmul"):
            gpt2.gpt2(IDS, **broken, n_head=N_HEAD)
        gpt2.gpt2(IDS, **params, n_head=N_HEAD)
    assert list(again) == list(values)


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("name", "function", "text"),
    [
        ("wte", "gpt2", "wte[inputs]"),
        ("embeddings", "gpt2", "wte[inputs] + wpe[positions]"),
        ("h.0.ln_1", "layer_norm", "variance = "),
        ("h.0.attn.c_attn", "linear", "product(x, w, b)"),
        ("h.1.attn.q", "mha", "q = heads"),
        ("h.1.attn.v", "mha", "v = heads"),
        ("h.1.attn.scores", "attention_weights", "@ k.swapaxes"),
        ("h.1.attn.weights", "attention_weights", "return softmax"),
        ("h.1.attn.heads", "attention", "@ v"),
        ("h.1.residual_after_attn", "transformer_block", "+ found"),
        ("h.1", "transformer_block", "return x + ffn"),
        ("h.1.mlp.gelu", "gelu", "np.tanh"),
        ("logits", "gpt2", "wte.T"),
    ],
)
def test_the_source_is_where_the_value_is_computed(values, name, function, text):
    value = values[name]
    assert value.function == function and text in value.source.text
    lines = Path(value.source.file).read_text(encoding="utf-8").splitlines()
    first = value.source.first_line - 1
    in_file = lines[first : first + len(value.source.text.splitlines())]
    assert inspect.cleandoc("\n".join(in_file)).strip() == inspect.cleandoc(value.source.text)
    assert value.source.file == gpt2.__file__


def test_each_value_is_described_in_a_line(values):
    assert all(0 < len(value.description) < 80 for value in values.values())
    assert not any("\n" in value.description for value in values.values())
