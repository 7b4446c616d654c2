"""GPT-2's layers with their backward passes: what `.backward()` hides, written out.

For each layer, `<layer>_forward` returns its output and `saved`, what the backward pass needs;
`<layer>_backward` takes the gradient of the loss with respect to that output, and `saved`, and
returns the gradients with respect to the input and the weights. A gradient is named `d<name>`,
and gradients are nested like the parameters. `model.py` puts the layers together.

Left out: mixed precision.
Sources: Rumelhart et al. 1986 (backward passes); Srivastava et al. 2014 (dropout); the paper behind
each layer is named in `gpt2.py`.

Letters for dimensions, with their names in `gpt2.py`: B n_texts, T n_seq, N = B * T, C n_embd,
H n_head, D d_head, V n_vocab. The texts of a batch are windows of one length, so the code here says
n_ctx for T. An `@` in a formula is a matrix product, `*` goes number by number.
"""

import math

import numpy as np


def linear_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """out = x @ w + b: x [N, n_in] -> [N, n_out]"""
    out = x @ w
    out += b
    return out, (x, w)


def linear_backward(dout: np.ndarray, saved: tuple) -> tuple[np.ndarray, dict]:
    """dx = dout @ w.T, dw = x.T @ dout, db = the sum of dout's rows.

    dout [N, n_out] -> dx [N, n_in], {"w": [n_in, n_out], "b": [n_out]}
    """
    x, w = saved
    return dout @ w.T, {"w": x.T @ dout, "b": column_sums(dout)}


def column_sums(x: np.ndarray) -> np.ndarray:
    """[N, n] -> [n]; as a product, since BLAS adds up faster than NumPy's sum"""
    return np.ones(len(x), x.dtype) @ x


def row_means(*factors: np.ndarray) -> np.ndarray:
    """The mean of each row of the product of `factors`, each [N, n]: -> [N, 1]

    einsum needs no array for the product, and adds up faster than NumPy's mean.
    """
    inputs = ",".join("ij" for _ in factors)
    return np.einsum(f"{inputs}->i", *factors)[:, None] / factors[0].shape[1]


def layer_norm_forward(
    x: np.ndarray, g: np.ndarray, b: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """out = norm * g + b, where norm = (x - mean) * rstd: x [N, C] -> [N, C]

    mean is the row's mean, rstd = 1 / sqrt(variance + eps) one over its standard deviation.
    """
    norm = x - row_means(x)
    rstd = 1 / np.sqrt(row_means(norm, norm) + eps)  # [N, 1]
    norm *= rstd
    out = norm * g
    out += b
    return out, (norm, rstd, g)


def layer_norm_backward(dout: np.ndarray, saved: tuple) -> tuple[np.ndarray, dict]:
    """dx = rstd * (dnorm - mean(dnorm) - norm * mean(dnorm * norm)), where dnorm = dout * g.

    The means are each row's. The two terms that are taken away would shift a row, or stretch it:
    norm stays the same under both. dg and db are the sums of the rows of dout * norm and of dout.

    dout [N, C] -> dx [N, C], {"g": [C], "b": [C]}
    """
    norm, rstd, g = saved
    dx = dout * g  # dnorm, changed into dx in place
    stretch = row_means(dx, norm)
    dx -= row_means(dx)
    dx -= norm * stretch
    dx *= rstd
    return dx, {"g": np.einsum("ij,ij->j", dout, norm), "b": column_sums(dout)}


GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
GELU_ROWS = 128  # at a time: few enough for a core's cache


def gelu_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """out = x * h, where h = (1 + tanh(u)) / 2 and u = scale * (x + cubic * x^3).

    What is saved is the slope d out / dx = h + x * dh/dx. Since the derivative of tanh is
    1 - tanh^2, dh/dx = 2 h (1 - h) * du/dx. With x * du/dx = 3 u - 2 scale * x, then

        slope = h * (1 + (1 - h) * (6 u - 4 scale * x))

    x [N, n], changed in place into the output -> [N, n], slope [N, n]
    """
    slope = np.empty_like(x)
    for start in range(0, len(x), GELU_ROWS):
        rows = x[start : start + GELU_ROWS]
        u = rows * rows
        u *= GELU_SCALE * GELU_CUBIC
        u += GELU_SCALE
        u *= rows
        h = np.tanh(u)
        h += 1
        h *= 0.5
        u *= 6
        u -= rows * (4 * GELU_SCALE)
        rows *= h  # the output
        u *= 1 - h
        u += 1
        np.multiply(u, h, out=slope[start : start + GELU_ROWS])
    return x, slope


def gelu_backward(dout: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """dx = dout * slope: [N, n] -> [N, n]"""
    return dout * slope


def dropout_mask(shape: tuple[int, ...], rate: float, rng: np.random.Generator) -> np.ndarray:
    """Booleans, False with probability `rate`, rounded to 1/256: a random byte decides each"""
    n = math.prod(shape)
    draws = rng.integers(0, 2**64, -(-n // 8), dtype=np.uint64)  # eight bytes at a time
    return draws.view(np.uint8)[:n].reshape(shape) >= round(256 * rate)


def keep_probability(rate: float) -> float:
    """The probability of True in `dropout_mask`: 1 - rate, rounded to 1/256"""
    return 1 - round(256 * rate) / 256


def dropout_forward(
    x: np.ndarray, rate: float, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """out = x * mask: each number is zeroed with probability `rate`, else scaled up.

    The mask is 0 or 1 / (1 - rate), so that on average a sum keeps its size. Without an rng
    nothing is dropped, and the mask is None.

    x [...], changed in place into the output -> [...], mask [...]
    """
    if rng is None or rate == 0:
        return x, None
    mask = dropout_mask(x.shape, rate, rng) * np.float32(1 / keep_probability(rate))
    x *= mask
    return x, mask


def dropout_backward(dout: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """dx = dout * mask"""
    return dout if mask is None else dout * mask


SCORES_AT_A_TIME = 2**18  # a megabyte of float32: about what a core's cache holds


def slices_of_scores(scores: np.ndarray) -> list[slice]:
    """Scores [B * H, T, T] cut along the first axis into slices that fit a core's cache"""
    n_each = max(1, SCORES_AT_A_TIME // scores[0].size)
    return [slice(start, start + n_each) for start in range(0, len(scores), n_each)]


def attention_forward(
    qkv: np.ndarray,
    n_head: int,
    n_ctx: int,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, tuple]:
    """Causal self-attention in every head of every sequence: qkv [N, 3 C] -> [N, C]

    For one head of one sequence, q, k and v [T, D]:

        e     = exp(k @ q.T / sqrt(D) - the largest of each column), 0 where the key is later
        total = the sum of e over the keys                           one for each query
        out   = (e * mask / keep).T @ v / total

    mask and keep are dropout's, of the attention weights e / total: 0 or 1, and the probability
    of 1. Two things are other than in `gpt2.attention`, for speed: scores stand keys first
    [T_k, T_q], since NumPy works down columns faster than along rows; and the outputs are divided
    by the total, which are fewer than the scores.
    """
    d_head = qkv.shape[1] // (3 * n_head)
    # [N, 3 C] -> [B, T, 3, H, D] -> q, k, v, each [B * H, T, D] and contiguous
    qkv = qkv.reshape(-1, n_ctx, 3, n_head, d_head).transpose(2, 0, 3, 1, 4)
    q, k, v = np.ascontiguousarray(qkv).reshape(3, -1, n_ctx, d_head)
    q *= 1 / math.sqrt(d_head)
    q_t = np.ascontiguousarray(q.swapaxes(1, 2))  # [B * H, D, T]
    later = np.tril(np.full((n_ctx, n_ctx), -1e10, k.dtype), -1)  # keys that come after the query
    ones = np.ones((1, n_ctx), k.dtype)
    e = np.empty((len(k), n_ctx, n_ctx), k.dtype)  # [B * H, T_k, T_q]
    mask = None if rng is None or dropout == 0 else np.empty(e.shape, bool)
    keep = 1.0 if mask is None else keep_probability(dropout)
    out, total = np.empty_like(k), np.empty((len(k), n_ctx, 1), k.dtype)
    slices = slices_of_scores(e)
    scratch = np.empty_like(e[slices[0]])
    for i in slices:
        e_i = np.matmul(k[i], q_t[i], out=e[i])
        e_i += later
        e_i -= e_i.max(axis=1, keepdims=True)
        np.exp(e_i, out=e_i)
        np.matmul(ones, e_i, out=total[i].swapaxes(1, 2))  # BLAS adds up faster than NumPy's sum
        if mask is not None:
            mask[i] = dropout_mask(e_i.shape, dropout, rng)
            e_i = np.multiply(e_i, mask[i], out=scratch[: len(e_i)])
        np.matmul(e_i.swapaxes(1, 2), v[i], out=out[i])
    out *= 1 / keep / total
    out = out.reshape(-1, n_head, n_ctx, d_head)  # [B, H, T, D]
    saved = q_t, k, v, e, total, mask, keep, out
    return out.swapaxes(1, 2).reshape(-1, n_head * d_head), saved


def attention_backward(dout: np.ndarray, saved: tuple) -> np.ndarray:
    """dout [N, C] -> dqkv [N, 3 C]

    For one head of one sequence, in the names of `attention_forward`, and dout [T, D]:

        dv      = (e * mask / keep / total) @ dout
        dw      = mask / keep * (v @ dout.T)       of the weights w = e / total, [T_k, T_q]
        dscores = w * (dw - the sum of w * dw over the keys)            softmax's backward pass
        dq      = dscores.T @ k / sqrt(D)
        dk      = dscores @ q / sqrt(D)

    The sum for a query is the dot product of its rows of out and dout, which is far cheaper. Each
    term holds one factor of dout / total, so that division is done once, on dout.
    """
    q_t, k, v, e, total, mask, keep, out = saved
    n_texts, n_head, n_ctx, d_head = out.shape
    # [N, C] -> [B, H, T, D] -> [B * H, T, D]
    dout = dout.reshape(n_texts, n_ctx, n_head, d_head).swapaxes(1, 2)
    dout = dout.reshape(-1, n_ctx, d_head) / total
    sums = np.einsum("ntd,ntd->nt", dout, out.reshape(dout.shape))[:, None]  # [B * H, 1, T_q]
    dout *= 1 / keep
    dout_t, q = np.ascontiguousarray(dout.swapaxes(1, 2)), q_t.swapaxes(1, 2)
    dqkv = np.empty((3, *dout.shape), dout.dtype)
    dq, dk, dv = dqkv
    slices = slices_of_scores(e)
    scratch = np.empty_like(e[slices[0]])
    for i in slices:
        scratch_i = scratch[: len(e[i])]
        masked = e[i] if mask is None else np.multiply(e[i], mask[i], out=scratch_i)
        np.matmul(masked, dout[i], out=dv[i])
        dscores = np.matmul(v[i], dout_t[i], out=scratch_i)  # [.., T_k, T_q], dw / total so far
        if mask is not None:
            dscores *= mask[i]
        dscores -= sums[i]
        dscores *= e[i]
        np.matmul(dscores.swapaxes(1, 2), k[i], out=dq[i])
        np.matmul(dscores, q[i], out=dk[i])  # q was divided by sqrt(D) before it was saved
    dq *= 1 / math.sqrt(d_head)
    # [3, B, H, T, D] -> [B, T, 3, H, D] -> [N, 3 C]
    dqkv = dqkv.reshape(3, n_texts, n_head, n_ctx, d_head).transpose(1, 3, 0, 2, 4)
    return dqkv.reshape(n_texts * n_ctx, -1)


def embedding_forward(
    inputs: np.ndarray, wte: np.ndarray, wpe: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """out = wte[id] + wpe[position]: ids [B, T] -> [N, C]"""
    x = wte[inputs] + wpe[: inputs.shape[1]]
    return x.reshape(-1, x.shape[-1]), (inputs, wte, wpe)


def embedding_backward(dout: np.ndarray, saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Each row of wte and wpe gets the sum of dout over the places where it was used.

    dout [N, C] -> dwte [V, C], dwpe [n_ctx, C]
    """
    inputs, wte, wpe = saved
    dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    n_ctx = inputs.shape[1]
    dwpe[:n_ctx] = dout.reshape(-1, n_ctx, dout.shape[-1]).sum(axis=0)
    ids = inputs.ravel()
    order = np.argsort(ids, kind="stable")  # brings equal ids together: one sum for each stretch
    used, starts = np.unique(ids[order], return_index=True)
    dwte[used] = np.add.reduceat(dout[order], starts)
    return dwte, dwpe


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, n_targets: int | None = None
) -> tuple[float, np.ndarray]:
    """loss = the mean of -log p[target], where p = softmax(logits), in nats.

    Its gradient is (p - 1 at the target) / n_targets. Of a part of a batch of `n_targets`, both
    are what the part adds to those of the batch.

    logits [N, V], targets [N] -> loss, dlogits [N, V]
    """
    n_targets = n_targets or len(targets)
    rows = np.arange(len(targets))
    p = logits - logits.max(axis=-1, keepdims=True)  # from here on changed in place
    at_targets = p[rows, targets]
    np.exp(p, out=p)
    total = p.sum(axis=-1, keepdims=True)
    loss = np.sum(np.log(total[:, 0]) - at_targets) / n_targets
    p /= total
    p[rows, targets] -= 1
    p /= n_targets
    return float(loss), p
