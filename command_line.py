"""The command lines of this project: fire, made safe for prompts, and errors in one line; and what
`gpt2.py` needs between its options and its model.

`run(main)` is all that a program needs: the options are main's arguments, the help page is its
docstring. What is left out: subcommands, short options.
"""

import inspect
import math
import os
import sys

import numpy as np


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


def load_model(model_size, models_dir):
    """(encoder, hparams, params) of that name, by default 124M, or offline the bundled one."""
    from utils import load_encoder_hparams_and_params

    if model_size is not None:
        return load_encoder_hparams_and_params(model_size, models_dir)
    try:
        return load_encoder_hparams_and_params("124M", models_dir)
    except (ConnectionError, ImportError) as error:  # no network, or no TensorFlow to convert it
        notice = "using the small bundled model, which only knows Python. For GPT-2 124M mend this"
        print(f"gpt2.py: {error}; {notice}, or set GPT2_BASE_URL to a mirror", file=sys.stderr)
        bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
        return load_encoder_hparams_and_params("python", bundled)


thread_limit = math.inf  # --threads


def cores():
    """How many threads to use: as many as this process may use processor cores, up to --threads."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(n, thread_limit)


def use_threads(n=None):
    """Use `n` threads from now on, at most one for each core that the process may use."""
    if n is None:  # as many; BLAS does so by itself
        return
    from threadpoolctl import threadpool_limits

    global thread_limit
    check("threads", n, int, 1)
    thread_limit = n
    threadpool_limits(cores(), "blas")


def complete(prompt, encoder, hparams, params, n_tokens_to_generate, seeds, **options):
    """The texts that follow prompt (str), one for each of `seeds`: iterators of their pieces.

    A piece is whole characters. A single text comes as it is made; several are made side by side
    first. An empty prompt starts from `<|endoftext|>`. `options` go to `gpt2.generate`.
    """
    import gpt2

    ids, n_ctx = encoder.encode(prompt) or [encoder.eot], hparams["n_ctx"]
    if None in ids:
        raise ValueError("an empty prompt starts from <|endoftext|>, which this vocabulary lacks")
    if len(ids) > n_ctx:
        print(f"gpt2.py: of {len(ids)} prompt tokens the last {n_ctx} are read", file=sys.stderr)
    n_head, rngs = hparams["n_head"], [np.random.default_rng(seed) for seed in seeds]
    if len(seeds) == 1:
        options |= {"rng": rngs[0]}
        new_ids = gpt2.generate_stream(ids, params, n_head, n_tokens_to_generate, **options)
        return [encoder.decode_stream(with_bar(new_ids, n_tokens_to_generate))]
    from fast_generation import copies, side_by_side

    options.pop("lookup", None)
    windows = copies(ids, params, n_head, len(seeds))
    new_ids = side_by_side(windows, n_tokens_to_generate, rngs=rngs, **options)
    texts = [[] for _ in seeds]
    for i, new_id in with_bar(new_ids, n_tokens_to_generate * len(seeds)):
        texts[i].append(new_id)
    return [encoder.decode_stream(text) for text in texts]


def with_bar(new_ids, n_tokens):
    """`new_ids` with a progress bar, unless the text goes to the terminal: it would cut through."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return new_ids
    from tqdm import tqdm

    return tqdm(new_ids, "generating", n_tokens, unit="token")


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
