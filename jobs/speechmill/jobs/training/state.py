"""The state of a run between two steps, except for its networks and optimizers."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from speechmill.jobs.training.collapse import CollapseDetector
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.stream import StreamState
from speechmill.jobs.training.validation import MEL
from speechmill.pipeline.errors import TrainingDiverged
from speechmill.pipeline.storage import Storage

logger = logging.getLogger(__name__)


@dataclass
class Best:
    """The best validation of a phase."""

    phase: str = ""
    step: int = 0
    mel: float = float("inf")
    metric: str = MEL

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Best":
        """Forget a best value of another metric: no new value can be compared with it."""
        if saved.get("metric") == MEL:
            return cls(**saved)
        if saved["step"]:
            logger.warning(
                "the best mel distance so far, %.4g at step %d, was measured in another way than "
                "this version measures; the next validation counts as the best",
                saved["mel"],
                saved["step"],
            )
        return cls(saved["phase"])


@dataclass
class SkippedSteps:
    """Steps without a finite gradient."""

    in_a_row: list[list[str]] = field(default_factory=list)  # keys of the samples of each
    total: int = 0

    def add(self, step: int, keys: list[str], values: Mapping[str, float]) -> None:
        """Count a step if its gradient is not finite."""
        if isfinite(values["grad_norm"]):
            self.in_a_row.clear()
            return
        self.total += 1
        self.in_a_row.append(keys)
        logger.warning("skipped step %d: its gradient is not finite", step)

    def give_up(self, step: int, values: Mapping[str, float], url: str, storage: Storage) -> None:
        """Write the keys of the samples to a file and raise `TrainingDiverged`."""
        shown = {name: repr(value) for name, value in values.items()}
        report = {"step": step, "values": shown, "keys": self.in_a_row}
        storage.put(url, json.dumps(report, indent=1).encode())
        raise TrainingDiverged(
            f"{len(self.in_a_row)} steps in a row had no finite gradient; their samples are named "
            f"in {url}; lower the learning rate or remove the samples at fault"
        )


@dataclass
class TrainingState:
    """The state of one worker between two steps."""

    step: int = 0
    stream: StreamState = field(default_factory=StreamState)
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    best: Best = field(default_factory=Best)
    detector: CollapseDetector = field(default_factory=CollapseDetector)
    weights_step: int = 0  # of last.safetensors

    def as_dict(self, streams: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the entries of a checkpoint; `streams` are those of all workers."""
        return {
            "positions": streams,
            "skipped": self.skipped.in_a_row,
            "num_skipped": self.skipped.total,
            "best": asdict(self.best),
            "collapse": self.detector.as_dict(),
            "weights_step": self.weights_step,
        }

    @classmethod
    def from_checkpoint(cls, saved: Mapping[str, Any], context: WorkerContext) -> "TrainingState":
        """Return the state of a worker; with another number of workers the epoch starts again."""
        streams = [StreamState.from_dict(each) for each in saved["positions"]]
        if len(streams) == context.world_size:
            stream = streams[context.rank]
        else:
            stream = StreamState(min(each.epoch for each in streams))
            message = "%d workers continue the run of %d: epoch %d starts again"
            logger.warning(message, context.world_size, len(streams), stream.epoch)
        skipped = SkippedSteps([list(keys) for keys in saved["skipped"]], saved["num_skipped"])
        return cls(
            saved["step"],
            stream,
            skipped,
            Best.from_dict(saved["best"]),
            CollapseDetector.from_dict(saved.get("collapse", {})),
            saved.get("weights_step", saved["step"]),
        )
