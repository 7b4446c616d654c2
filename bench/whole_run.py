"""Whole processes, from start to end, of the shape of GPT-2 124M with random float32 weights.

The programs run in turn, after one round that is not counted. Columns: gpt2.py; gpt2_pico.py, which
keeps no cache and so reads the whole text again for each token; Hugging Face's transformers, where
it is installed. Rows: how many tokens the prompt has and how many are added; the last row is the
time to the first token. Figures are median seconds, and in brackets how many times as long as
gpt2.py each takes.

About six minutes on two cores, most of it for gpt2_pico.py.
"""

import importlib.util
import tempfile

from bench.measure import (
    ROOT,
    Options,
    in_turn,
    machine,
    print_table,
    random_model,
    with_ratio,
    write_json,
)
from bench.programs import gpt2_command, pico_command, prompt_of, transformers_command

PROGRAMS = {
    "gpt2.py": gpt2_command,
    "gpt2_pico.py": pico_command,
    "transformers": transformers_command,
}
SETTINGS = (  # tokens in the prompt, tokens to add, rounds
    (10, 40, 5),
    (500, 20, 3),
    (10, 1, 7),
)


def main():
    options = Options("bench.whole_run", __doc__)
    options.add_json()
    arguments = options.parse_args()
    names = [name for name in PROGRAMS if name != "transformers" or has_transformers()]
    figures = {"machine": machine(("transformers", "torch")), "seconds": {}}
    rows = []
    with tempfile.TemporaryDirectory() as models_dir:
        model = random_model(models_dir)
        for n_prompt, n_new, n_rounds in SETTINGS:
            prompt = prompt_of(n_prompt)
            commands = {name: PROGRAMS[name](ROOT, model, prompt, n_new) for name in names}
            times = in_turn(commands, n_rounds)
            setting = f"{n_prompt} tokens in, {n_new} out"
            figures["seconds"][setting] = times
            cells = [f"{times['gpt2.py']:.2f}"]
            cells += [with_ratio(times[name], times["gpt2.py"], digits=2) for name in names[1:]]
            rows.append([setting, *cells])
    print_table("Whole processes, seconds", figures["machine"], ["", *names], rows)
    write_json(figures, arguments.json)


def has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None


if __name__ == "__main__":
    main()
