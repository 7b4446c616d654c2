"""The data of the page: what the model saw in a text, as `page.py` puts it into the HTML.

`page_data` runs the model under `watch`, and computes from its values what the page shows. Of a
long text only the last positions are shown, as many as fit.

The data are JSON. Arrays in it are packed (`packed`): base64 of little-endian numbers, of 16 bits
where they are only looked at.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

import gpt2
from command_line import encode_prompt
from encoder import BYTE_OF_SYMBOL, SYMBOL_OF_BYTE, Encoder
from explaining.watch import MASKED, Value, block_of, kind_of, watch
from fast.product import product
from generating.sampling import Sampling
from utils import damage_in

N_TOKENS_TO_GENERATE = 20
N_NEXT = 10  # the most probable next tokens of each position
N_LENS = 5  # of each layer at each position
N_SLIDERS = 15  # of the last position, where the sliders change them
N_SAMPLES = 4  # numbers that are shown of each row of each value

# The page holds the attention of every head between all positions that it shows. That grows with
# their square and is most of the file: 450,000 numbers are 1.2 MB. More than 128 positions are hard
# to look at.
MAX_ATTENTION_NUMBERS = 450_000
MAX_POSITIONS = 128

WEIGHT_STEPS = 2**16 - 1  # an attention weight is stored as a whole number of these


def page_data(
    prompt: str,
    model: tuple[Encoder, dict, dict],
    n_tokens_to_generate: int = N_TOKENS_TO_GENERATE,
    *,
    stop_at_eot: bool = True,
    **sampling_options,
) -> dict:
    """Everything that the page shows about `prompt` and what the model writes after it.

    The result can be written as JSON. n_seq is the number of positions shown.

        prompt, text             text: the prompt and what was generated
        n_tokens_to_generate, sampling
        model                    n_layer, n_head, n_embd, n_ctx, n_vocab
        first_position           how many positions of the text come before those shown
        n_left_out               how many tokens came even before those, outside of the window
        n_generated              of the positions shown, these last ones were generated
        eot                      the id of <|endoftext|>, or None
        ids                      [n_seq]
        tokens                   {id: {text, bytes: hex}} of every id that occurs below
        merges                   {id: {symbols, steps: [[index, rank], ...]}} of the ids of the text
        next                     ids, probabilities [n_seq, N_NEXT]; ranks, surprises [n_seq - 1]:
                                 of the actual next token, 1 is the best, in bits; bits_per_token
                                 and bits_per_byte of all n_predicted tokens of the text
        logits                   [n_vocab], at the last position
        n_sliders                how many of them are shown as bars
        attention                [n_layer, n_head, n_seq * (n_seq + 1) / 2]: rows of the triangle
        lens                     names [n_names]; ids, probabilities [n_names, n_seq, N_LENS]
        residual                 sizes [n_layer + 1, n_seq], of the stream before the first block
                                 and after each; attention, feed_forward [n_layer, n_seq]: the
                                 sizes of what they add. A size is the length of the vector.
        operations               names, blocks, functions, descriptions, formulas, shapes, sources
                                 (places in the list below), one of each for each value of `watch`;
                                 limits [n, 3]: smallest, largest, mean; samples
                                 [n, n_seq, N_SAMPLES]: the first numbers of each position (of the
                                 first head)
        sources                  [{file, first_line, text}]
        masked                   scores up to this one are of keys that the query may not see

    model: as `utils.load_model` returns it. sampling_options: the fields of `Sampling`.
    Raises ValueError for an empty prompt if the vocabulary has no <|endoftext|>, and for damaged
    weights.
    """
    encoder, hparams, params = model
    sampling = Sampling(**sampling_options)
    prompt_ids = encode_prompt(prompt, encoder, hparams["n_ctx"])
    new_ids = gpt2.generate(
        prompt_ids,
        params,
        hparams["n_head"],
        n_tokens_to_generate,
        stop_id=encoder.eot if stop_at_eot else None,
        **sampling_options,
    )
    return {
        "prompt": prompt,
        "text": prompt + encoder.decode(new_ids),
        "n_tokens_to_generate": n_tokens_to_generate,
        "sampling": {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")},
        "model": {
            "n_layer": len(params["blocks"]),
            "n_head": hparams["n_head"],
            "n_embd": params["wte"].shape[1],
            "n_ctx": hparams["n_ctx"],
            "n_vocab": len(params["wte"]),
        },
        **what_the_model_saw(prompt_ids, new_ids, model),
    }


def what_the_model_saw(
    prompt_ids: list[int], new_ids: list[int], model: tuple[Encoder, dict, dict]
) -> dict:
    """The part of `page_data` that is computed from the values of a pass."""
    encoder, hparams, params = model
    n_head = hparams["n_head"]
    ids = [*prompt_ids, *new_ids][-hparams["n_ctx"] :]
    n_seq = min(len(ids), positions_that_fit(len(params["blocks"]), n_head))
    values, surprises = watch_the_end(ids, n_seq, params, n_head)
    logits = values["logits"].array
    ids_shown = ids[-n_seq:]
    predictions = next_tokens(logits, ids, surprises, encoder)
    layers = lens(values, params)
    ids_mentioned = {*ids_shown, *best_ids(logits[-1], N_SLIDERS).tolist()}
    for each in (predictions, layers):
        ids_mentioned.update(each["ids"].ravel().tolist())
    return {
        "first_position": len(ids) - n_seq,
        "n_left_out": len(prompt_ids) + len(new_ids) - len(ids),
        "n_generated": min(len(new_ids), n_seq),
        "eot": encoder.eot,
        "ids": ids_shown,
        "tokens": {i: described(i, encoder) for i in sorted(ids_mentioned)},
        "merges": merges(sorted(set(ids_shown)), encoder),
        "next": packed_arrays(predictions),
        "logits": packed(logits[-1]),
        "n_sliders": N_SLIDERS,
        "attention": packed(attention_triangles(values, n_seq), scale=1 / WEIGHT_STEPS),
        "lens": packed_arrays(layers),
        "residual": packed_arrays(residual_sizes(values)),
        **operations(values, n_seq),
        "masked": MASKED,
    }


def positions_that_fit(n_layer: int, n_head: int) -> int:
    """How many positions the page can show; at least one.

    >>> positions_that_fit(n_layer=12, n_head=12)
    78
    """
    n_numbers = MAX_ATTENTION_NUMBERS // (n_layer * n_head)  # n * (n + 1) / 2, for n positions
    n = int((math.sqrt(8 * n_numbers + 1) - 1) / 2)
    return max(1, min(n, MAX_POSITIONS))


def watch_the_end(
    ids: Sequence[int], n_seq: int, params: dict, n_head: int
) -> tuple[dict[str, Value], np.ndarray]:
    """The values of the last n_seq positions, and the surprise at every token but the first.

    The positions before are read without being watched: a whole window would take gigabytes.
    Values are those of one text, [n_seq, ...]; keys and values of attention have all positions.
    surprises: [len(ids) - 1], in bits.
    """
    caches = gpt2.empty_caches(params, n_head, n_positions=len(ids))
    before, end = ids[:-n_seq], ids[-n_seq:]
    rows = []  # logits [n_vocab] of each position
    if before:
        rows += list(gpt2.gpt2(np.array([before]), **params, n_head=n_head, caches=caches)[0])
    values = watch(np.array([end]), params, n_head, caches=caches)
    if not np.isfinite(values["logits"].array).all():
        raise ValueError(damage_in(params))
    # [n_texts = 1, n_seq, ...] -> [n_seq, ...]
    values = {name: replace(value, array=value.array[0]) for name, value in values.items()}
    rows += list(values["logits"].array)
    surprises = [surprise(row, next_id) for row, next_id in zip(rows, ids[1:], strict=False)]
    return values, np.array(surprises)


def surprise(logits: np.ndarray, token_id: int) -> float:
    """-log2 of the probability of a token after logits [n_vocab]: bits.

    In float64, so that it is finite where the probability is too small for a float32.

    >>> round(surprise(np.log(np.array([0.25, 0.75])), 0), 6)
    2.0
    """
    scores = logits.astype(np.float64)
    best = scores.max()
    return float((best + np.log(np.exp(scores - best).sum()) - scores[token_id]) / math.log(2))


def best_ids(logits: np.ndarray, n: int) -> np.ndarray:
    """The n ids of the largest logits, best first: [..., n_vocab] -> [..., n]

    >>> best_ids(np.array([1, 4, 2, 3]), 2)
    array([1, 3])
    """
    ids = np.sort(np.argpartition(-logits, n - 1, axis=-1)[..., :n], axis=-1)
    order = np.argsort(-np.take_along_axis(logits, ids, -1), axis=-1, kind="stable")
    return np.take_along_axis(ids, order, -1)


def most_probable(logits: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """ids [..., n] and probabilities [..., n] of the best, from logits [..., n_vocab]."""
    ids = best_ids(logits, n)
    return {
        "ids": ids,
        "probabilities": np.take_along_axis(gpt2.softmax(logits), ids, -1),
    }


def next_tokens(
    logits: np.ndarray, ids: Sequence[int], surprises: np.ndarray, encoder: Encoder
) -> dict:
    """What the model expects after each position shown, and how the actual text fares.

    logits [n_seq, n_vocab]; ids: of the whole text; surprises [len(ids) - 1]
    """
    n_seq = len(logits)
    actual = ids[len(ids) - n_seq + 1 :]  # [n_seq - 1]
    ranks = [1 + np.count_nonzero(row > row[i]) for row, i in zip(logits, actual, strict=False)]
    n_bytes = sum(len(token_bytes(token_id, encoder)) for token_id in ids[1:])
    bits = float(surprises.sum())
    return {
        **most_probable(logits, N_NEXT),
        "ranks": np.array(ranks, np.int32),
        "surprises": surprises[len(surprises) - len(actual) :],
        "n_predicted": len(surprises),
        "bits_per_token": bits / len(surprises) if len(surprises) else None,
        "bits_per_byte": bits / n_bytes if n_bytes else None,
    }


def lens(values: dict[str, Value], params: dict) -> dict:
    """The raw logit lens: what the last layer norm and `wte` make of the stream at each layer.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """
    names = [name for name in values if kind_of(name) in ("residual_after_attn", "h", "embeddings")]
    found = []
    for name in names:
        x = gpt2.layer_norm(values[name].array, **params["ln_f"])
        found.append(most_probable(product(x, params["wte"].T), N_LENS))
    return {
        "names": names,
        "ids": np.array([each["ids"] for each in found]),
        "probabilities": np.array([each["probabilities"] for each in found]),
    }


def attention_triangles(values: dict[str, Value], n_seq: int) -> np.ndarray:
    """The weights between the positions shown, in whole steps of 1 / WEIGHT_STEPS.

    -> [n_layer, n_head, n_seq * (n_seq + 1) / 2]: of each row of the triangle its part up to the
    diagonal. The rest of a row, up to 1, is what it attends to before the positions shown.
    """
    queries, keys = np.tril_indices(n_seq)
    layers = [
        value.array[:, :, -n_seq:][:, queries, keys]
        for name, value in values.items()
        if kind_of(name) == "attn.weights"
    ]
    return np.rint(np.array(layers) * WEIGHT_STEPS).astype(np.uint16)


def residual_sizes(values: dict[str, Value]) -> dict[str, np.ndarray]:
    """The lengths of the stream's vectors and of what is added to them, by layer and position."""

    def sizes(*kinds: str) -> np.ndarray:
        arrays = [value.array for name, value in values.items() if kind_of(name) in kinds]
        return np.array([np.linalg.norm(array, axis=-1) for array in arrays])

    return {
        "sizes": sizes("embeddings", "h"),
        "attention": sizes("attn.c_proj"),
        "feed_forward": sizes("mlp.c_proj"),
    }


# name without its block -> how it is computed from the values before it
FORMULAS = {
    "wte": "wte[ids]",
    "wpe": "wpe[positions]",
    "embeddings": "wte[ids] + wpe[positions]",
    "ln_1": "(x - mean(x)) / √(variance(x) + 10⁻⁵) * g + b",
    "attn.c_attn": "ln_1 @ w + b",
    "attn.q": "the first third of c_attn, in n_head pieces of d_head numbers",
    "attn.k": "the second third of c_attn, in n_head pieces of d_head numbers",
    "attn.v": "the last third of c_attn, in n_head pieces of d_head numbers",
    "attn.scores": "q @ kᵀ / √d_head + mask",
    "attn.weights": "softmax(scores) = exp(scores) / Σ exp(scores), row by row",
    "attn.heads": "weights @ v",
    "attn.c_proj": "(all heads side by side) @ w + b",
    "residual_after_attn": "x + attn.c_proj",
    "ln_2": "(x - mean(x)) / √(variance(x) + 10⁻⁵) * g + b",
    "mlp.c_fc": "ln_2 @ w + b",
    "mlp.gelu": "x / 2 * (1 + tanh(√(2 / π) * (x + 0.044715 x³)))",
    "mlp.c_proj": "gelu @ w + b",
    "h": "residual_after_attn + mlp.c_proj",
    "ln_f": "(x - mean(x)) / √(variance(x) + 10⁻⁵) * g + b",
    "logits": "ln_f @ wteᵀ",
}


def operations(values: dict[str, Value], n_seq: int) -> dict:
    """Every value with its formula, shape, source and some numbers; and the list of sources."""
    sources = list(dict.fromkeys(value.source for value in values.values()))
    kinds = [kind_of(name) for name in values]
    found = values.values()
    return {
        "operations": packed_arrays(
            {
                "names": list(values),
                "blocks": [block_of(name) for name in values],
                "functions": [value.function for value in found],
                "descriptions": [value.description for value in found],
                "formulas": [FORMULAS[kind] for kind in kinds],
                "shapes": [list(value.shape) for value in found],
                "sources": [sources.index(value.source) for value in found],
                "limits": np.array([limits(value.array) for value in found], np.float32),
                "samples": np.array([samples(value.array, n_seq) for value in found], np.float32),
            }
        ),
        "sources": [
            {"file": Path(file).name, "first_line": line, "text": text}
            for file, line, text in sources
        ],
    }


def limits(array: np.ndarray) -> tuple[float, float, float]:
    """The smallest, the largest and the mean number, without those that are masked."""
    seen = array[array > MASKED]
    return seen.min(), seen.max(), seen.mean(dtype=np.float64)


def samples(array: np.ndarray, n_seq: int) -> np.ndarray:
    """The first numbers of each position, of the first head: [n_seq, N_SAMPLES], NaN for none."""
    rows = array if array.ndim == 2 else array[0]
    rows = rows[-n_seq:, :N_SAMPLES]
    missing = N_SAMPLES - rows.shape[1]
    return np.pad(rows, [(0, 0), (0, missing)], constant_values=np.nan)


# ---------------------------------------------------------------- tokens


def token_bytes(token_id: int, encoder: Encoder) -> bytes:
    """The bytes that a token stands for."""
    symbols = encoder.decoder[token_id]
    return b"".join(BYTE_OF_SYMBOL.get(symbol) or symbol.encode() for symbol in symbols)


def described(token_id: int, encoder: Encoder) -> dict[str, str]:
    """The text of a token (U+FFFD for part of a character) and its bytes, in hex."""
    if token_id not in encoder.decoder:  # the table of embeddings may be longer than the vocabulary
        return {"text": "", "bytes": ""}
    return {"text": encoder.decode([token_id]), "bytes": token_bytes(token_id, encoder).hex()}


def merges(ids: Iterable[int], encoder: Encoder) -> dict[int, dict]:
    """The merges that make each token of its bytes, in order: [index, rank] of each step.

    A step joins the symbols at `index` and after it. It does not matter in which text the token
    stood: no merge has crossed its borders, or it would not have become a token.
    """
    ranks = encoder.bpe_ranks
    found = {}
    for token_id in ids:
        symbols = [SYMBOL_OF_BYTE[byte] for byte in token_bytes(token_id, encoder)]
        found[token_id] = {"symbols": symbols, "steps": merge_steps(symbols, ranks)}
    return found


def merge_steps(symbols: Iterable[str], ranks: dict[tuple[str, str], int]) -> list[list[int]]:
    """What `encoder.merge_symbols` does, step by step: [index of the pair, its rank] each.

    >>> merge_steps("hello", {("h", "e"): 0, ("l", "o"): 1, ("he", "l"): 2})
    [[0, 0], [2, 1], [0, 2]]
    """
    symbols, steps = list(symbols), []
    while True:
        pair_ranks = [ranks.get(pair, math.inf) for pair in pairwise(symbols)]
        lowest = min(pair_ranks, default=math.inf)
        if lowest == math.inf:
            return steps
        index = pair_ranks.index(lowest)
        symbols[index : index + 2] = ["".join(symbols[index : index + 2])]
        steps.append([index, lowest])


# ---------------------------------------------------------------- arrays as JSON


def packed(array: np.ndarray, scale: float | None = None) -> dict:
    """An array as JSON: {shape, dtype, base64}, and `scale` if its numbers are to be multiplied.

    >>> packed(np.array([[1, 2]], np.uint16))
    {'shape': [1, 2], 'dtype': 'uint16', 'base64': 'AQACAA=='}
    """
    if array.dtype != np.uint16:
        array = array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)
    numbers = array.astype(array.dtype.newbyteorder("<")).tobytes()
    result = {"shape": list(array.shape), "dtype": array.dtype.name}
    if scale is not None:
        result["scale"] = scale
    return {**result, "base64": base64.b64encode(numbers).decode()}


def packed_arrays(items: dict) -> dict:
    """The same dict, with its arrays packed."""
    return {
        name: packed(item) if isinstance(item, np.ndarray) else item for name, item in items.items()
    }
