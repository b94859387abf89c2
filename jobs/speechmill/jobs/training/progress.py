"""What a worker and the driver tell each other; without torch, which only the worker needs."""

from dataclasses import dataclass
from enum import StrEnum


class ProgressKind(StrEnum):
    """The subject of a report of progress."""

    STEP = "step"
    VALIDATION = "validation"
    COLLAPSE = "collapse"


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """A report of a worker to the process that started the run."""

    step: int
    total: int
    phase: str
    values: dict[str, float]
    kind: ProgressKind = ProgressKind.STEP
    note: str = ""  # the text of a collapse


class Messages:
    """What the driver and the main worker tell each other; Ray keeps one in an actor."""

    def __init__(self) -> None:
        self._reports: list[TrainProgress] = []
        self._stopping = False

    def report(self, progress: TrainProgress) -> None:
        """Keep a report of the worker for the driver."""
        self._reports.append(progress)

    def should_stop(self) -> bool:
        """Whether the driver wants the worker to stop."""
        return self._stopping

    def take_reports(self, should_stop: bool) -> list[TrainProgress]:
        """Called by the driver: say whether to stop, and get the reports since the last call."""
        self._stopping = should_stop
        reports, self._reports = self._reports, []
        return reports
