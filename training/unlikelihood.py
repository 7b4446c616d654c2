"""Unlikelihood: teach a model not to repeat itself, on texts that it has written itself.

Greedy text of a small model runs into loops: once a line stands there, the same line is the most
probable next one. The text that it learns from has no such loops, so cross-entropy has little to
say about them. Here the loss of a text by the model is, for each repeat (a line that was there
before, or a run of RUN tokens),

    -log(1 - P), where P is the product of p[token] over its tokens

which is 0 for a repeat that the model would not write, and large for one that it is sure to.

Source: Welleck et al., "Neural Text Generation With Unlikelihood Training", 2020, section 5. There
the repeats are runs of four tokens, and each token is on its own.
"""

import numpy as np

from encoder import Encoder
from fast.threads import share_out
from gpt2 import generate_side_by_side
from training.batch_loss import add_up, micro_batches
from training.batches import newline_ids
from training.layers import cross_entropy
from training.model import backward, forward

RUN = 8  # tokens
LARGEST_P = 0.99  # so that the loss of a repeat stays finite


def own_texts_loss_and_grads(
    params: dict, n_head: int, prompts: list[list[int]], n_new: int, encoder: Encoder
) -> tuple[float, dict]:
    """`unlikelihood_loss_and_grads` of texts by the model: greedy, at most `n_new` tokens each."""
    new = [[] for _ in prompts]
    for i, new_id in generate_side_by_side(prompts, params, n_head, n_new, stop_id=encoder.eot):
        new[i].append(new_id)
    pairs = list(zip(prompts, new, strict=True))
    numbers = [repeats(prompt, ids, len(ids) < n_new, encoder) for prompt, ids in pairs]
    texts = [prompt + ids for prompt, ids in pairs]
    return unlikelihood_loss_and_grads(params, n_head, texts, numbers)


def repeats(prompt: list[int], new: list[int], ended: bool, encoder: Encoder) -> np.ndarray:
    """Which tokens of a text, prompt + new, are new and repeat what was there before -> [n_seq]

    0 for those that do not, else the number of the repeat: a line, or where no line is repeated, a
    run of RUN tokens. Empty lines do not count, nor does the last one if the text has not `ended`:
    there may be more of it to come.
    """
    ids = np.array(prompt + new)
    numbers = np.zeros(len(ids), np.int64)
    starts = np.flatnonzero(np.isin(ids, newline_ids(encoder)))
    ends = [*starts[1:], len(ids)] if ended else starts[1:]
    seen = set()
    for start, end in zip(starts, ends, strict=False):
        line = encoder.decode(ids[start:end]).strip("\n")
        if line in seen and start >= len(prompt):
            numbers[start:end] = start
        if line.strip():
            seen.add(line)
    for start in range(len(ids) - RUN + 1):
        run = tuple(ids[start : start + RUN].tolist())
        if run in seen and start >= len(prompt) and not numbers[start : start + RUN].any():
            numbers[start : start + RUN] = start
        seen.add(run)
    return numbers


def minus_log_of_not(p_tokens: np.ndarray, numbers: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of -log(1 - P) over the repeats, and how it changes with each token's log p.

    p_tokens [N], numbers [N]: 0, or the number of the token's repeat -> loss, slopes [N]

    >>> loss, slopes = minus_log_of_not(np.array([0.9, 0.5, 0.5]), np.array([0, 7, 7]))
    >>> round(loss, 4), slopes.round(4).tolist()  # P = 0.25
    (0.2877, [0.0, 0.3333, 0.3333])
    """
    numbers, repeat_of = np.unique(numbers, return_inverse=True)
    log_p = np.log(np.maximum(p_tokens, 1e-30, dtype=np.float64))
    p = np.minimum(np.exp(np.bincount(repeat_of, log_p)), LARGEST_P)  # of each repeat
    p[numbers == 0] = 0
    return float(-np.log(1 - p).sum()), (p / (1 - p))[repeat_of]


def pad(rows: list, n: int) -> np.ndarray:
    """Rows of different lengths, with zeros after them: -> [B, n]"""
    return np.array([[*row, *[0] * (n - len(row))] for row in rows])


def unlikelihood_loss_and_grads(
    params: dict, n_head: int, texts: list[list[int]], repeats: list[np.ndarray]
) -> tuple[float, dict]:
    """The loss of each text, its mean over the texts, and its gradients, on all cores.

    `repeats` is what the function of that name says of each text. The first id of a text has no
    probability, so it counts in no repeat.
    """
    n_seq = max(2, *map(len, texts))  # if all are of one id, there are targets none the less
    ids = pad(texts, n_seq)
    numbers = pad(repeats, n_seq) + n_seq * np.arange(len(texts))[:, None]  # no two texts share one
    numbers[pad(repeats, n_seq) == 0] = 0
    batch = micro_batches(ids, numbers)

    def one(i):
        ids, numbers = batch[i]
        logits, saved = forward(params, n_head, ids[:, :-1])  # [N, V]
        targets = ids[:, 1:].ravel()
        _, dlogits = cross_entropy(logits, targets, n_targets=1)  # p - 1 at the target
        p_tokens = 1 + dlogits[np.arange(len(targets)), targets]
        loss, slopes = minus_log_of_not(p_tokens, numbers[:, 1:].ravel())
        # The gradient of a token's log p is that of its cross-entropy, negated.
        dlogits *= (-slopes / len(texts)).astype(dlogits.dtype)[:, None]
        return loss / len(texts), backward(dlogits, saved)

    def several(start, end):
        return add_up(one(i) for i in range(start, end))

    return add_up(share_out(several, len(batch)))
