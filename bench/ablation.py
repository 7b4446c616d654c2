"""What each part of the training recipe is worth: runs that differ from a baseline in one thing.

The baseline is train.py as it comes: 6 layers, 6 heads, 192 wide, windows of 256, 2048 merges,
batches of 16 windows, half of them moved to a document's start, Muon at 0.01 with AdamW at 0.002
for the rest, weight decay 0.1, no dropout, the last 0.4 of the run as cooldown. All variants get
the same number of tokens (--tokens), or of minutes (--minutes).

adamw                             AdamW at 0.002 for all parameters
dropout                           0.1
cooldown_0.2, cooldown_0.7        a shorter and a longer cooldown
cosine                            half a cosine down to a tenth, in place of plateau and cooldown
average                           no cooldown: a constant rate, and what is evaluated and saved is
                                  the moving average of the weights, decay 0.99 a step
random_starts, all_starts         no window, or all of them, moved to a document's start
batch_8, batch_32                 windows in a batch
growing_batch                     8, 16, then 32 windows, each for a third of the run
growing_window                    windows of 128, twice as many, for the first two thirds; the
                                  held-out windows stay 256 long
rate_0.005, rate_0.02, rate_0.04  Muon's learning rate
wte_rate_0.005                    AdamW's learning rate (embeddings, gains, biases)
decay_0                           no weight decay
unlikelihood                      0.3: texts of its own count (see training/unlikelihood.py)
merges_1024, merges_4096          the tokenizer
6x256, 8x256 (8 heads), 10x192    layers and width: to be compared at equal minutes

Columns: parameters, steps, tokens, minutes (evaluations included), and held-out bits per byte at
the end. The curves, over tokens or over minutes, are drawn with matplotlib.

Each variant has its own folder in --out. One that is finished there is not run again; one that was
stopped goes on. The baseline takes some 8 minutes on two cores for 3 million tokens.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import measure
from bench.measure import machine, print_table, progress, write_json
from encoder import Encoder
from model_files.disk import replacing
from training import checkpoint, run
from training.batches import windows
from training.folder import only_training_in
from training.learner import Learner
from training.learning_rate import WARMUP_STEPS
from training.options import Options
from utils import map_params, named

EVALUATIONS = 12  # of a run of a set number of tokens
TOKENS_BETWEEN = 500_000  # from one evaluation to the next, in a run of some minutes
AVERAGE_DECAY = 0.99  # a step
GROWING_BATCH = (8, 16, 32)

# ---------------------------------------------------------------- the variants


class Run(run.Run):
    """A run of a set number of tokens, whatever the size of its batches, or of minutes.

    The data is kept for the next runs of this process.
    """

    kept = {}  # noqa: RUF012 - shared by all runs on purpose

    def read_data(self, encoder: Encoder | None) -> run.Data:
        options = self.options
        key = (options.data, options.held_out, options.seed, options.tokenizer, options.n_ctx)
        if key not in self.kept:
            self.kept[key] = super().read_data(encoder)
        # The split, which draws, is not made again: the draws that follow are to be the same.
        self.rng = np.random.default_rng(options.seed)
        return self.kept[key]

    def part_done(self) -> float:
        options = self.options
        if options.minutes:
            return super().part_done()
        return self.state.n_tokens / (options.steps * options.batch_size * options.n_ctx)

    def draw_starts(self, n: int) -> np.ndarray:
        return self.batches.draw_starts(n)

    def draw_windows(self, n: int, n_ctx: int) -> tuple[np.ndarray, np.ndarray]:
        return windows(self.data.train_ids, self.draw_starts(n), n_ctx)

    def draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        return self.draw_windows(self.options.batch_size, self.options.n_ctx)


class Cosine(Run):
    def rate_factor(self) -> float:
        warmup = min(1.0, (self.state.n_steps + 1) / WARMUP_STEPS)
        return warmup * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, self.part_done()))))


class AveragedLearner(Learner):
    """`average` is the moving average of `params`."""

    def __init__(self, params: dict, *rest: Any) -> None:
        super().__init__(params, *rest)
        self.average = map_params(lambda name, p: p.copy(), params)

    def arrays(self) -> dict[str, np.ndarray]:
        average = {f"average.{name}": p for name, p in named(self.average).items()}
        return super().arrays() | average

    def step(self, *batch: Any) -> float:
        loss = super().step(*batch)
        weights = named(self.params)
        for name, average in named(self.average).items():
            average += (1 - AVERAGE_DECAY) * (weights[name] - average)
        return loss


class Average(Run):
    """Between evaluations `params` are the weights that are trained, during one their average."""

    def __init__(self, options: Options) -> None:
        super().__init__(options, AveragedLearner)

    def evaluate(self, loss: float) -> None:
        weights, self.learner.params = self.learner.params, self.learner.average
        super().evaluate(loss)
        self.learner.params = weights


class RandomStarts(Run):
    def draw_starts(self, n: int) -> np.ndarray:
        return self.rng.integers(0, len(self.data.train_ids) - self.options.n_ctx, n)


class AllStarts(Run):
    def draw_starts(self, n: int) -> np.ndarray:
        return super().draw_starts(2 * n)[::2]


class GrowingBatch(Run):
    def draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        third = min(2, int(3 * self.part_done()))
        return self.draw_windows(GROWING_BATCH[third], self.options.n_ctx)


class GrowingWindow(Run):
    def draw_batch(self) -> tuple[np.ndarray, np.ndarray]:
        if self.part_done() >= 2 / 3:
            return super().draw_batch()
        return self.draw_windows(2 * self.options.batch_size, self.options.n_ctx // 2)


class Variant(NamedTuple):
    """What is not as in the baseline: options, or the class of the run."""

    changes: dict[str, Any]
    run: type[Run] = Run


VARIANTS = {
    "baseline": Variant({}),
    "adamw": Variant({"optimizer": "adamw", "learning_rate": 2e-3}),
    "dropout": Variant({"dropout": 0.1}),
    "cooldown_0.2": Variant({"cooldown": 0.2}),
    "cooldown_0.7": Variant({"cooldown": 0.7}),
    "cosine": Variant({}, Cosine),
    "average": Variant({"cooldown": 0.0}, Average),
    "random_starts": Variant({}, RandomStarts),
    "all_starts": Variant({}, AllStarts),
    "batch_8": Variant({"batch_size": 8}),
    "batch_32": Variant({"batch_size": 32}),
    "growing_batch": Variant({}, GrowingBatch),
    "growing_window": Variant({}, GrowingWindow),
    "rate_0.005": Variant({"muon_learning_rate": 0.005}),
    "rate_0.02": Variant({"muon_learning_rate": 0.02}),
    "rate_0.04": Variant({"muon_learning_rate": 0.04}),
    "wte_rate_0.005": Variant({"learning_rate": 5e-3}),
    "decay_0": Variant({"weight_decay": 0.0}),
    "unlikelihood": Variant({"unlikelihood": 0.3}),
    "merges_1024": Variant({"tokenizer": "bpe:1024"}),
    "merges_4096": Variant({"tokenizer": "bpe:4096"}),
    "6x256": Variant({"n_head": 8, "n_embd": 256}),
    "8x256": Variant({"n_layer": 8, "n_head": 8, "n_embd": 256}),
    "10x192": Variant({"n_layer": 10}),
}

# ---------------------------------------------------------------- running one


def options_of(
    variant: Variant,
    folder: Path,
    data: str | None,
    held_out: str | None,
    n_tokens: int,
    minutes: float | None,
) -> Options:
    """The options of a variant's run; `n_tokens` is without effect where there are minutes."""
    options = Options(
        **variant.changes,
        data=data,
        held_out=held_out,
        out=str(folder),
        minutes=minutes,
        resume=(folder / checkpoint.NAME).exists(),
    )
    tokens_in_step = options.batch_size * options.n_ctx
    tokens_between = TOKENS_BETWEEN if minutes else n_tokens / EVALUATIONS
    return replace(
        options,
        steps=max(1, round(n_tokens / tokens_in_step)),
        eval_every=max(1, round(tokens_between / tokens_in_step)),
    )


def result_of(variant: Variant, options: Options) -> dict:
    """{"options", "parameters", "history"} of a finished run, which is made if it is not there.

    Raises ValueError if the run that is there had other options.
    """
    path = Path(options.out) / "result.json"
    expected = {name: value for name, value in asdict(options).items() if name != "resume"}
    if path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in expected if result["options"].get(name) != expected[name]]
        if changed:
            raise ValueError(f"{path} is of a run with other {', '.join(changed)}: another --out?")
        return result
    with only_training_in(Path(options.out), options.resume):
        done = variant.run(options)
        done.train()
    n_parameters = sum(p.size for p in named(done.learner.params).values())
    result = {"options": expected, "parameters": n_parameters, "history": done.state.history}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


# ---------------------------------------------------------------- what is shown


def table_row(name: str, result: dict) -> list[str]:
    last = result["history"][-1]
    counts = [f"{n:,}" for n in (result["parameters"], last["step"], last["tokens"])]
    return [name, *counts, f"{last['minutes']:.1f}", f"{last['bits_per_byte']:.4f}"]


def draw(results: dict[str, dict], over_minutes: bool, path: Path) -> None:
    """Write the held-out curves as SVG, over minutes or tokens; the same results, the same bytes.

    The first quarter of the runs, where all fall steeply, may lie above the picture.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "ablation", "svg.fonttype": "none"}
    with rc_context(settings):
        figure = Figure(figsize=(8, 5), layout="constrained")  # inches
        axes = figure.subplots()
        colours = colormaps["tab10"].colors
        for i, (name, result) in enumerate(results.items()):
            history = result["history"]
            is_baseline = name == "baseline"
            axes.plot(
                [row["minutes"] if over_minutes else row["tokens"] / 1e6 for row in history],
                [row["bits_per_byte"] for row in history],
                color="black" if is_baseline else colours[i % len(colours)],
                linestyle=("-", "--", ":")[i // len(colours) % 3],
                linewidth=2 if is_baseline else 1,
                zorder=3 if is_baseline else 2,
                label=name,
            )
        axes.set_xlabel("minutes" if over_minutes else "million tokens")
        axes.set_ylabel("held-out bits per byte")
        axes.set_ylim(limits(result["history"] for result in results.values()))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def limits(histories: Iterable[list[dict]]) -> tuple[float, float]:
    """The lowest and highest bits per byte after the first quarter of each run, and some room."""
    shown = [
        row["bits_per_byte"]
        for history in histories
        for row in history
        if row["tokens"] >= history[-1]["tokens"] / 4
    ]
    room = 0.02 * max(shown)
    return min(shown) - room, max(shown) + room


def main():
    options = measure.Options("bench.ablation", __doc__)
    add = options.add_argument
    add("--data", help="documents to train on, as for train.py (the standard library's functions)")
    add("--held_out", help="documents for the held-out loss (a tenth of --data)")
    add("--tokens", type=float, default=3e6, help="length of each run (3e6)")
    add("--minutes", type=float, help="length of each run, instead of --tokens")
    add("--only", metavar="NAMES", help="variants to run, comma separated (all)")
    add("--out", metavar="FOLDER", default="models/ablation", help="folder (models/ablation)")
    add("--svg", metavar="FILE", help="where the curves go (ablation.svg in --out)")
    options.add_json(default="ablation.json in --out")
    arguments = options.parse_args()
    names = arguments.only.split(",") if arguments.only else list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        options.error(f"--only {unknown[0]}: expected some of {','.join(VARIANTS)}")
    if not arguments.tokens >= 1:
        options.error(f"--tokens {arguments.tokens}: expected a number of at least 1")

    out, results = Path(arguments.out), {}
    for name in names:
        progress(f"{name}: {VARIANTS[name].changes or VARIANTS[name].run.__name__}")
        try:
            run_options = options_of(
                VARIANTS[name],
                out / name,
                arguments.data,
                arguments.held_out,
                int(arguments.tokens),
                arguments.minutes,
            )
            results[name] = result_of(VARIANTS[name], run_options)
        except (ValueError, OSError) as error:
            options.error(str(error))
    header = ["variant", "parameters", "steps", "tokens", "minutes", "bits per byte"]
    rows = [table_row(name, result) for name, result in results.items()]
    figures = {"machine": machine(), "results": results}
    print_table("Held-out loss of variants of a run", figures["machine"], header, rows)
    svg = Path(arguments.svg or out / "ablation.svg")
    draw(results, arguments.minutes is not None, svg)
    print(f"\ncurves: {svg}")
    write_json(figures, arguments.json or out / "ablation.json")


if __name__ == "__main__":
    main()
