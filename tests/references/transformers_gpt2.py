"""Reference implementations to compare with: Hugging Face's GPT-2, given our parameters."""

import numpy as np


def transformers_gpt2(params, hparams, dtype="float32"):
    """`transformers.GPT2LMHeadModel` holding `params`, every tensor of it set by name."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=hparams["n_vocab"],
        n_positions=hparams["n_ctx"],
        n_embd=hparams["n_embd"],
        n_head=hparams["n_head"],
        n_layer=hparams["n_layer"],
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).to(getattr(torch, dtype)).eval()
    tensors = {
        "transformer.wte.weight": params["wte"],
        "transformer.wpe.weight": params["wpe"],
        "transformer.ln_f.weight": params["ln_f"]["g"],
        "transformer.ln_f.bias": params["ln_f"]["b"],
        "lm_head.weight": params["wte"],
    }
    for i, block in enumerate(params["blocks"]):
        for norm in ("ln_1", "ln_2"):
            tensors[f"transformer.h.{i}.{norm}.weight"] = block[norm]["g"]
            tensors[f"transformer.h.{i}.{norm}.bias"] = block[norm]["b"]
        for layer, names in (("attn", ("c_attn", "c_proj")), ("mlp", ("c_fc", "c_proj"))):
            for name in names:
                tensors[f"transformer.h.{i}.{layer}.{name}.weight"] = block[layer][name]["w"]
                tensors[f"transformer.h.{i}.{layer}.{name}.bias"] = block[layer][name]["b"]
    state = {name: torch.tensor(np.asarray(array)) for name, array in tensors.items()}
    model.load_state_dict(state, strict=True)
    return model


def transformers_logits(params, hparams, inputs, dtype="float32"):
    """Logits [n_seq, n_vocab] by `transformers`, computed in `dtype` ("float32", "float64")."""
    import torch

    model = transformers_gpt2(params, hparams, dtype)
    with torch.no_grad():
        return model(torch.tensor([inputs])).logits[0].numpy()
