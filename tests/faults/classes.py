"""All classes of faults, in the order of the report."""

import sys

from tests.faults import training
from tests.faults.folders import (
    DAMAGED_HUGGING_FACE,
    DAMAGED_OPENAI,
    KILLED_SAVES,
    READ_DURING_SAVES,
)
from tests.faults.forks import FORKS
from tests.faults.load import LOAD
from tests.faults.network import FOUR_AT_ONCE, HOSTILE_SERVERS, KILLS
from tests.faults.options import CLOSED_STREAMS, OPTIONS
from tests.faults.outcome import FaultClass

CLASSES: list[FaultClass] = [HOSTILE_SERVERS, KILLS, FOUR_AT_ONCE, *training.CLASSES, OPTIONS]
if sys.platform == "linux":  # forks, pipes, shells, signals, /proc
    CLASSES += [DAMAGED_HUGGING_FACE, DAMAGED_OPENAI, READ_DURING_SAVES, KILLED_SAVES]
    CLASSES += [CLOSED_STREAMS, FORKS, LOAD]
