"""GPT-2 in plain NumPy: the model, its key/value cache, sampling and the command line.

Read it top to bottom: each function uses only those above it. What it leaves out is training
(`train.py`), the tokenizer (`encoder.py`) and getting the weights (`utils.py`). Source: Radford et
al., "Language Models are Unsupervised Multitask Learners", 2019; names are OpenAI's checkpoint's.

Every array keeps the dtype of the parameters: constants are Python's, since a float64 scalar of
NumPy 2 such as `np.sqrt(2 / np.pi)` would turn float32 arrays into float64.
"""

import math
import os
import sys

import numpy as np


def gelu(x):
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel, 2016), shape kept.

    >>> [round(float(y), 3) for y in gelu(np.array([-1, 0, 1], np.float32))]
    [-0.159, 0.0, 0.841]
    """
    out = np.empty_like(x)
    for i in range(0, len(x), 32):  # few enough rows for what comes in between to stay in cache
        y = x[i : i + 32]
        cubic = y + 0.044715 * (y * y * y)  # ** 3 would take NumPy some 75 times as long
        out[i : i + 32] = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * cubic))
    return out


def softmax(x):
    """Probabilities along the last axis; its largest score is subtracted so exp cannot overflow."""
    x = x - x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def layer_norm(x, g, b, eps=1e-5):
    """Each row scaled to mean 0 and variance 1, then gain `g` and bias `b` (Ba et al., 2016)."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * g + b


def linear(x, w, b):
    """A projection: [n_seq, n_in] @ [n_in, n_out] + [n_out] -> [n_seq, n_out]."""
    x = x @ w
    x += b
    return x


def ffn(x, c_fc, c_proj):
    """The feed-forward layer, four times as wide inside: [n_seq, n_embd] -> [n_seq, n_embd]."""
    hidden = gelu(linear(x, **c_fc))  # [n_seq, n_embd] -> [n_seq, 4 * n_embd]
    return linear(hidden, **c_proj)


def attention(q, k, v, mask):
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), for one head or many.

    q [..., n_q, d_head], k and v [..., n_k, d_head], mask [n_q, n_k] (added to the scores: 0 where
    a query may look, a large negative number where not) -> [..., n_q, d_head]
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2)  # [..., n_q, n_k]
    scores += mask
    return softmax(scores) @ v


class KVCache:
    """The keys and values that one block's attention has seen, so that they are computed once.

    `k` and `v` are [n_head, n_ctx, d_head]; the first `n_seq` positions are filled.
    """

    def __init__(self, n_head, n_ctx, d_head, dtype):
        self.k = np.empty((n_head, n_ctx, d_head), dtype)
        self.v = np.empty((n_head, n_ctx, d_head), dtype)
        self.n_seq = 0

    def extend(self, k, v):
        """Append k and v [n_head, n_q, d_head]; return all so far, [n_head, n_k, d_head] each."""
        start, self.n_seq = self.n_seq, self.n_seq + k.shape[1]
        self.k[:, start : self.n_seq], self.v[:, start : self.n_seq] = k, v
        return self.k[:, : self.n_seq], self.v[:, : self.n_seq]


def mha(x, c_attn, c_proj, n_head, cache=None):
    """Causal multi-head self-attention: [n_q, n_embd] -> [n_q, n_embd].

    With a cache, the rows of x are the positions after those in it, and attend to those too.
    """
    n_q, n_embd = x.shape
    x = linear(x, **c_attn)  # [n_q, n_embd] -> [n_q, 3 * n_embd]
    # -> q, k, v, each [n_head, n_q, d_head]
    q, k, v = x.reshape(n_q, 3, n_head, n_embd // n_head).transpose(1, 2, 0, 3)
    if cache is not None:
        k, v = cache.extend(k, v)  # [n_head, n_q, d_head] -> [n_head, n_k, d_head]
    n_k = k.shape[1]
    # No query sees a later key; the last query is the last key, also where n_k > n_q (a cache).
    mask = np.triu(np.full((n_q, n_k), -1e10, x.dtype), n_k - n_q + 1)
    out = np.empty_like(q)
    # One query takes all heads at once. Many go head by head and 128 at a time, so that the scores
    # stay in the processor's cache and most of those that the mask hides are never computed.
    for head in [slice(None)] if n_q == 1 else range(n_head):
        for i in range(0, n_q, 128):
            j = n_k - n_q + i + 128  # keys from here on are later than these queries
            q_block, mask_block = q[head, i : i + 128], mask[i : i + 128, :j]
            out[head, i : i + 128] = attention(q_block, k[head, :j], v[head, :j], mask_block)
    # [n_head, n_q, d_head] -> heads side by side, [n_q, n_embd]
    return linear(out.swapaxes(0, 1).reshape(n_q, n_embd), **c_proj)


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, cache=None):
    """Attention, then the feed-forward layer, each on normalised input and added to it.

    [n_seq, n_embd] -> [n_seq, n_embd]
    """
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head, cache=cache)
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, caches=None):
    """Logits of the token after each input: `n_seq` ids -> [n_seq, n_vocab], dtype of `wte`.

    With `caches` (one `KVCache` per block) the inputs take the positions after those cached, and
    only the last one's logits are computed: -> [1, n_vocab].
    Raises ValueError for no inputs, and for more positions than the model's window has.
    """
    start = caches[0].n_seq if caches else 0
    if not 0 < len(inputs) <= len(wpe) - start:
        raise ValueError(
            f"{len(inputs)} ids after {start} cached ones: the window takes 1 to {len(wpe)} in all"
        )
    # token and position embeddings: n_seq ids -> [n_seq, n_embd]
    x = wte[np.asarray(inputs)] + wpe[start : start + len(inputs)]
    for block, cache in zip(blocks, caches or [None] * len(blocks), strict=True):
        x = transformer_block(x, **block, n_head=n_head, cache=cache)
    if caches:
        x = x[-1:]
    return layer_norm(x, **ln_f) @ wte.T  # [n_seq, n_embd] -> [n_seq, n_vocab]


def sample(logits, temperature=0.0, top_k=0, top_p=1.0, rng=None):
    """Choose one token id from logits [n_vocab].

    Temperature 0 takes the best. Otherwise `rng` (a numpy.random.Generator) draws from the
    softmax of logits / temperature, cut to the `top_k` best (0: all) and then to the fewest best
    whose probabilities reach `top_p` (nucleus sampling, Holtzman et al., 2020).

    >>> logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    >>> sample(logits)
    1
    >>> rng = np.random.default_rng(0)
    >>> sorted({sample(logits, temperature=1, top_p=0.8, rng=rng) for _ in range(100)})
    [1, 2, 3]
    """
    if temperature == 0:
        return int(np.argmax(logits))
    ids = np.argsort(-logits, kind="stable")[: top_k or None]  # best first
    # The best is subtracted before the division: a tiny temperature gives -inf, never inf - inf.
    with np.errstate(over="ignore"):
        p = softmax((logits[ids] - logits[ids[0]]) / temperature)
    n_kept = np.count_nonzero(np.cumsum(p) - p < top_p)  # counts the token that crosses top_p
    p = p[: max(1, n_kept)]
    cumulative = np.cumsum(p)  # the first token to reach the draw is chosen
    return int(ids[np.searchsorted(cumulative, rng.random() * cumulative[-1])])


def generate_stream(inputs, params, n_head, n_tokens_to_generate, stop_id=None, **sampling):
    """Yield the ids of `generate` as they are made."""
    n_ctx, n_embd = params["wpe"].shape
    window = list(inputs)[-n_ctx:]
    caches, new = None, window
    for _ in range(n_tokens_to_generate):
        if len(window) > n_ctx:
            # Drop the oldest half. Positions are absolute: the rest needs new keys and values.
            window = new = window[(n_ctx + 1) // 2 :]
            caches = None
        if caches is None:
            shape = n_head, n_ctx, n_embd // n_head
            caches = [KVCache(*shape, params["wpe"].dtype) for _ in params["blocks"]]
        logits = gpt2(new, **params, n_head=n_head, caches=caches)[-1]
        new = [sample(logits, **sampling)]
        if new[0] == stop_id:
            return
        yield new[0]
        window = window + new


def generate(inputs, params, n_head, n_tokens_to_generate, stop_id=None, **sampling):
    """The ids that the model writes after `inputs` (ids, left as they are): list of new ids only.

    One pass over the inputs, then one position a step. Inputs longer than the window are cut to
    their end; when the window is full its oldest half is dropped. Ends before `stop_id` if that
    is chosen. `sampling` goes to `sample` (default: greedy). Raises ValueError for empty inputs.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, stop_id, **sampling))


def load(model_size, models_dir):
    """The model of that name, by default 124M, or offline the bundled one: see `utils`."""
    from utils import load_encoder_hparams_and_params

    if model_size is not None:
        return load_encoder_hparams_and_params(model_size, models_dir)
    try:
        return load_encoder_hparams_and_params("124M", models_dir)
    except (ConnectionError, ImportError) as error:  # no network, or no TensorFlow to convert it
        notice = "using the small bundled model, which only knows Python. For GPT-2 124M mend this"
        print(f"gpt2.py: {error}; {notice}, or set GPT2_BASE_URL to a mirror", file=sys.stderr)
        bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
        return load_encoder_hparams_and_params("python", bundled)


def complete(prompt, encoder, hparams, params, n_tokens_to_generate, **options):
    """Yield the text that follows prompt (str), whole characters at a time, as it is made.

    An empty prompt starts from `<|endoftext|>`. `options` go to `generate`.
    """
    ids, n_ctx = encoder.encode(prompt) or [encoder.eot], hparams["n_ctx"]
    if None in ids:
        raise ValueError("an empty prompt starts from <|endoftext|>, which this vocabulary lacks")
    if len(ids) > n_ctx:
        print(f"gpt2.py: of {len(ids)} prompt tokens the last {n_ctx} are read", file=sys.stderr)
    new_ids = generate_stream(ids, params, hparams["n_head"], n_tokens_to_generate, **options)
    if sys.stderr.isatty() and not sys.stdout.isatty():  # a bar would cut through the text
        from tqdm import tqdm

        new_ids = tqdm(new_ids, "generating", n_tokens_to_generate, unit="token")
    yield from encoder.decode_stream(new_ids)


def main(
    prompt: str | None = None,
    n_tokens_to_generate=40,
    model_size: str | None = None,
    models_dir: str = "models",
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    seed=None,
    n_samples=1,
    stop_at_eot=True,
    interactive=False,
):
    """Continue a text with GPT-2, in plain NumPy.

      python gpt2.py "Alan Turing theorized that computers would one day become"

    The text that the model adds goes to standard output, all else to standard error. The first
    run with a model downloads and converts it.

    PROMPT                    in quotes; "" lets the model begin by itself, - reads standard
                              input; after -- or --prompt= it may look like an option
    --n_tokens_to_generate N  how much to write; a word is one token or two (40)
    --model_size NAME         124M, 355M, 774M, 1558M or a model folder in models_dir
                              (124M; without a network the small bundled model, python)
    --models_dir DIR          where model folders are kept (models)
    --temperature X           0 takes the most likely token, 1 samples as trained, in between
                              is more careful, above is wilder (0)
    --top_k K                 sample among the K most likely tokens; 0: among all (0)
    --top_p P                 sample among the fewest that have probability P together (1)
    --seed N                  the same seed gives the same text; sample i has seed N + i
    --n_samples N             how many continuations to write (1)
    --stop_at_eot BOOL        end where the model ends its text (True)
    --interactive             ask for prompts, one a line, until the input ends
    """
    from command_line import ask, check

    check("n_tokens_to_generate", n_tokens_to_generate, int, 0)
    check("temperature", temperature, float, 0)
    check("top_k", top_k, int, 0)
    check("top_p", top_p, float, 0, 1)
    check("seed", seed or 0, int, 0)
    check("n_samples", n_samples, int, 1)
    if (prompt is None) != bool(interactive):
        raise ValueError('give one prompt in quotes, or --interactive: python gpt2.py "def "')
    model = load(model_size, models_dir)
    prompts = iter(ask, None) if interactive else [sys.stdin.read() if prompt == "-" else prompt]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    options["stop_id"] = model[0].eot if stop_at_eot else None
    texts = []
    for text in prompts:
        for i in range(n_samples):
            texts.append("")
            rng = np.random.default_rng(None if seed is None else seed + i)
            try:
                for piece in complete(text, *model, n_tokens_to_generate, rng=rng, **options):
                    texts[-1] += piece
                    print(piece, end="", flush=True)
            finally:
                print(flush=True)
    return "\n".join(texts)


if __name__ == "__main__":
    from command_line import run

    run(main)
