"""One measurement in a process of its own, started by bench.compare: -> JSON, printed last."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import guesses, tasks
from bench.contenders import CONTENDERS, OURS, use_checkout


@dataclass
class Job:
    """What to measure."""

    contender: str
    task: str  # one of tasks.TASKS, or "guesses"
    model: str  # the folder of the model
    small_model: str  # the folder of the bundled model
    checkout: str  # the folder whose gpt2.py is meant, if the contender is one
    n_threads: int  # of the others; gpt2.py finds the cores itself
    quick: bool

    def command(self) -> list[str]:
        """The process that does it; it has to start in the folder that bench/ is in."""
        return [sys.executable, "-m", "bench.one_run", json.dumps(asdict(self))]


def run(job: Job):
    """The figures of one job, as JSON can hold them."""
    use_checkout(job.checkout)
    if job.task == "guesses":
        step = guesses.QUICK_STEP if job.quick else 1
        paragraph = tasks.LONG[: guesses.N_PARAGRAPH]
        return guesses.measure(Path(job.small_model), Path(job.model), tasks.SHORT, paragraph, step)
    contender = CONTENDERS[job.contender if job.contender in CONTENDERS else OURS]
    generator = contender.make(Path(job.model), job.n_threads)
    lengths = tasks.QUICK if job.quick else tasks.FULL
    return tasks.TASKS[job.task](generator, lengths)


if __name__ == "__main__":
    print("\n" + json.dumps(run(Job(**json.loads(sys.argv[1])))))
