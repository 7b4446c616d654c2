"""Small GPT-2s with fixed random weights, in the nested form that `utils` hands to `gpt2`."""

import numpy as np

TINY = {"n_vocab": 61, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": 2}
GPT2_124M = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
SHAPES = {  # of the pinned reference logits
    "tiny": TINY,
    "one_head": {"n_vocab": 17, "n_ctx": 8, "n_embd": 10, "n_head": 1, "n_layer": 1},
    "one_number_per_head": {"n_vocab": 40, "n_ctx": 12, "n_embd": 6, "n_head": 6, "n_layer": 3},
    "deep": {"n_vocab": 50, "n_ctx": 32, "n_embd": 32, "n_head": 4, "n_layer": 12},
    "wide": {"n_vocab": 128, "n_ctx": 64, "n_embd": 128, "n_head": 8, "n_layer": 4},
    "long": {"n_vocab": 30, "n_ctx": 300, "n_embd": 16, "n_head": 2, "n_layer": 2},
}


def random_params(hparams, seed=0, dtype=np.float32, scale=0.2):
    """Parameters for `hparams`, every one of them random: gains and biases too, so that a
    layer that forgets one is seen."""
    rng = np.random.default_rng(seed)
    d = hparams["n_embd"]

    def normal(*shape, mean=0.0):
        # In float32 from the start: the float64 parameters of a test are these, widened.
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return (values + np.float32(mean)).astype(dtype)

    def norm():
        return {"g": normal(d, mean=1.0), "b": normal(d)}

    def linear(n_in, n_out):
        return {"w": normal(n_in, n_out), "b": normal(n_out)}

    def block():
        return {
            "ln_1": norm(),
            "attn": {"c_attn": linear(d, 3 * d), "c_proj": linear(d, d)},
            "ln_2": norm(),
            "mlp": {"c_fc": linear(d, 4 * d), "c_proj": linear(4 * d, d)},
        }

    return {
        "wte": normal(hparams["n_vocab"], d),
        "wpe": normal(hparams["n_ctx"], d),
        "blocks": [block() for _ in range(hparams["n_layer"])],
        "ln_f": norm(),
    }


def random_prompt(hparams, n_seq=None, seed=1):
    """`n_seq` ids (as many as the window takes), always the same ones for a seed: list[int]."""
    n_seq = n_seq or hparams["n_ctx"]
    return np.random.default_rng(seed).integers(0, hparams["n_vocab"], n_seq).tolist()
