"""What the programs share: options, prompts in, text out, errors in one line.

`run(main)` is the entry point of a program. Its options are the arguments of `main`, each annotated
as str, int, float or bool, or as one of these `| None`; its help page is the docstring of `main`.
In `run(main, Options)` they are the fields and the docstring of a dataclass, of which `main` takes
one. They reach fire in a form that it takes without guessing. How a command line is read:

- `--name value` and `--name=value` set an option; `-` in a name is the same as `_`.
- A bool takes the next argument as its value only if that is True or False, in any case:
  `--quiet False` is False; `--quiet yes` is True, and `yes` is the prompt.
- An option begins with `--` and a name of letters, digits, `-` and `_`. Any other argument is the
  prompt, exactly as it was typed, even `-n` or `--top.k=3`.
- All arguments after `--` are prompts. `-h` and `--help` print the help page.

For `main` itself there are `check` and `check_memory` (ranges), `read_prompts` and `encode_prompt`
(text in), `write_text` and `with_bar` (text out), `notice` (what there is to say besides).

Left out: subcommands and short options.
"""

import ast
import collections
import contextlib
import functools
import inspect
import io
import math
import numbers
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterable, Iterator

import numpy as np

# The types that an option may have, and what error messages call them.
TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


def check(name: str, value: float, kind: type, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless the option's value is a number from `low` to `high`.

    kind: int takes whole numbers only, float takes both. Neither takes a bool or NaN.

    >>> check("top_p", 0.9, float, 0, 1)
    >>> check("top_k", -1, int, 0)
    Traceback (most recent call last):
    ValueError: --top_k -1: expected a whole number of at least 0
    """
    number = numbers.Integral if kind is int else numbers.Real  # NumPy's numbers count too
    is_number = isinstance(value, number) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN is neither above nor below anything
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"--{name} {value}: expected {TYPE_NAMES[kind]} {limits}")


def check_memory(n_bytes: int, what: str) -> None:
    """Raise MemoryError if `n_bytes` are more than this machine has, or more than we may have.

    Called before the work that needs them: Linux promises more memory than there is, and ends the
    process much later. `what` names what is too large.

    >>> check_memory(10**18, "n_embd 500000000")
    Traceback (most recent call last):
    MemoryError: n_embd 500000000 would need 931322574 GiB of memory
    """
    there = math.inf
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):  # not on Windows
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        if n_bytes > there:
            raise MemoryError
        np.empty(n_bytes, np.uint8)
    except (MemoryError, OverflowError, ValueError):
        gib = n_bytes // 2**30
        size = f"{gib} GiB of memory" if gib < 10**12 else "more memory than any machine has"
        raise MemoryError(f"{what} would need {size}") from None


def notice(text: str) -> None:
    """Print a line on standard error that begins with the program's name, if it can be written."""
    with contextlib.suppress(OSError):
        print(f"{program_name()}: {text}", file=sys.stderr)


def read_prompts(prompt: str | None, interactive: bool = False) -> Iterator[str]:
    """The one prompt that was given (`-`: standard input), or one for each line that is typed."""
    if not interactive:
        yield sys.stdin.read() if prompt == "-" else as_typed(prompt)
        return
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\r\n")


def encode_prompt(prompt: str, encoder: typing.Any, n_ctx: int) -> list[int]:
    """The ids of a prompt; an empty one starts from `<|endoftext|>`, as every training text did.

    encoder: an `encoder.Encoder`. Raises ValueError for an empty prompt if it has no such token.
    """
    ids = encoder.encode(prompt)
    if not ids:
        if encoder.eot is None:
            raise ValueError(
                "an empty prompt starts from <|endoftext|>, which this vocabulary lacks"
            )
        return [encoder.eot]
    if len(ids) > n_ctx:
        notice(f"of {len(ids)} prompt tokens the last {n_ctx} are read")
    return ids


def with_bar(items: Iterable, n_items: int) -> Iterable:
    """`items`, one for each token, with a progress bar.

    Without one where the terminal shows the text: a bar would garble it.
    """
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, "generating", n_items, unit="token")


def write_text(pieces: Iterable[str]) -> str:
    """Print the pieces of a text as they come, and a final newline, even if interrupted."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            print(piece, end="", flush=True)
    except BaseException:
        if text:
            print(flush=True)
        raise
    print(flush=True)
    return text


def as_typed(argument: str) -> str:
    """The text of an argument whose bytes the locale could not decode: they are read as UTF-8.

    >>> as_typed("caf\\udcc3\\udca9")
    'café'
    """
    if any("\udc80" <= c <= "\udcff" for c in argument):  # how Python keeps such bytes
        return os.fsencode(argument).decode("utf-8", "replace")
    return argument


def program_name() -> str:
    return os.path.basename(sys.argv[0])


def option_kinds(main: Callable) -> dict[str, type]:
    """{option: str, int, float or bool}, from the annotations of main's arguments.

    Raises TypeError if one is missing or of another kind. That is the program's mistake, not the
    user's, so `run` does not hide the traceback.

    >>> def main(prompt: str | None = None, top_k: int = 0): ...
    >>> option_kinds(main)
    {'prompt': <class 'str'>, 'top_k': <class 'int'>}
    """
    annotations = typing.get_type_hints(main)
    kinds = {}
    for name in inspect.signature(main).parameters:
        matching = [kind for kind in TYPE_NAMES if annotations.get(name) in (kind, kind | None)]
        if not matching:
            raise TypeError(
                f"{main.__name__}: the option {name} must be annotated as str, int, float or bool, "
                "or as one of these | None"
            )
        kinds[name] = matching[0]
    return kinds


def convert(name: str, kind: type, text: str) -> str | int | float | bool:
    """The value of the option --name as a `kind` (str, int, float or bool), from what was typed.

    Raises ValueError if it is not one. "nan" is not a number here. "inf" is, but not digits that
    only a larger kind of number could hold.

    >>> convert("top_k", int, "50")
    50
    >>> convert("top_k", int, "hot")
    Traceback (most recent call last):
    ValueError: --top_k hot: expected a whole number
    """
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if kind is float and math.isnan(value):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"--{name} {text[:80]}: expected {TYPE_NAMES[kind]}") from None
    if kind is float and math.isinf(value) and "inf" not in text.lower():
        raise ValueError(f"--{name} {text[:80]}: expected a number below 1.8e308")
    return value


def fire_arguments(argv: Iterable[str], kinds: dict[str, type]) -> list[str]:
    """The command line with every argument as --name=value, which fire takes without guessing.

    Left to itself, fire stops at `-`, takes `-x` for an option, and reports a misspelt option only
    after all the work is done. The module's docstring has the rules that are followed here.
    kinds: as `option_kinds` gives them. Raises ValueError for what the user did wrong.

    >>> kinds = {"prompt": str, "top_k": int, "quiet": bool}
    >>> fire_arguments(["-5 is", "--top-k", "3", "--quiet"], kinds)
    ['--prompt=-5 is', '--top_k=3', '--quiet=True']
    """
    options = []  # (name, value), the value as it was typed
    rest = collections.deque(argv)
    while rest:
        argument = rest.popleft()
        if argument in ("-h", "--help"):
            return ["--help"]
        if argument == "--":
            options += [("prompt", text) for text in rest]
            break
        if not argument.startswith("--"):
            options.append(("prompt", argument))
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not name.isidentifier():
            options.append(("prompt", argument))
        elif name not in kinds:
            hint = f", or write --prompt=--{name}" if "prompt" in kinds else ""
            raise ValueError(f"there is no option --{name}: see --help{hint}")
        else:
            options.append((name, value if equals else _next_value(name, kinds[name], rest)))
    prompts = [value for name, value in options if name == "prompt"]
    if prompts and "prompt" not in kinds:
        raise ValueError(f"unexpected argument {prompts[0]!r}: see --help")
    if len(prompts) > 1:
        raise ValueError(
            f"a second prompt, {prompts[1]!r}: give one, with quotes around it if it has spaces"
        )
    return [f"--{name}={value}" for name, value in options]


def _next_value(name: str, kind: type, rest: collections.deque[str]) -> str:
    """The value of an option without "=": the next argument, taken from `rest`.

    An option that is a bool may also stand alone, and is then True.
    """
    if kind is bool and not (rest and rest[0].lower() in ("true", "false")):
        return "True"
    if not rest:
        raise ValueError(f"--{name} needs a value: see --help")
    return rest.popleft()


def run(main: Callable, options: type | None = None) -> None:
    """Call `main` with the options on the command line, and end the process as a command should.

    options: a dataclass; then `main` takes one such object instead of single options.

    A ValueError, OSError, ImportError or MemoryError becomes one line on standard error, exit
    status 1. Ctrl-C ends quietly with 130, a reader of the output that goes away (`| head`) with
    141. To use a standard stream that was closed (`>&-`) is an error, except for standard error.
    """
    import fire

    _replace_closed_streams()
    _set_encodings()
    declared = options or main  # where the options are declared
    kinds = option_kinds(declared)
    # Without these, fire reads each value as Python: `Yes, sir` is a tuple, `2024` a number.
    parsers = {name: functools.partial(convert, name, kind) for name, kind in kinds.items()}
    fire.decorators.SetParseFns(**parsers)(declared)
    try:
        try:
            arguments = fire_arguments(sys.argv[1:], kinds)
            if arguments == ["--help"]:
                print(_help_page(declared))
            else:
                _check_all_given(declared, arguments)
                result = fire.Fire(declared, arguments, serialize=lambda _: None)  # prints nothing
                if options:
                    main(result)
        finally:
            _flush_output()
            interrupt_quietly()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        message = " ".join(str(error).split()) or "out of memory"
        sys.exit(f"{program_name()}: {message}")


def _check_all_given(declared: Callable, arguments: list[str]) -> None:
    """Raise ValueError for an option that has no default and is not among `--name=value`s."""
    given = {argument.removeprefix("--").partition("=")[0] for argument in arguments}
    for name, parameter in inspect.signature(declared).parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"--{name} is missing: see --help")


def interrupt_quietly() -> None:
    """From now on Ctrl-C ends the process at once, and without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _help_page(declared: Callable) -> str:
    """The docstring of `main` or a dataclass; from its source where Python dropped it (-OO)."""
    if sys.flags.optimize < 2:  # above, a dataclass has another docstring
        return inspect.getdoc(declared)
    return ast.get_docstring(ast.parse(inspect.getsource(declared)).body[0])


def _flush_output() -> None:
    """Write what was printed, here and not at exit, so that `run` handles the errors of it."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes standard output once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _ClosedStream(io.TextIOBase):
    """Stands for a standard stream that was closed before the program began."""

    def __init__(self, name: str):
        self.name = name

    def _fail(self, *arguments: object) -> None:
        raise OSError(f"standard {self.name} is closed")

    read = readline = write = _fail


def _replace_closed_streams() -> None:
    """Python has None for a standard stream that was closed: let there be one.

    Its descriptor is taken too, or the next file that is opened would get it, and with it what the
    C library writes to standard error.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                continue
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    sys.stdin = sys.stdin or _ClosedStream("input")
    sys.stdout = sys.stdout or _ClosedStream("output")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _set_encodings() -> None:
    """Make files and pipes UTF-8 on every system, input with its line ends.

    A terminal keeps its own encoding, in which some characters may be replaced.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(newline="")
