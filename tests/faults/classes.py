"""All classes of faults, in the order of the report."""

import sys

from tests.faults.forks import FORKS
from tests.faults.load import LOAD
from tests.faults.options import CLOSED_STREAMS, INTERRUPTS, OPTIONS
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [OPTIONS]
if sys.platform == "linux":  # forks, shells, signals, /proc
    CLASSES += [CLOSED_STREAMS, INTERRUPTS, FORKS, LOAD]
