"""GPT-2 with its backward pass: the layers of `layers.py`, put together as in `gpt2.py`.

Letters for dimensions, and what is `saved`, are those of `layers.py`.
Source: Radford et al. 2019 (the model and its initialisation).
"""

import math

import numpy as np

from training.layers import (
    attention_backward,
    attention_forward,
    cross_entropy,
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    gelu_backward,
    gelu_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
)
from utils import map_params, parameter_shapes


def block_forward(
    x: np.ndarray,
    block: dict,
    n_head: int,
    n_ctx: int,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, dict]:
    """`gpt2.transformer_block` for several sequences of `n_ctx` positions: x [N, C] -> [N, C]"""
    attn, mlp, saved = block["attn"], block["mlp"], {}
    out, saved["ln_1"] = layer_norm_forward(x, **block["ln_1"])
    out, saved["c_attn"] = linear_forward(out, **attn["c_attn"])
    out, saved["attention"] = attention_forward(out, n_head, n_ctx, dropout, rng)
    out, saved["attn_c_proj"] = linear_forward(out, **attn["c_proj"])
    out, saved["attn_dropout"] = dropout_forward(out, dropout, rng)
    x = x + out
    out, saved["ln_2"] = layer_norm_forward(x, **block["ln_2"])
    out, saved["c_fc"] = linear_forward(out, **mlp["c_fc"])
    out, saved["gelu"] = gelu_forward(out)
    out, saved["mlp_c_proj"] = linear_forward(out, **mlp["c_proj"])
    out, saved["mlp_dropout"] = dropout_forward(out, dropout, rng)
    return x + out, saved


def block_backward(dx: np.ndarray, saved: dict) -> tuple[np.ndarray, dict]:
    """dx [N, C] -> dx [N, C], the block's gradients

    The gradient of x + f(x) is dx itself plus what comes back through f, here `d`.
    """
    attn, mlp = {}, {}
    d = dropout_backward(dx, saved["mlp_dropout"])
    d, mlp["c_proj"] = linear_backward(d, saved["mlp_c_proj"])
    d = gelu_backward(d, saved["gelu"])
    d, mlp["c_fc"] = linear_backward(d, saved["c_fc"])
    d, ln_2 = layer_norm_backward(d, saved["ln_2"])
    dx = dx + d
    d = dropout_backward(dx, saved["attn_dropout"])
    d, attn["c_proj"] = linear_backward(d, saved["attn_c_proj"])
    d = attention_backward(d, saved["attention"])
    d, attn["c_attn"] = linear_backward(d, saved["c_attn"])
    d, ln_1 = layer_norm_backward(d, saved["ln_1"])
    return dx + d, {"ln_1": ln_1, "attn": attn, "ln_2": ln_2, "mlp": mlp}


def forward(
    params: dict,
    n_head: int,
    inputs: np.ndarray,
    *,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, dict]:
    """`gpt2.gpt2` for several sequences: ids [B, T] -> logits [N, V], saved

    Numbers are dropped only if there is an rng.
    """
    wte, saved = params["wte"], {"blocks": []}
    x, saved["embedding"] = embedding_forward(inputs, wte, params["wpe"])
    x, saved["dropout"] = dropout_forward(x, dropout, rng)
    for block in params["blocks"]:
        x, saved_of_block = block_forward(x, block, n_head, inputs.shape[1], dropout, rng)
        saved["blocks"].append(saved_of_block)
    x, saved["ln_f"] = layer_norm_forward(x, **params["ln_f"])
    saved["logits"] = x, wte
    return x @ wte.T, saved


def backward(dlogits: np.ndarray, saved: dict) -> dict:
    """dlogits [N, V] -> gradients, nested like the parameters"""
    x, wte = saved["logits"]
    dwte_of_logits = dlogits.T @ x
    dx, dln_f = layer_norm_backward(dlogits @ wte, saved["ln_f"])
    dblocks = []
    for saved_of_block in reversed(saved["blocks"]):
        dx, dblock = block_backward(dx, saved_of_block)
        dblocks.append(dblock)
    dx = dropout_backward(dx, saved["dropout"])
    dwte, dwpe = embedding_backward(dx, saved["embedding"])
    dwte += dwte_of_logits  # wte is used twice: its gradients add up
    return {"wte": dwte, "wpe": dwpe, "blocks": dblocks[::-1], "ln_f": dln_f}


def loss_and_grads(
    params: dict,
    n_head: int,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    n_targets: int | None = None,
) -> tuple[float, dict]:
    """inputs and targets [B, T] -> the mean loss in nats per token, its gradients

    With `n_targets` see `cross_entropy`.
    """
    logits, saved = forward(params, n_head, inputs, dropout=dropout, rng=rng)
    loss, dlogits = cross_entropy(logits, targets.ravel(), n_targets)
    return loss, backward(dlogits, saved)


def init_params(hparams: dict, rng: np.random.Generator) -> dict:
    """New parameters, float32, by GPT-2's initialisation.

    Weights are normal(0, 0.02), those of positions normal(0, 0.01). The projections back into the
    residual stream, two in each block, are divided by the square root of their number. Gains are
    1, biases 0.
    """

    def init(name, shape):
        if name.endswith(".g"):
            return np.ones(shape, np.float32)
        if name.endswith(".b"):
            return np.zeros(shape, np.float32)
        std = 0.01 if name == "wpe" else 0.02
        if name.endswith("c_proj.w"):
            std /= math.sqrt(2 * hparams["n_layer"])
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)

    return map_params(init, parameter_shapes(hparams))
