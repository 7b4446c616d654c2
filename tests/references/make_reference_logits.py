"""Write reference_logits.npz: what `transformers` computes for small random models.

    python -m tests.references.make_reference_logits

Run it again only to add shapes; the tests hold gpt2.py to the committed file, so that they need
neither transformers nor PyTorch.
"""

from pathlib import Path

import numpy as np

from tests.fixtures.random_models import SHAPES, random_params, random_prompt
from tests.references.transformers_gpt2 import transformers_logits

REFERENCE_LOGITS = Path(__file__).with_name("reference_logits.npz")


def main():
    import torch
    import transformers

    arrays = {"versions": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    for name, hparams in SHAPES.items():
        params, inputs = random_params(hparams), random_prompt(hparams)
        for dtype in ("float32", "float64"):
            arrays[f"{name}.{dtype}"] = transformers_logits(params, hparams, inputs, dtype)
    np.savez_compressed(REFERENCE_LOGITS, **arrays)
    print(f"{REFERENCE_LOGITS.name}: {REFERENCE_LOGITS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
