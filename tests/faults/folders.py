"""Damaged model folders, and model folders that are written while they are read, or not to the end.

A folder is damaged in one or two of many ways, and read by a process that goes on living, so that a
hang or a crash is seen. It ends right if the model loads and computes: one wrong bit of a weight
cannot be told from a weight. Otherwise the error has to name the file or the folder.
"""

import contextlib
import itertools
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree

import numpy as np

import utils
from encoder import Encoder
from model_files.disk import UNFINISHED
from model_files.tf_checkpoint import _read_table
from tests.faults.outcome import CLEAR_ERROR, RIGHT, Case, FaultClass
from tests.fixtures.checkpoints import HUGGING_FACE_FILES, hf_config, hf_tensors, write_safetensors
from tests.fixtures.openai_folder import DATA, MERGES, openai_files, table
from tests.fixtures.random_models import random_params

ROOT = Path(__file__).resolve().parents[2]
HPARAMS = {"n_vocab": 260, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": 2}
SECONDS = 30  # after which a child hangs
MEMORY = 4 << 30  # bytes; what a child may take
JSON_FILES = ("config.json", "vocab.json", "hparams.json", "encoder.json")
MERGES_FILES = ("merges.txt", "vocab.bpe")
WEIGHTS_FILES = ("model.safetensors", DATA)


# ---------------------------------------------------------------- the process that reads

READER = """
import json, os, sys, warnings
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
except ImportError:
    pass
sys.modules["tensorflow"] = None
import gpt2, utils
from model_files import folder as model_folder
warnings.simplefilter("error")
text = "the the he \\u00e9 \\u0120x\\n"
complete_layout = model_folder.complete_layout

def read(folder, vanishing):
    def then_remove(*arguments):
        layout = complete_layout(*arguments)
        if vanishing and os.path.exists(vanishing):
            os.remove(vanishing)
        return layout
    model_folder.complete_layout = then_remove
    parent, name = os.path.split(folder)
    encoder, hparams, params = utils.load_encoder_hparams_and_params(name, parent)
    ids = encoder.encode(text)
    if encoder.decode(ids) != text:
        return "the text does not come back"
    encoder.decode(range(hparams["n_vocab"]))
    n_ctx, n_head = hparams["n_ctx"], hparams["n_head"]
    gpt2.generate(ids[:n_ctx], params, n_head, 2)
    return "right"

for line in sys.stdin:
    try:
        answer = [read(*json.loads(line)), ""]
    except BaseException as error:
        is_clear = isinstance(error, (ValueError, OSError, ImportError))
        answer = [f"clear {is_clear} {type(error).__name__}", str(error)[:10000]]
    print(json.dumps(answer), flush=True)
"""


class Reader:
    """A child that loads one folder after the other, and is replaced if it hangs or dies."""

    def __init__(self) -> None:
        self.process = None

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("GPT2_BASE_URL",)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(MEMORY)],
            cwd=ROOT,
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def outcome(self, folder: Path, vanishing: Path | None = None) -> str:
        """How loading a folder ends; the file `vanishing` is removed after the folder was listed"""
        if self.process is None:
            self.start()
        request = json.dumps([str(folder), str(vanishing) if vanishing else None])
        self.process.stdin.write(request.encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            status = self.process.poll() if ready else "it hangs"
            self.close()
            return f"the process ended without an answer: {status}"
        result, message = json.loads(line)
        if result == "right":
            return RIGHT
        names_it = any(name in message for name in (str(folder), folder.name))
        is_one_line = len(message.splitlines()) == 1 and len(message) < 3000
        if result.startswith("clear True") and names_it and is_one_line:
            return CLEAR_ERROR
        return f"{result}: {message[:500]!r}"


# ---------------------------------------------------------------- damage to any file


def some_bytes(rng: random.Random, n: int) -> bytes:
    return rng.choice([rng.randbytes(n), bytes(n), b"\xff" * n])


def overwrite_bytes(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 3, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite_range(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    n = min(len(content), rng.choice([4, 16, 512, 4096]))
    start = rng.randrange(len(content) - n + 1)
    path.write_bytes(content[:start] + some_bytes(rng, n) + content[start + n :])


def cut(rng: random.Random, path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, 1, size - 1, size // 2, rng.randrange(size)]))


def extend(rng: random.Random, path: Path) -> None:
    with open(path, "ab") as file:
        file.write(some_bytes(rng, rng.choice([1, 4, 4096])))


def extend_by_a_hole(rng: random.Random, path: Path) -> None:
    os.truncate(path, rng.choice([10**6, 10**8 + 1, 10**11]))


def insert(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    start = rng.randrange(len(content) + 1)
    path.write_bytes(content[:start] + some_bytes(rng, rng.randint(1, 40)) + content[start:])


def drop(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + content[start + rng.randint(1, 40) :])


def twice(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def web_page(rng: random.Random, path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")


def as_utf16(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16"))


def swap(rng: random.Random, path: Path) -> None:
    other = rng.choice([p for p in path.parent.iterdir() if p != path and p.is_file()])
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def remove(rng: random.Random, path: Path) -> None:
    path.unlink()


def put_folder(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_pipe(rng: random.Random, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_loop(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def put_device(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/random", "/dev/stdin"]))


def put_dangling_link(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def forbid(rng: random.Random, path: Path) -> None:
    path.chmod(0)  # which stops all but root


ANY_FILE = [overwrite_bytes, overwrite_range, cut, extend, extend_by_a_hole, insert, drop, twice]
ANY_FILE += [web_page, as_utf16, swap, remove, put_folder, put_pipe, put_loop, put_device]
ANY_FILE += [put_dangling_link, forbid]


# ---------------------------------------------------------------- damage to files of each kind

ODD_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    10**9,
    10**30,
    2**31,
    2**63,
    0.5,
    24.0,
    -0.0,
    1e300,
]
ODD_VALUES += ["", "24", "gpt2", "\x00", "a\nb", [], [24], [[[]]], {}, {"a": 1}, float("nan")]
ODD_VALUES += [float("inf"), "x" * 10_000]


def odd_value(rng: random.Random) -> object:
    return rng.choice(ODD_VALUES)


def change_json(rng: random.Random, text: str) -> str:
    """One change of a JSON object."""
    values = json.loads(text)
    key = rng.choice(list(values))
    how = rng.randrange(9)
    if how == 0:
        values[key] = odd_value(rng)
    elif how == 1:
        del values[key]
    elif how == 2:
        values[f"{key}x"] = values.pop(key)
    elif how == 3:
        return text.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(odd_value(rng))}}}"
    elif how == 4:
        depth = rng.choice([500, 990, 5000, 200_000])
        brackets = rng.choice([("[", "]"), ('{"a":', "}")])
        nested = brackets[0] * depth + "1" + brackets[1] * rng.choice([0, depth])
        return text.rstrip()[:-1] + f', "nested": {nested}}}'
    elif how == 5:
        other = rng.choice(list(values))
        values[key], values[other] = values[other], values[key]
    elif how == 6:
        return json.dumps(odd_value(rng))
    elif how == 7:
        if type(values[key]) is int:
            values[key] += rng.choice([-1, 1, 10**6])
    else:
        values["unknown"] = odd_value(rng)
    return json.dumps(values)


def change_json_file(rng: random.Random, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(change_json(rng, text), encoding="utf-8")


def change_merges(rng: random.Random, path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    i = rng.randrange(len(lines))
    odd = [
        "",
        " ",
        "a",
        "a b",
        "a  b",
        "a b c",
        "\u0120 t",
        "\ud7ff x",
        "#version: 0.2",
        "x" * 5000,
    ]
    how = rng.randrange(6)
    if how == 0:
        del lines[i]
    elif how == 1:
        lines.insert(i, rng.choice(odd))
    elif how == 2:
        lines[i] = rng.choice(odd)
    elif how == 3:
        lines.insert(i, rng.choice(lines))
    elif how == 4:
        rng.shuffle(lines)
    else:
        lines = lines[:i]
    end = rng.choice(["\n", "\n", "\r\n", "\r", "\u2028"])
    path.write_bytes(end.join(lines).encode())


def change_weights(rng: random.Random, path: Path) -> None:
    """Other numbers in the place of some weights."""
    odd = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-45, 0.0, -0.0, 1e5]
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 10])):
        # From the end, so that it is one of the numbers, not a part of two.
        place = len(content) - 4 * rng.randint(1, len(content) // 4 - 2000)
        content[place : place + 4] = np.float32(rng.choice(odd)).tobytes()
    path.write_bytes(content)


def change_safetensors_fields(rng: random.Random, header: dict) -> None:
    name = rng.choice([name for name in header if name != "__metadata__"])
    fields = header[name]
    how = rng.randrange(7)
    if how == 0:
        fields[rng.choice([*fields, "more"])] = odd_value(rng)
    elif how == 1:
        fields["data_offsets"][rng.randrange(2)] = odd_value(rng)
    elif how == 2:
        begin, end = rng.choice(
            [(-4, -4), (4, 4), (1, 1), (0, -4), (0, 4), (4, 0), (0, -1), (96, 96)]
        )
        fields["data_offsets"][0] += begin
        fields["data_offsets"][1] += end
    elif how == 3:
        fields["shape"] = rng.choice([fields["shape"][::-1], [*fields["shape"], 1], [], [-24], [0]])
    elif how == 4:
        fields["shape"][0] = odd_value(rng)
    elif how == 5:
        fields["dtype"] = rng.choice(
            ["F16", "BF16", "F64", "I8", "I32", "BOOL", "", "f32", "F8_E4M3"]
        )
    else:
        other = rng.choice([n for n in header if n != "__metadata__"])
        key = rng.choice(["data_offsets", "shape"])
        fields[key], header[other][key] = header[other][key], fields[key]


def change_safetensors_header(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text, values = content[8:end].decode(), content[end:]
    how = rng.randrange(5)
    if how < 3:
        header = json.loads(text)
        change_safetensors_fields(rng, header)
        text = json.dumps(header)
    elif how == 3:
        text = change_json(rng, text)
    else:
        text += " " * rng.choice([1, 7, 100_000])
    size = len(text.encode())
    said = size if rng.random() < 0.9 else rng.choice([0, 1, size - 1, size + 1, 2**40, 2**64 - 1])
    path.write_bytes(said.to_bytes(8, "little") + text.encode() + values)


def change_index(rng: random.Random, path: Path) -> None:
    """Some bytes of one entry, under right checksums: damage that no checksum shows."""
    entries = _read_table(path.read_bytes())
    key = rng.choice(list(entries))
    message = bytearray(entries[key])
    how = rng.randrange(4)
    if how == 0:
        del entries[key]
    elif how == 1:
        message = message[: rng.randrange(len(message))]
    else:
        for _ in range(rng.choice([1, 1, 4])):
            message[rng.randrange(len(message))] = rng.randrange(256)
    if how > 0:
        entries[key] = bytes(message)
    path.write_bytes(table(sorted(entries.items())))


def change_checkpoint(rng: random.Random, path: Path) -> None:
    said = [
        "model.ckpt",
        "",
        "a/b/model.ckpt",
        "../model.ckpt",
        "x\0y",
        "x" * 5000,
        "\u2028",
        "checkpoint",
    ]
    path.write_text(f'model_checkpoint_path: "{rng.choice(said)}"\n', encoding="utf-8")


def kinds_of_damage(name: str) -> list[Callable[[random.Random, Path], None]]:
    """What may be done to a file, that of its own kind as often as all else."""
    own = []
    if name in JSON_FILES:
        own.append(change_json_file)
    if name in MERGES_FILES:
        own.append(change_merges)
    if name in WEIGHTS_FILES:
        own.append(change_weights)
    if name == "model.safetensors":
        own += [change_safetensors_header] * 2
    if name.endswith(".index"):
        own.append(change_index)
    if name == "checkpoint":
        own.append(change_checkpoint)
    return own * (len(ANY_FILE) // max(1, len(own))) + ANY_FILE


# ---------------------------------------------------------------- damaged folders


def hugging_face_files(params: dict, folder: Path) -> dict[str, bytes]:
    """{file name: bytes} of the same model in Hugging Face's layout."""
    path = folder / "weights"
    write_safetensors(path, hf_tensors(params), {"format": "pt"})
    openai = openai_files(params, HPARAMS)
    return {
        "config.json": json.dumps(hf_config(HPARAMS)).encode(),
        "merges.txt": openai["vocab.bpe"],
        "model.safetensors": path.read_bytes(),
        "vocab.json": openai["encoder.json"],
    }


def damaged(files: dict[str, bytes], rng: random.Random, folder: Path) -> Iterator[Case]:
    """Each case has a folder of its own, since a file may still be mapped by the child."""
    with contextlib.closing(Reader()) as reader:
        for i in itertools.count():
            seed = rng.randrange(10**9)
            place = folder / f"case-{i}"
            names = rng.choices(list(files), k=rng.choice([1, 1, 1, 2]))
            done = [(name, rng.choice(kinds_of_damage(name))) for name in dict.fromkeys(names)]
            vanishing = rng.choice(names) if rng.random() < 0.03 else None

            def run(place=place, done=done, vanishing=vanishing, seed=seed):
                place.mkdir()
                for name, content in files.items():
                    (place / name).write_bytes(content)
                draws = random.Random(seed)
                if vanishing:
                    outcome = reader.outcome(place, place / vanishing)
                else:
                    for name, damage in done:
                        # The damage before may have taken the file away.
                        with contextlib.suppress(OSError, ValueError, IndexError):
                            damage(draws, place / name)
                    outcome = reader.outcome(place)
                if outcome in (RIGHT, CLEAR_ERROR):
                    rmtree(place)
                return outcome

            what = ", ".join(f"{damage.__name__} {name}" for name, damage in done)
            yield Case(f"{i}: {f'{vanishing} vanishes' if vanishing else what} (seed {seed})", run)


def damaged_hugging_face(rng: random.Random, folder: Path) -> Iterator[Case]:
    yield from damaged(hugging_face_files(random_params(HPARAMS), folder), rng, folder)


def damaged_openai(rng: random.Random, folder: Path) -> Iterator[Case]:
    yield from damaged(openai_files(random_params(HPARAMS), HPARAMS), rng, folder)


# ---------------------------------------------------------------- a model that is saved


def numbered_model(number: int) -> tuple[Encoder, dict[str, int], dict]:
    """A model whose weights say its number; all have the same sizes and vocabulary."""
    params = random_params(HPARAMS, seed=number)
    params["wte"][0, 0] = number
    vocabulary = json.loads(openai_files(random_params(HPARAMS), HPARAMS)["encoder.json"])
    return Encoder(vocabulary, MERGES), HPARAMS, params


def number_of(encoder: Encoder, hparams: dict[str, int], params: dict) -> int:
    """The number of a model that was read; ValueError if its parts are of different models."""
    number = int(params["wte"][0, 0])
    expected = numbered_model(number)
    if (encoder.encoder, hparams) != (expected[0].encoder, expected[1]):
        raise ValueError(f"another vocabulary or other sizes: {hparams}")
    for name, array in utils.named(params).items():
        if not np.array_equal(array, utils.named(expected[2])[name]):
            raise ValueError(f"a mixture: {name} is not that of model {number}")
    return number


WRITER = """
import sys, itertools
from tests.faults import folders
import utils
models = [folders.numbered_model(i) for i in range(4)]
for i in itertools.count():
    if i == int(sys.argv[2]):
        print("writing", flush=True)
    utils.save_model_folder(sys.argv[1], *models[i % 4])
"""


def start_writer(folder: Path, n_saves: int) -> subprocess.Popen:
    """A process that saves model after model into a folder, until it is killed; after `n_saves`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(n_saves)], cwd=ROOT, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def stop(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def load(folder: Path) -> tuple[Encoder, dict[str, int], dict]:
    return utils.load_encoder_hparams_and_params(folder.name, str(folder.parent))


def read_during_saves(rng: random.Random, folder: Path) -> Iterator[Case]:
    """One writer saves without a pause, which no training does; each case reads ten times."""
    writer = start_writer(folder / "model", n_saves=1)
    try:
        for i in itertools.count():
            pauses = [rng.uniform(0, 0.02) for _ in range(10)]

            def run(pauses=pauses):
                for pause in pauses:
                    time.sleep(pause)
                    try:
                        number_of(*load(folder / "model"))
                    except Exception as error:
                        return f"{type(error).__name__}: {error}"
                return RIGHT if writer.poll() is None else "the writer ended"

            yield Case(f"{i}: ten reads", run)
    finally:
        stop(writer)


def killed_saves(rng: random.Random, folder: Path) -> Iterator[Case]:
    """A writer is killed, in every other case within its first save. A reader finds a whole model,
    or is told that there is none. Then the next save makes all good."""
    for i in itertools.count():
        n_saves = i % 2
        after = rng.uniform(0, 0.05 if n_saves else 0.01)

        def run(place=folder / f"model-{i}", after=after, n_saves=n_saves):
            writer = start_writer(place, n_saves)
            time.sleep(after)
            stop(writer)
            try:
                number_of(*load(place))
                outcome = RIGHT
            except FileNotFoundError as error:
                if n_saves:
                    return f"the model before is gone: {error}"
                outcome = CLEAR_ERROR
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            utils.save_model_folder(str(place), *numbered_model(1))
            names = {path.name for path in place.iterdir()} - {*HUGGING_FACE_FILES}
            if not all(name.startswith(UNFINISHED) for name in names):
                return f"left: {names}"
            return outcome if number_of(*load(place)) == 1 else "not the model that was saved"

        yield Case(f"{i}: killed {after:.4f} s into save {n_saves}", run)


DAMAGED_HUGGING_FACE = FaultClass(
    "a damaged folder in Hugging Face's layout", 2000, 150, damaged_hugging_face
)
DAMAGED_OPENAI = FaultClass("a damaged folder in OpenAI's layout", 2000, 150, damaged_openai)
READ_DURING_SAVES = FaultClass(
    "the same model saved again while it is read", 200, 5, read_during_saves
)
KILLED_SAVES = FaultClass("a save of a model that is killed", 100, 3, killed_saves)
