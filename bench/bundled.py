"""What the bundled model writes: twenty prompts, and how often the result is Python.

    python bench/bundled.py [MODEL_SIZE] [MODELS_DIR]

Each prompt is continued greedily by up to 100 tokens, to the model's own end or, where that does
not come, to the end of the last whole line; prompt and continuation together count if Python's
parser takes them. Then two of the prompts at temperature 0.8.
"""

import ast
import sys
import textwrap

import numpy as np
from measure import ROOT

from gpt2 import generate
from utils import load_encoder_hparams_and_params

PROMPTS = [
    "def fibonacci(n):",
    "def add(a, b):",
    "def is_prime(n):",
    "def factorial(n):",
    "def reverse(text):",
    "def read_file(path):",
    "def write_file(path, data):",
    "def parse_args(argv):",
    "def count_words(text):",
    "def __init__(self, name, value=None):",
    "def __repr__(self):",
    "def __eq__(self, other):",
    "def __enter__(self):",
    "def close(self):",
    "def get(self, key, default=None):",
    "def main():",
    "async def connect(self, host, port):",
    "def send(self, message):",
    "def _check_type(value):",
    "@property\ndef size(self):",
]


def continuation(model, prompt, n_tokens=100, **sampling):
    """The text after the prompt: all of it if it ended by itself, otherwise its whole lines."""
    encoder, hparams, params = model
    prompt_ids, n_head = encoder.encode(prompt), hparams["n_head"]
    ids = generate(prompt_ids, params, n_head, n_tokens, stop_id=encoder.eot, **sampling)
    text = encoder.decode(ids)
    return text if len(ids) < n_tokens else text[: text.rfind("\n") + 1]


def parses(source):
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def main(model_size="python", models_dir=str(ROOT / "models")):
    model = load_encoder_hparams_and_params(model_size, models_dir)
    n_parsed = 0
    for prompt in PROMPTS:
        text = continuation(model, prompt)
        parsed = parses(prompt + text)
        n_parsed += parsed
        print(f"--- {'parses' if parsed else 'does not parse'}")
        print(textwrap.indent(prompt + text, "    "))
    print(f"--- {n_parsed} of {len(PROMPTS)} parse\n")
    for prompt in PROMPTS[:1] + PROMPTS[5:6]:
        print("--- temperature 0.8, seed 0")
        rng = np.random.default_rng(0)
        text = continuation(model, prompt, temperature=0.8, rng=rng)
        print(textwrap.indent(prompt + text, "    "))


if __name__ == "__main__":
    main(*sys.argv[1:])
