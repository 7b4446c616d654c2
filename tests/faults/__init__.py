"""Faults injected for real, and a count of how the programs end: `python -m tests.faults`.

- `outcome.py`: what a class of faults is, and what counts as ending well;
- `classes.py`: the list of all classes;
- each other file: some classes. It does the damage, runs the program as a user would, and judges.

`__main__.py` runs them all and writes `docs/reliability.md`; `tests/test_faults.py` runs a sample.
"""
