"""GPT-2 in 60 lines of NumPy: python gpt2_pico.py "a text to continue" (explained in docs/)"""
import numpy as np

def gelu(x):  # float(): NumPy's own float64 scalars would widen float32 arrays to float64
    return 0.5 * x * (1 + np.tanh(float(np.sqrt(2 / np.pi)) * (x + 0.044715 * (x * x * x))))

def softmax(x):
    exp_x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exp_x / np.sum(exp_x, axis=-1, keepdims=True)

def layer_norm(x, g, b, eps=1e-5):  # each row to mean 0 and variance 1, then a gain and a bias
    mean, variance = np.mean(x, axis=-1, keepdims=True), np.var(x, axis=-1, keepdims=True)
    return g * ((x - mean) / np.sqrt(variance + eps)) + b

def linear(x, w, b):  # [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]
    return x @ w + b

def ffn(x, c_fc, c_proj):  # [n_seq, n_embd] -> [n_seq, 4 * n_embd] -> [n_seq, n_embd]
    return linear(gelu(linear(x, **c_fc)), **c_proj)

def attention(q, k, v, mask):  # [n_seq, d_head] each, mask [n_seq, n_seq] -> [n_seq, d_head]
    return softmax(q @ k.T / float(np.sqrt(q.shape[-1])) + mask) @ v

def mha(x, c_attn, c_proj, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    qkv = np.split(linear(x, **c_attn), 3, axis=-1)  # three of [n_seq, n_embd]
    heads = zip(*[np.split(part, n_head, axis=-1) for part in qkv], strict=True)  # d_head wide
    mask = (1 - np.tri(len(x), dtype=x.dtype)) * -1e10  # no position sees a later one
    out = [attention(q, k, v, mask) for q, k, v in heads]
    return linear(np.hstack(out), **c_proj)  # n_head of [n_seq, d_head] -> [n_seq, n_embd]

def transformer_block(x, mlp, attn, ln_1, ln_2, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)  # positions look at each other
    return x + ffn(layer_norm(x, **ln_2), **mlp)  # each position thinks for itself

def gpt2(inputs, wte, wpe, blocks, ln_f, n_head):  # n_seq ids -> logits [n_seq, n_vocab]
    x = wte[inputs] + wpe[: len(inputs)]  # what is said + where: [n_seq, n_embd]
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
