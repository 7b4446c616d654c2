"""How far float32 logits are from float64 ones: gpt2.py's, gpt2_pico.py's, transformers'.

The reference is gpt2.py with the same weights in float64, which is itself compared with
transformers in float64. Random weights, the small shapes of the tests and that of 124M, up to 128
positions, the logits of all of them. Columns: the largest distance, and the root of the mean
square. transformers and PyTorch are left out where they are not installed.

Half a minute on two cores.
"""

import importlib.util

import numpy as np

import gpt2
import gpt2_pico
from bench.measure import WEIGHT_SCALE, Options, machine, print_table, write_json
from tests.fixtures.random_models import GPT2_124M, SHAPES, random_params, random_prompt
from tests.references.transformers_gpt2 import transformers_logits

SMALL_SCALE = 0.2  # standard deviation of the small models' weights
N_POSITIONS = 128  # at most


def main():
    options = Options("bench.exactness", __doc__)
    options.add_json()
    arguments = options.parse_args()
    figures = {"machine": machine(("transformers", "torch")), "distances": {}}
    for shape, hparams in {**SHAPES, "124M": GPT2_124M}.items():
        scale = WEIGHT_SCALE if shape == "124M" else SMALL_SCALE
        size, distances = measure(hparams, scale)
        figures["distances"][shape] = distances
        title = f"Shape {shape}, logits up to {size:.1f}: distance from float64 logits"
        rows = [[name, *(f"{x:.1e}" for x in pair)] for name, pair in distances.items()]
        header = ["", "largest", "root mean square"]
        print_table(title, figures["machine"], header, rows)
    write_json(figures, arguments.json)


def measure(hparams: dict, scale: float) -> tuple[float, dict]:
    """-> the size of the largest logit, {program: (largest, root mean square) distance}"""
    n_head = hparams["n_head"]
    params = random_params(hparams, scale=scale)
    params64 = random_params(hparams, scale=scale, dtype=np.float64)
    inputs = random_prompt(hparams, min(N_POSITIONS, hparams["n_ctx"]))
    exact = gpt2.gpt2(inputs, **params64, n_head=n_head)  # [n_seq, n_vocab]
    logits = {
        "gpt2.py": gpt2.gpt2(inputs, **params, n_head=n_head),
        "gpt2_pico.py": gpt2_pico.gpt2(inputs, **params, n_head=n_head),
    }
    if importlib.util.find_spec("transformers"):
        logits["transformers"] = transformers_logits(params, hparams, inputs)
        logits["transformers, float64"] = transformers_logits(params64, hparams, inputs, "float64")
    distances = {name: distance(found, exact) for name, found in logits.items()}
    return float(np.abs(exact).max()), distances


def distance(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """-> the largest difference, and the root of the mean square difference"""
    difference = found - exact
    return float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2)))


if __name__ == "__main__":
    main()
