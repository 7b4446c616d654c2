"""GPT-2 in 60 lines of NumPy. To run it: python gpt2_pico.py "a text to continue"
`params`: nested dicts, whose keys are the functions' argument names; gpt2.py lists the shapes."""
import numpy as np

def gelu(x):  # a smooth max(x, 0); not np.sqrt(2 / np.pi): it would turn a float32 x into float64
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

def softmax(x):  # each row to probabilities, which sum to 1: the larger a number, the likelier
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # less the maximum: exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)

def layer_norm(x, g, b, eps=1e-5):  # each row to mean 0 and variance 1, then a gain and a bias
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * g + b

def linear(x, w, b):  # [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]
    return x @ w + b  # x, here and below: a row for each of n_seq tokens (pieces of a text)

def ffn(x, c_fc, c_proj):  # feed-forward: [n_seq, n_embd] -> [n_seq, 4 * n_embd] -> as x was
    return linear(gelu(linear(x, **c_fc)), **c_proj)  # c_fc and c_proj: a dict of w and b each

def attention(q, k, v, mask):  # [n_seq, d_head] each, mask [n_seq, n_seq] -> [n_seq, d_head]
    return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v  # the rows of v, mixed as q matches k

def mha(x, c_attn, c_proj, n_head):  # multi-head attention: [n_seq, n_embd] -> [n_seq, n_embd]
    qkv = np.split(linear(x, **c_attn), 3, axis=-1)  # queries, keys, values: [n_seq, n_embd] each
    q, k, v = (np.split(part, n_head, axis=-1) for part in qkv)  # n_head of [n_seq, d_head] each
    mask = np.triu(np.full((len(x), len(x)), -1e10, x.dtype), k=1)  # later keys: -1e10, so weight 0
    heads = [attention(q[i], k[i], v[i], mask) for i in range(n_head)]  # each head by itself
    return linear(np.hstack(heads), **c_proj)  # side by side again: [n_seq, n_embd]

def transformer_block(x, mlp, attn, ln_1, ln_2, n_head):  # mlp is for ffn; x keeps its shape
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)  # a row sees itself and those before
    return x + ffn(layer_norm(x, **ln_2), **mlp)  # each row by itself

def gpt2(inputs, wte, wpe, blocks, ln_f, n_head):  # n_seq token ids -> logits [n_seq, n_vocab]
    x = wte[np.array(inputs)] + wpe[: len(inputs)]  # which token + where: [n_seq, n_embd]
    for block in blocks:
        x = transformer_block(x, **block, n_head=n_head)
    return layer_norm(x, **ln_f) @ wte.T  # wte again: how well each token would come next

def generate(inputs, params, n_head, n_tokens_to_generate):
    ids = list(inputs)
    for _ in range(n_tokens_to_generate):
        logits = gpt2(ids[-len(params["wpe"]) :], **params, n_head=n_head)  # wpe's rows: the limit
        ids.append(int(np.argmax(logits[-1])))  # the last row's best token: what follows the text
    return ids[len(inputs) :]

def main(prompt, n_tokens_to_generate=40, model_size="124M", models_dir="models"):
    from utils import load_encoder_hparams_and_params
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    input_ids = encoder.encode(prompt) or [encoder.eot]  # no prompt: "end of text", so a new one
    return encoder.decode(generate(input_ids, params, hparams["n_head"], n_tokens_to_generate))

if __name__ == "__main__":
    import fire
    try:  # fire prints the returned text; str keeps the prompt "2024" from becoming a number
        fire.Fire(fire.decorators.SetParseFns(prompt=str, model_size=str, models_dir=str)(main))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"gpt2_pico.py: {error}") from None
