"""command_line.py with small programs of its own: what arrives in `main`, and how a run ends."""

import inspect
import io
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import command_line
from command_line import check, convert, option_kinds

ROOT = Path(command_line.__file__).parent


def run(main, *arguments, stdin=b""):
    """Run `main` as a program in this process: its exit status, standard output and error."""
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(stdin))}
    streams |= {name: io.TextIOWrapper(io.BytesIO()) for name in ("stdout", "stderr")}
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program.py", *arguments])
        for name, stream in streams.items():  # pytest's own cannot be reconfigured
            patch.setattr(sys, name, stream)
        try:
            command_line.run(main)
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):  # what Python does with a text: print it, and exit with 1
                print(status, file=sys.stderr)
                status = 1
        for name in ("stdout", "stderr"):
            streams[name].flush()
    out, err = [streams[name].buffer.getvalue().decode() for name in ("stdout", "stderr")]
    return status, out, err


def options_seen(*arguments):
    """The options that a program is called with."""
    seen = []

    def main(
        prompt: str | None = None,
        top_k: int = 0,
        seed: int | None = None,
        temperature: float = 0.0,
        minutes: float | None = None,
        lookup: bool = True,
        quiet: bool = False,
        out: str = "models",
    ):
        seen.append(dict(locals()))
        del seen[-1]["seen"]

    status, _, err = run(main, *arguments)
    assert (status, err) == (0, "")
    return seen[0]


def error_of(*arguments):
    """The one line on standard error of a program that is called wrongly, and does nothing."""
    called = []

    def main(
        prompt: str | None = None,
        top_k: int = 0,
        seed: int | None = None,
        temperature: float = 0.0,
        lookup: bool = True,
    ):
        called.append(prompt)

    status, out, err = run(main, *arguments)
    assert (status, out, called) == (1, "", [])
    assert err.startswith("program.py: ") and err.count("\n") == 1
    return err


# ---------------------------------------------------------------- prompts

PROMPTS = [
    "Yes, sir",
    "2024",
    "007",
    "1e3",
    "0x10",
    "1_000",
    "None",
    "True",
    "{x}",
    "{'a': 1}",
    "[1, 2]",
    "(a)",
    "a,b",
    "'quoted'",
    '"',
    "a=b",
    "--prompt=x",
    "lambda x: x",
    "# comment",
    "...",
    "\\n",
    "two\nlines",
    " spaces ",
    "",
    "é 🙂",
    "-5 degrees",
    "-dash",
    "-x",
    "- item",
    "-- a comment of SQL",
    "--flag and more",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_prompt_arrives_as_typed(prompt):
    arrived = "x" if prompt == "--prompt=x" else prompt
    assert options_seen(prompt)["prompt"] == arrived
    assert options_seen("--top_k", "3", prompt, "--quiet")["prompt"] == arrived
    assert options_seen(f"--prompt={prompt}")["prompt"] == prompt


@pytest.mark.parametrize("prompt", ["--help", "-h", "--top_k", "--top_k=3", "--", "-", "--x=y"])
def test_a_prompt_that_looks_like_an_option(prompt):
    assert options_seen(f"--prompt={prompt}")["prompt"] == prompt
    assert options_seen("--prompt", prompt)["prompt"] == prompt
    assert options_seen("--top_k=3", "--", prompt)["prompt"] == prompt


@given(st.text())
@example("- 1, 'é'")
def test_any_prompt_arrives_as_typed(prompt):
    assert options_seen("--", prompt)["prompt"] == prompt


@given(st.text())
def test_any_text_of_an_option_arrives_as_typed(text):
    assert options_seen(f"--out={text}")["out"] == text
    assert options_seen("--out", text)["out"] == text


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (" def f():\r\n\treturn 'é🙂'\n".encode(), " def f():\r\n\treturn 'é🙂'\n"),
        (b"a\rb", "a\rb"),
        (b"caf\xe9", "caf\ufffd"),  # not UTF-8
        (b"", ""),
    ],
)
def test_standard_input_arrives_as_typed(typed, read):
    seen = []

    def main():
        seen.append(sys.stdin.read())

    assert run(main, stdin=typed) == (0, "", "")
    assert seen == [read]


# ---------------------------------------------------------------- options


def test_options_left_out_keep_their_defaults():
    assert options_seen() == {
        "prompt": None,
        "top_k": 0,
        "seed": None,
        "temperature": 0.0,
        "minutes": None,
        "lookup": True,
        "quiet": False,
        "out": "models",
    }


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--top_k=3", 3),
        ("--top-k=-3", -3),
        ("--top_k=1_000", 1000),
        ("--seed=5", 5),
        ("--temperature=2", 2.0),
        ("--temperature=1e3", 1000.0),
        ("--temperature=.5", 0.5),
        ("--temperature=inf", math.inf),
        ("--minutes=-1", -1.0),
        ("--lookup=False", False),
        ("--lookup=true", True),
        ("--quiet", True),
        ("--quiet=FALSE", False),
        ("--out=2024", "2024"),
        ("--out=None", "None"),
        ("--out=", ""),
    ],
)
def test_a_value_is_converted_as_the_option_is_annotated(argument, value):
    name, equals, text = argument.partition("=")
    option = name.removeprefix("--").replace("-", "_")
    for arguments in ([argument], [name, text] if equals else [name]):
        seen = options_seen(*arguments)[option]
        assert seen == value and type(seen) is type(value)


def test_a_bool_takes_the_next_argument_only_if_it_is_true_or_false():
    assert options_seen("--lookup", "False", "a text")["lookup"] is False
    seen = options_seen("--quiet", "a text")
    assert (seen["quiet"], seen["prompt"]) == (True, "a text")


def test_of_an_option_given_twice_the_last_counts():
    assert options_seen("--top_k=1", "--top_k", "2")["top_k"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("top_k", text) for text in ("1.5", "True", "hot", "0x10", "1e3", "", "None", "inf")],
        *[("seed", text) for text in ("x", "True", "[1]")],
        *[("temperature", text) for text in ("hot", "nan", "True", "1,5", "", "0x10", "1+1")],
        ("temperature", "-1e400"),  # only -inf is infinite, and says so
        *[("lookup", text) for text in ("maybe", "1", "no", "None")],
    ],
)
def test_an_error_names_the_option_and_the_value(name, value):
    assert f"--{name} {value}" in error_of("a", f"--{name}={value}")


def test_an_error_quotes_a_long_value_in_part():
    assert len(error_of("--top_k=" + "9" * 10_000)) < 200
    assert len(error_of("--temperature=1" + "0" * 400)) < 200


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--temprature=1"], "--temprature"),
        (["a", "--top_k"], "--top_k"),
        (["one", "two"], "two"),
        (["one", "two", "three"], "two"),
        (["one", "--prompt=two"], "two"),
        (["--", "one", "two"], "two"),
        (["--noquiet"], "--noquiet"),
    ],
)
def test_an_error_names_the_argument_that_is_wrong(arguments, named):
    assert named in error_of(*arguments)


def test_a_program_without_prompts_takes_no_text():
    def main(steps: int = 1):
        raise AssertionError

    status, _, err = run(main, "some text")
    assert status == 1 and "some text" in err and err.count("\n") == 1


def test_an_option_that_must_be_given_is_named():
    def main(first: str, out: str, part: float = 0.5):
        raise AssertionError

    status, _, err = run(main, "--first", "a", "--part=1")
    assert status == 1 and err == "program.py: --out is missing: see --help\n"


def test_annotations_of_every_spelling():
    def main(a: str, b: Optional[int] = None, c: "float | None" = None, d: bool = False):  # noqa: UP045
        pass

    assert option_kinds(main) == {"a": str, "b": int, "c": float, "d": bool}


def test_an_option_without_a_usable_annotation_is_the_programs_mistake():
    def bare(top_k=0):
        pass

    def many(numbers: list[int] = ()):
        pass

    def either(width: int | str = 0):
        pass

    for main, name in ((bare, "top_k"), (many, "numbers"), (either, "width")):
        with pytest.raises(TypeError, match=name):
            run(main)


@given(st.integers())
def test_any_whole_number(number):
    assert convert("n", int, str(number)) == number


@given(st.floats(allow_nan=False))
def test_any_number(number):
    assert convert("x", float, repr(number)) == number


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("value", "kind", "low", "high"),
    [
        (0, int, 0, math.inf),
        (10**30, int, 0, math.inf),
        (np.int64(3), int, 1, 3),
        (0, float, 0, 1),
        (1.0, float, 0, 1),
        (np.float32(0.5), float, 0, 1),
        (math.inf, float, 0, math.inf),
    ],
)
def test_numbers_within_the_range(value, kind, low, high):
    check("x", value, kind, low, high)


@pytest.mark.parametrize(
    ("value", "kind", "low", "high"),
    [
        (-1, int, 0, math.inf),
        (4, int, 1, 3),
        (1.0, int, 0, math.inf),
        (True, int, 0, math.inf),
        (True, float, 0, math.inf),
        (np.True_, int, 0, math.inf),
        ("1", int, 0, math.inf),
        (None, int, 0, math.inf),
        (1.1, float, 0, 1),
        (-0.1, float, 0, math.inf),
        (math.nan, float, 0, math.inf),
        (math.nan, float, -math.inf, math.inf),
        (np.float32("nan"), float, 0, 1),
    ],
)
def test_a_value_outside_the_range_is_named_with_its_option(value, kind, low, high):
    with pytest.raises(ValueError, match=rf"--top_p {value}: .*{low}"):
        check("top_p", value, kind, low, high)


def test_a_range_with_an_upper_end_is_named_with_both():
    with pytest.raises(ValueError, match=r"from 0 to 1$"):
        check("top_p", 2, float, 0, 1)
    with pytest.raises(ValueError) as error:
        check("top_k", -1, int, 0)
    assert "inf" not in str(error.value)


def test_what_no_machine_has_room_for_is_refused_by_name():
    command_line.check_memory(1000, "--n 1")
    for n_bytes in (10**15, 10**25, 10**400):
        with pytest.raises(MemoryError, match="--n 7"):
            command_line.check_memory(n_bytes, "--n 7")


# ---------------------------------------------------------------- how a run ends


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["a", "--top_k=3", "--help"]])
def test_help_is_the_docstring(arguments):
    def main(prompt: str | None = None, top_k: int = 0):
        """Do something.

        --top_k K    what it is
        """
        raise AssertionError

    assert run(main, *arguments) == (0, inspect.getdoc(main) + "\n", "")


@pytest.mark.parametrize("kind", [ValueError, OSError, ConnectionError, ImportError, MemoryError])
def test_an_error_of_main_is_one_line(kind):
    def main():
        raise kind("something\n  is wrong")

    assert run(main) == (1, "", "program.py: something is wrong\n")


def test_memory_that_runs_out_without_a_word_is_said_in_one_line():
    def main():
        raise MemoryError

    assert run(main) == (1, "", "program.py: out of memory\n")


def test_a_notice_begins_with_the_name_of_the_program():
    def main():
        command_line.notice("something")

    assert run(main) == (0, "", "program.py: something\n")


def test_a_mistake_of_the_program_keeps_its_traceback():
    def main():
        raise IndexError

    with pytest.raises(IndexError):
        run(main)


def test_what_main_returns_is_not_printed():
    def main():
        print("é")
        return "a text"

    assert run(main) == (0, "é\n", "")


def test_ctrl_c_ends_quietly():
    def main():
        raise KeyboardInterrupt

    assert run(main) == (130, "", "")


def start(program, stdout, *arguments):
    """Start a program in a Python that buffers its output, as it does for every user."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes tell their writer of it on POSIX only")
def test_a_reader_that_goes_away_ends_the_run_quietly():
    program = """
import command_line

def main():
    while True:
        print("a line", flush=True)

command_line.run(main)
"""
    with start(program, subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


# What it prints is so short that Python keeps it until the end.
SHORT_OUTPUT = """
import command_line

def main(prompt: str = ""):
    '''Print a line.'''
    print("a line")
    if prompt == "fail":
        raise ValueError("an error")

command_line.run(main)
"""


@pytest.mark.skipif(os.name != "posix", reason="pipes tell their writer of it on POSIX only")
@pytest.mark.parametrize("arguments", [[], ["--help"], ["fail"]])
def test_a_reader_that_is_gone_before_the_output_ends_the_run_quietly(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with start(SHORT_OUTPUT, write_end, *arguments) as process:
        os.close(write_end)
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_an_error_of_one_line():
    with open("/dev/full", "wb") as full, start(SHORT_OUTPUT, full) as process:
        error = process.stderr.read().decode()
        assert "No space left" in error and error.count("\n") == 1
        assert process.wait(timeout=60) == 1


def test_the_streams_are_utf8_in_any_locale():
    program = """
import sys
import command_line

def main(prompt: str):
    print(prompt, sys.stdin.read())
    print("ü", file=sys.stderr)

command_line.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program, "é"],
        cwd=ROOT,
        input="漢".encode(),
        env={**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert (done.stdout.decode(), done.stderr.decode()) == ("é 漢\n", "ü\n")


def test_an_argument_that_the_locale_cannot_decode_is_read_as_utf8():
    assert command_line.as_typed("caf\udcc3\udca9") == "café"
    assert command_line.as_typed("caf\udce9") == "caf\ufffd"
    assert command_line.as_typed("é \ud83d") == "é \ud83d"  # not what stands for a byte


CLOSED_STREAMS = """
import sys
import command_line

def main(prompt: str, out: str):
    with open(out, "wb") as file:
        assert file.fileno() > 2  # it does not stand for a standard stream
        if prompt == "write":
            print("a line")
        elif prompt == "read":
            sys.stdin.read()
        print("a notice", file=sys.stderr)
        file.write(b"done")

command_line.run(main)
"""


@pytest.mark.skipif(os.name != "posix", reason="closes streams with a shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("use", ["write", "read", "nothing"])
def test_a_closed_standard_stream_matters_only_to_who_uses_it(use, closed, tmp_path):
    out = tmp_path / "out"
    program = [sys.executable, CLOSED_STREAMS, use, f"--out={out}"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$@" {closed}', *program],
        cwd=ROOT,
        input="",
        capture_output=True,
        encoding="utf-8",
    )
    needed = {"write": " >&-", "read": "<&-", "nothing": "no stream"}[use]
    if needed in f" {closed}":
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "2>&-" in closed or "is closed" in done.stderr.splitlines()[-1]
    else:
        assert (done.returncode, out.read_bytes()) == (0, b"done"), done.stderr
    assert ("a line" in done.stdout) == (use == "write" and ">&-" not in closed.split())


def test_help_is_there_where_python_drops_docstrings():
    command = [sys.executable, "-OO", "gpt2.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert "--top_p P" in done.stdout and done.stderr == ""


INTERRUPTED = """
import os, signal
import command_line

moment = {moment!r}

def main():
    if moment == "in main":
        os.kill(os.getpid(), signal.SIGINT)

try:
    command_line.run(main)
finally:
    if moment == "after":
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("moment", "status"), [("in main", 130), ("after", -signal.SIGINT)])
def test_ctrl_c_is_quiet_and_stays_ignored_where_it_was(moment, status, ignored):
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(moment=moment)],
        cwd=ROOT,
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    assert (done.returncode, done.stderr) == (0 if ignored else status, b"")


def test_a_terminal_keeps_its_encoding_and_shows_what_it_can():
    pytest.importorskip("fcntl", reason="needs a POSIX terminal")
    import pty

    program = """
import command_line

def main():
    print("1 \\u20ac, \\u6f22")

command_line.run(main)
"""
    terminal, end = pty.openpty()
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=end)
    os.close(end)
    assert done.returncode == 0
    assert os.read(terminal, 100).strip() == "1 €, ?".encode("cp1252")
    os.close(terminal)


def test_a_program_without_a_prompt_does_not_suggest_one():
    with pytest.raises(ValueError, match="--stpes") as error:
        command_line.fire_arguments(["--stpes=3"], {"steps": int})
    assert "--prompt" not in str(error.value)
