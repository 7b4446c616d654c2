"""Faults injected for real, and a count of how the programs end: `python -m tests.faults`.

- `outcome.py`: what a class of faults is, and what counts as ending well;
- `classes.py`: the list of all classes;
- each other file: some classes. It does the damage, runs the program as a user would, and judges.
  It imports the helpers in `tests/` as tests do, by their bare names.

`__main__.py` runs them all and writes `docs/reliability.md`; `tests/test_faults.py` runs a sample.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
