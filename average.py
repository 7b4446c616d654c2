"""The weighted average of two models of one shape, such as one before and after fine-tuning.

Between the two the losses on both kinds of text are often lower than a straight line would say.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.
"""

from pathlib import Path

import numpy as np

from command_line import check, run
from utils import load_encoder_hparams_and_params, map_params, named, save_model_folder


def average(first: dict, second: dict, part: float) -> dict:
    """part * first + (1 - part) * second, for each parameter; float32, nested as they are.

    >>> average({"ln_f": {"g": np.array([1.0])}}, {"ln_f": {"g": np.array([3.0])}}, 0.75)
    {'ln_f': {'g': array([1.5], dtype=float32)}}
    """
    others = named(second)

    def mean(name, p):
        return np.asarray(part * p + (1 - part) * others[name], np.float32)

    return map_params(mean, first)


def main(first: str, second: str, out: str, part: float = 0.5, half: bool = False) -> None:
    """Write the average of the models in two folders to a third one.

      python average.py --first ../polished --second ../cooled --out models/mine

    --first FOLDER   one model
    --second FOLDER  the other one
    --out FOLDER     where the average is written
    --part X         the first model's part of it, from 0 to 1 (0.5)
    --half           store the weights as float16
    """
    check("part", part, float, 0, 1)
    paths = [Path(folder).resolve() for folder in (first, second)]  # "." has no name
    models = [load_encoder_hparams_and_params(path.name, str(path.parent)) for path in paths]
    one, other = [(hparams, e.encoder, e.bpe_ranks) for e, hparams, _ in models]
    if one != other:
        raise ValueError(f"{first} and {second} have other sizes or another vocabulary")
    (encoder, hparams, params), (_, _, other_params) = models
    dtype = np.float16 if half else np.float32
    save_model_folder(out, encoder, hparams, average(params, other_params, part), dtype=dtype)


if __name__ == "__main__":
    run(main)
