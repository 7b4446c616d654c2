"""GPT-2 in plain NumPy: the model, its key/value cache, sampling and the command line.

Read it top to bottom: each function uses only those above it. What it leaves out is training
(`train.py`), the tokenizer (`encoder.py`) and getting the weights (`utils.py`). Source: Radford et
al., "Language Models are Unsupervised Multitask Learners", 2019; names are OpenAI's checkpoint's.

Every array keeps the dtype of the parameters: constants are Python's, since a float64 scalar of
NumPy 2 such as `np.sqrt(2 / np.pi)` would turn float32 arrays into float64.
"""

import math
import sys

import numpy as np


def gelu(x):
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel, 2016), shape kept.

    >>> [round(float(y), 3) for y in gelu(np.array([-1, 0, 1], np.float32))]
    [-0.159, 0.0, 0.841]
    """
    cubic = x * x * x  # x ** 3 would take NumPy some 75 times as long
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * cubic)))


def softmax(x):
    """Probabilities along the last axis; its largest score is subtracted so exp cannot overflow."""
    x = x - x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def layer_norm(x, g, b, eps=1e-5):
    """Each row scaled to mean 0 and variance 1, then gain `g` and bias `b` (Ba et al., 2016)."""
    n = x.shape[-1]  # a sum divided by n is a mean, for which np.mean takes twice as long
    x = x - x.sum(axis=-1, keepdims=True) / n
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) / n + eps) * g + b


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

    q [..., n_q, d_head], k and v [..., n_k, d_head], mask [n_q, n_k] or a number (added to the
    scores: 0 where a query may look, a large negative number where not) -> [..., n_q, d_head]
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
    mask = np.triu(np.full((n_q, n_k), -1e10, x.dtype), n_k - n_q + 1) if n_q > 1 else 0
    out = attention(q, k, v, mask)
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
    only the logits after the last input are computed: -> [1, n_vocab].
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


class Window:
    """A text as the model sees it: its last `n_ctx` ids, and the caches of all but the newest."""

    def __init__(self, ids, params, n_head):
        n_ctx, n_embd = params["wpe"].shape
        self.params, self.n_head, self.n_ctx, self.ids = params, n_head, n_ctx, list(ids)[-n_ctx:]
        shape = n_head, n_ctx, n_embd // n_head
        self.caches = [KVCache(*shape, params["wpe"].dtype) for _ in params["blocks"]]

    def make_room(self):
        """Drop the oldest half of a full window; return the ids that are not in the caches."""
        if len(self.ids) > self.n_ctx:
            self.ids = self.ids[(self.n_ctx + 1) // 2 :]
            self.forget(0)  # positions are absolute: what is left needs new keys and values
        return self.ids[self.caches[0].n_seq :]

    def logits(self, guess=()):
        """Logits of the id that comes next, and after each id of `guess`: [1 + n, n_vocab]."""
        new, n_last = [*self.make_room(), *guess], 1 + len(guess)
        if len(new) < 2:  # as most often; it takes as long as reading the weights does
            return gpt2(new, **self.params, n_head=self.n_head, caches=self.caches)
        from fast_generation import gpt2_on_all_cores  # the same logits, sooner

        return gpt2_on_all_cores(new, self.params, self.n_head, self.caches, n_last)

    def forget(self, n_seq):
        """Leave only the first `n_seq` positions in the caches."""
        for cache in self.caches:
            cache.n_seq = n_seq


def generate_stream(inputs, params, n_head, n_tokens_to_generate, stop_id=None, **options):
    """Yield the ids of `generate` as they are made."""
    window = Window(inputs, params, n_head)
    if options.pop("lookup", True) and not options.get("temperature"):
        from fast_generation import greedy_stream  # the same ids, sooner where the text repeats

        new_ids = greedy_stream(window, n_tokens_to_generate)
    else:  # each is computed when the loop asks for it
        new_ids = (sample(window.logits()[-1], **options) for _ in range(n_tokens_to_generate))
    for new_id in new_ids:
        if new_id == stop_id:
            return
        window.ids.append(new_id)
        yield new_id


def generate(inputs, params, n_head, n_tokens_to_generate, **options):
    """The ids that the model writes after `inputs` (ids, left as they are): list of new ids only.

    One pass over the inputs, then one position a step. Inputs longer than the window are cut to
    their end; when the window is full its oldest half is dropped. Options: `stop_id` ends the text
    when it is chosen; `lookup=False` does without guesses; the rest goes to `sample` (default:
    greedy). Raises ValueError for empty inputs.
    """
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, **options))


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
    lookup=True,
    threads: int | None = None,
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
    --lookup BOOL             at temperature 0: guess from what the text repeats; the same text,
                              sooner (True)
    --threads N               processor cores to use, at most (all that the process may use)
    """
    from command_line import ask, check, complete, load_model, use_threads

    check("n_tokens_to_generate", n_tokens_to_generate, int, 0)
    check("temperature", temperature, float, 0)
    check("top_k", top_k, int, 0)
    check("top_p", top_p, float, 0, 1)
    check("seed", seed or 0, int, 0)
    check("n_samples", n_samples, int, 1)
    use_threads(threads)
    if (prompt is None) != bool(interactive):
        raise ValueError('give one prompt in quotes, or --interactive: python gpt2.py "def "')
    model = load_model(model_size, models_dir)
    prompts = iter(ask, None) if interactive else [sys.stdin.read() if prompt == "-" else prompt]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"stop_id": model[0].eot if stop_at_eot else None, "lookup": lookup}
    texts = []
    for text in prompts:
        seeds = [None if seed is None else seed + i for i in range(n_samples)]
        for pieces in complete(text, *model, n_tokens_to_generate, seeds, **options):
            texts.append("")
            try:
                for piece in pieces:
                    texts[-1] += piece
                    print(piece, end="", flush=True)
            finally:
                print(flush=True)
    return "\n".join(texts)


if __name__ == "__main__":
    from command_line import run

    sys.modules["gpt2"] = sys.modules["__main__"]  # what imports it need not load it again
    run(main)
