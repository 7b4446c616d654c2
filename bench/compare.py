"""gpt2.py beside its peers: one set of random weights, the same prompts, the same threads.

Every contender does every task in a process of its own, and the contenders take turns: round 1 of
all, round 2 of all, and so on. Figures are medians of the rounds; in brackets, how many times as
long as gpt2.py each takes. A peer that is not installed is left out by name. Weights are random
(speed does not depend on them), the shape is that of GPT-2 124M, decoding is greedy.

tasks, which are the columns:
  decode        milliseconds for a token after a prompt of 10: as fast as memory can be read
  position1000  the same after a prompt of 1000: the cache of keys and values is read as well
  prefill512    milliseconds to the first token of a prompt of 512: as fast as can be multiplied
  texts8        milliseconds for one token in each of 8 texts: each weight is read for all of them
  texts32       the same for 32 texts
  start         seconds from the start of the process to the first token and its end
  run40         the same for 40 tokens
  bundled40     the same for 40 tokens of the bundled model
  memory        largest memory of the process of 100 tokens, less the file of the weights, in MiB
  guesses       tokens a second without and with guesses from the text (--lookup), for texts that
                repeat much and texts that do not; how the tenths of the pieces of code are chosen
                is in bench/guesses.py: one half of the rounds chooses, the other is reported
  larger        decode and prefill512 at the shapes of 355M, 774M and 1558M, where they fit

rows:
  {rows}
  (the part before the dash chooses all of a kind: llama.cpp)

--against FOLDER adds the row "before": the gpt2.py of another checkout of this project, in turn
with this one, so that a change can be measured before and after it. How many times as long this one
takes is then said for each task, with the smallest and the largest of the rounds.

All of it takes about half an hour on two cores, --quick with gpt2.py and transformers three
minutes. The figures of a full run go to docs/benchmarks/compare.json, from which bench.chart draws
docs/speed.svg; those of a run with a choice of rows or tasks are printed last. Nothing else should
run meanwhile.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench import guesses, tasks
from bench.contenders import BEFORE, CONTENDERS, OURS, PICO, TRANSFORMERS
from bench.measure import (
    LARGER,
    ROOT,
    TIMES,
    Options,
    describe,
    fits,
    machine,
    print_table,
    process_seconds,
    progress,
    random_model,
    with_ratio,
    write_json,
)
from bench.one_run import Job
from bench.programs import gpt2_command, pico_command, prompt_of, transformers_command
from fast.threads import cores

ROUNDS, QUICK_ROUNDS = 3, 2
FIGURES = ROOT / "docs" / "benchmarks" / "compare.json"
SMALL_MODEL = ROOT / "models" / "python"
LARGER_ROWS = (OURS, BEFORE, TRANSFORMERS)
LARGER_TASKS = ["decode", "prefill512"]
N_MEMORY_BYTES, N_MEMORY_ROUNDS = 2**29, 9  # read to measure the speed of memory


# ---------------------------------------------------------------- one measurement


@dataclass
class Setting:
    """What all measurements of a run share."""

    names: list[str]  # of the contenders
    before: Path | None  # the other checkout
    model: Path
    n_rounds: int
    quick: bool

    def checkout(self, name: str) -> Path:
        return self.before if name == BEFORE else ROOT


def in_process(task: str) -> Callable[[str, Setting], float | dict | None]:
    """-> a measurement by bench.one_run: a task of bench.tasks, or the guesses"""

    def measure(name, setting):
        job = Job(
            contender=name,
            task=task,
            model=str(setting.model),
            small_model=str(SMALL_MODEL),
            checkout=str(setting.checkout(name)),
            n_threads=cores(),
            quick=setting.quick,
        )
        done = subprocess.run(
            job.command(), cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
        )
        return json.loads(done.stdout.splitlines()[-1])

    return measure


COMMANDS = {
    OURS: gpt2_command,
    BEFORE: gpt2_command,
    PICO: pico_command,
    TRANSFORMERS: transformers_command,
}


def whole_process(n_new: int) -> Callable[[str, Setting], float | None]:
    """-> a measurement of the time that a whole process takes to add that many tokens"""

    def measure(name, setting):
        if name not in COMMANDS:
            return None
        prompt = prompt_of(len(tasks.SHORT))
        return process_seconds(COMMANDS[name](setting.checkout(name), setting.model, prompt, n_new))

    return measure


def bundled_model(name: str, setting: Setting) -> float | None:
    """Seconds that a whole process takes to add 40 tokens by the bundled model."""
    if name not in (OURS, BEFORE):
        return None
    return process_seconds(gpt2_command(setting.checkout(name), SMALL_MODEL, "def ", 40))


LARGEST_MEMORY = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def memory_beside_weights(name: str, setting: Setting) -> float | None:
    """MiB of memory that a process of 100 tokens takes, less the size of the weights' file."""
    if name not in (OURS, BEFORE):
        return None
    command = gpt2_command(setting.checkout(name), setting.model, prompt_of(len(tasks.SHORT)), 100)
    printed = subprocess.check_output(
        [sys.executable, "-c", LARGEST_MEMORY, *command], encoding="utf-8"
    )
    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in bytes
    weights = (setting.model / "model.safetensors").stat().st_size
    return (int(printed) * unit - weights) / 2**20


@dataclass
class Column:
    """A task with one figure for each contender."""

    title: str
    measure: Callable[[str, Setting], float | None]
    scale: float = 1.0  # from what is measured to what is shown
    digits: int = 1


COLUMNS = {
    "decode": Column("a token, ms", in_process("decode"), 1e3),
    "position1000": Column("at position 1000, ms", in_process("position1000"), 1e3),
    "prefill512": Column("prompt of 512, ms", in_process("prefill512"), 1e3, digits=0),
    "texts8": Column("a token in 8 texts, ms", in_process("texts8"), 1e3),
    "texts32": Column("in 32 texts, ms", in_process("texts32"), 1e3),
    "start": Column("start to first token, s", whole_process(1), digits=2),
    "run40": Column("to 40 tokens, s", whole_process(40), digits=2),
    "bundled40": Column("bundled model, 40 tokens, s", bundled_model, digits=2),
    "memory": Column("memory beside weights, MiB", memory_beside_weights, digits=0),
}
GUESSES, LARGER_SHAPES = "guesses", "larger"
TASKS = [*COLUMNS, GUESSES, LARGER_SHAPES]
QUICK_TASKS = [task for task in TASKS if task != LARGER_SHAPES]


# ---------------------------------------------------------------- all measurements


def measure_in_turn(task: str, measure: Callable, setting: Setting, n_rounds: int) -> dict:
    """{name: [a figure for each round]}, the contenders in turn, every other round backwards.

    Contenders that have no such task, or fail at it, have an empty list.
    """
    found = {name: [] for name in setting.names}
    left_out = set()
    for n in range(1, n_rounds + 1):
        order = setting.names if n % 2 == 1 else reversed(setting.names)
        for name in order:
            if name in left_out:
                continue
            progress(f"{task}, round {n} of {n_rounds}: {name}")
            figure = figure_or_none(task, measure, name, setting)
            if figure is None:
                left_out.add(name)
                found[name] = []
            else:
                found[name].append(figure)
    return found


def figure_or_none(task: str, measure: Callable, name: str, setting: Setting):
    """One measurement; None if the contender has no such task or fails at it, which is said."""
    try:
        return measure(name, setting)
    except subprocess.CalledProcessError as error:
        progress(f"left out: {name} failed at {task}: {last_line(error.stderr)}")
        return None


def last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else "no message"


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def measure_columns(chosen: list[str], setting: Setting) -> dict:
    """{task: {name: [figures]}} of the tasks that have one figure for each contender"""
    return {
        task: measure_in_turn(task, column.measure, setting, setting.n_rounds)
        for task, column in COLUMNS.items()
        if task in chosen
    }


def measure_guesses(setting: Setting) -> dict:
    """{name: {row: [tokens a second without guesses, with them]}} of the checkouts"""
    names = [name for name in setting.names if name in (OURS, BEFORE)]
    setting = replace(setting, names=names)
    n_rounds = 2 * setting.n_rounds  # one half chooses, the other is reported
    found = measure_in_turn(GUESSES, in_process("guesses"), setting, n_rounds)
    return {name: guesses.summary(rounds) for name, rounds in found.items() if rounds}


def measure_larger(setting: Setting) -> dict:
    """{size: {task: {name: [figures]}}} of the larger shapes, as far as they fit"""
    setting = larger_rows(setting)
    found = {}
    for size in LARGER:
        with tempfile.TemporaryDirectory() as models_dir:
            if not fits(size, models_dir):
                progress(f"left out: {size} does not fit on this machine")
                continue
            model = random_model(models_dir, size)
            found[size] = measure_columns(LARGER_TASKS, replace(setting, model=model))
    return found


def larger_rows(setting: Setting) -> Setting:
    """The same with only the contenders that run the larger shapes."""
    return replace(setting, names=[name for name in setting.names if name in LARGER_ROWS])


def memory_speed() -> float:
    """Bytes a second at which all cores together read memory."""
    n = cores()
    parts = np.ones((n, N_MEMORY_BYTES // 4 // n), np.float32)
    times = []
    with ThreadPoolExecutor(n) as pool:
        for _ in range(N_MEMORY_ROUNDS):
            start = time.perf_counter()
            list(pool.map(np.add.reduce, parts))
            times.append(time.perf_counter() - start)
    return parts.nbytes / statistics.median(times)


# ---------------------------------------------------------------- tables


def base_of(names: list[str]) -> str:
    """The contender that ratios refer to."""
    return OURS if OURS in names else names[0]


def print_columns(title: str, found: dict, setting: Setting, described: dict) -> None:
    """One row for each contender, one column for each task."""
    base = base_of(setting.names)
    rows = []
    for name in setting.names:
        cells = [cell(COLUMNS[task], figures, name, base) for task, figures in found.items()]
        if any(cells):
            rows.append([f"`{name}`", *cells])
    header = ["", *(COLUMNS[task].title for task in found)]
    title += f"; in brackets, how many times that of {base}"
    print_table(title, described, header, rows)


def cell(column: Column, figures: dict, name: str, base: str) -> str:
    """The median of a contender, and beside it how many times that of `base` it is."""
    value, of_base = median(figures[name]), median(figures[base])
    if value is None:
        return ""
    if name == base or of_base is None:
        return with_ratio(value * column.scale, None, column.digits)
    return with_ratio(value * column.scale, of_base * column.scale, column.digits)


def print_before_and_after(found: dict, described: dict) -> None:
    """How many times as long this checkout takes as the one before, round by round."""
    rows = []
    for task, figures in found.items():
        if not figures[OURS] or not figures[BEFORE]:
            continue
        ratios = [a / b for a, b in zip(figures[OURS], figures[BEFORE], strict=True)]
        ratio = median(figures[OURS]) / median(figures[BEFORE])
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rows.append([COLUMNS[task].title.split(",")[0], f"{ratio:.3f}", spread])
    header = ["", "of the medians", "smallest and largest of the rounds"]
    print_table(f"{OURS} / {BEFORE}", described, header, rows)


def print_guesses(found: dict, described: dict) -> None:
    """One table for each checkout, one row for each kind of text."""
    for name, texts in found.items():
        rows = [
            [text, f"{plain:.1f}", f"{guessed:.1f}", f"{guessed / plain:.2f} {TIMES}"]
            for text, (plain, guessed) in texts.items()
        ]
        header = ["", "`--lookup False`", "default", "gain"]
        print_table(f"Guesses of {name}, tokens a second", described, header, rows)


def print_larger(found: dict, setting: Setting, described: dict) -> None:
    for size, columns in found.items():
        print_columns(f"Shape of {size}", columns, larger_rows(setting), described)


def print_memory_speed(bytes_per_second: float, n_bytes: int, found: dict) -> None:
    """What decoding waits for, and how near gpt2.py comes to it."""
    limit = bytes_per_second / n_bytes  # tokens a second
    speed = f"{bytes_per_second / 1e9:.1f} GB/s"
    print(f"\nMemory is read at {speed}: all weights {limit:.1f} times a second.")
    near, far = (median(found.get(task, {}).get(OURS, [])) for task in ("decode", "position1000"))
    if near:
        print(f"{OURS} decodes at {1 / near / limit:.2f} of that.")
    if near and far:
        print(f"At position 1000 a token takes it {far / near:.2f} times as long.")


# ---------------------------------------------------------------- the command


def choice(text: str | None, names: list[str], option: str) -> list[str]:
    """Those of `names` that an option names, separated by commas; all of them if it is not given.

    `llama.cpp` names all that begin with `llama.cpp-`. Raises ValueError for any other word.

    >>> choice("b,a-1", ["a-1", "a-2", "b"], "--only")
    ['a-1', 'b']
    """
    if text is None:
        return names
    chosen = set()
    for word in text.split(","):
        matching = [name for name in names if name == word or name.startswith(word + "-")]
        if not matching:
            raise ValueError(f"{option} {word}: expected some of {', '.join(names)}")
        chosen.update(matching)
    return [name for name in names if name in chosen]


def installed(names: list[str]) -> list[str]:
    """Those of `names` whose packages are installed; the others are said."""
    found = []
    for name in names:
        missing = [package.name for package in CONTENDERS[name].packages if package.is_missing()]
        if missing:
            print(f"left out, not installed ({', '.join(missing)}): {name}")
        else:
            found.append(name)
    return found


def packages_of(names: list[str]) -> tuple[str, ...]:
    """The packages whose versions matter to these contenders, each once."""
    packages = [package.name for name in names for package in CONTENDERS[name].packages]
    return tuple(dict.fromkeys(packages))


def parse_arguments():
    options = Options("bench.compare", __doc__.format(rows="\n  ".join(CONTENDERS)))
    options.add_argument("--quick", action="store_true", help="fewer rounds and tokens, no larger")
    options.add_argument("--only", metavar="ROWS", help="rows, separated by commas (all)")
    options.add_argument("--tasks", metavar="TASKS", help="tasks, separated by commas (all)")
    options.add_argument("--against", metavar="FOLDER", help="another checkout, as row before")
    options.add_argument("--rounds", metavar="N", type=int, help=f"rounds ({ROUNDS})")
    options.add_json("docs/benchmarks/compare.json for a full run")
    arguments = options.parse_args()
    try:
        arguments.names = choice(arguments.only, list(CONTENDERS), "--only")
        arguments.chosen = choice(arguments.tasks, TASKS, "--tasks")
    except ValueError as error:
        options.error(str(error))
    if arguments.quick and arguments.tasks is None:
        arguments.chosen = QUICK_TASKS
    if arguments.rounds is None:
        arguments.rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    if arguments.rounds < 1:
        options.error(f"--rounds {arguments.rounds}: expected a whole number from 1")
    if arguments.against is not None:
        arguments.against = Path(arguments.against).resolve()
        if not (arguments.against / "gpt2.py").is_file():
            options.error(f"--against {arguments.against}: there is no gpt2.py")
    is_full = not (arguments.quick or arguments.only or arguments.tasks)
    if arguments.json is None and is_full:
        arguments.json = FIGURES
    return arguments


def main():
    arguments = parse_arguments()
    names = installed(arguments.names)
    if not names:
        sys.exit("python -m bench.compare: none of these is installed")
    described = machine(packages_of(names))
    print(describe(described))
    if arguments.quick:
        print("A quick run: fewer rounds and tokens, so its figures are rough.")
    if arguments.against:
        names.insert(1 if names[0] == OURS else 0, BEFORE)
    with tempfile.TemporaryDirectory() as models_dir:
        model = random_model(models_dir)
        n_bytes = (model / "model.safetensors").stat().st_size
        setting = Setting(names, arguments.against, model, arguments.rounds, arguments.quick)
        figures = {
            "machine": described,
            "quick": arguments.quick,
            "rounds": arguments.rounds,
            "weights": n_bytes,
            "memory_speed": memory_speed(),
        }
        figures["columns"] = measure_columns(arguments.chosen, setting)
        print_results(figures, setting)
        if GUESSES in arguments.chosen:
            figures["guesses"] = measure_guesses(setting)
            print_guesses(figures["guesses"], described)
    if LARGER_SHAPES in arguments.chosen and larger_rows(setting).names:
        figures["larger"] = measure_larger(setting)
        print_larger(figures["larger"], setting, described)
    write_json(figures, arguments.json)


def print_results(figures: dict, setting: Setting) -> None:
    columns, described = figures["columns"], figures["machine"]
    if columns:
        print_columns("Shape of GPT-2 124M", columns, setting, described)
    if columns and BEFORE in setting.names and OURS in setting.names:
        print_before_and_after(columns, described)
    print_memory_speed(figures["memory_speed"], figures["weights"], columns)


if __name__ == "__main__":
    main()
