"""Measurements of this project beside others. Run from the project's folder; each has a --help.

    python -m bench.compare    generation: speed, memory, start, guesses, beside other programs
    python -m bench.whole_run  whole processes, the one that keeps no cache included
    python -m bench.exactness  how far float32 logits are from float64 ones
    python -m bench.tokenizer  speed of the tokenizer
    python -m bench.training   speed and memory of training
    python -m bench.loss       what training reaches for the same number of tokens
    python -m bench.ablation   what each part of the training recipe is worth
    python -m bench.bundled    what the bundled model writes
    python -m bench.page       the page of explain.py: seconds and megabytes
    python -m bench.chart      draws docs/speed.svg from the figures of bench.compare

`pip install -r bench/requirements.txt` brings the programs to compare with.
"""
