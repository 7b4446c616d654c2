"""Look inside GPT-2: the program. What it is made of is in `explaining/`."""

import os
import sys
import webbrowser
from pathlib import Path

from command_line import check, encode_prompt, notice, read_prompts, run
from explaining import server
from explaining.compare import Comparison, compare_dumps, find_hint, report
from explaining.dump import Dump, names_table, read_dump, write_dump
from explaining.page import page_html
from explaining.page_data import N_TOKENS_TO_GENERATE, page_data
from explaining.watch import watch
from generating.sampling import Sampling
from model_files.disk import replacing
from utils import load_model


def find_hint_with_model(
    found: Comparison, ours: Dump, theirs: Dump, model_size: str | None, models_dir: str
) -> str | None:
    """The hint at what went wrong; None, with a notice, without the model that `ours` is of."""
    model_size = model_size or ours.about.get("model_size")
    try:
        _, _, params = load_model(model_size, models_dir)
        return find_hint(found, ours, theirs, params)
    except (OSError, ValueError) as error:
        notice(f"no hint without the model of {ours.path}: {error}; give its --model_size")
        return None


def compare_files(
    our_path: str, their_path: str, tolerance: float, model_size: str | None, models_dir: str
) -> bool:
    """Print how two dumps compare. Returns whether they are equal."""
    ours, theirs = read_dump(our_path), read_dump(their_path)
    found = compare_dumps(ours, theirs, tolerance)
    if found.difference:
        found.hint = find_hint_with_model(found, ours, theirs, model_size, models_dir)
    print(report(found, ours, theirs, tolerance))
    return found.difference is None


def check_replaceable(path: str) -> None:
    """Raise OSError for a folder, a pipe or a device: a finished file takes the place of `path`."""
    if not path:
        raise OSError("cannot write a file whose name is empty")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise OSError(f"cannot write {path}: there is no folder {os.path.dirname(path)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"cannot write {path}: it is there, and is not a file")


def write_values(
    text: str, model: tuple, dump: str | None, names: bool, model_size: str | None
) -> None:
    """Write all values of the prompt to the file `dump`, print their names, or both."""
    encoder, hparams, params = model
    ids = encode_prompt(text, encoder, hparams["n_ctx"])[-hparams["n_ctx"] :]
    values = watch(ids, params, hparams["n_head"])
    if dump is not None:
        write_dump(dump, values, ids, hparams, text, model_size)
    if names:
        print(names_table(values))


def write_page(path: str, data: dict, opened: bool) -> None:
    """Write the page as one file and print its path; `opened`: in the browser, too."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(page_html(data), encoding="utf-8", newline="\n")
    print(path)
    if opened and not webbrowser.open(Path(path).resolve().as_uri()):
        notice("there is no browser to open it in")


def main(
    prompt: str | None = None,
    out: str = "explain.html",
    open: bool = False,
    serve: bool = False,
    n_tokens_to_generate: int = N_TOKENS_TO_GENERATE,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop_at_eot: bool = True,
    dump: str | None = None,
    names: bool = False,
    compare: str | None = None,
    tolerance: float = 1e-4,
    model_size: str | None = None,
    models_dir: str = "models",
) -> None:
    """Look inside GPT-2: what it saw in a text, on a page or as numbers.

      python explain.py "Not all heroes wear capes." --open
      python explain.py "Not all heroes wear capes." --serve
      python explain.py "Not all heroes wear capes." --dump values.npz
      python explain.py --compare values.npz theirs.npz

    The first writes a page of all that happened, one file that needs no network: tokens, what comes
    next, attention, each layer, every operation. The second shows the same page where the prompt
    can be changed. The third writes all values, by name; numpy.load reads them. The fourth is for a
    GPT-2 of your own, which writes some of these values, by the same names, with numpy.savez: it
    prints the first one that differs, and what mistake would explain it, if it is a known one. Its
    exit status is 0 if all are equal, 1 if not.

    PROMPT                    in quotes; "" is <|endoftext|>, - reads standard input; after -- it
                              may begin with a dash
    --out FILE                the page (explain.html)
    --open                    open it in the browser
    --serve                   keep the model, and show the page to a browser on this machine, until
                              Ctrl-C
    --n_tokens_to_generate N  how much the model adds to the text on the page (20)
    --temperature X, --top_k K, --top_p P, --seed N, --stop_at_eot BOOL
                              how, as for gpt2.py
    --dump FILE               no page: write the token ids, all values and what they are (.npz)
    --names                   no page: list all values: name, shape, function in gpt2.py,
                              description
    --compare FILE OTHER      no page: compare a file of --dump with another one; OTHER stands in
                              the place of PROMPT
    --tolerance X             for --compare: the largest difference that counts as equal; of numbers
                              above 1, relative to them (0.0001)
    --model_size NAME         as for gpt2.py (124M; without a network "python", a small
                              bundled model of Python code); for --compare: that of FILE
    --models_dir DIR          where model folders are kept (models)
    """
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    Sampling(**sampling)  # refuses what is out of its range before a model is loaded
    check("n_tokens_to_generate", n_tokens_to_generate, int, 0, sys.maxsize)
    check("tolerance", tolerance, float, 0)
    if compare is not None:
        if prompt is None or dump is not None or names:
            raise ValueError("--compare takes two files: python explain.py --compare FILE OTHER")
        if not compare_files(compare, prompt, tolerance, model_size, models_dir):
            sys.exit(1)
        return
    if serve and open:
        raise ValueError("--open is for the file: open the address that --serve prints yourself")
    if prompt is None:
        raise ValueError('give a prompt in quotes: python explain.py "def " --open')
    check_replaceable(out)
    if dump is not None:
        check_replaceable(dump)
    model = load_model(model_size, models_dir)
    [text] = read_prompts(prompt)
    if dump is not None or names:
        write_values(text, model, dump, names, model_size)
        return
    options = {"stop_at_eot": stop_at_eot, **sampling}
    if serve:
        server.serve(model, text, n_tokens_to_generate, **options)
    else:
        write_page(out, page_data(text, model, n_tokens_to_generate, **options), open)


if __name__ == "__main__":
    run(main)
