"""The data of the page, held against gpt2.py itself."""

import base64
import json
import math

import numpy as np
import pytest

import gpt2
from encoder import BYTE_OF_SYMBOL, ENDOFTEXT, Encoder, byte_level_vocab, merge_symbols
from explaining import page_data as module
from explaining.page import page_html
from explaining.page_data import WEIGHT_STEPS, merge_steps, page_data
from explaining.watch import KINDS, MASKED, kind_of, watch
from tests.fixtures.random_models import random_params

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t", "Ġt o"]
EOT = 256
HPARAMS = {"n_vocab": 270, "n_ctx": 40, "n_embd": 24, "n_head": 3, "n_layer": 2}
N_HEAD, N_LAYER, N_CTX = HPARAMS["n_head"], HPARAMS["n_layer"], HPARAMS["n_ctx"]
PROMPT = "hello to the héllo"
N_NEW = 5


def encoder_of(merges, n_vocab=0):
    """Bytes, <|endoftext|>, the merges' tokens, and made-up ones up to `n_vocab`."""
    tokens = [*byte_level_vocab(), *(merge.replace(" ", "") for merge in merges)]
    tokens += [f"token{i}" for i in range(len(tokens), n_vocab)]
    return Encoder({token: i for i, token in enumerate(tokens)}, merges)


@pytest.fixture(scope="module")
def model():
    # Fewer tokens in the vocabulary than rows in the table, as in padded checkpoints.
    return encoder_of(MERGES, n_vocab=265), HPARAMS, random_params(HPARAMS)


@pytest.fixture(scope="module")
def data(model):
    return page_data(PROMPT, model, N_NEW)


@pytest.fixture(scope="module")
def values(data, model):
    """What the page shows, computed directly."""
    return watch(data["ids"], model[2], N_HEAD)


def unpacked(item):
    numbers = np.frombuffer(base64.b64decode(item["base64"]), np.dtype(item["dtype"]))
    return numbers.reshape(item["shape"]) * np.float32(item.get("scale", 1))


def softmax_in_float64(logits):
    e = np.exp(np.float64(logits) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def assert_most_probable(found, logits, n):
    """`found` has the ids and probabilities of the n best of logits [..., n_vocab]."""
    probabilities = softmax_in_float64(logits)
    ids = np.int64(unpacked(found["ids"]))
    assert ids.shape == (*logits.shape[:-1], n)
    best = -np.sort(-probabilities, axis=-1)[..., :n]
    np.testing.assert_allclose(unpacked(found["probabilities"]), best, rtol=1e-4, atol=1e-7)
    of_ids = np.take_along_axis(probabilities, ids, -1)
    np.testing.assert_allclose(of_ids, best, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- the text


def test_the_text_is_the_prompt_and_what_generate_adds(data, model):
    encoder, _, params = model
    prompt_ids = encoder.encode(PROMPT)
    new_ids = gpt2.generate(prompt_ids, params, N_HEAD, N_NEW, stop_id=EOT)
    assert data["ids"] == [*prompt_ids, *new_ids]
    assert data["prompt"] == PROMPT
    assert data["text"] == PROMPT + encoder.decode(new_ids)
    assert data["n_generated"] == len(new_ids)
    assert data["n_tokens_to_generate"] == N_NEW
    assert (data["first_position"], data["n_left_out"]) == (0, 0)
    assert data["model"] == HPARAMS


def test_sampling_is_that_of_generate(model):
    encoder, _, params = model
    sampling = {"temperature": 1.5, "top_k": 100, "top_p": 0.9}
    data = page_data(PROMPT, model, N_NEW, **sampling, seed=3, stop_at_eot=False)
    ids = encoder.encode(PROMPT)
    rng = np.random.default_rng(3)
    expected = gpt2.generate(ids, params, N_HEAD, N_NEW, **sampling, rng=rng)
    assert data["ids"] == ids + expected
    assert data["sampling"] == sampling


def test_tokens_have_their_text_and_bytes(data, model):
    encoder = model[0]
    mentioned = set(data["ids"])
    for found in (data["next"], data["lens"]):
        mentioned.update(unpacked(found["ids"]).ravel().astype(int).tolist())
    logits = unpacked(data["logits"])
    mentioned.update(np.argsort(-logits, kind="stable")[: data["n_sliders"]].tolist())
    assert set(data["tokens"]) == mentioned
    for token_id, token in data["tokens"].items():
        if token_id not in encoder.decoder:
            assert token == {"text": "", "bytes": ""}
            continue
        assert bytes.fromhex(token["bytes"]).decode(errors="replace") == token["text"]
        assert token["text"] == encoder.decode([token_id])
    shown = b"".join(bytes.fromhex(data["tokens"][i]["bytes"]) for i in data["ids"])
    assert shown.startswith(PROMPT.encode())


def test_merges_make_the_token_of_its_bytes(data, model):
    encoder = model[0]
    hello = encoder.encoder["hello"]
    assert data["merges"][hello]["steps"] == [[0, 0], [1, 1], [0, 2], [0, 3]]
    for token_id in encoder.encode(PROMPT):
        symbols, steps = data["merges"][token_id].values()
        assert (
            b"".join(BYTE_OF_SYMBOL[s] for s in symbols).decode(errors="replace")
            == (data["tokens"][token_id]["text"])
        )
        assert replayed(symbols, steps, MERGES) == [encoder.decoder[token_id]]


def replayed(symbols, steps, merges):
    symbols = list(symbols)
    for index, rank in steps:
        assert merges[rank] == " ".join(symbols[index : index + 2])
        symbols[index : index + 2] = ["".join(symbols[index : index + 2])]
    return symbols


@pytest.mark.parametrize("seed", range(50))
def test_merge_steps_are_those_of_the_tokenizer(seed):
    rng = np.random.default_rng(seed)
    merges = ["a b", "ab a", "b a", "a ba", "aba b", "b b", "bb bb"]
    rng.shuffle(merges)
    symbols = list(rng.choice(list("ab"), rng.integers(1, 15)))
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    expected = merge_symbols(symbols, {merge: rank for rank, merge in enumerate(merges)})
    assert replayed(symbols, merge_steps(symbols, ranks), merges) == expected


# ---------------------------------------------------------------- the numbers


def test_the_next_tokens(data, values):
    assert_most_probable(data["next"], values["logits"].array, module.N_NEXT)


def test_ranks_and_surprises(data, values):
    probabilities = softmax_in_float64(values["logits"].array)
    surprises, ranks = unpacked(data["next"]["surprises"]), unpacked(data["next"]["ranks"])
    assert len(surprises) == len(ranks) == len(data["ids"]) - 1
    for i, next_id in enumerate(data["ids"][1:]):
        assert surprises[i] == pytest.approx(-math.log2(probabilities[i, next_id]), rel=1e-4)
        assert ranks[i] == list(np.argsort(-probabilities[i])).index(next_id) + 1


def test_bits_per_token_and_per_byte(data, values):
    probabilities = softmax_in_float64(values["logits"].array)
    predicted = data["ids"][1:]
    bits = -sum(math.log2(row[i]) for row, i in zip(probabilities, predicted, strict=False))
    n_bytes = sum(len(data["tokens"][i]["bytes"]) // 2 for i in predicted)
    assert data["next"]["n_predicted"] == len(predicted)
    assert data["next"]["bits_per_token"] == pytest.approx(bits / len(predicted), rel=1e-4)
    assert data["next"]["bits_per_byte"] == pytest.approx(bits / n_bytes, rel=1e-4)


def test_a_token_that_seems_impossible_has_a_finite_surprise():
    logits = np.array([0, 1000], np.float32)
    assert module.surprise(logits, 0) == pytest.approx(1000 / math.log(2))


def test_the_logits_that_the_sliders_work_on(data, values):
    last = values["logits"].array[-1]
    np.testing.assert_allclose(unpacked(data["logits"]), last, rtol=1e-4, atol=1e-5)


def triangles(data):
    """The attention of the page as matrices: [n_layer, n_head, n_seq, n_seq]"""
    n_seq = len(data["ids"])
    weights = np.zeros((N_LAYER, N_HEAD, n_seq, n_seq))
    queries, keys = np.tril_indices(n_seq)
    weights[:, :, queries, keys] = unpacked(data["attention"])
    return weights


def test_attention_within_a_step_of_its_quantisation(data, values):
    direct = np.array([values[f"h.{i}.attn.weights"].array for i in range(N_LAYER)])
    np.testing.assert_allclose(triangles(data), direct, atol=0.51 / WEIGHT_STEPS)


def test_the_logit_lens(data, values, model):
    params = model[2]
    names = data["lens"]["names"]
    blocks = ["h.0.residual_after_attn", "h.0", "h.1.residual_after_attn", "h.1"]
    assert names == ["embeddings", *blocks]
    streams = np.array([values[name].array for name in names])
    logits = gpt2.layer_norm(streams, **params["ln_f"]) @ params["wte"].T
    assert_most_probable(data["lens"], logits, module.N_LENS)


def test_the_last_layer_of_the_lens_is_what_the_model_says(data):
    for name in ("ids", "probabilities"):
        last = unpacked(data["lens"][name])[-1]
        np.testing.assert_array_equal(last, unpacked(data["next"][name])[:, : module.N_LENS])


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("sizes", ["embeddings", "h"]),
        ("attention", ["attn.c_proj"]),
        ("feed_forward", ["mlp.c_proj"]),
    ],
)
def test_sizes_in_the_residual_stream(data, values, name, kinds):
    arrays = [value.array for each, value in values.items() if kind_of(each) in kinds]
    direct = np.sqrt((np.float64(arrays) ** 2).sum(axis=-1))
    np.testing.assert_allclose(unpacked(data["residual"][name]), direct, rtol=1e-4)


def test_operations_are_the_watched_values(data, values):
    operations = data["operations"]
    assert operations["names"] == list(values)
    for k, value in enumerate(values.values()):
        assert operations["shapes"][k] == list(value.shape)
        assert operations["functions"][k] == value.function
        assert operations["descriptions"][k] == value.description
        source = data["sources"][operations["sources"][k]]
        assert source["file"] == "gpt2.py"
        assert (source["first_line"], source["text"]) == value.source[1:]
        seen = value.array[value.array > MASKED]
        low, high, mean = unpacked(operations["limits"])[k]
        assert low == pytest.approx(seen.min(), abs=1e-4)
        assert high == pytest.approx(seen.max(), abs=1e-4)
        assert mean == pytest.approx(seen.mean(), abs=1e-4)
        rows = value.array if value.array.ndim == 2 else value.array[0]
        samples = unpacked(operations["samples"])[k]
        np.testing.assert_allclose(samples, rows[:, : module.N_SAMPLES], rtol=1e-3, atol=1e-4)


def test_every_kind_of_value_has_a_formula():
    assert set(module.FORMULAS) == set(KINDS)


# ---------------------------------------------------------------- short and long texts


def test_a_text_of_one_token(model):
    data = page_data("a", model, 0)
    assert len(data["ids"]) == 1
    assert data["n_generated"] == 0
    assert data["text"] == "a"
    assert unpacked(data["next"]["surprises"]).shape == (0,)
    assert data["next"]["bits_per_token"] is data["next"]["bits_per_byte"] is None
    best = np.argsort(-unpacked(data["logits"]), kind="stable")[: data["n_sliders"]]
    assert set(best.tolist()) <= set(data["tokens"])
    json.dumps(data, allow_nan=False)


def test_rows_shorter_than_the_samples_are_filled_with_nan(model):
    data = page_data("ab", model, 0)  # scores of two positions
    k = data["operations"]["names"].index("h.0.attn.weights")
    assert np.isnan(unpacked(data["operations"]["samples"])[k, :, 2:]).all()


def test_an_empty_prompt_starts_from_the_token_between_texts(model):
    data = page_data("", model, 2)
    assert data["ids"][0] == data["eot"] == EOT
    assert data["tokens"][EOT]["text"] == ENDOFTEXT
    assert data["merges"][EOT]["steps"] == []
    assert data["text"] == model[0].decode(data["ids"][1:])


def test_nothing_is_generated_where_the_model_ends_its_text(model):
    encoder, hparams, params = model
    ends = {**params, "wte": params["wte"].copy()}
    ends["wte"][EOT] = 100 * gpt2.layer_norm(np.ones((1, 24), np.float32), **params["ln_f"])
    logits = gpt2.gpt2(encoder.encode(PROMPT), **ends, n_head=N_HEAD)
    if logits[-1].argmax() != EOT:  # it is the best or the worst
        ends["wte"][EOT] *= -1
    data = page_data(PROMPT, (encoder, hparams, ends), N_NEW)
    assert data["n_generated"] == 0
    assert data["text"] == PROMPT
    goes_on = page_data(PROMPT, (encoder, hparams, ends), N_NEW, stop_at_eot=False)
    assert goes_on["n_generated"] == N_NEW


def test_an_empty_prompt_needs_that_token():
    vocabulary = {token: i for token, i in byte_level_vocab().items() if token != ENDOFTEXT}
    model = Encoder(vocabulary, []), HPARAMS, random_params(HPARAMS)
    with pytest.raises(ValueError, match="endoftext"):
        page_data("", model)


def test_of_a_long_text_the_end_is_shown(model, monkeypatch):
    n_shown = 7
    text = "to the hello and to the other hello"
    whole = page_data(text, model, N_NEW)
    monkeypatch.setattr(module, "MAX_POSITIONS", n_shown)
    data = page_data(text, model, N_NEW)
    assert data["ids"] == whole["ids"][-n_shown:]
    assert data["first_position"] == len(whole["ids"]) - n_shown > n_shown
    assert data["text"] == whole["text"]
    for name in ("n_predicted", "bits_per_token", "bits_per_byte"):
        assert data["next"][name] == pytest.approx(whole["next"][name], rel=1e-5)
    for name in ("ranks", "surprises"):
        ends = unpacked(whole["next"][name])[1 - n_shown :]
        np.testing.assert_allclose(unpacked(data["next"][name]), ends, rtol=1e-4)
    np.testing.assert_allclose(
        triangles(data),
        np.tril(triangles(whole)[..., -n_shown:, -n_shown:]),
        atol=1.1 / WEIGHT_STEPS,
    )
    assert (triangles(data).sum(axis=-1) < 0.99).any()  # the rest: before what is shown
    for group, name in [
        ("residual", "sizes"),
        ("residual", "attention"),
        ("lens", "probabilities"),
    ]:
        end = unpacked(whole[group][name])[:, -n_shown:]
        np.testing.assert_allclose(unpacked(data[group][name]), end, rtol=1e-4)
    samples = unpacked(data["operations"]["samples"])
    end = unpacked(whole["operations"]["samples"])[:, -n_shown:]
    np.testing.assert_allclose(samples, end, rtol=1e-3, atol=1e-4)


def test_of_a_text_longer_than_the_window_its_end_is_read(model):
    text = "hello to " * 20
    data = page_data(text, model, N_NEW)
    n_tokens = len(model[0].encode(text)) + data["n_generated"]
    assert data["n_left_out"] == n_tokens - N_CTX > 0
    assert len(data["ids"]) == N_CTX
    direct = gpt2.gpt2(data["ids"], **model[2], n_head=N_HEAD)
    assert_most_probable(data["next"], direct, module.N_NEXT)


def test_64_tokens_at_the_shapes_of_124m_fit_into_3_megabytes():
    # All shapes that count for the size; the width does not, but for a few digits.
    hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 24, "n_head": 12, "n_layer": 12}
    encoder = encoder_of(MERGES, hparams["n_vocab"])
    data = page_data("x" * 60, (encoder, hparams, random_params(hparams)), 4, stop_at_eot=False)
    assert len(data["ids"]) == 64
    assert len(page_html(data).encode()) < 3e6


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_new", [0, N_NEW])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own
def test_a_model_that_computes_no_numbers_is_reported(number, n_new):
    params = random_params(HPARAMS)
    params["blocks"][1]["mlp"]["c_fc"]["b"][0] = number
    model = encoder_of(MERGES, n_vocab=265), HPARAMS, params
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.c_fc\.b"):
        page_data(PROMPT, model, n_new)


@pytest.mark.parametrize("shape", [(12, 12), (48, 25), (1, 1), (1000, 1000)])
def test_the_attention_that_is_kept_fits(shape):
    n = module.positions_that_fit(*shape)
    assert 1 <= n <= module.MAX_POSITIONS
    n_numbers = math.prod(shape) * n * (n + 1) / 2
    assert n == 1 or n_numbers <= module.MAX_ATTENTION_NUMBERS
