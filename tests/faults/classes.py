"""All classes of faults, in the order of the report."""

from tests.faults import training
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [
    *training.CLASSES,
]
