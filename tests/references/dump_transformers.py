"""Write the values of Hugging Face's GPT-2 for the ids of a dump, by the names of explain.py.

    python explain.py "def add(a, b):" --model_size python --dump ours.npz
    python -m tests.references.dump_transformers ours.npz theirs.npz models/python
    python explain.py --compare ours.npz theirs.npz

It needs PyTorch and transformers. It is also an example of how to write such a file for another
GPT-2: an array for each name, in any order, as many as you have.
"""

import argparse
from contextlib import contextmanager

import numpy as np


def transformers_values(model, ids: list[int]) -> dict[str, np.ndarray]:
    """All values of one pass of `transformers.GPT2LMHeadModel`, for one text, by name."""
    import torch

    values = {}

    def keep(name, tensor):
        values[name] = tensor[0].detach().float().numpy()  # of a batch of one text

    model.set_attn_implementation("eager")
    with _hooks(model.transformer, keep), _recording_attention(keep), torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits
    keep("logits", logits)
    return values


@contextmanager
def _hooks(transformer, keep):
    """Keep what each module gives; and what goes into those before which a sum is computed."""
    handles = []

    def keep_output(name, module):
        def hook(module, arguments, output):
            keep(name, output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(hook))

    def keep_input(name, module):
        handles.append(
            module.register_forward_pre_hook(lambda module, arguments: keep(name, arguments[0]))
        )

    keep_output("wte", transformer.wte)
    keep_output("wpe", transformer.wpe)
    keep_output("embeddings", transformer.drop)
    for i, block in enumerate(transformer.h):
        layers = {
            "ln_1": block.ln_1,
            "attn.c_attn": block.attn.c_attn,
            "attn.c_proj": block.attn.c_proj,
            "ln_2": block.ln_2,
            "mlp.c_fc": block.mlp.c_fc,
            "mlp.gelu": block.mlp.act,
            "mlp.c_proj": block.mlp.c_proj,
        }
        for name, module in layers.items():
            keep_output(f"h.{i}.{name}", module)
        keep_input(f"h.{i}.residual_after_attn", block.ln_2)
        keep_output(f"h.{i}", block)
    keep_output("ln_f", transformer.ln_f)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recording_attention(keep):
    """Keep what goes in and out of the one function that computes attention, and its scores."""
    from torch.nn import functional
    from transformers.models.gpt2 import modeling_gpt2

    attention, softmax = modeling_gpt2.eager_attention_forward, functional.softmax
    layer = 0

    def recording_attention(module, query, key, value, *args, **kwargs):
        nonlocal layer
        layer = module.layer_idx
        for name, tensor in {"q": query, "k": key, "v": value}.items():
            keep(f"h.{layer}.attn.{name}", tensor)
        heads, weights = attention(module, query, key, value, *args, **kwargs)
        keep(f"h.{layer}.attn.weights", weights)
        keep(f"h.{layer}.attn.heads", heads.transpose(1, 2))
        return heads, weights

    def recording_softmax(scores, *args, **kwargs):
        keep(f"h.{layer}.attn.scores", scores)
        return softmax(scores, *args, **kwargs)

    modeling_gpt2.eager_attention_forward = recording_attention
    functional.softmax = recording_softmax
    try:
        yield
    finally:
        modeling_gpt2.eager_attention_forward = attention
        functional.softmax = softmax


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", help="a file that explain.py --dump has written")
    parser.add_argument("theirs", help="the file to write")
    parser.add_argument("model", help="a folder in Hugging Face's layout, or a name on its Hub")
    options = parser.parse_args()

    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(options.model).float().eval()
    ids = np.load(options.ours)["ids"]
    np.savez(options.theirs, ids=ids, **transformers_values(model, ids.tolist()))


if __name__ == "__main__":
    main()
