"""Draws the figures of docs/tutorial.md, as SVG, from the names that the tutorial's blocks define.

`python -m docs.update_tutorial` runs the blocks and then calls `draw_all`. So a figure shows what
the tutorial's own functions compute. The same names give the same bytes. All text and lines are
readable on a white and on a dark background; a cell with a number in it brings its own colour.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "python" / "model.safetensors"
INK = "#7d7d7d"  # readable on white and on black
BLUE, ORANGE, RED = "#2f81c7", "#d08415", "#d1495b"
PALE, DEEP = "#e6eef6", "#0f4378"  # of a cell with a share of 0 and of 1
SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tutorial",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
SENTENCE = ["we", " see", " a", " red", " bird"]
CODE = "def __eq__(self, other):\n    if isinstance(other, type(self)):"


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches: -> matplotlib.figure.Figure"""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def colours() -> Any:
    """The colour map of shares from 0 to 1: -> matplotlib.colors.Colormap"""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", [PALE, DEEP])


def draw_cells(axes: Any, values: np.ndarray, labels: np.ndarray | None) -> None:
    """A matrix as coloured squares, with `labels` in them; where values are NaN, only the label."""
    n_rows, n_columns = values.shape
    cells = np.ma.masked_invalid(values)
    axes.pcolormesh(cells, cmap=colours(), vmin=0, vmax=1, edgecolors=INK, linewidth=0.6)
    axes.set(xlim=(0, n_columns), ylim=(n_rows, 0), aspect="equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if labels is not None:
        for (row, column), label in np.ndenumerate(labels):
            value = values[row, column]
            colour = INK if np.isnan(value) else "white" if value > 0.5 else "#222222"
            centre = column + 0.5, row + 0.5
            axes.text(*centre, label, color=colour, ha="center", va="center", fontsize=9)


def name_rows_and_columns(axes: Any, tokens: list[str]) -> None:
    """The queries at the left, the keys above. A space is shown as a dot."""
    places = np.arange(len(tokens)) + 0.5
    names = [visible(token) for token in tokens]
    axes.set_xticks(places, names, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.xaxis.tick_top()


def visible(token: str) -> str:
    """A token as the figures write it.

    >>> visible(" all"), visible("\\n")
    ('·all', '\\\\n')
    """
    return repr(token)[1:-1].replace(" ", "·")


def draw_activation(names: dict) -> Any:
    """GELU, and beside it ReLU."""
    figure = new_figure(6, 3)
    axes = figure.subplots()
    x = np.linspace(-4, 4, 201)
    axes.plot(x, np.maximum(x, 0), color=INK, linestyle="--", label="ReLU: max(0, x)")
    axes.plot(x, names["gelu"](x), color=BLUE, linewidth=2, label="gelu(x)")
    axes.axhline(0, color=INK, linewidth=0.5)
    axes.axvline(0, color=INK, linewidth=0.5)
    axes.set_xlabel("x")
    axes.legend(loc="upper left")
    return figure


def draw_softmax(names: dict) -> Any:
    """The shares of five scores at three temperatures."""
    figure = new_figure(7, 2.6)
    scores = np.array([2.0, 1.0, 0.5, 0.0, -1.0])
    panels = figure.subplots(1, 3, sharey=True)
    for axes, temperature in zip(panels, [0.5, 1, 2], strict=True):
        shares = names["softmax"](scores / temperature)
        bars = axes.bar(range(5), shares, color=BLUE)
        axes.bar_label(bars, [f"{share:.2f}" for share in shares], color=INK, fontsize=9)
        axes.set_xticks(range(5), [f"{score:g}" for score in scores])
        axes.set_title(f"temperature {temperature:g}")
        axes.set_xlabel("score")
    panels[0].set_ylabel("share")
    panels[0].set_ylim(0, 1)
    return figure


def draw_mask(names: dict) -> Any:
    """Random scores of five tokens, the mask, and the weights after softmax."""
    figure = new_figure(8, 3.4)
    panels = figure.subplots(1, 3)
    n = len(SENTENCE)
    scores = np.random.default_rng(2).normal(0, 1.2, (n, n))
    may_look = np.tri(n, dtype=bool)
    weights = names["softmax"](scores + np.where(may_look, 0, -1e10))
    nothing = np.full((n, n), np.nan)
    draw_cells(panels[0], nothing, np.vectorize(lambda score: f"{score:.1f}")(scores))
    draw_cells(panels[1], nothing, np.where(may_look, "0", "-10¹⁰"))
    draw_cells(
        panels[2],
        np.where(may_look, weights, np.nan),
        np.where(may_look, np.vectorize(lambda weight: f"{weight:.2f}")(weights), "0"),
    )
    for axes, title in zip(panels, ["random scores", "+ mask", "softmax → weights"], strict=True):
        name_rows_and_columns(axes, SENTENCE)
        axes.set_xlabel(title)
    return figure


def attention_maps(names: dict, ids: list[int]) -> np.ndarray:
    """The attention weights of the bundled model: [n_layer, n_head, n_seq, n_seq]"""
    params, n_head = names["params"], names["hparams"]["n_head"]
    layer_norm, linear, softmax = names["layer_norm"], names["linear"], names["softmax"]
    x = params["wte"][ids] + params["wpe"][: len(ids)]
    mask = np.triu(np.full((len(ids), len(ids)), -1e10, x.dtype), k=1)
    maps = []
    for block in params["blocks"]:
        qkv = linear(layer_norm(x, **block["ln_1"]), **block["attn"]["c_attn"])
        q, k, _ = (np.split(part, n_head, axis=-1) for part in np.split(qkv, 3, axis=-1))
        scores = [q[i] @ k[i].T / q[i].shape[-1] ** 0.5 + mask for i in range(n_head)]
        maps.append([softmax(head) for head in scores])
        x = names["transformer_block"](x, **block, n_head=n_head)
    return np.array(maps)


def furthest_look(maps: np.ndarray) -> tuple[int, int, int, int]:
    """Where to see a head look far: -> layer, head, row, column of `attention_maps`

    Many heads look at little else than the first token, the token itself and the one before it. The
    head returned is the one that gives most of its attention to others, and the row and the column
    are those of its largest such weight.
    """
    others = np.tril(np.ones(maps.shape[-2:]), -2)
    others[:, 0] = 0
    far = maps * others  # [n_layer, n_head, n_seq, n_seq]
    by_head = far.sum(axis=(-1, -2))
    layer, head = np.unravel_index(by_head.argmax(), by_head.shape)
    row, column = np.unravel_index(far[layer, head].argmax(), others.shape)
    return int(layer), int(head), int(row), int(column)


def draw_attention(names: dict) -> Any:
    """The head of the bundled model that `furthest_look` chooses, and a frame around its place."""
    from matplotlib.patches import Rectangle

    ids = names["encoder"].encode(CODE)
    tokens = [names["encoder"].decode([token_id]) for token_id in ids]
    maps = attention_maps(names, ids)
    layer, head, row, column = furthest_look(maps)
    weights = maps[layer, head]
    figure = new_figure(6.2, 6.6)
    axes = figure.subplots()
    draw_cells(axes, np.where(np.tri(len(ids), dtype=bool), weights, np.nan), None)
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.5))
    name_rows_and_columns(axes, tokens)
    axes.set_ylabel("the token that looks")
    axes.set_xlabel("the token that is looked at")
    axes.xaxis.set_label_position("top")
    looks, is_seen = visible(tokens[row]), visible(tokens[column])
    figure.supxlabel(
        f"block {layer}, head {head} of the bundled model\n"
        f"frame: “{looks}” looks at “{is_seen}” with weight {weights[row, column]:.2f}",
        fontsize=10,
    )
    return figure


def draw_loss(names: dict) -> Any:
    """How the character model of the tutorial learns."""
    from matplotlib.ticker import NullLocator

    figure = new_figure(6.4, 3.2)
    axes = figure.subplots()
    steps, seen, unseen = zip(*names["history"], strict=True)
    axes.plot(steps, seen, color=BLUE, marker="o", label="sentences it learns from")
    axes.plot(steps, unseen, color=ORANGE, marker="s", label="sentences it has never seen")
    axes.axhline(8, color=RED, linestyle="--", label="8 bits: nothing can do better on all")
    axes.set_yscale("log")
    axes.set_yticks([8, 16, 32, 64], ["8", "16", "32", "64"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step")
    axes.set_ylabel("bits a sentence")
    axes.legend()
    return figure


def draw_rows(
    axes: Any, left: float, top: float, columns: float, rows: float, n_new: float, words: str
) -> None:
    """A matrix as a box, its last `n_new` rows filled: those that are computed. Words below it."""
    from matplotlib.patches import Rectangle

    kept = Rectangle((left, top + rows - n_new), columns, -(rows - n_new), fill=False, ec=INK)
    new = Rectangle((left, top + rows), columns, -n_new, facecolor=BLUE, edgecolor=INK)
    axes.add_patch(kept)
    axes.add_patch(new)
    axes.text(left + columns / 2, top + rows + 0.5, words, ha="center", va="top", fontsize=9)


def draw_cache(names: dict) -> Any:
    """What one more token takes, without a cache and with it."""
    from matplotlib.patches import Patch

    figure = new_figure(8, 4.9)
    panels = figure.subplots(2, 1)
    titles = "without a cache: all n rows again", "with it: one row; the others are kept"
    for axes, title, n_new in zip(panels, titles, [6, 1], strict=True):
        rows = "n" if n_new == 6 else "1"
        top_of_new = 6 - n_new
        draw_rows(axes, 0, top_of_new, 4, n_new, n_new, f"x\n[{rows}, n_embd]")
        draw_rows(axes, 7, top_of_new, 4, n_new, n_new, f"queries\n[{rows}, n_embd]")
        draw_rows(axes, 14, 0, 4, 6, n_new, "keys\n[n, n_embd]")
        draw_rows(axes, 21, 0, 4, 6, n_new, "values\n[n, n_embd]")
        draw_rows(axes, 28, top_of_new, 6, n_new, n_new, f"weights of a head\n[{rows}, n]")
        draw_rows(axes, 37, top_of_new, 4, n_new, n_new, f"result\n[{rows}, n_embd]")
        axes.set(xlim=(-1, 42), ylim=(9.3, -0.5), aspect="equal")
        axes.set_title(title, loc="left")
        axes.set_axis_off()
    computed = Patch(facecolor=BLUE, edgecolor=INK, label="computed now")
    kept = Patch(fill=False, edgecolor=INK, label="kept in the cache")
    figure.legend(handles=[computed, kept], loc="outside lower center", ncols=2)
    return figure


def draw_block(names: dict) -> Any:
    """The residual stream through a block, and what is added to it."""
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    for start, end in [(-0.9, 1.83), (2.17, 4.33), (4.67, 5.6)]:
        draw_arrow(axes, (0, start), (0, end), BLUE)
    norm, wide = "[n_seq, n_embd]", "[n_seq, 4 n_embd]"
    attention = {"c_attn": "[n_seq, 3 n_embd]", "attention": "n_head of [n_seq, d_head]"}
    draw_branch(axes, 1, "mha", {"ln_1": norm, **attention, "c_proj": norm})
    draw_branch(axes, 3.5, "ffn", {"ln_2": norm, "c_fc": wide, "gelu": wide, "c_proj": norm})
    for y, words in [(-0.7, f"x  {norm}"), (5.4, f"x  {norm}, to the next block")]:
        axes.text(0.15, y, words, va="center", color=BLUE, fontsize=9)
    axes.set(xlim=(-0.5, 10.2), ylim=(-1, 5.7))
    axes.set_axis_off()
    return figure


def draw_branch(axes: Any, y: float, function: str, steps: dict[str, str]) -> None:
    """What is added to the stream at x = 0: boxes of {name: shape of the result}, and a line back.

    A dotted line is around those that are in `function`: all but the first.
    """
    from matplotlib.patches import FancyBboxPatch

    distance, half = 2.35, 0.8  # from box to box, and half the width of a box
    centres = [1.5 + distance * i for i in range(len(steps))]
    ends = [0, *(centre + half for centre in centres)]
    for centre, end_of_last, (name, shape) in zip(centres, ends[:-1], steps.items(), strict=True):
        draw_arrow(axes, (end_of_last, y), (centre - half, y))
        colour = ORANGE if name in ("attention", "gelu") else INK
        style = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": "none", "lw": 1.4}
        place = (centre - half, y - 0.3), 2 * half, 0.6
        axes.add_patch(FancyBboxPatch(*place, edgecolor=colour, **style))
        axes.text(centre, y, name, ha="center", va="center", color=colour, fontsize=9)
        axes.text(centre, y - 0.5, shape, ha="center", va="center", fontsize=8)
    left, right = centres[1] - half - 0.2, ends[-1] + 0.15
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": "none", "ls": ":"}
    place = (left, y - 0.7), right - left, 1.4
    axes.add_patch(FancyBboxPatch(*place, edgecolor=INK, **style))
    axes.text(left + 0.15, y + 0.5, function, va="center", fontsize=9)
    line_back = [ends[-1], right + 0.3, right + 0.3], [y, y, y + 1]
    axes.plot(*line_back, color=INK, linewidth=1.4)
    draw_arrow(axes, (right + 0.3, y + 1), (0.2, y + 1))
    axes.scatter([0], [y + 1], s=190, facecolors="none", edgecolors=BLUE, linewidths=1.4)
    axes.text(0, y + 1, "+", ha="center", va="center", color=BLUE, fontsize=13)


def draw_arrow(axes: Any, start: tuple, end: tuple, colour: str = INK) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


FIGURES = {
    "activation": draw_activation,
    "softmax": draw_softmax,
    "mask": draw_mask,
    "attention": draw_attention,
    "block": draw_block,
    "cache": draw_cache,
    "loss": draw_loss,
}


def model_mark() -> str:
    """Says of which bundled model a figure is."""
    return f"models/python, sha256 {hashlib.sha256(BUNDLED_WEIGHTS.read_bytes()).hexdigest()}"


def draw_all(names: dict, folder: Path) -> None:
    """Write each of `FIGURES` to `folder`; `names` are those that the tutorial's blocks define."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        metadata = {"Date": None, "Creator": None}
        if name == "attention":
            metadata["Identifier"] = model_mark()
        path = folder / f"{name}.svg"
        unfinished = path.with_name(path.name + ".unfinished")
        with matplotlib.rc_context(SETTINGS):
            figure = draw(names)
            figure.savefig(unfinished, format="svg", transparent=True, metadata=metadata)
        unfinished.replace(path)
