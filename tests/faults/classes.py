"""All classes of faults, in the order of the report."""

from tests.faults.forks import FORKS
from tests.faults.load import LOAD
from tests.faults.options import CLOSED_STREAMS, INTERRUPTS, OPTIONS
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [OPTIONS, CLOSED_STREAMS, INTERRUPTS, FORKS, LOAD]
