"""Train a GPT-2 from text in NumPy: the program.

Its parts are in `training/`: the options with their help (`options.py`), the run (`run.py`) and
what a run is made of. Source of the whole: Radford et al., "Language Models are Unsupervised
Multitask Learners", 2019.

Left out: mixed precision, more than one machine, text that does not fit in memory.
"""

from pathlib import Path

from command_line import run
from training.folder import only_training_in
from training.options import Options
from training.run import Run


def main(options: Options) -> None:
    """Train; what the options mean is in the docstring of `Options`."""
    with only_training_in(Path(options.out), options.resume):
        Run(options).train()


if __name__ == "__main__":
    run(main, Options)
