"""Look inside GPT-2: the program. What it is made of is in `explaining/`."""

import sys

import gpt2
from command_line import check, run
from explaining.compare import Comparison, compare_dumps, find_hint, report
from explaining.dump import Dump, names_table, read_dump, write_dump
from explaining.watch import watch


def find_hint_with_model(
    found: Comparison, ours: Dump, theirs: Dump, model_size: str | None, models_dir: str
) -> str | None:
    """The hint at what went wrong; None, with a notice, without the model that `ours` is of."""
    model_size = model_size or ours.about.get("model_size")
    try:
        _, _, params = gpt2.load_model(model_size, models_dir)
        return find_hint(found, ours, theirs, params)
    except (OSError, ValueError) as error:
        notice = f"no hint without the model of {ours.path}: {error}; give its --model_size"
        print(f"explain.py: {notice}", file=sys.stderr)
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


def main(
    prompt: str | None = None,
    dump: str | None = None,
    names: bool = False,
    compare: str | None = None,
    tolerance: float = 1e-4,
    model_size: str | None = None,
    models_dir: str = "models",
) -> None:
    """Look inside GPT-2: every value that gpt2.py computes for a text.

      python explain.py "Not all heroes wear capes." --dump values.npz
      python explain.py "Not all heroes wear capes." --names
      python explain.py --compare values.npz theirs.npz

    The first writes all values, by name, to a file; numpy.load reads it. The second lists their
    names. The third is for a GPT-2 of your own, which writes some of these values, by the same
    names, with numpy.savez: it prints the first one that differs, and what mistake would explain
    it, if it is a known one. Its exit status is 0 if all are equal, 1 if not.

    PROMPT                in quotes; "" is <|endoftext|>, - reads standard input; after -- it may
                          begin with a dash
    --dump FILE           write the token ids, all values and a description of each (.npz)
    --names               list all values: name, shape, function in gpt2.py, description
    --compare FILE OTHER  compare a file of --dump with another one; OTHER stands in the place of
                          PROMPT
    --tolerance X         for --compare: the largest difference that counts as equal; of numbers
                          above 1, relative to them (0.0001)
    --model_size NAME     as for gpt2.py (124M; without a network the small bundled model, python);
                          for --compare: that of FILE
    --models_dir DIR      where model folders are kept (models)
    """
    check("tolerance", tolerance, float, 0)
    if compare is not None:
        if prompt is None or dump is not None or names:
            raise ValueError("--compare takes two files: python explain.py --compare FILE OTHER")
        if not compare_files(compare, prompt, tolerance, model_size, models_dir):
            sys.exit(1)
        return
    if prompt is None or not (dump is not None or names):
        raise ValueError("give a prompt in quotes, and --dump FILE or --names: see --help")
    encoder, hparams, params = gpt2.load_model(model_size, models_dir)
    [text] = gpt2.read_prompts(prompt, interactive=False)
    ids = gpt2.encode_prompt(text, encoder, hparams["n_ctx"])[-hparams["n_ctx"] :]
    values = watch(ids, params, hparams["n_head"])
    if dump is not None:
        write_dump(dump, values, ids, hparams, text, model_size)
    if names:
        print(names_table(values))


if __name__ == "__main__":
    run(main)
