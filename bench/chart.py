"""Draws docs/speed.svg, tokens a second while decoding, from the figures of bench.compare.

Bars: what each program makes of a prompt of 10 tokens at the shape of GPT-2 124M; this project's
are blue. The dashed line is how often a second NumPy could read all float32 weights from memory, if
it only summed them up: a program in NumPy can hardly be faster. Takes a second; needs matplotlib.
"""

import json
import statistics
from pathlib import Path

from bench.contenders import BEFORE, OURS, PICO
from bench.measure import ROOT, Options

FIGURES = ROOT / "docs" / "benchmarks" / "compare.json"
CHART = ROOT / "docs" / "speed.svg"
INK = "#767676"  # readable on white and on black
OWN, OTHER, LIMIT = "#2f81c7", "#9a9a9a", "#d1495b"
WIDTH, HEIGHT_OF_BAR, HEIGHT_OF_REST = 7.5, 0.32, 0.9  # inches
SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "speed",  # the same figures give the same file
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(speeds: dict[str, float], limit: float, path: Path) -> None:
    """Write bars of `speeds`, tokens a second by name, and a line at `limit`, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        height = HEIGHT_OF_REST + HEIGHT_OF_BAR * len(speeds)
        figure = Figure((WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        labels = [f"{name}  {speed:.0f}" for name, speed in speeds.items()]
        colours = [OWN if name in (OURS, PICO) else OTHER for name in speeds]
        axes.barh(labels, list(speeds.values()), color=colours)
        axes.axvline(limit, color=LIMIT, linestyle="--")
        above_the_line = {"xy": (limit, 1), "xycoords": ("data", "axes fraction")}
        words = f"float32 weights, only summed up by NumPy: {limit:.0f}"
        axes.annotate(words, **above_the_line, color=LIMIT, ha="center", va="bottom")
        axes.set_xlabel("tokens per second, GPT-2 124M, prompt of 10 tokens")
        axes.invert_yaxis()  # the first on top
        axes.margins(x=0.08)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        figure.savefig(unfinished, format="svg", transparent=True, metadata={"Date": None})
        unfinished.replace(path)


def read_figures(path: str | Path) -> tuple[dict[str, float], float]:
    """-> {name: tokens a second}, and how often a second memory could deliver all weights

    Raises ValueError for a file that is not there or has no figures of decoding.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no {path}: run python -m bench.compare --json {path}")
    figures = json.loads(Path(path).read_text(encoding="utf-8"))
    decode = figures.get("columns", {}).get("decode")
    if not decode:
        raise ValueError(f"{path} has no figures of decode: run python -m bench.compare")
    speeds = {
        name: 1 / statistics.median(seconds)
        for name, seconds in decode.items()
        if seconds and name != BEFORE
    }
    return speeds, figures["memory_speed"] / figures["weights"]


def main():
    options = Options("bench.chart", __doc__)
    options.add_argument("--json", metavar="FILE", default=FIGURES, help="figures of bench.compare")
    options.add_argument("--out", metavar="FILE", default=CHART, help="the chart (docs/speed.svg)")
    arguments = options.parse_args()
    try:
        speeds, limit = read_figures(arguments.json)
    except ValueError as error:
        options.error(str(error))
    draw(speeds, limit, Path(arguments.out))
    print(f"chart: {arguments.out}")


if __name__ == "__main__":
    main()
