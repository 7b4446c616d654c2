"""Small GPT-2s with fixed random weights, in the nested form that `utils` hands to `gpt2`."""

import numpy as np

TINY = {"n_vocab": 61, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": 2}


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
