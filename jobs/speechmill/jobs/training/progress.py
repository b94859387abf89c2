"""Reports of a worker; without torch, because the process that passes them on does not need it."""

from dataclasses import dataclass
from enum import StrEnum


class ProgressKind(StrEnum):
    """The subject of a report of progress."""

    STEP = "step"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """A report of a worker to the process that started the run."""

    step: int
    total: int
    phase: str
    values: dict[str, float]
    kind: ProgressKind = ProgressKind.STEP
