"""Run all classes of faults, say of each case that did not end well how it ended, and write
docs/reliability.md.

With --only no report is written. --seed fresh draws other faults each time, and prints the seed.
"""

import argparse
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.faults.classes import CLASSES
from tests.faults.outcome import CLEAR_ERROR, RIGHT, FaultClass

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "reliability.md"


def run_class(faults: FaultClass, n: int, seed: int) -> Counter:
    """Run `n` cases of a class, and count how they ended."""
    ended = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        cases = faults.cases(random.Random(f"{seed} {faults.title}"), Path(folder))
        with closing(cases):  # which may have a server to stop
            for i in range(n):
                case = next(cases)
                outcome = case.run()
                if outcome not in (RIGHT, CLEAR_ERROR):
                    print(f"{faults.title}, case {i}: {case.name}: {outcome}", flush=True)
                    outcome = "anything else"
                ended[outcome] += 1
    return ended


def table(results: dict[str, Counter]) -> str:
    """The report's table, in Markdown."""
    lines = [
        "| fault | tried | ended right | failed in one clear line | anything else |",
        "|---|--:|--:|--:|--:|",
    ]
    for title, ended in results.items():
        counts = (ended.total(), ended[RIGHT], ended[CLEAR_ERROR], ended["anything else"])
        lines.append(f"| {title} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", metavar="WORD", default="", help="classes with this word in them")
    parser.add_argument("--seed", default="0", help="which faults are drawn (0), or `fresh`")
    parser.add_argument("--sample", action="store_true", help="as few of each as pytest runs")
    options = parser.parse_args()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as after `python -m tests.faults &`
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the programs are to notice it
    if options.seed != "fresh" and not options.seed.isdecimal():
        parser.error(f"--seed {options.seed}: expected a whole number, or fresh")
    seed = secrets.randbelow(10**6) if options.seed == "fresh" else int(options.seed)
    chosen = [faults for faults in CLASSES if options.only.lower() in faults.title.lower()]
    if not chosen:
        titles = ", ".join(faults.title for faults in CLASSES)
        parser.error(f"--only {options.only}: no class has this word in it; there are: {titles}")
    results = {}
    for faults in chosen:
        started = time.monotonic()
        n = faults.n_sample if options.sample else faults.n_cases
        results[faults.title] = run_class(faults, n, seed)
        print(f"{faults.title}: {n} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(f"seed {seed}\n\n{table(results)}")
    if not options.only and not options.sample:
        write_report(table(results), seed)
    sys.exit(any(ended["anything else"] for ended in results.values()))


def write_report(rows: str, seed: int) -> None:
    """Put the table between the report's two marks, and leave the text around it."""
    start, end = "<!-- table -->\n", "<!-- end of table -->\n"
    before, _, rest = REPORT.read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(end)
    text = f"{before}{start}Seed {seed}.\n\n{rows}{end}{after}"
    REPORT.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
