"""Write tests/reference_logits.npz: what `transformers` computes for small random models.

    python tests/make_reference_logits.py

Run it again only to add shapes; the tests hold gpt2.py to the committed file, so that they need
neither transformers nor PyTorch.
"""

from pathlib import Path

import numpy as np
from random_models import SHAPES, random_params, random_prompt
from references import transformers_logits

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
