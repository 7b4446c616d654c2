"""GPT-2 in 60 lines of NumPy. To run it: python gpt2_pico.py "a text to continue"
`params` are nested dicts, keyed by the arguments of the functions; gpt2.py lists their shapes."""
import numpy as np

def gelu(x):  # ** 0.5, as np.sqrt would return a float64, which turns float32 arrays into float64
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def layer_norm(x, g, b, eps=1e-5):  # each row to mean 0 and variance 1, then a gain and a bias
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * g + b

def linear(x, w, b):  # [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]
    return x @ w + b

def ffn(x, c_fc, c_proj):  # [n_seq, n_embd] -> [n_seq, 4 * n_embd] -> [n_seq, n_embd]
    return linear(gelu(linear(x, **c_fc)), **c_proj)

def attention(q, k, v, mask):  # [n_seq, d_head] each, mask [n_seq, n_seq] -> [n_seq, d_head]
    return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v  # each row of weights sums to 1

def mha(x, c_attn, c_proj, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    qkv = np.split(linear(x, **c_attn), 3, axis=-1)  # queries, keys, values: [n_seq, n_embd] each
    q, k, v = (np.split(part, n_head, axis=-1) for part in qkv)  # n_head of [n_seq, d_head] each
    mask = np.triu(np.full((len(x), len(x)), -1e10, x.dtype), k=1)  # no position sees a later one
    heads = [attention(q[i], k[i], v[i], mask) for i in range(n_head)]  # each head by itself
    return linear(np.hstack(heads), **c_proj)  # side by side again: [n_seq, n_embd]

def transformer_block(x, mlp, attn, ln_1, ln_2, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)  # each looks at those before it
    return x + ffn(layer_norm(x, **ln_2), **mlp)  # each position by itself

def gpt2(inputs, wte, wpe, blocks, ln_f, n_head):  # n_seq ids -> logits [n_seq, n_vocab]
    x = wte[np.array(inputs)] + wpe[: len(inputs)]  # which token + where: [n_seq, n_embd]
    for block in blocks:
        x = transformer_block(x, **block, n_head=n_head)
    return layer_norm(x, **ln_f) @ wte.T  # wte again: how well x matches each token

def generate(inputs, params, n_head, n_tokens_to_generate):
    ids = list(inputs)
    for _ in range(n_tokens_to_generate):
        seen = ids[-len(params["wpe"]) :]  # wpe has a row for each position that it can see
        ids.append(int(np.argmax(gpt2(seen, **params, n_head=n_head)[-1])))  # the best next token
    return ids[len(inputs) :]

def main(prompt, n_tokens_to_generate=40, model_size="124M", models_dir="models"):
    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt) or [encoder.eot]  # nothing: as at the start of a text
    return encoder.decode(generate(input_ids, params, hparams["n_head"], n_tokens_to_generate))

if __name__ == "__main__":
    import fire
    try:  # str: left to itself, fire reads "2024" as a number
        fire.Fire(fire.decorators.SetParseFns(prompt=str, model_size=str, models_dir=str)(main))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"gpt2_pico.py: {error}") from None
