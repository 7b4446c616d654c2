"""GPT-2 in plain NumPy: the model, its key/value cache, generation, the command.

Read it top to bottom: each function uses only those above it. The model ends with `gpt2`; what
follows writes text with it. The path of a text:

    text -> Encoder.encode -> ids -> gpt2 -> logits -> sample -> id -> Encoder.decode -> text

`ids` are small integers, one for each token (a word or a piece of one) of a vocabulary; `logits`
are scores, one for each token of the vocabulary: how likely it is to come next. `gpt2` turns ids
into logits: for every position of the text it predicts what comes after it. So no position may see
a later one: it would see the answer. One call of `gpt2` is a pass.

Inside, each position of the text is an embedding: a vector of n_embd numbers. It begins as what is
known of the token and of its place alone, and each block adds to it what it has found out. What the
model has learned is in `params`: nested dicts whose keys are the arguments of the functions that
take them, so that `**params` wires the model (w: weights, b: bias, g: gain):

    {"wte": [n_vocab, n_embd],                          an embedding for each token
     "wpe": [n_ctx, n_embd],                            an embedding for each position
     "blocks": [                                        n_layer of these:
         {"ln_1": {"g": [n_embd], "b": [n_embd]},           normalises the input of attn
          "attn": {"c_attn": {"w": [n_embd, 3 * n_embd],    attention, `mha`: queries, keys, values
                              "b": [3 * n_embd]},
                   "c_proj": {"w": [n_embd, n_embd],        mixes the results of the heads
                              "b": [n_embd]}},
          "ln_2": {"g": [n_embd], "b": [n_embd]},           normalises the input of mlp
          "mlp": {"c_fc": {"w": [n_embd, 4 * n_embd],       the feed-forward layer, `ffn`: widens,
                           "b": [4 * n_embd]},
                  "c_proj": {"w": [4 * n_embd, n_embd],     and narrows again
                             "b": [n_embd]}}},
     ],
     "ln_f": {"g": [n_embd], "b": [n_embd]}}            normalises the result of the last block

Attention runs n_head times side by side; each head has d_head = n_embd / n_head of the numbers in a
query, a key or a value. n_ctx, the window, is how many positions the model can see. In comments on
shapes n_seq is how many positions a function is given, and `...` stands for any axes before those
named: none for one text, n_texts for several, and within attention n_head as well.

Left out: training (`train.py`), the tokenizer (`encoder.py`), getting the weights (`utils.py`), how
an id is chosen by its logits, and how many ids can be had from one pass where a text repeats itself
(`generating/`), and how the work is spread over the processor's cores (`fast/`). What is imported
from `fast/` affects only speed. So while reading, take `product(x, w, b)` as `x @ w + b`, without a
b as `x @ w`, and ignore `@by_rows` and `@by_queries` (each promises that a function treats its rows
or queries one by one, so that it may be called on a part of them at a time) and `blas_threads_for`.

Names are those of OpenAI's checkpoint, whose code calls its linear layers conv1d, hence the c_.
Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Every array
keeps the dtype of the parameters: constants are plain Python numbers, since a float64 scalar of
NumPy such as `np.sqrt(2)` would turn float32 into float64. The tests also load this file with
`jax.numpy` in the place of NumPy: the functions up to `gpt2`, without a cache, run there too.
"""

from __future__ import annotations  # hints are not looked up: jax.numpy lacks some of the names

import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from command_line import check, encode_prompt, read_prompts, run, with_bar, write_text
from fast.product import blas_threads_for, product
from fast.schedule import by_queries, by_rows
from fast.threads import use_threads
from generating.guessing import ids_with_guesses
from generating.sampling import Sampling, sample  # noqa: F401, other programs import it from here
from generating.side_by_side import side_by_side
from generating.window import Window
from utils import damage_in, load_model

Array = np.ndarray
# What the mask adds to the score of a key that a query may not see: after the softmax its weight is
# 0. It is not -inf, because the mask is made by multiplying with it, and False * -inf is NaN.
HIDDEN = -1e10

# ---------------------------------------------------------------- layers


@by_rows
def gelu(x: Array) -> Array:
    """Gaussian error linear unit (Hendrycks and Gimpel, 2016), shape kept.

    Without a curve between them, two linear layers would be no more than one. This one lets large
    numbers through, makes very negative ones nearly 0, and bends softly in between: x times the
    probability that a normal random number is below x, in the paper's approximation with tanh.

    >>> [round(float(y), 3) for y in gelu(np.array([[-1, 0, 1]], np.float32))[0]]
    [-0.159, 0.0, 0.841]
    """
    cubic = x * x * x  # x ** 3 is about 75 times slower in NumPy
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * cubic)))


def softmax(x: Array) -> Array:
    """Scores -> probabilities, along the last axis; shape kept.

    >>> softmax(np.array([0, math.log(3)]))
    array([0.25, 0.75])
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the largest becomes 1: nothing overflows
    e /= e.sum(axis=-1, keepdims=True)
    return e


@by_rows
def layer_norm(x: Array, g: Array, b: Array, eps: float = 1e-5) -> Array:
    """Each row scaled to mean 0 and variance 1, then gain `g` and bias `b` (Ba et al., 2016)."""
    n = x.shape[-1]  # sum / n is the mean; np.mean takes twice as long
    x = x - x.sum(axis=-1, keepdims=True) / n
    variance = (x * x).sum(axis=-1, keepdims=True) / n
    return x / np.sqrt(variance + eps) * g + b


def linear(x: Array, w: Array, b: Array) -> Array:
    """A projection: [..., n_in] @ [n_in, n_out] + [n_out] -> [..., n_out]"""
    return product(x, w, b)


def ffn(x: Array, c_fc: dict, c_proj: dict) -> Array:
    """The feed-forward layer: each position by itself. [..., n_seq, n_embd], shape kept"""
    hidden = gelu(linear(x, **c_fc))  # [..., n_seq, n_embd] -> [..., n_seq, 4 * n_embd]
    return linear(hidden, **c_proj)  # -> [..., n_seq, n_embd]


def attention_weights(q: Array, k: Array, mask: Array | float) -> Array:
    """How much each query attends to each key: rows that sum to 1.

    q [..., n_q, d_head], k [..., n_k, d_head] -> [..., n_q, n_k]
    mask [..., n_q, n_k] is added to the scores: 0 where a query may look, a large negative number
    where not; 0.0 if every query may look at every key.
    """
    # How well a query and a key match is their dot product: a sum of d_head terms of either sign,
    # and so some √d_head in size. Divided by that, it is about 1, where the softmax spreads its
    # attention instead of giving all of it to the best key.
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2)  # [..., n_q, n_k]
    scores += mask
    return softmax(scores)


@by_queries(hidden=HIDDEN)
def attention(q: Array, k: Array, v: Array, mask: Array | float) -> Array:
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), of one head or many.

    Each position asks with a query, is found by its key, and hands over its value. The result for
    a query is the mean of the values, weighted by how well their keys match it.
    q [..., n_q, d_head], k and v [..., n_k, d_head] -> [..., n_q, d_head]
    """
    return attention_weights(q, k, mask) @ v


class KVCache:
    """The keys and values that one block has computed for the positions so far.

    They stay valid when the text grows, since no position looks at a later one. So only the new
    position has to go through the model, and attends to what is kept here. Each block has a cache
    of its own; `caches`, everywhere, is the list of them, which belongs to one text, or to several
    that are read together. Such texts may differ in length: each prompt is read in a pass of its
    own, into its part of the cache, and from then on all of them go on together, by an id each.

    k, v: [n_texts, n_head, n_positions, d_head], with room for n_positions; n_cached [n_texts]: how
    many of them are filled.
    """

    def __init__(self, k: Array, v: Array, n_cached: Array):
        self.k, self.v, self.n_cached = k, v, n_cached

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the next keys and values. Returns all so far, up to the end of the longest text.

        [n_texts, n_head, n_new, d_head] -> [n_texts, n_head, n_k, d_head], k and v alike. What lies
        behind the end of a shorter text is hidden by `causal_mask`.
        """
        starts, n_new = self.n_cached.tolist(), k.shape[-2]  # Python's own numbers: faster to slice
        for text, start in enumerate(starts):
            self.k[text, :, start : start + n_new] = k[text]
            self.v[text, :, start : start + n_new] = v[text]
        self.n_cached += n_new  # in place, so that views and the whole agree
        n_k = max(starts) + n_new
        return self.k[:, :, :n_k], self.v[:, :, :n_k]

    # The rest is for `generating/`: to take back ids that the model would not have chosen, to read
    # equal prompts only once, and to go on with some of the texts when others have ended.

    def keep(self, n: int) -> None:
        """Forget all but the first n positions: what comes next is written over the rest."""
        self.n_cached[:] = n

    def copy_from(self, other: KVCache) -> None:
        """Take over what another cache holds; each of the two is that of a single text."""
        n = other.n_cached[0]
        self.k[:, :, :n] = other.k[:, :, :n]
        self.v[:, :, :n] = other.v[:, :, :n]
        self.keep(n)

    def __getitem__(self, texts: slice) -> KVCache:
        """The cache of some of the texts: a view, not a copy, of all three arrays."""
        return KVCache(self.k[texts], self.v[texts], self.n_cached[texts])


def empty_caches(
    params: dict, n_head: int, n_texts: int = 1, n_positions: int | None = None
) -> list[KVCache]:
    """An empty `KVCache` for each block, with room for `n_positions` (default: the window)."""
    n_ctx, n_embd = params["wpe"].shape
    shape = n_texts, n_head, n_positions or n_ctx, n_embd // n_head

    # Of several texts a shorter one is read up to the end of the longest. What is not filled there
    # has the weight 0, but 0 times a NaN would be a NaN.
    make = np.empty if n_texts == 1 else np.zeros

    def room():
        return make(shape, params["wpe"].dtype)

    return [KVCache(room(), room(), np.zeros(n_texts, int)) for _ in params["blocks"]]


def causal_mask(n_q: int, n_k: int, n_so_far: int | Array, dtype: np.dtype) -> Array | float:
    """The mask for attention that keeps every position from looking at a later one.

    The text has n_so_far positions, and the queries are those of its last n_q. The keys are those
    of positions 0 to n_k - 1. For several texts in one cache n_so_far is an array, [n_texts], and
    n_k is that of the longest.
    -> [n_q, n_k], or [n_texts, 1, n_q, n_k], where the 1 stands for all heads alike. If there is
    only one query, of one text, it is the newest position and may look at every key: 0.0.

    >>> causal_mask(n_q=2, n_k=3, n_so_far=3, dtype=np.dtype(np.float32)) < 0
    array([[False, False,  True],
           [False, False, False]])
    """
    if n_q == 1 and np.size(n_so_far) == 1:
        return 0.0
    # [n_q, 1] or [n_texts, n_q, 1]
    query_positions = np.asarray(n_so_far)[..., None, None] + np.arange(-n_q, 0)[:, None]
    is_later = np.arange(n_k) > query_positions  # [n_q, n_k] or [n_texts, n_q, n_k]
    mask = is_later * dtype.type(HIDDEN)
    return mask if mask.ndim == 2 else mask[:, None]


def mha(
    x: Array,
    c_attn: dict,
    c_proj: dict,
    n_head: int,
    cache: KVCache | None = None,
    n_last: int | None = None,
) -> Array:
    """Causal multi-head self-attention: [..., n_seq, n_embd] -> [..., n_last, n_embd]

    The result is that of the last `n_last` rows of x (default: all). Only those rows need queries;
    every row needs keys and values. (Only the last block is asked for less than all: the blocks
    before it hand on every row.)
    With a cache, the rows of x are the positions after those in it, and attend to those too.
    """
    n_seq = x.shape[-2]
    n_last = n_last or n_seq
    x = linear(x, **c_attn)  # [..., n_seq, n_embd] -> [..., n_seq, 3 * n_embd]: q, k, v
    # -> [..., 3 * n_head, n_seq, d_head]: the heads of q, then those of k, then those of v
    heads = x.reshape(*x.shape[:-1], 3 * n_head, -1).swapaxes(-2, -3)
    q = heads[..., :n_head, -n_last:, :]  # [..., n_head, n_last, d_head]
    k = heads[..., n_head : 2 * n_head, :, :]  # [..., n_head, n_seq, d_head]
    v = heads[..., 2 * n_head :, :, :]
    n_so_far = n_seq
    if cache is not None:
        k, v = cache.extend(k, v)  # -> [..., n_head, n_k, d_head]
        n_so_far = cache.n_cached  # [n_texts], with the new ones
    mask = causal_mask(n_last, k.shape[-2], n_so_far, x.dtype)
    out = attention(q, k, v, mask)  # [..., n_head, n_last, d_head]
    out = out.swapaxes(-2, -3)  # [..., n_last, n_head, d_head]
    out = out.reshape(*out.shape[:-2], -1)  # the heads side by side: [..., n_last, n_embd]
    return linear(out, **c_proj)  # mixes what the heads have found


def transformer_block(
    x: Array,
    mlp: dict,
    attn: dict,
    ln_1: dict,
    ln_2: dict,
    n_head: int,
    cache: KVCache | None = None,
    n_last: int | None = None,
) -> Array:
    """Attention, then the feed-forward layer, each on normalised input and added to x.

    [..., n_seq, n_embd] -> [..., n_last, n_embd]; `cache` and `n_last` are those of `mha`.
    """
    n_last = n_last or x.shape[-2]
    found = mha(layer_norm(x, **ln_1), **attn, n_head=n_head, cache=cache, n_last=n_last)
    x = x[..., -n_last:, :] + found
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def gpt2(
    inputs: Sequence[int] | Array,
    wte: Array,
    wpe: Array,
    blocks: list[dict],
    ln_f: dict,
    n_head: int,
    caches: list[KVCache] | None = None,
    n_last: int | None = None,
) -> Array:
    """Logits of the token after each input: ids [..., n_seq] -> [..., n_seq, n_vocab]

    With `caches` (`empty_caches` makes them) the inputs are [n_texts, n_seq], and are placed after
    the cached positions. With `n_last`, only the logits after the last few inputs are computed:
    -> [..., n_last, n_vocab].
    Raises ValueError for no inputs, for more positions than the window or the caches have room
    for, and for an `n_last` that is not from 1 to n_seq.
    """
    inputs = np.asarray(inputs)
    n_seq, n_before, room = inputs.shape[-1], 0, len(wpe)
    positions = np.arange(n_seq)  # [n_seq]
    if caches:
        first = caches[0]  # of the first block; those of all blocks are filled alike
        n_before = int(first.n_cached.max())  # of the longest text
        room = min(room, first.k.shape[-2])
        positions = first.n_cached[:, None] + positions  # [n_texts, n_seq]
    if not 0 < n_seq <= room - n_before:
        raise ValueError(
            f"{n_seq} ids after {n_before} cached ones: there is room for 1 to {room} in all"
        )
    if n_last is not None and not 0 < n_last <= n_seq:
        raise ValueError(f"n_last is {n_last}: expected 1 to {n_seq}, of so many inputs")
    x = wte[inputs] + wpe[positions]  # which token + where: [..., n_seq] -> [..., n_seq, n_embd]
    for i, block in enumerate(blocks):
        cache = caches[i] if caches else None
        # The next block attends to all positions. After the last block only n_last matter.
        is_last = i == len(blocks) - 1
        n_wanted = n_last if is_last else None
        x = transformer_block(x, **block, n_head=n_head, cache=cache, n_last=n_wanted)
    # GPT-2 has one table for both ends: the logit of a token is how well the result, a row of x,
    # matches the token's own embedding. [..., n_last, n_embd] -> [..., n_last, n_vocab]
    return product(layer_norm(x, **ln_f), wte.T)


# ---------------------------------------------------------------- generation


class Model:
    """Parameters that can be asked for logits: all that `generating/` knows of GPT-2."""

    def __init__(self, params: dict, n_head: int):
        self.params, self.n_head = params, n_head
        self.n_ctx = len(params["wpe"])

    def empty_caches(self, n_texts: int, n_positions: int) -> list[KVCache]:
        """An empty cache for each block, with room for `n_positions` of each text."""
        return empty_caches(self.params, self.n_head, n_texts, n_positions)

    def logits(self, ids: Array, caches: list[KVCache], n_last: int = 1) -> Array:
        """Read ids [n_texts, n_seq] after what is in the caches -> [n_texts, n_last, n_vocab]

        Raises ValueError for damaged weights. A NaN in a weight makes logits NaN, so that it is
        enough to look at those. Only then are all weights searched, to name the damaged one and its
        file (which NumPy knows, since the arrays are memory-mapped).
        """
        # NumPy's own warnings are dropped, since the check below says it better.
        with blas_threads_for(ids.size), np.errstate(all="ignore"):
            logits = gpt2(ids, **self.params, n_head=self.n_head, caches=caches, n_last=n_last)
        if not np.isfinite(logits).all():
            raise ValueError(damage_in(self.params))
        return logits


def ids_one_by_one(
    window: Window, n_tokens: int, sampling: Sampling, rng: np.random.Generator
) -> Iterator[int]:
    """The plain loop: yield `n_tokens` ids that continue a text, one for each pass.

    window: the end of the text that the model can see, with its caches. `window.logits()` hands
    `Model.logits` the ids that are not in the caches yet, first the prompt, then the newest id, and
    asks for the logits after the last of them: [1, n_vocab].
    """
    for _ in range(n_tokens):
        logits = window.logits()[-1]  # [n_vocab], after the last id
        new_id = sampling.sample(logits, rng)
        window.append([new_id])
        yield new_id


def generate_stream(
    inputs: Iterable[int],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    *,
    stop_id: int | None = None,
    lookup: bool = True,
    rng: np.random.Generator | None = None,
    **sampling_options,
) -> Iterator[int]:
    """Yield the ids that the model writes after `inputs` (ids), as they are made.

    If the inputs are longer than the window, only their end is used. When the window is full, its
    oldest half is dropped. (What is left moves to other positions, and has to be read again. If
    only the oldest id were dropped, that would happen at every step.)

    stop_id           ends the text when it is chosen, and is left out
    lookup            guess ahead where a greedy text repeats itself, and check a whole guess in one
                      pass: the same ids in fewer passes
    rng               the random numbers, by default those of the option `seed`
    sampling_options  temperature, top_k, top_p, seed: the fields of `Sampling`; by default the best
                      id is taken

    Raises ValueError for empty inputs, for options out of their range, and for damaged weights.
    """
    sampling = Sampling(**sampling_options)
    window = Window(inputs, Model(params, n_head))
    if lookup and sampling.temperature == 0:
        new_ids = ids_with_guesses(window, n_tokens_to_generate)
    else:
        new_ids = ids_one_by_one(window, n_tokens_to_generate, sampling, rng or sampling.rng())
    for new_id in new_ids:
        if new_id == stop_id:
            return
        yield new_id


def generate(
    inputs: Iterable[int], params: dict, n_head: int, n_tokens_to_generate: int, **options
) -> list[int]:
    """What `generate_stream` yields, with the same options, as a list: only the new ids."""
    return list(generate_stream(inputs, params, n_head, n_tokens_to_generate, **options))


def generate_side_by_side(
    texts: list[list[int]],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    *,
    stop_id: int | None = None,
    rngs: list[np.random.Generator] | None = None,
    **sampling_options,
) -> Iterator[tuple[int, int]]:
    """Continue several texts (ids) at once: yield (i, new id), taking the texts in turn.

    Text i has rngs[i], by default the random numbers of `seed` + i. At temperature 0 its new ids
    are exactly those that `generate` gives for it alone, with a temperature nearly always. (In a
    pass over several texts sums run in another order, and so are rounded differently. At
    temperature 0 a near tie is settled by asking that text alone.)
    Raises ValueError for a text without ids.
    """
    sampling = Sampling(**sampling_options)
    rngs = rngs or [sampling.rng(i) for i in range(len(texts))]
    model = Model(params, n_head)
    return side_by_side(model, texts, n_tokens_to_generate, sampling, rngs, stop_id)


# ---------------------------------------------------------------- the command


def main(
    prompt: str | None = None,
    n_tokens_to_generate: int = 40,
    model_size: str | None = None,
    models_dir: str = "models",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    n_samples: int = 1,
    stop_at_eot: bool = True,
    interactive: bool = False,
    lookup: bool = True,
    threads: int | None = None,
) -> str:
    """Continue a text with GPT-2, in plain NumPy.

      python gpt2.py "Alan Turing theorized that computers would one day become"

    The text that the model adds goes to standard output, all else to standard error. The first
    run with a model downloads it.

    PROMPT                    in quotes; "" lets the model start from nothing, - reads standard
                              input, its last newline too; after -- it may begin with a dash
    --n_tokens_to_generate N  how much to write; a word is one token or two (40)
    --model_size NAME         124M, 355M, 774M, 1558M, a model folder in models_dir, or OWNER/NAME
                              for a GPT-2 on the Hugging Face Hub (124M; without a network
                              "python", a small bundled model of Python code)
    --models_dir DIR          where model folders are kept (models)
    --temperature X           0 takes the most likely token, 1 samples as trained, in between
                              is more conservative, above is wilder (0)
    --top_k K                 sample among the K most likely tokens; 0: among all (0)
    --top_p P                 sample among the smallest set of probability P or more (1)
    --seed N                  the same seed gives the same text; sample i has seed N + i
    --n_samples N             how many continuations to write (1)
    --stop_at_eot BOOL        end where the model ends its text (True)
    --interactive             ask for prompts, one a line, until the input ends
    --lookup BOOL             at temperature 0: guess ahead where the text repeats itself; the
                              same text, sooner (True)
    --threads N               processor cores to use, at most (all that the process may use)
    """
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    Sampling(**options)  # refuses what is out of its range before a model is loaded
    check("n_tokens_to_generate", n_tokens_to_generate, int, 0, sys.maxsize)
    check("n_samples", n_samples, int, 1, 10**6)
    if threads is not None:
        check("threads", threads, int, 1)
        use_threads(threads)
    if (prompt is None) != bool(interactive):
        raise ValueError('give one prompt in quotes, or --interactive: python gpt2.py "def "')

    encoder, hparams, params = load_model(model_size, models_dir)
    if stop_at_eot:
        options["stop_id"] = encoder.eot
    n_head = hparams["n_head"]
    texts = []
    for prompt_text in read_prompts(prompt, interactive):
        # "" becomes the id of <|endoftext|>; a prompt that is longer than the window is noticed.
        ids = encode_prompt(prompt_text, encoder, hparams["n_ctx"])
        if n_samples == 1:  # printed while it is made
            new_ids = generate_stream(
                ids, params, n_head, n_tokens_to_generate, lookup=lookup, **options
            )
            new_ids = with_bar(new_ids, n_tokens_to_generate)
            texts.append(write_text(encoder.decode_stream(new_ids)))
        else:  # made together, then printed one after the other
            copies = [ids] * n_samples
            new_ids = generate_side_by_side(copies, params, n_head, n_tokens_to_generate, **options)
            samples = [[] for _ in copies]
            for i, new_id in with_bar(new_ids, n_tokens_to_generate * n_samples):
                samples[i].append(new_id)
            texts += [write_text([encoder.decode(sample_ids)]) for sample_ids in samples]
    return "\n".join(texts)


if __name__ == "__main__":
    run(main)  # options are main's arguments, --help is its docstring; the result is not printed
