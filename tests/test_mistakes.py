"""The comparison of dumps: each known mistake, made in a run, is found where it was made.

Mistakes are made in gpt2.py's own functions and parameters, and the values of that run are dumped.
"""

import math

import numpy as np
import pytest
from random_models import random_params, random_prompt

import gpt2
from explaining.compare import compare_dumps, find_hint, report
from explaining.dump import Dump, read_dump, write_dump
from explaining.mistakes import MISTAKES, Here
from explaining.watch import KINDS, kind_of, watch

HPARAMS = {"n_vocab": 61, "n_ctx": 16, "n_embd": 32, "n_head": 4, "n_layer": 2}
N_HEAD, N_EMBD = HPARAMS["n_head"], HPARAMS["n_embd"]
IDS = random_prompt(HPARAMS, 9)
TOLERANCE = 1e-4


def model():
    """Random parameters; embeddings as small as trained ones are, so that an epsilon is seen."""
    params = random_params(HPARAMS)
    params["wte"] *= np.float32(0.3)
    params["wpe"] *= np.float32(0.3)
    return params


def dump(folder, name, params, ids=IDS):
    path = str(folder / f"{name}.npz")
    write_dump(path, watch(ids, params, N_HEAD), ids, HPARAMS)
    return read_dump(path)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return dump(tmp_path_factory.mktemp("ours"), "ours", model())


def dump_with(mistake, monkeypatch, folder):
    """The dump of a run in which the mistake is made; afterwards gpt2.py is as it was."""
    params = model()
    with monkeypatch.context() as patch:
        mistake(params, patch)
        return dump(folder, "theirs", params)


def found(ours, theirs, tolerance=TOLERANCE):
    """The first name that differs, and the hint."""
    comparison = compare_dumps(ours, theirs, tolerance)
    if comparison.difference is None:
        return None, None
    comparison.hint = find_hint(comparison, ours, theirs, model())
    assert comparison.hint is None or comparison.hint in report(comparison, ours, theirs, tolerance)
    return comparison.difference.name, comparison.hint


# ---------------------------------------------------------------- the mistakes
#
# Each is a function of the parameters, which it may change, and of monkeypatch, with which it
# changes a function of gpt2.py.


def each_layer(params, part, layer):
    return [block[part][layer] for block in params["blocks"]]


def read_as_transposed(w):
    """[n_in, n_out], its numbers read as those of [n_out, n_in], as torch.nn.Linear has them."""
    n_in, n_out = w.shape
    return np.ascontiguousarray(w.reshape(n_out, n_in).T)


def transposed_c_attn(params, patch):
    for layer in each_layer(params, "attn", "c_attn"):
        layer["w"] = read_as_transposed(layer["w"])


def transposed_attn_c_proj(params, patch):
    for layer in each_layer(params, "attn", "c_proj"):
        layer["w"] = np.ascontiguousarray(layer["w"].T)


def transposed_c_fc_in_the_second_block(params, patch):
    layer = params["blocks"][1]["mlp"]["c_fc"]
    layer["w"] = read_as_transposed(layer["w"])


def float16_matrices(params, patch):  # as in many files: the biases stay float32
    for layer in each_layer(params, "attn", "c_attn"):
        layer["w"] = layer["w"].astype(np.float16).astype(np.float32)


def no_bias(params, patch):
    for layer in each_layer(params, "mlp", "c_proj"):
        layer["b"] = np.zeros_like(layer["b"])


def parameters_of_the_first_block_everywhere(params, patch):
    params["blocks"][1] = params["blocks"][0]


def float16_weights(params, patch):
    for layer in each_layer(params, "attn", "c_attn"):
        for name, array in layer.items():
            layer[name] = array.astype(np.float16).astype(np.float32)


def bfloat16_table(params, patch):
    bits = params["wte"].view(np.uint32)
    params["wte"] = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def float16_values(params, patch):
    plain = gpt2.gelu
    patch.setattr(gpt2, "gelu", lambda x: plain(x).astype(np.float16).astype(np.float32))


def exact_gelu(params, patch):
    def gelu(x):
        phi = np.array([[0.5 * (1 + math.erf(v / 2**0.5)) for v in row] for row in x.tolist()])
        return (x * phi).astype(x.dtype)

    patch.setattr(gpt2, "gelu", gelu)


def relu(params, patch):
    patch.setattr(gpt2, "gelu", lambda x: np.maximum(x, 0))


def no_activation(params, patch):
    patch.setattr(gpt2, "gelu", lambda x: x)


def attention_with(patch, scale=None, mask=None, after=None):
    """Replace `attention_weights` by one with another scale, mask or use of the mask."""

    def attention_weights(q, k, _):
        scores = q @ k.swapaxes(-1, -2) * np.float32(scale or q.shape[-1] ** -0.5)
        n_seq = q.shape[-2]
        is_seen = np.tri(n_seq, dtype=bool) if mask is None else mask(n_seq)
        if after == "multiplied":
            return gpt2.softmax(scores * is_seen)
        if after == "late":
            return gpt2.softmax(scores) * is_seen
        return gpt2.softmax(np.where(is_seen, scores, np.float32(-1e10)))

    patch.setattr(gpt2, "attention_weights", attention_weights)


def no_scale(params, patch):
    attention_with(patch, scale=1)


def scale_of_the_whole_width(params, patch):
    attention_with(patch, scale=N_EMBD**-0.5)


def scale_without_a_root(params, patch):
    attention_with(patch, scale=N_HEAD / N_EMBD)


def no_mask(params, patch):
    attention_with(patch, mask=lambda n_seq: np.ones((n_seq, n_seq), bool))


def mask_that_shows_the_next_position(params, patch):
    attention_with(patch, mask=lambda n_seq: np.tri(n_seq, k=1) > 0)


def mask_that_hides_the_position_itself(params, patch):
    attention_with(patch, mask=lambda n_seq: np.tri(n_seq, k=-1) > 0)


def mask_as_a_factor(params, patch):
    attention_with(patch, after="multiplied")


def mask_after_the_softmax(params, patch):
    attention_with(patch, after="late")


def split_with(patch, split):
    """Replace `mha`: split(x) gives q, k and v, [n_head, n_seq, d_head] each."""

    def mha(x, c_attn, c_proj, n_head, cache=None, n_last=None):
        x = gpt2.linear(x, **c_attn)
        q, k, v = split(x)
        mask = gpt2.causal_mask(len(x), len(x), len(x), x.dtype)
        heads = gpt2.attention(q, k, v, mask)
        return gpt2.linear(heads.swapaxes(0, 1).reshape(len(x), -1), **c_proj)

    patch.setattr(gpt2, "mha", mha)


def heads_of(part):
    return part.reshape(len(part), N_HEAD, -1).swapaxes(0, 1)


def k_before_q(params, patch):
    def split(x):
        k, q, v = np.split(x, 3, axis=-1)
        return heads_of(q), heads_of(k), heads_of(v)

    split_with(patch, split)


def v_before_k(params, patch):
    def split(x):
        q, v, k = np.split(x, 3, axis=-1)
        return heads_of(q), heads_of(k), heads_of(v)

    split_with(patch, split)


def heads_without_moving_the_axis(params, patch):
    split_with(patch, lambda x: [p.reshape(N_HEAD, len(x), -1) for p in np.split(x, 3, axis=-1)])


def heads_before_q_k_v(params, patch):
    def split(x):
        parts = x.reshape(len(x), N_HEAD, 3, -1)
        return [parts[:, :, i].swapaxes(0, 1) for i in range(3)]

    split_with(patch, split)


def heads_merged_without_moving_the_axis(params, patch):
    def mha(x, c_attn, c_proj, n_head, cache=None, n_last=None):
        q, k, v = map(heads_of, np.split(gpt2.linear(x, **c_attn), 3, axis=-1))
        mask = gpt2.causal_mask(len(x), len(x), len(x), x.dtype)
        return gpt2.linear(gpt2.attention(q, k, v, mask).reshape(len(x), -1), **c_proj)

    patch.setattr(gpt2, "mha", mha)


def other_epsilon(eps):
    def mistake(params, patch):
        plain = gpt2.layer_norm
        patch.setattr(gpt2, "layer_norm", lambda x, g, b: plain(x, g, b, eps=eps))

    return mistake


def sample_variance(params, patch):
    def layer_norm(x, g, b):
        std = x.std(axis=-1, keepdims=True, ddof=1)
        return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(std**2 + 1e-5) * g + b

    patch.setattr(gpt2, "layer_norm", layer_norm)


def rms_norm(params, patch):
    def layer_norm(x, g, b):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * g + b

    patch.setattr(gpt2, "layer_norm", layer_norm)


def no_gain(params, patch):
    params["ln_f"]["g"] = np.ones_like(params["ln_f"]["g"])


def swapped_layer_norms(params, patch):
    for block in params["blocks"]:
        block["ln_1"], block["ln_2"] = block["ln_2"], block["ln_1"]


def block_with(patch, block):
    """Replace `transformer_block` by block(x, attn, mlp, ln_1, ln_2)."""

    def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, cache=None, n_last=None):
        return block(
            x,
            lambda x: gpt2.mha(x, **attn, n_head=n_head),
            lambda x: gpt2.ffn(x, **mlp),
            lambda x: gpt2.layer_norm(x, **ln_1),
            lambda x: gpt2.layer_norm(x, **ln_2),
        )

    patch.setattr(gpt2, "transformer_block", transformer_block)


def post_norm(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        x = ln_1(x + attn(x))
        return ln_2(x + mlp(x))

    block_with(patch, block)


def parallel_layers(params, patch):
    block_with(patch, lambda x, attn, mlp, ln_1, ln_2: x + attn(ln_1(x)) + mlp(ln_2(x)))


def no_residual_around_attention(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        x = attn(ln_1(x))
        return x + mlp(ln_2(x))

    block_with(patch, block)


def no_residual_around_ffn(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        return mlp(ln_2(x + attn(ln_1(x))))

    block_with(patch, block)


def residual_from_normalised_input(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        x = ln_1(x)
        x = x + attn(x)
        return x + mlp(ln_2(x))

    block_with(patch, block)


def positions_from_one(params, patch):
    params["wpe"] = np.roll(params["wpe"], -1, axis=0)


def scaled_embeddings(params, patch):
    params["wte"] = params["wte"] * np.float32(N_EMBD**0.5)


FOUND = [  # the mistake, the first value that differs, what the hint has to say
    (transposed_c_attn, "h.0.attn.c_attn", "transposed"),
    (transposed_attn_c_proj, "h.0.attn.c_proj", "transposed"),
    (transposed_c_fc_in_the_second_block, "h.1.mlp.c_fc", "transposed"),
    (no_bias, "h.0.mlp.c_proj", "bias"),
    (parameters_of_the_first_block_everywhere, "h.1.ln_1", "block 0"),
    (float16_weights, "h.0.attn.c_attn", "weights are float16"),
    (float16_matrices, "h.0.attn.c_attn", "weights are float16"),
    (bfloat16_table, "wte", "bfloat16"),
    (float16_values, "h.0.mlp.gelu", "values are float16"),
    (exact_gelu, "h.0.mlp.gelu", "erf"),
    (relu, "h.0.mlp.gelu", "ReLU"),
    (no_activation, "h.0.mlp.gelu", "activation is missing"),
    (no_scale, "h.0.attn.scores", "scale is missing"),
    (scale_of_the_whole_width, "h.0.attn.scores", "sqrt(n_embd)"),
    (scale_without_a_root, "h.0.attn.scores", "square root"),
    (no_mask, "h.0.attn.scores", "mask is missing"),
    (mask_that_shows_the_next_position, "h.0.attn.scores", "sees the next"),
    (mask_that_hides_the_position_itself, "h.0.attn.scores", "see itself"),
    (mask_as_a_factor, "h.0.attn.scores", "multiplied by the mask"),
    (k_before_q, "h.0.attn.q", "k, q, v"),
    (v_before_k, "h.0.attn.k", "q, v, k"),
    (heads_without_moving_the_axis, "h.0.attn.q", "heads are split wrongly"),
    (heads_before_q_k_v, "h.0.attn.q", "heads first"),
    (heads_merged_without_moving_the_axis, "h.0.attn.c_proj", "side by side wrongly"),
    (other_epsilon(1e-6), "h.0.ln_1", "1e-06"),
    (other_epsilon(1e-12), "h.0.ln_1", "1e-12"),
    (sample_variance, "h.0.ln_1", "n - 1"),
    (rms_norm, "h.0.ln_1", "RMSNorm"),
    (no_gain, "ln_f", "gain g is missing"),
    (swapped_layer_norms, "h.0.ln_1", "each other's"),
    (no_residual_around_attention, "h.0.residual_after_attn", "residual connection is missing"),
    (no_residual_around_ffn, "h.0", "residual connection is missing"),
    (residual_from_normalised_input, "h.0.residual_after_attn", "normalised input"),
    (positions_from_one, "wpe", "begin at 1"),
    (scaled_embeddings, "wte", "sqrt(n_embd)"),
]


@pytest.mark.parametrize(("mistake", "name", "text"), FOUND)
def test_a_mistake_is_found_where_it_was_made(mistake, name, text, ours, monkeypatch, tmp_path):
    theirs = dump_with(mistake, monkeypatch, tmp_path)
    found_name, hint = found(ours, theirs)
    assert found_name == name
    assert hint is not None and text in hint


ELSEWHERE = [  # also the names that theirs has not, where the difference is seen then, and the hint
    (mask_after_the_softmax, ["attn.scores"], "h.0.attn.weights", "after the softmax"),
    (no_scale, ["attn.scores"], "h.0.attn.weights", "scale is missing"),
    (v_before_k, ["attn.q", "attn.k", "attn.v", "attn.scores"], "h.0.attn.weights", "q, v, k"),
    (exact_gelu, ["mlp.gelu"], "h.0.mlp.c_proj", "h.0.mlp.gelu: it is the exact GELU"),
    (exact_gelu, [kind for kind in KINDS if "." in kind], "h.0", "exact GELU"),
    (transposed_c_attn, [kind for kind in KINDS if kind not in ("h", "logits")], "h.0", "c_attn"),
    (no_mask, ["attn.scores", "attn.weights", "attn.heads"], "h.0.attn.c_proj", "mask is missing"),
    (other_epsilon(1e-6), ["ln_1"], "h.0.attn.c_attn", "1e-06"),
    (parallel_layers, ["residual_after_attn"], "h.0.ln_2", "what enters the block"),
    (positions_from_one, ["wpe"], "embeddings", "begin at 1"),
    (no_gain, ["ln_f"], "logits", "gain g is missing"),
]


@pytest.mark.parametrize(("mistake", "missing", "name", "text"), ELSEWHERE)
def test_a_mistake_in_a_value_that_theirs_lacks_is_found_at_the_next_one(
    mistake, missing, name, text, ours, monkeypatch, tmp_path
):
    theirs = dump_with(mistake, monkeypatch, tmp_path)
    found_name, hint = found(ours, without(theirs, missing))
    assert found_name == name
    assert hint is not None and text in hint


def without(theirs, kinds):
    kept = {name: a for name, a in theirs.arrays.items() if kind_of(name) not in kinds}
    return theirs._replace(arrays=kept)


def test_embeddings_without_positions(ours):
    arrays = {"wte": ours.arrays["wte"], "embeddings": ours.arrays["wte"]}
    assert found(ours, Dump("theirs.npz", arrays, None, {})) == (
        "embeddings",
        "wpe is missing: the embedding of the position is not added",
    )


def test_a_block_that_normalises_after_its_layers(ours, monkeypatch, tmp_path):
    theirs = dump_with(post_norm, monkeypatch, tmp_path)
    name, hint = found(ours, theirs)
    assert name == "h.0.ln_1" and "post-norm" in hint
    name, hint = found(ours, without(theirs, ["ln_1"]))
    assert name == "h.0.attn.c_attn" and "not normalised" in hint


def test_arrays_that_are_written_column_by_column(ours):
    array = ours.arrays["h.0.ln_1"]
    arrays = {"h.0.ln_1": array.T.reshape(array.shape)}
    name, hint = found(ours, Dump("theirs.npz", arrays, None, {}))
    assert name == "h.0.ln_1" and "column by column" in hint


def test_probabilities_in_place_of_logits(ours):
    arrays = {"ln_f": ours.arrays["ln_f"], "logits": gpt2.softmax(ours.arrays["logits"])}
    name, hint = found(ours, Dump("theirs.npz", arrays, None, {}))
    assert name == "logits" and "probabilities" in hint


def test_numbers_that_are_all_float16_are_said_to_be_though_nothing_else_explains_them(ours):
    array = 3 * ours.arrays["h.0.mlp.c_fc"]
    arrays = {"h.0.mlp.c_fc": array.astype(np.float16)}
    name, hint = found(ours, Dump("theirs.npz", arrays, None, {}))
    assert name == "h.0.mlp.c_fc" and "float16" in hint


def test_an_unknown_mistake_gets_no_hint(ours):
    arrays = {"h.0.mlp.gelu": np.sin(ours.arrays["h.0.mlp.c_fc"])}
    assert found(ours, Dump("theirs.npz", arrays, None, {})) == ("h.0.mlp.gelu", None)


def test_a_difference_that_has_grown_from_a_smaller_one_is_not_blamed_on_the_operation(ours):
    ln_1 = ours.arrays["h.0.ln_1"] + np.float32(0.9 * TOLERANCE)
    c_attn = gpt2.linear(ln_1, **model()["blocks"][0]["attn"]["c_attn"])
    arrays = {"h.0.ln_1": ln_1, "h.0.attn.c_attn": c_attn}
    name, hint = found(ours, Dump("theirs.npz", arrays, None, {}))
    assert name == "h.0.attn.c_attn" and "this operation is right" in hint


@pytest.mark.parametrize(
    "name", [name for name in watch(IDS, model(), N_HEAD) if "h.0" not in name]
)
def test_the_first_result_for_each_value_is_the_correct_one(name, ours):
    here = Here(name, ours.arrays, ours.ids, model(), N_HEAD)
    wrong, array = next(MISTAKES[kind_of(name)](here))
    assert wrong == ""
    np.testing.assert_allclose(
        np.maximum(array, -1e9), np.maximum(ours.arrays[name], -1e9), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_mistake_gives_other_numbers_than_the_correct_operation(kind, ours):
    name = next(name for name in reversed(ours.arrays) if kind_of(name) == kind)
    here = Here(name, ours.arrays, ours.ids, model(), N_HEAD)
    correct, *mistakes = here.results()
    for wrong, array in mistakes:
        assert array.shape == ours.arrays[name].shape, wrong
        if not wrong.startswith("c_attn is taken as"):  # q, v, k leaves q where it is
            assert not np.array_equal(array, correct[1]), wrong
