"""Options, and closed standard streams.

Sets of options are drawn from a grammar, most of them valid, and are run in one long-lived process:
`python -m tests.faults.options` reads argument lists as JSON, a line each, and answers with what
the program wrote and how it ended. A valid set has to print what a direct call of `generate` gives.
"""

import io
import itertools
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import gpt2
import utils
from tests.faults.outcome import RIGHT, Case, FaultClass, judge

ROOT = Path(__file__).resolve().parents[2]
PYTHON_MODEL = ["--model_size=python", f"--models_dir={ROOT / 'models'}"]
SECONDS = 60  # for one run, on a busy machine


# ---------------------------------------------------------------- sets of options

PROMPTS = ["def add(a, b):", "", "2024", "Yes, sir", "-5 degrees", "None", "é 🙂", " ", "{x}"]
PROMPTS += ["x = 1\n" * 9, "'", "a=b", "\x00", "- item", "-- a comment", "\ud83d", "\udcff"]

# What may be given for each option of gpt2.py, right and wrong. Absurd numbers are among both.
RIGHT_VALUES = {
    "n_tokens_to_generate": ["0", "1", "2", "7", "+5", "1_0"],
    "temperature": ["0", "0.0", "1", "0.7", "1e-46", "1e-300", "5e-324", "1e300", "inf", "-0.0"],
    "top_k": ["0", "1", "50", "999999", "9" * 30],
    "top_p": ["0", "1", "0.5", "1e-320", "1.0"],
    "seed": ["0", "7", "9" * 40],
    "n_samples": ["1", "2", "3"],
    "stop_at_eot": ["True", "False", "true"],
    "lookup": ["True", "FALSE"],
    "threads": ["1", "2", "1000", "9" * 50],
}
WRONG_VALUES = {
    "n_tokens_to_generate": ["-1", "1.5", "", "ten", "9" * 5000, "9" * 25, "inf", "True", "0x10"],
    "temperature": ["1" + "0" * 400, "-1", "-1e-46", "-inf", "nan", "", "hot", "1,5", "-1e400"],
    "top_k": ["-1", "1e3", "None", "", "1.0"],
    "top_p": ["-0.1", "1.0000001", "2", "nan", "inf"],
    "seed": ["-1", "x", "", "1.5"],
    "n_samples": ["0", "-1", "99999999999", "9" * 18, "9" * 25, "many", "1e9"],
    "stop_at_eot": ["maybe", "1", ""],
    "lookup": ["no", "0"],
    "threads": ["0", "-1", "all", "inf"],
    "model_size": ["", "nowhere", "../python", "/", "a/b/c", "C:", "\x00", ".", "9" * 5000],
    "models_dir": ["", "/dev/null", "nowhere", "\x00"],
    "temprature": ["1"],
    "": ["1"],
}


def draw_options(rng: random.Random) -> tuple[list[str], dict[str, str] | None]:
    """A command line for gpt2.py after its model's options; its values, None if it is wrong."""
    names = rng.sample(list(RIGHT_VALUES), rng.randrange(len(RIGHT_VALUES) + 1))
    values = {name: rng.choice(RIGHT_VALUES[name]) for name in names}
    is_right = rng.random() < 0.65
    if not is_right:
        name = rng.choice(list(WRONG_VALUES))
        values[name] = rng.choice(WRONG_VALUES[name])
    arguments = []
    for name, value in rng.sample(list(values.items()), len(values)):
        typed = name.replace("_", "-") if rng.random() < 0.2 else name
        if rng.random() < 0.5:
            arguments += [f"--{typed}={value}"]
        else:
            arguments += [f"--{typed}", value]
    prompt = rng.choice(PROMPTS)
    arguments += rng.choice([["--", prompt], [f"--prompt={prompt}"], ["--prompt", prompt]])
    return arguments, {"prompt": prompt, **values} if is_right else None


def expected_output(model: tuple, values: dict[str, str]) -> str | None:
    """What gpt2.py prints, made by `generate`; None where nobody can know.

    That is without a seed; and at temperatures so high that a draw only depends on the order of
    thousands of logits, of which some are as good as equal: rounding decides which comes first.
    """
    encoder, hparams, params = model
    options = {"temperature": float(values.get("temperature", 0))}
    options["top_k"], options["top_p"] = int(values.get("top_k", 0)), float(values.get("top_p", 1))
    if options["temperature"] > 1e6 or (options["temperature"] and "seed" not in values):
        return None
    ids = encoder.encode(values["prompt"]) or [encoder.eot]
    stop_id = encoder.eot if values.get("stop_at_eot", "True").lower() == "true" else None
    texts = []
    for i in range(int(values.get("n_samples", 1))):
        rng = np.random.default_rng(int(values.get("seed", 0)) + i)
        n_tokens = int(values.get("n_tokens_to_generate", 40))
        new_ids = gpt2.generate(
            ids, params, hparams["n_head"], n_tokens, stop_id=stop_id, rng=rng, **options
        )
        texts.append(encoder.decode(new_ids) + "\n")
    return "".join(texts)


class Programs:
    """A process in which programs are run one after the other, with streams of their own."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit status, standard output, standard error) of a program with its arguments."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.options"],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "GPT2_BASE_URL": "http://127.0.0.1:1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            status, self.process = self.process.wait(), None
            return status, "", "Traceback: the process has ended"
        return tuple(json.loads(answer))

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


def run_gpt2(programs: Programs, model: tuple, arguments: list[str], values: dict | None) -> str:
    status, out, err = programs.run("gpt2.py", *PYTHON_MODEL, *arguments)
    if values is None:
        return judge(status, err, is_right=False, what="the options are wrong")
    if status == 1 and not values["prompt"].isprintable() and "\ud83d" in values["prompt"]:
        return judge(status, err, is_right=False)  # such a prompt is no text, and may be refused
    if status != 0:
        return f"valid options, but status {status}: {err[-300:]!r}"
    expected = expected_output(model, values)
    if err:
        return f"standard error has {err[-300:]!r}"
    return judge(status, err, expected is None or out == expected)


OTHER_PROGRAMS = [  # wrong uses of the other programs, and valid ones
    *[["gpt2_pico.py", *PYTHON_MODEL, *rest] for rest in (["2024"], ["x", "5"])],
    *[
        ["gpt2_pico.py", "x", f"--models_dir={ROOT / 'models'}", *rest]
        for rest in (["--model_size", "124"], ["--model_size"], ["1.5", "python"], ["[]", "python"])
    ],
    *[["explain.py", *PYTHON_MODEL, *rest] for rest in (["x"], ["", "--names"], ["x", "--dump=d"])],
    *[
        ["explain.py", *PYTHON_MODEL, "x", *rest]
        for rest in (["--out="], ["--out=nowhere/x"], ["--dump=/"], ["--compare"], ["--serve=1"])
    ],
    *[
        ["explain.py", *PYTHON_MODEL, "x", f"--{name}={value}"]
        for name in ("n_tokens_to_generate", "temperature", "top_k", "top_p", "seed")
        for value in WRONG_VALUES[name]
    ],
    *[
        ["train.py", "--out=trained", "--steps=1", "--data=nowhere", *rest]
        for rest in (
            ["--init_from="],
            ["--n_layer", "9" * 12],
            ["--n_embd", "9" * 12, "--n_head=3"],
            ["--n_ctx", "9" * 15],
            ["--batch_size", "9" * 20],
            ["--batch_size=0"],
            ["--n_head=7"],
            ["--learning_rate", "1" + "0" * 400],
            ["--dropout=1"],
            ["--minutes=nan"],
            ["--optimizer=sgd"],
            ["--preset="],
            ["--resume"],
            ["--tokenizer=bpe:many"],
            ["--eval_every=-1"],
            ["a prompt"],
        )
    ],
]


def run_other(programs: Programs, arguments: list[str]) -> str:
    status, out, err = programs.run(*arguments)
    has_dump = (programs.folder / "d").exists()  # of --dump=d, which prints nothing
    return judge(status, err, is_right=bool(out) or has_dump)


def option_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    programs = Programs(folder)
    model = utils.load_model("python", str(ROOT / "models"))
    try:
        while True:
            if rng.random() < 0.15:
                arguments = rng.choice(OTHER_PROGRAMS)
                yield Case(str(arguments)[:300], partial(run_other, programs, arguments))
            else:
                arguments, values = draw_options(rng)
                name = f"{'wrong' if values is None else 'valid'}: {str(arguments)[:300]}"
                yield Case(name, partial(run_gpt2, programs, model, arguments, values))
    finally:
        programs.close()


# ---------------------------------------------------------------- closed standard streams

STREAMS = {0: "input", 1: "output", 2: "error"}


def program_arguments(folder: Path) -> dict[str, list[str]]:
    """For each program a command line that is quick, and prints something."""
    data = folder / "data.txt"
    data.write_text("some text to learn from. " * 400, encoding="utf-8")
    return {
        "gpt2.py": ["def ", "--n_tokens_to_generate=3", *PYTHON_MODEL],
        "gpt2_pico.py": ["def ", "--n_tokens_to_generate=3", *PYTHON_MODEL],
        "explain.py": ["def ", "--n_tokens_to_generate=1", "--names", *PYTHON_MODEL],
        "train.py": [
            *[f"--data={data}", "--tokenizer=char", "--steps=1", "--out=trained"],
            *["--n_layer=1", "--n_embd=8", "--n_head=2", "--n_ctx=8"],
        ],
    }


def run_closed(program: str, arguments: list[str], closed: tuple[int, ...], folder: Path) -> str:
    """Run a program with some of its standard streams closed. What it has no place to write to is
    its user's own loss; it may say so, or be silent where standard error is closed."""
    folder.mkdir()
    redirections = " ".join(f"{n}>&-" for n in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, ROOT / program, *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    if done.returncode == 1 and 1 in closed and 2 in closed and program != "train.py":
        return RIGHT  # nowhere to say it
    left_behind = program != "train.py" or (folder / "trained" / "model.safetensors").exists()
    is_right = left_behind and (program == "train.py" or 1 in closed or bool(done.stdout))
    return judge(done.returncode, done.stderr, is_right)


def closed_stream_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    combinations = [c for n in (1, 2, 3) for c in itertools.combinations(STREAMS, n)]
    programs = program_arguments(folder)
    every = list(itertools.product(programs, combinations))
    for n in itertools.count():
        rng.shuffle(every)
        for i, (program, closed) in enumerate(every):
            streams = " and ".join(STREAMS[number] for number in closed)
            run_in = partial(run_closed, program, programs[program], closed, folder / f"{n}-{i}")
            yield Case(f"{program} without standard {streams}", run_in)


OPTIONS = FaultClass("options", 1000, 40, option_cases)
CLOSED_STREAMS = FaultClass("closed standard streams", 28, 4, closed_stream_cases)


# ---------------------------------------------------------------- the long-lived process


def run_captured(program: str, arguments: list[str]) -> tuple[int, str, str]:
    """Run a program in this process: (exit status, standard output, standard error)."""
    before = {name: getattr(sys, name) for name in ("argv", "stdin", "stdout", "stderr")}
    written = [io.TextIOWrapper(io.BytesIO()) for _ in range(2)]
    sys.argv, sys.stdin = [program, *arguments], io.TextIOWrapper(io.BytesIO())
    sys.stdout, sys.stderr = written
    status = 0
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        status = 1
        print(f"Traceback: {type(error).__name__}: {error}"[:500], file=sys.stderr)
    finally:
        for stream in written:
            stream.flush()
        for name, value in before.items():
            setattr(sys, name, value)
    out, err = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in written)
    return status, out, err


def serve_programs() -> None:
    for line in sys.stdin:
        program, *arguments = json.loads(line)
        print(json.dumps(run_captured(program, arguments)), flush=True)


if __name__ == "__main__":
    serve_programs()
