"""How far float32 logits are from float64 ones: gpt2.py's, gpt2_pico.py's, transformers'.

    python bench/exactness.py

The reference is gpt2.py on the same weights as float64, itself compared with transformers'
float64. Random weights; 124M shape and the small shapes of the tests; all positions.
"""

import numpy as np
from measure import machine
from random_models import GPT2_124M, SHAPES, random_params, random_prompt
from references import transformers_logits

import gpt2
import gpt2_pico


def main():
    print(machine())
    print("largest and root-mean-square distance from the float64 logits")
    for name, hparams in {**SHAPES, "124M": GPT2_124M}.items():
        scale = 0.05 if name == "124M" else 0.2
        params, n_head = random_params(hparams, scale=scale), hparams["n_head"]
        inputs = random_prompt(hparams, min(128, hparams["n_ctx"]))
        wide = random_params(hparams, scale=scale, dtype=np.float64)
        exact = gpt2.gpt2(inputs, **wide, n_head=n_head)
        logits = {
            "gpt2.py": gpt2.gpt2(inputs, **params, n_head=n_head),
            "gpt2_pico.py": gpt2_pico.gpt2(inputs, **params, n_head=n_head),
            "transformers": transformers_logits(params, hparams, inputs),
            "transformers, float64": transformers_logits(wide, hparams, inputs, "float64"),
        }
        print(f"{name}, logits up to {np.abs(exact).max():.1f}:")
        for program, found in logits.items():
            error = np.abs(found - exact)
            print(f"  {program:22} {error.max():.1e}  {np.sqrt(np.mean(error**2)):.1e}")


if __name__ == "__main__":
    main()
