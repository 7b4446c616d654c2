"""The command lines of this project: fire, made safe for prompts, and errors in one line.

`run(main)` is all that a program needs: the options are main's arguments, the help page is its
docstring. What is left out: subcommands, short options.
"""

import inspect
import math
import os
import sys


def check(name, value, kind, low, high=math.inf):
    """Raise ValueError unless an option's value is a number of that kind, from low to high."""
    kinds = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"--{name} {value}: expected a {what} from {low} to {high}")


def ask():
    """The next line of standard input, None at its end. A person at a terminal sees a `> `."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def fire_arguments(argv, defaults):
    """The command line with every argument as --name=value, which fire takes without guessing.

    Left to itself fire reads a prompt as Python (`Yes, sir` is a tuple, `2024` a number), halts
    at `-`, and complains of a misspelt option only when all is done.

    >>> defaults = {"prompt": None, "top_k": 0, "quiet": False}
    >>> fire_arguments(["-5 is", "--top-k", "3", "--quiet"], defaults)
    ['--prompt=-5 is', '--top_k=3', '--quiet=True']
    """
    arguments, argv = [], list(argv)
    while argv:
        argument = argv.pop(0)
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if argument in ("-h", "--help"):
            return ["--help"]
        if argument == "--":
            arguments, argv = arguments + [f"--prompt={prompt}" for prompt in argv], []
        elif not argument.startswith("--") or not name.isidentifier():
            arguments.append(f"--prompt={argument}")
        elif name not in defaults:
            raise ValueError(f"there is no option --{name}: see --help, or write --prompt=--{name}")
        elif isinstance(defaults[name], bool):
            follows = not equals and argv and argv[0].lower() in ("true", "false")
            value = (argv.pop(0) if follows else value or "True").capitalize()
            if value not in ("True", "False"):
                raise ValueError(f"--{name} {value}: expected True or False")
            arguments.append(f"--{name}={value}")
        elif equals or argv:
            arguments.append(f"--{name}={value if equals else argv.pop(0)}")
        else:
            raise ValueError(f"--{name} needs a value: see --help")
    prompts = [argument[9:] for argument in arguments if argument.startswith("--prompt=")]
    if len(prompts) > ("prompt" in defaults):
        raise ValueError(f"unexpected argument {prompts[-1]!r}: put quotes around a text")
    return arguments


def run(function):
    """Call function with the options on the command line; print what it did wrong in one line."""
    import fire

    sys.stdin.reconfigure(encoding="utf-8", newline="", errors="replace")
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stderr.reconfigure(encoding="utf-8", errors="replace")
    parameters = inspect.signature(function).parameters
    texts = {name: str for name, value in parameters.items() if "str" in str(value.annotation)}
    try:
        argv = fire_arguments(sys.argv[1:], {name: p.default for name, p in parameters.items()})
        if argv == ["--help"]:
            return print(inspect.getdoc(function))
        fire.decorators.SetParseFns(**texts)(function)
        fire.Fire(function, argv, serialize=lambda result: None)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # such as by `| head`: nobody reads on, and exit must not try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {' '.join(str(error).split())}")
