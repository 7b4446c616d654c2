"""GPT-2 in 60 lines of NumPy. To run it: python gpt2_pico.py "a text to continue" """
import numpy as np

def gelu(x):  # ** 0.5 is Python's; NumPy's sqrt is a float64 that would widen float32 arrays
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
    hidden = gelu(linear(x, **c_fc))
    return linear(hidden, **c_proj)

def attention(q, k, v, mask):  # [n_seq, d_head] each, mask [n_seq, n_seq] -> [n_seq, d_head]
    return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v  # how much each position heeds each

def mha(x, c_attn, c_proj, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    qkv = np.split(linear(x, **c_attn), 3, axis=-1)  # three of [n_seq, n_embd]
    heads = zip(*[np.split(part, n_head, axis=-1) for part in qkv], strict=True)  # d_head wide
    mask = np.triu(np.full((len(x), len(x)), -1e10, x.dtype), k=1)  # no position sees a later one
    out = [attention(q, k, v, mask) for q, k, v in heads]
    return linear(np.hstack(out), **c_proj)  # n_head of [n_seq, d_head] -> [n_seq, n_embd]

def transformer_block(x, mlp, attn, ln_1, ln_2, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)  # positions look at each other
    return x + ffn(layer_norm(x, **ln_2), **mlp)  # each position thinks for itself

def gpt2(inputs, wte, wpe, blocks, ln_f, n_head):  # n_seq ids -> logits [n_seq, n_vocab]
    x = wte[np.array(inputs)] + wpe[: len(inputs)]  # what is said + where: [n_seq, n_embd]
    for block in blocks:
        x = transformer_block(x, **block, n_head=n_head)
    return layer_norm(x, **ln_f) @ wte.T  # how well each word of the vocabulary would follow

def generate(inputs, params, n_head, n_tokens_to_generate):
    ids = list(inputs)
    for _ in range(n_tokens_to_generate):
        logits = gpt2(ids[-len(params["wpe"]) :], **params, n_head=n_head)
        ids.append(int(np.argmax(logits[-1])))  # greedy: the best next token, then once more
    return ids[len(inputs) :]

def main(prompt, n_tokens_to_generate=40, model_size="124M", models_dir="models"):
    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt)
    return encoder.decode(generate(input_ids, params, hparams["n_head"], n_tokens_to_generate))

if __name__ == "__main__":
    import fire
    try:  # prompt=str: fire would read the prompt "2024" as a number
        fire.Fire(fire.decorators.SetParseFns(prompt=str)(main))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"gpt2_pico.py: {error}") from None
