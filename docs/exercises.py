"""Answers to the exercises of docs/tutorial.md, by its sections.

Each is a function, and most have an example that shows that the answer is right. All are tested
in tests/docs/. They use the functions that the tutorial writes, out of gpt2_pico.py.
"""

import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

import gpt2_pico
from gpt2_pico import attention, ffn, gelu, gpt2, layer_norm, softmax, transformer_block
from training.model import init_params

TINY = {"n_vocab": 11, "n_ctx": 8, "n_embd": 6, "n_head": 2, "n_layer": 2}


def tiny_params() -> dict:
    """A model of the sizes of `TINY`, with random weights."""
    return init_params(TINY, np.random.default_rng(0))


# ---------------------------------------------------------------- 1. What a language model is


def count_after_pairs(text: str) -> dict[str, Counter]:
    """For each two characters that stand side by side, what follows them, and how often.

    >>> counts = count_after_pairs("the cat sat on the mat and the rat ran to the man")
    >>> counts["ma"]
    Counter({'t': 1, 'n': 1})
    >>> written = "ma"
    >>> for _ in range(20):
    ...     written += counts[written[-2:]].most_common(1)[0][0]
    >>> written
    'mat sat sat sat sat sa'
    """
    counts = defaultdict(Counter)
    for i in range(len(text) - 2):
        counts[text[i : i + 2]][text[i + 2]] += 1
    return counts


# ---------------------------------------------------------------- 2. From text to tokens


def most_frequent_pair(words: list[list[str]]) -> tuple[str, str]:
    """The two neighbours that occur most often: the next merge to learn.

    >>> words = [list("low"), list("lower"), list("lowest"), list("newest")]
    >>> most_frequent_pair(words)
    ('l', 'o')
    >>> most_frequent_pair([["lo", "w"], ["lo", "w", "e", "r"], ["n", "e", "w"]])
    ('lo', 'w')
    """
    counts = Counter()
    for word in words:
        counts.update(pairwise(word))
    return counts.most_common(1)[0][0]


# ---------------------------------------------------------------- 3. Hyper-parameters, parameters


def n_parameters(n_vocab: int, n_ctx: int, n_embd: int, n_layer: int) -> dict[str, int]:
    """How many parameters a GPT-2 has, by where they sit. In GPT-2 124M most are in the blocks:

    >>> parts = n_parameters(n_vocab=50257, n_ctx=1024, n_embd=768, n_layer=12)
    >>> parts
    {'wte': 38597376, 'wpe': 786432, 'attn': 28348416, 'mlp': 56669184, 'norms': 38400}
    >>> sum(parts.values())
    124439808
    """
    attn = n_embd * 3 * n_embd + 3 * n_embd + n_embd * n_embd + n_embd  # w and b, twice
    mlp = n_embd * 4 * n_embd + 4 * n_embd + 4 * n_embd * n_embd + n_embd
    return {
        "wte": n_vocab * n_embd,
        "wpe": n_ctx * n_embd,
        "attn": n_layer * attn,
        "mlp": n_layer * mlp,
        "norms": (2 * n_layer + 1) * 2 * n_embd,  # ln_1 and ln_2 of each block, ln_f: g and b
    }


# ---------------------------------------------------------------- 4. GELU


def largest_error_of_gelu() -> float:
    """How far the formula with tanh is from the exact one, from -5 to 5, in steps of 0.001.

    >>> round(largest_error_of_gelu(), 5)
    0.00047
    """
    x = np.arange(-5, 5, 0.001)
    exact = np.array([number * 0.5 * (1 + math.erf(number / math.sqrt(2))) for number in x])
    return float(np.abs(gelu(x) - exact).max())


# ---------------------------------------------------------------- 5. Softmax


def softmax_of_two(d: float) -> float:
    """The first share of two scores that differ by d.

    exp(a) / (exp(a) + exp(b)), divided above and below by exp(a), is 1 / (1 + exp(b - a)).

    >>> np.isclose(softmax(np.array([1.5, 0]))[0], softmax_of_two(1.5)).item()
    True
    >>> np.isclose(softmax(np.array([101.5, 100]))[0], softmax_of_two(1.5)).item()
    True
    """
    return 1 / (1 + math.exp(-d))


# ---------------------------------------------------------------- 6. Layer norm


def layer_norm_forgets(x: np.ndarray) -> float:
    """The largest difference between the layer norms of x and of 3 * x + 5.

    Adding 5 adds 5 to the mean, which is subtracted. Times 3 makes the standard deviation 3 times
    as large, by which it is divided. Only epsilon stays the same, and so counts less.

    >>> layer_norm_forgets(np.random.default_rng(0).normal(size=(4, 8))) < 1e-4
    True
    """
    g, b = np.ones(x.shape[-1]), np.zeros(x.shape[-1])
    return float(np.abs(layer_norm(3 * x + 5, g, b) - layer_norm(x, g, b)).max())


# ---------------------------------------------------------------- 7. Linear


def two_linear_layers_as_one(
    w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """w and b of the one linear layer that does what two in a row do.

    (x @ w1 + b1) @ w2 + b2 = x @ (w1 @ w2) + (b1 @ w2 + b2)

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(3, 4))
    >>> w1, b1, w2, b2 = (rng.normal(size=shape) for shape in [(4, 5), 5, (5, 2), 2])
    >>> w, b = two_linear_layers_as_one(w1, b1, w2, b2)
    >>> linear = gpt2_pico.linear
    >>> np.allclose(linear(x, w, b), linear(linear(x, w1, b1), w2, b2))
    True
    """
    return w1 @ w2, b1 @ w2 + b2


# ---------------------------------------------------------------- 8. The feed-forward layer


def rows_are_independent(x: np.ndarray, mlp: dict) -> bool:
    """Whether reversed rows give the same results, reversed.

    >>> x = np.random.default_rng(0).normal(size=(5, TINY["n_embd"]))
    >>> rows_are_independent(x, tiny_params()["blocks"][0]["mlp"])
    True
    """
    return np.allclose(ffn(x[::-1], **mlp), ffn(x, **mlp)[::-1])


# ---------------------------------------------------------------- 9. Attention


def attention_without_preference(v: np.ndarray) -> np.ndarray:
    """The result of a head whose queries are all zero: all scores are equal, namely 0.

    So each position gets the plain mean of the values so far.

    >>> attention_without_preference(np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]))
    array([[1., 0.],
           [2., 0.],
           [3., 2.]])
    """
    k = np.random.default_rng(0).normal(size=v.shape)  # any keys
    mask = np.triu(np.full((len(v), len(v)), -1e10), k=1)
    return attention(np.zeros_like(k), k, v, mask)


def attention_ignores_order() -> bool:
    """Whether a query's result stays the same when keys and values change places together.

    It does: the scores and the weights change places with them, and a sum has no order. So
    without wpe the model could not tell where a token stands, except for what the mask reveals.

    >>> attention_ignores_order()
    True
    """
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 5, 4))  # [n_seq = 5, d_head = 4] each
    order = rng.permutation(5)
    no_mask = np.zeros((5, 5))
    return np.allclose(attention(q, k, v, no_mask), attention(q, k[order], v[order], no_mask))


# ---------------------------------------------------------------- 10. The block


def block_that_adds_nothing(x: np.ndarray, block: dict, n_head: int) -> np.ndarray:
    """The result of the block with both c_proj set to zero: x itself, since both layers add 0.

    >>> x = np.random.default_rng(0).normal(size=(5, TINY["n_embd"]))
    >>> np.array_equal(block_that_adds_nothing(x, tiny_params()["blocks"][0], 2), x)
    True
    """
    silent = dict(block)
    for layer in ("attn", "mlp"):
        c_proj = {name: np.zeros_like(p) for name, p in block[layer]["c_proj"].items()}
        silent[layer] = {**block[layer], "c_proj": c_proj}
    return transformer_block(x, **silent, n_head=n_head)


# ---------------------------------------------------------------- 11. The model


def rows_that_change(ids: list[int], i: int, params: dict, n_head: int) -> list[int]:
    """Which rows of the logits change when id i of a text becomes another one.

    Row i and those after it. No row before it: the model cannot look ahead.

    >>> rows_that_change([3, 1, 4, 1, 5], 4, tiny_params(), TINY["n_head"])
    [4]
    >>> rows_that_change([3, 1, 4, 1, 5], 2, tiny_params(), TINY["n_head"])
    [2, 3, 4]
    """
    changed = list(ids)
    changed[i] = (ids[i] + 1) % len(params["wte"])
    before = gpt2(ids, **params, n_head=n_head)
    after = gpt2(changed, **params, n_head=n_head)
    return [row for row in range(len(ids)) if not np.array_equal(before[row], after[row])]


# ---------------------------------------------------------------- 12. Writing text


def generate_until_the_end(
    inputs: list[int], params: dict, n_head: int, n_tokens_to_generate: int, eot: int
) -> list[int]:
    """`generate`, but the text ends, without the mark, where the model writes `eot`.

    >>> params, n_head = tiny_params(), TINY["n_head"]
    >>> new_ids = gpt2_pico.generate([1, 2], params, n_head, 10)
    >>> eot = new_ids[3]
    >>> generate_until_the_end([1, 2], params, n_head, 10, eot) == new_ids[: new_ids.index(eot)]
    True
    """
    ids = list(inputs)
    for _ in range(n_tokens_to_generate):
        logits = gpt2(ids[-len(params["wpe"]) :], **params, n_head=n_head)
        new_id = int(np.argmax(logits[-1]))
        if new_id == eot:
            break
        ids.append(new_id)
    return ids[len(inputs) :]


# ---------------------------------------------------------------- 13. Sampling


def sample_min_p(logits: np.ndarray, min_p: float, rng: np.random.Generator) -> int:
    """Draw an id, but none that is less probable than `min_p` times the best.

    >>> logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    >>> rng = np.random.default_rng(0)
    >>> sorted({sample_min_p(logits, 0.2, rng) for _ in range(100)})
    [0, 1, 2]
    """
    p = softmax(logits.astype(np.float64))
    p = np.where(p < min_p * p.max(), 0, p)
    return int(rng.choice(len(p), p=p / p.sum()))


# ---------------------------------------------------------------- 14. The key/value cache


def bytes_of_cache(n_ctx: int, n_embd: int, n_layer: int) -> int:
    """Bytes of the keys and values of a full window, float32. For GPT-2 124M, 75 million:

    >>> bytes_of_cache(n_ctx=1024, n_embd=768, n_layer=12)
    75497472
    """
    keys_and_values, bytes_of_float32 = 2, 4
    return keys_and_values * n_layer * n_ctx * n_embd * bytes_of_float32


# ---------------------------------------------------------------- 15. Loss and the backward pass


def softmax_backward(dp: np.ndarray, p: np.ndarray) -> np.ndarray:
    """dp -> ds, for one row p = softmax(s).

    A score that grows raises its own share, and lowers all others. The slope of p[j] for s[i] is

        p[i] * (1 - p[i])   where j = i
        -p[i] * p[j]        elsewhere

    Times dp[j], and summed over all j, that is ds[i] = p[i] * (dp[i] - the sum of p * dp).

    >>> rng = np.random.default_rng(0)
    >>> s, dp = rng.normal(size=5), rng.normal(size=5)
    >>> ds = softmax_backward(dp, softmax(s))
    >>> nudges = 1e-6 * np.eye(5)
    >>> measured = [dp @ (softmax(s + nudge) - softmax(s - nudge)) / 2e-6 for nudge in nudges]
    >>> np.allclose(ds, measured)
    True
    """
    return p * (dp - (p * dp).sum())


# ---------------------------------------------------------------- 16. Training a character model


def share_of_right_sentences(
    params: dict,
    n_head: int,
    characters: list[str],
    sentences: list[str],
    temperature: float,
    n_written: int = 100,
) -> float:
    """How many of the sentences that a character model writes are in `sentences`, from 0 to 1.

    `characters` are its vocabulary. A sentence ends with "\\n", and none is longer than 30. With
    the tutorial's model and its names: 87 at temperature 1, all 100 at 0.5, and 4 at 2.

        share_of_right_sentences(small, 4, characters, all_sentences, temperature=0.5)
    """
    rng = np.random.default_rng(0)
    n_right = 0
    for _ in range(n_written):
        text = "\n"
        while not text.endswith("\n", 1) and len(text) < 30:
            logits = gpt2([characters.index(c) for c in text], **params, n_head=n_head)
            p = softmax(logits[-1].astype(np.float64) / temperature)
            text += rng.choice(characters, p=p)
        n_right += text[1:] in sentences
    return n_right / n_written


# ---------------------------------------------------------------- 17. jax.grad


def slope_of_gelu(x: np.ndarray) -> np.ndarray:
    """The slope of `gelu` at each number of x, found by JAX.

    `jax.grad` is for functions that return one number. `jax.vmap` applies the slope of one number
    to all of x. With JAX installed, this prints True:

        x = np.linspace(-3, 3, 13)
        measured = (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5
        print(np.allclose(slope_of_gelu(x), measured, atol=1e-5))
    """
    import jax

    source = Path(gpt2_pico.__file__).read_text(encoding="utf-8")
    under_jax = {}
    exec(source.replace("import numpy as np", "import jax.numpy as np"), under_jax)
    return np.array(jax.vmap(jax.grad(under_jax["gelu"]))(x))


# ---------------------------------------------------------------- 18. Where the time goes


def length_where_attention_overtakes(n_embd: int) -> int:
    """For one position, the n_seen from which on scores and means take more than feed-forward.

    2 * n_seen * n_embd > 8 * n_embd * n_embd, so n_seen > 4 * n_embd. GPT-2's window of 1,024 is
    far below that.

    >>> length_where_attention_overtakes(768)
    3073
    """
    return 4 * n_embd + 1
