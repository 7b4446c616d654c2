"""The comparison of dumps: each known mistake, made in a run, is found where it was made.

Mistakes are made in gpt2.py's own functions and parameters, and the values of that run are dumped.
"""

import math

import numpy as np
import pytest

import gpt2
from explaining.compare import compare_dumps, find_hint, report
from explaining.dump import Dump, read_dump, write_dump
from explaining.mistakes import MISTAKES, Here
from explaining.watch import KINDS, kind_of, watch
from tests.fixtures.random_models import random_params, random_prompt

HPARAMS = {"n_vocab": 61, "n_ctx": 16, "n_embd": 36, "n_head": 3, "n_layer": 2}
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


def gelu_with(gelu):
    def mistake(params, patch):
        patch.setattr(gpt2, "gelu", gelu)

    return mistake


def silu(x):
    return x / (1 + np.exp(-x))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def gelu_with_factor(factor):
    return gelu_with(lambda x: 0.5 * x * (1 + np.tanh(factor * (x + 0.044715 * x**3))))


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
        if after == "none":
            return np.where(is_seen, scores, np.float32(-1e10))
        if after == "queries":
            scores = np.where(is_seen, scores, np.float32(-1e10))
            return gpt2.softmax(scores.swapaxes(-1, -2)).swapaxes(-1, -2)
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


def scale_by_layer(params, patch):
    plain, n_calls = gpt2.attention_weights, 0

    def attention_weights(q, k, mask):
        nonlocal n_calls
        n_calls += 1
        return plain(q / n_calls, k, mask)

    patch.setattr(gpt2, "attention_weights", attention_weights)


def mask_the_wrong_way_round(params, patch):
    attention_with(patch, mask=lambda n_seq: np.tri(n_seq, dtype=bool).T)


def neither_scale_nor_mask(params, patch):
    attention_with(patch, scale=1, mask=lambda n_seq: np.ones((n_seq, n_seq), bool))


def no_softmax(params, patch):
    attention_with(patch, after="none")


def softmax_over_queries(params, patch):
    attention_with(patch, after="queries")


def heads_with(heads):
    """heads(weights, k, v) in the place of weights @ v"""

    def mistake(params, patch):
        def attention(q, k, v, mask):
            return heads(gpt2.attention_weights(q, k, mask), k, v)

        patch.setattr(gpt2, "attention", attention)

    return mistake


def transposed_weights(weights, k, v):
    return weights.swapaxes(-1, -2) @ v


def averaged_keys(weights, k, v):
    return weights @ k


def nan_where_nothing_is_seen(params, patch):  # as a mask of -inf gives
    mask_that_hides_the_position_itself(params, patch)
    plain = gpt2.attention_weights

    def attention_weights(q, k, mask):
        weights = plain(q, k, mask)
        weights[:, 0] = np.nan
        return weights

    patch.setattr(gpt2, "attention_weights", attention_weights)


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


def heads_that_take_turns(params, patch):
    split_with(
        patch,
        lambda x: [
            p.reshape(len(x), -1, N_HEAD).transpose(2, 0, 1) for p in np.split(x, 3, axis=-1)
        ],
    )


def q_scaled_already(params, patch):
    def split(x):
        q, k, v = np.split(x, 3, axis=-1)
        return heads_of(q) / (N_EMBD / N_HEAD) ** 0.5, heads_of(k), heads_of(v)

    split_with(patch, split)


def merge_with(merge):
    """Replace `mha`: merge(heads) gives [n_seq, n_embd]."""

    def mistake(params, patch):
        def mha(x, c_attn, c_proj, n_head, cache=None, n_last=None):
            q, k, v = map(heads_of, np.split(gpt2.linear(x, **c_attn), 3, axis=-1))
            mask = gpt2.causal_mask(len(x), len(x), len(x), x.dtype)
            return gpt2.linear(merge(gpt2.attention(q, k, v, mask)), **c_proj)

        patch.setattr(gpt2, "mha", mha)

    return mistake


def without_moving_the_axis(heads):
    return heads.reshape(heads.shape[1], -1)


def taking_turns(heads):
    return heads.transpose(1, 2, 0).reshape(heads.shape[1], -1)


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


def layer_norm_with(layer_norm):
    def mistake(params, patch):
        patch.setattr(gpt2, "layer_norm", layer_norm)

    return mistake


def epsilon_outside_the_root(x, g, b):
    std = x.std(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / (std + np.float32(1e-5)) * g + b


def norm_over_positions(x, g, b):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + np.float32(1e-5)) * g + b


def no_norm_at_all(x, g, b):
    return x


def rms_norm(params, patch):
    def layer_norm(x, g, b):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * g + b

    patch.setattr(gpt2, "layer_norm", layer_norm)


def no_gain(params, patch):
    params["ln_f"]["g"] = np.ones_like(params["ln_f"]["g"])


def no_bias_of_ln_f(params, patch):
    params["ln_f"]["b"] = np.zeros_like(params["ln_f"]["b"])


def no_parameters_of_ln_f(params, patch):
    no_gain(params, patch)
    no_bias_of_ln_f(params, patch)


def c_fc_of_the_first_block_everywhere(params, patch):
    params["blocks"][1]["mlp"]["c_fc"] = params["blocks"][0]["mlp"]["c_fc"]


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


def post_norm_of_the_ffn(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        x = x + attn(ln_1(x))
        return ln_2(x + mlp(x))

    block_with(patch, block)


def ln_2_of_what_attention_adds(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        added = attn(ln_1(x))
        return x + added + mlp(ln_2(added))

    block_with(patch, block)


def ffn_without_ln_2(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        x = x + attn(ln_1(x))
        return x + mlp(x)

    block_with(patch, block)


def one_layer_norm_for_both(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        y = ln_1(x)
        return x + attn(y) + mlp(y)

    block_with(patch, block)


def attention_that_is_not_added(params, patch):
    def block(x, attn, mlp, ln_1, ln_2):
        attn(ln_1(x))
        return x + mlp(ln_2(x))

    block_with(patch, block)


def ffn_added_to(which):
    def mistake(params, patch):
        def block(x, attn, mlp, ln_1, ln_2):
            after_attn = x + attn(ln_1(x))
            y = ln_2(after_attn)
            added = mlp(y)
            return {"ln_2": y + added, "the block's input": x + added, "": after_attn}[which]

        block_with(patch, block)

    return mistake


def positions_from_one(params, patch):
    params["wpe"] = np.roll(params["wpe"], -1, axis=0)


def positions_from_two(params, patch):
    params["wpe"] = np.roll(params["wpe"], -2, axis=0)


def every_position_the_first(params, patch):
    params["wpe"][:] = params["wpe"][0]


def transposed_wpe(params, patch):
    params["wpe"] = read_as_transposed(params["wpe"])


def transposed_wte(params, patch):
    params["wte"] = read_as_transposed(params["wte"])


def ids_one_too_high(params, patch):
    params["wte"] = np.roll(params["wte"], -1, axis=0)


def ids_one_too_low(params, patch):
    params["wte"] = np.roll(params["wte"], 1, axis=0)


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
    (gelu_with(silu), "h.0.mlp.gelu", "SiLU"),
    (gelu_with(quick_gelu), "h.0.mlp.gelu", "1.702"),
    (gelu_with_factor(1), "h.0.mlp.gelu", "sqrt(2 / pi) is missing"),
    (gelu_with_factor(2 / math.pi), "h.0.mlp.gelu", "is 2 / pi"),
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
    (heads_that_take_turns, "h.0.attn.q", "one head do not lie side by side"),
    (q_scaled_already, "h.0.attn.q", "divided by sqrt(d_head) already"),
    (scale_by_layer, "h.1.attn.scores", "number of the layer"),
    (mask_the_wrong_way_round, "h.0.attn.scores", "wrong way round"),
    (neither_scale_nor_mask, "h.0.attn.scores", "scale and mask are missing"),
    (heads_with(transposed_weights), "h.0.attn.heads", "weights are transposed"),
    (heads_with(averaged_keys), "h.0.attn.heads", "keys are averaged"),
    (merge_with(without_moving_the_axis), "h.0.attn.c_proj", "axis of the heads is not moved"),
    (merge_with(taking_turns), "h.0.attn.c_proj", "take turns"),
    (other_epsilon(1e-6), "h.0.ln_1", "1e-06"),
    (other_epsilon(1e-12), "h.0.ln_1", "1e-12"),
    (sample_variance, "h.0.ln_1", "n - 1"),
    (rms_norm, "h.0.ln_1", "RMSNorm"),
    (layer_norm_with(epsilon_outside_the_root), "h.0.ln_1", "standard deviation"),
    (layer_norm_with(norm_over_positions), "h.0.ln_1", "over the positions"),
    (layer_norm_with(no_norm_at_all), "h.0.ln_1", "not computed"),
    (no_gain, "ln_f", "gain g is missing"),
    (no_bias_of_ln_f, "ln_f", "bias b is missing"),
    (no_parameters_of_ln_f, "ln_f", "gain and bias are missing"),
    (c_fc_of_the_first_block_everywhere, "h.1.mlp.c_fc", "block 0"),
    (swapped_layer_norms, "h.0.ln_1", "each other's"),
    (no_residual_around_attention, "h.0.residual_after_attn", "residual connection is missing"),
    (no_residual_around_ffn, "h.0", "residual connection is missing"),
    (residual_from_normalised_input, "h.0.residual_after_attn", "normalised input"),
    (attention_that_is_not_added, "h.0.residual_after_attn", "is not added"),
    (ffn_without_ln_2, "h.0.mlp.c_fc", "not normalised"),
    (ffn_added_to("ln_2"), "h.0", "normalised input"),
    (ffn_added_to("the block's input"), "h.0", "what enters the block"),
    (ffn_added_to(""), "h.0", "is not added"),
    (positions_from_one, "wpe", "begin at 1"),
    (positions_from_two, "wpe", "begin at 2"),
    (every_position_the_first, "wpe", "at position 0"),
    (transposed_wpe, "wpe", "transposed"),
    (transposed_wte, "wte", "transposed"),
    (ids_one_too_high, "wte", "too high"),
    (ids_one_too_low, "wte", "too low"),
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
    (no_softmax, ["attn.scores"], "h.0.attn.weights", "softmax is missing"),
    (nan_where_nothing_is_seen, ["attn.scores"], "h.0.attn.weights", "see itself"),
    (softmax_over_queries, ["attn.scores"], "h.0.attn.weights", "over the queries"),
    (post_norm_of_the_ffn, ["residual_after_attn"], "h.0.ln_2", "post-norm"),
    (ln_2_of_what_attention_adds, ["residual_after_attn"], "h.0.ln_2", "what attention adds"),
    (one_layer_norm_for_both, [], "h.0.mlp.c_fc", "that of attention"),
    (positions_from_two, ["wpe"], "embeddings", "begin at 2"),
    (every_position_the_first, ["wpe"], "embeddings", "at position 0"),
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


def test_a_block_that_normalises_after_its_layers(ours, monkeypatch, tmp_path):
    theirs = dump_with(post_norm, monkeypatch, tmp_path)
    name, hint = found(ours, theirs)
    assert name == "h.0.ln_1" and "post-norm" in hint
    name, hint = found(ours, without(theirs, ["ln_1"]))
    assert name == "h.0.attn.c_attn" and "not normalised" in hint


def rounded_to_float16(x):
    return x.astype(np.float16).astype(np.float32)


def log_softmax(x):
    e = np.exp(x.astype(np.float64))
    return np.log(e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("embeddings", lambda a, wte: a["wte"], "wpe is missing"),
        ("embeddings", lambda a, wte: a["wpe"], "wte is missing"),
        ("embeddings", lambda a, wte: a["wte"] * N_EMBD**0.5 + a["wpe"], "sqrt(n_embd)"),
        (
            "embeddings",
            lambda a, wte: rounded_to_float16(a["wte"]) + rounded_to_float16(a["wpe"]),
            "weights are float16",
        ),
        ("h.0.ln_1", lambda a, wte: a["h.0.ln_1"].T.reshape(len(IDS), -1), "column by column"),
        ("logits", lambda a, wte: a["h.1"] @ wte.T, "ln_f is missing"),
        ("logits", lambda a, wte: a["ln_f"] @ wte.reshape(N_EMBD, -1), "transposed"),
        ("logits", lambda a, wte: gpt2.softmax(a["logits"]), "they are probabilities"),
        ("logits", lambda a, wte: log_softmax(a["logits"]), "logarithms"),
        ("logits", lambda a, wte: a["ln_f"] @ rounded_to_float16(wte).T, "weights are float16"),
        (
            "logits",
            lambda a, wte: rounded_to_float16(a["ln_f"] @ rounded_to_float16(wte).T),
            "weights and the values are float16",
        ),
        ("logits", lambda a, wte: rounded_to_float16(a["logits"]), "the values are float16"),
        ("h.1", lambda a, wte: np.full_like(a["h.1"], np.nan), "NaN"),
    ],
)
def test_a_single_wrong_array(name, array, text, ours):
    """array(the arrays of ours, wte)"""
    arrays = ours.arrays | {name: array(ours.arrays, model()["wte"])}
    found_name, hint = found(ours, Dump("theirs.npz", arrays, None, {}), tolerance=1e-5)
    assert found_name == name
    assert hint is not None and text in hint


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
