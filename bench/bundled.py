"""What the bundled model writes: twenty prompts, and how often the result is Python.

Each prompt is continued greedily by up to 100 tokens, to the model's own end or, where that does
not come, to the end of the last whole line. Prompt and continuation together count if Python's
parser takes them. Then two of the prompts at temperature 0.8.

Some ten seconds on two cores.
"""

import ast
import textwrap

import numpy as np

from bench.measure import ROOT, Options
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
SAMPLED = ["def fibonacci(n):", "def read_file(path):"]
TEMPERATURE, SEED = 0.8, 0
N_TOKENS = 100


def continuation(model, prompt: str, **sampling) -> str:
    """The text after the prompt: all of it if it ended by itself, otherwise its whole lines."""
    encoder, hparams, params = model
    ids = generate(
        encoder.encode(prompt),
        params,
        hparams["n_head"],
        N_TOKENS,
        stop_id=encoder.eot,
        **sampling,
    )
    text = encoder.decode(ids)
    if len(ids) < N_TOKENS:
        return text
    return text[: text.rfind("\n") + 1]


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def main():
    options = Options("bench.bundled", __doc__)
    options.add_argument("--model_size", default="python", help="a model folder (python)")
    options.add_argument("--models_dir", default=str(ROOT / "models"), help="where it is (models)")
    arguments = options.parse_args()
    model = load_encoder_hparams_and_params(arguments.model_size, arguments.models_dir)
    n_parsed = 0
    for prompt in PROMPTS:
        source = prompt + continuation(model, prompt)
        if parses(source):
            n_parsed += 1
            print("--- parses")
        else:
            print("--- does not parse")
        print(textwrap.indent(source, "    "))
    print(f"--- {n_parsed} of {len(PROMPTS)} parse\n")
    for prompt in SAMPLED:
        rng = np.random.default_rng(SEED)
        text = continuation(model, prompt, temperature=TEMPERATURE, rng=rng)
        print(f"--- temperature {TEMPERATURE}, seed {SEED}")
        print(textwrap.indent(prompt + text, "    "))


if __name__ == "__main__":
    main()
