"""Faults of training: deaths and full disks within its saves, kills, several trainings at once,
damaged checkpoints, files that cannot be learned from.

After each fault the run is started again, as a user would. It has to end as a run that nothing
happened to: the same weights, tokenizer, table, drawing and checkpoint, and no other file.
"""

import contextlib
import csv
import functools
import io
import itertools
import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

import train
from tests.faults.dying import DEAD
from tests.faults.outcome import CLEAR_ERROR, RIGHT, Case, FaultClass, judge
from training import data
from training.checkpoint import NAME, load
from training.options import Options
from training.run import Run

DYING = Path(__file__).with_name("dying.py")
SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_ctx": 8, "batch_size": 2, "tokenizer": "char"}
STEPS = {"steps": 12, "eval_every": 3}
TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(60))
LONGEST = 70_000  # bytes: a little more than the longest file of such a run
PATIENCE = 60  # seconds

# ---------------------------------------------------------------- a run that nothing happens to


class WholeRun(NamedTuple):
    """What a run that nothing happened to left behind. It is the same for all classes."""

    options: dict  # those of train.py, without `out`
    left: dict  # as `left_behind` says
    models: list[bytes]  # model.safetensors, each that it wrote
    folder: Path
    seconds: float  # that it took, as a process
    n_operations: int  # on files
    place: tempfile.TemporaryDirectory  # removed at the end of this process


@functools.cache
def whole_run() -> WholeRun:
    place = tempfile.TemporaryDirectory(prefix="faults-")
    folder = Path(place.name)
    (folder / "data.txt").write_text(TEXT, encoding="utf-8")
    options = SIZES | STEPS | {"data": str(folder / "data.txt")}
    out, models = folder / "whole", []

    def save_and_note(self, plain=Run.save_model):
        plain(self)
        models.append((self.out / "model.safetensors").read_bytes())

    with mock.patch.object(Run, "save_model", save_and_note):
        status, stderr = run_here(options, out)
    assert status == 0, stderr
    started = time.monotonic()
    counted = run_process(options, folder / "counted", dying="operation:0")
    n_operations = int(counted.stdout)
    seconds = time.monotonic() - started
    return WholeRun(options, left_behind(out), models, out, seconds, n_operations, place)


def left_behind(out: Path) -> dict:
    """The files of a finished run, but of those with times in them what is not a time."""
    left = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    left |= {path.name: "a folder" for path in out.iterdir() if path.is_dir()}
    run, arrays = load(out)
    history = [row | {"minutes": 0} for row in run.history]
    arrays = {name: array.tobytes() for name, array in arrays.items()}
    left[NAME] = (run.n_steps, run.n_tokens, run.best, run.rng, history, arrays)
    rows = csv.DictReader((out / "log.csv").read_text("utf-8").splitlines())
    left["log.csv"] = [row | {"minutes": 0} for row in rows]
    return left


def differences(out: Path, whole: WholeRun) -> str:
    """What a run left behind that it should not have; "" if all is as it should be."""
    left = left_behind(out)
    names = left.keys() | whole.left.keys()
    return ", ".join(sorted(name for name in names if left.get(name) != whole.left.get(name)))


# ---------------------------------------------------------------- running train.py


def command(options: dict, out: Path, dying: str | None = None) -> list[str]:
    program = [train.__file__] if dying is None else [str(DYING), dying, str(out)]
    arguments = [f"--{name}={value}" for name, value in (options | {"out": out}).items()]
    return [sys.executable, *program, *arguments]


def run_process(options: dict, out: Path, dying: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(options, out, dying), capture_output=True, encoding="utf-8", timeout=PATIENCE
    )


def run_here(options: dict, out: Path) -> tuple[int, str]:
    """`train.main` in this process -> exit status, standard error, as `command_line.run` has it."""
    return call(lambda: train.main(Options(**options, out=str(out))))


def call(function: Callable) -> tuple[int, str]:
    """Call it as `command_line.run` does -> exit status, standard error."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), patience():
        try:
            function()
        except (ValueError, OSError, ImportError) as error:
            return 1, f"{stderr.getvalue()}\ntrain.py: {error}\n"
        except (Exception, Hang):
            return 1, traceback.format_exc()
    return 0, stderr.getvalue()


class Hang(BaseException):
    """It has waited longer than anybody would."""


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Raise Hang if what is done inside waits for ever, where the system can interrupt it."""

    def give_up(*_):
        raise Hang

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def go_on(out: Path, whole: WholeRun) -> str:
    """Start again what was stopped: -> how that ended"""
    resume = (out / NAME).exists()  # if not, a new start has to be accepted
    done = run_process(whole.options | {"resume": resume}, out)
    if done.returncode:
        return f"with --resume={resume}: {done.stderr[-300:]!r}"
    differing = differences(out, whole)
    shutil.rmtree(out)
    return f"another end: {differing}" if differing else RIGHT


def torn_model(out: Path, whole: WholeRun) -> str:
    """What is wrong with the weights that a dead process left; "" if nothing is."""
    path = out / "model.safetensors"
    if path.exists() and path.read_bytes() not in whole.models:
        return "weights that the run never had"
    return ""


# ---------------------------------------------------------------- deaths and full disks


def deaths(rng: random.Random, folder: Path) -> Iterator[Case]:
    """At first each operation on a file, in any order; then writes."""
    whole = whole_run()
    numbers = list(range(1, whole.n_operations + 1))
    rng.shuffle(numbers)
    moments = itertools.chain(
        (f"operation:{number}" for number in numbers),
        (f"bytes:{rng.randrange(LONGEST)}" for _ in itertools.count()),
    )
    for moment in moments:
        yield Case(f"death at {moment}", functools.partial(die, folder / "out", whole, moment))


def die(out: Path, whole: WholeRun, moment: str) -> str:
    done = run_process(whole.options, out, dying=moment)
    if done.returncode not in (0, DEAD, -signal.SIGXFSZ):
        return f"status {done.returncode}: {done.stderr[-300:]!r}"
    return torn_model(out, whole) or go_on(out, whole)


def full_disks(rng: random.Random, folder: Path) -> Iterator[Case]:
    whole = whole_run()
    while True:
        moment = f"full:{rng.randrange(LONGEST)}"
        yield Case(f"a disk {moment}", functools.partial(fill, folder / "out", whole, moment))


def fill(out: Path, whole: WholeRun, moment: str) -> str:
    done = run_process(whole.options, out, dying=moment)
    is_right = done.returncode == 0 and not differences(out, whole)
    how = judge(done.returncode, done.stderr, is_right)
    if how not in (RIGHT, CLEAR_ERROR):
        return how
    end = torn_model(out, whole) or go_on(out, whole)
    return how if end == RIGHT else end


# ---------------------------------------------------------------- kills


def kills(rng: random.Random, folder: Path) -> Iterator[Case]:
    whole = whole_run()
    while True:
        seconds = rng.uniform(0, 1.1 * whole.seconds)
        name = f"SIGKILL after {seconds:.3f} s"
        yield Case(name, functools.partial(kill, folder / "out", whole, seconds))


def kill(out: Path, whole: WholeRun, seconds: float) -> str:
    with subprocess.Popen(command(whole.options, out), stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.kill()
    return torn_model(out, whole) or go_on(out, whole)


# ---------------------------------------------------------------- several at once


def several_at_once(rng: random.Random, folder: Path) -> Iterator[Case]:
    whole = whole_run()
    while True:
        pauses = [rng.choice([0, rng.uniform(0, whole.seconds)]) for _ in range(3)]
        name = "pauses of " + ", ".join(f"{pause:.2f}" for pause in pauses)
        yield Case(name, functools.partial(race, folder / "out", whole, pauses))


def race(out: Path, whole: WholeRun, pauses: list[float]) -> str:
    processes = []
    for pause in pauses:
        time.sleep(pause)
        processes.append(
            subprocess.Popen(command(whole.options, out), stderr=subprocess.PIPE, encoding="utf-8")
        )
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    ends = [
        judge(process.returncode, error, is_right=True)
        for process, error in zip(processes, errors, strict=True)
    ]
    if ends.count(RIGHT) != 1 or ends.count(CLEAR_ERROR) != len(pauses) - 1:
        return f"{ends}"
    differing = differences(out, whole)
    shutil.rmtree(out)
    return differing or RIGHT


# ---------------------------------------------------------------- damaged checkpoints


def damaged_checkpoints(rng: random.Random, folder: Path) -> Iterator[Case]:
    whole, out = whole_run(), folder / "out"
    damages = list(DAMAGES)
    while True:
        rng.shuffle(damages)
        for damage in damages:
            seed = rng.random()
            run = functools.partial(resume_damaged, out, whole, damage, seed)
            yield Case(f"{damage.__name__}, {seed}", run)


def resume_damaged(out: Path, whole: WholeRun, damage: Callable, seed: float) -> str:
    shutil.copytree(whole.folder, out)
    damage(out / NAME, random.Random(seed))
    try:
        status, stderr = run_here(whole.options | {"resume": True}, out)
        return judge(status, stderr, status == 0 and not differences(out, whole))
    finally:
        shutil.rmtree(out)


def rewritten(path: Path, change: Callable[[dict, dict], None]) -> None:
    """The same file with changed arrays or a changed `run`, and all checksums right."""
    with np.load(path) as file:
        arrays = dict(file)
    run = json.loads(str(arrays.pop("run")))
    change(arrays, run)
    with open(path, "wb") as file:
        np.savez(file, run=json.dumps(run), **arrays)


def replaced(path: Path) -> Path:
    path.unlink()
    return path


def empty(path, rng):
    path.write_bytes(b"")


def cut_anywhere(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def one_bit_flipped(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def many_bytes_changed(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(100):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def random_bytes(path, rng):
    path.write_bytes(rng.randbytes(path.stat().st_size))


def a_web_page(path, rng):
    path.write_text("<!DOCTYPE html><title>502</title>", encoding="utf-8")


def a_pickle(path, rng):
    path.write_bytes(pickle.dumps({"run": {}}))


def an_archive_of_something_else(path, rng):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("run.npy", "not an array")


def one_array_missing(path, rng):
    rewritten(path, lambda arrays, run: arrays.pop(rng.choice(sorted(arrays))))


def another_shape(path, rng):
    rewritten(path, lambda arrays, run: arrays.update({"params.wte": np.zeros((3, 8))}))


def another_programs_run(path, rng):
    rewritten(path, lambda arrays, run: run.pop(rng.choice(sorted(run))))


def a_folder(path, rng):
    replaced(path).mkdir()


def gone(path, rng):
    path.unlink()


DAMAGES = (
    empty,
    cut_anywhere,
    one_bit_flipped,
    many_bytes_changed,
    random_bytes,
    a_web_page,
    a_pickle,
    an_archive_of_something_else,
    one_array_missing,
    another_shape,
    another_programs_run,
    a_folder,
    gone,
)

# ---------------------------------------------------------------- files that cannot be learned from

GOOD = {
    "a.py": "def first():\n    return 1\n",
    "c/b.jsonl": '{"text": "second"}\n',
    "m.txt": "third",
}
GOOD_DOCUMENTS = ["def first():\n    return 1\n", "second", "third"]
DEEP = 100_000
SOURCES = {  # too deep for the parser, or for the tree; as code they have no function
    "elifs": "if x: pass\n" + "elif x: pass\n" * 5000,
    **{opening: f"x = {opening * DEEP}" for opening in "([{-~@"},
    **{f"{word} many times": f"x = {word * DEEP}1" for word in ("not ", "lambda:", "2**", "1+")},
    "attributes": "x = a" + ".b" * DEEP,
    "calls": "x = a" + "()" * DEEP,
    "ifs": "".join(" " * i + "if 1:\n" for i in range(2000)),
    "a template": "{% for x in y %}",
    "a zero byte": "x = '\0'",
}
LINES = {  # of a *.jsonl file: no documents
    "no JSON": "text",
    "a list": '["text"]',
    "a number": "1",
    "no text": "{}",
    "text that is a number": '{"text": 1}',
    "lists in lists": '{"text": ' + "[" * DEEP + "]" * DEEP + "}",
    "objects in objects": '{"text":' * DEEP,
    "a number of 10,000 digits": '{"text": ' + "9" * 10_000 + "}",
    "an empty line": "",
    "not UTF-8": "\udce9",  # as bytes: 0xE9
}
NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to its own folder": lambda path: path.symlink_to(path.parent),
    "bytes": lambda path: path.write_bytes(b"caf\xe9" if path.suffix != ".jsonl" else b""),
    "UTF-16": lambda path: path.write_bytes(b"" if path.suffix == ".jsonl" else b"\xff\xfed\0"),
}


def hostile_data(rng: random.Random, folder: Path) -> Iterator[Case]:
    for number in itertools.count():
        place = folder / str(number)
        kind = rng.choice(["source", "line", "not a file", "not a file"])
        alone = rng.random() < 0.3
        if kind == "source":
            name, what = "z.py", rng.choice(sorted(SOURCES))
        elif kind == "line":
            name, what = "z.jsonl", rng.choice(sorted(LINES))
        else:
            name, what = f"z{rng.choice(sorted(data.READERS))}", rng.choice(sorted(NOT_FILES))
        run = functools.partial(read_hostile, place, name, what, alone)
        yield Case(f"{name}: {what}, {'named' if alone else 'in a folder'}", run)


def read_hostile(folder: Path, name: str, what: str, alone: bool) -> str:
    """Read a folder with a hostile file in it, or that file `alone`."""
    for good_name, text in GOOD.items():
        (folder / good_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / good_name).write_text(text, encoding="utf-8")
    path = folder / "c" / name
    if what in NOT_FILES:
        NOT_FILES[what](path)
    else:
        text = SOURCES.get(what) or LINES[what]
        path.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
    documents = []
    chosen = str(path if alone else folder)
    status, stderr = call(lambda: documents.extend(data.read_documents(chosen)))
    shutil.rmtree(folder)
    if alone:  # whatever it says, it says it in one line
        return judge(status, stderr, is_right=True)
    how = judge(status, stderr, documents == GOOD_DOCUMENTS, f"its documents are {documents}")
    # Only a line that is no document may end the training.
    return how if how != CLEAR_ERROR or what in LINES else f"it ended: {stderr[-300:]!r}"


ANYWHERE = [FaultClass("a training killed at any moment", 60, 2, kills)]
ON_POSIX = [
    FaultClass("three trainings into one folder", 20, 1, several_at_once),
    FaultClass("a training that dies while it saves", 150, 3, deaths),
    FaultClass("a training on a full disk", 30, 1, full_disks),
    FaultClass("a damaged checkpoint of a training", 300, 8, damaged_checkpoints),
    FaultClass("data that cannot be learned from", 300, 60, hostile_data),
]
CLASSES = ANYWHERE if sys.platform == "win32" else ANYWHERE + ON_POSIX
