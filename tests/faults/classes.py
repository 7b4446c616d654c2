"""All classes of faults, in the order of the report."""

from tests.faults.folders import (
    DAMAGED_HUGGING_FACE,
    DAMAGED_OPENAI,
    KILLED_SAVES,
    READ_DURING_SAVES,
)
from tests.faults.network import FOUR_AT_ONCE, HOSTILE_SERVERS, KILLS
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [HOSTILE_SERVERS, KILLS, FOUR_AT_ONCE]
CLASSES += [DAMAGED_HUGGING_FACE, DAMAGED_OPENAI, READ_DURING_SAVES, KILLED_SAVES]
