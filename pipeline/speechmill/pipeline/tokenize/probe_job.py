"""The job of `speechmill plan`, as a pool sends it to its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechmill.pipeline.tokenize.job import TokenizeJob

if TYPE_CHECKING:
    from speechmill.pipeline.tokenize.prober import Prober


@dataclass(frozen=True)
class ProbeJob:
    """A job that measures parts of shards; `seconds` is the work on each, None for whole shards."""

    job: TokenizeJob
    seconds: float | None

    @property
    def output(self) -> str:
        return self.job.output

    @property
    def num_outputs(self) -> int:
        return self.job.num_outputs

    @property
    def packages(self) -> tuple[str, ...]:
        return self.job.packages

    @property
    def waiting_shards(self) -> int:
        return self.job.waiting_shards

    @property
    def object_mb(self) -> float:
        return self.job.object_mb

    def load(self) -> Prober:
        """Load the codecs as for a run."""
        from speechmill.pipeline.tokenize.prober import Prober

        return Prober(self.job.outputs, self.job.storage, self.job.decode, self.seconds)
