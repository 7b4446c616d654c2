"""All classes of faults, in the order of the report."""

from tests.faults.network import FOUR_AT_ONCE, HOSTILE_SERVERS, KILLS
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [HOSTILE_SERVERS, KILLS, FOUR_AT_ONCE]
