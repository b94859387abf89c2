"""Jobs for workers on Ray, which import them from here: one counts, one breaks its GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmill.pipeline import metrics
from speechmill.pipeline.run.job import Stream, Work
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.encode import Tokenizer
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import ShardReport


@dataclass(frozen=True)
class CountedJob(TokenizeJob):
    """A job whose workers write what they record of their batches to a file."""

    counts: str = ""

    def load(self) -> Tokenizer:
        path = Path(self.counts)

        def append(metric: metrics.TimeSeries, value: float, labels: dict[str, str]) -> None:
            with path.open("a") as file:
                file.write(f"{metric.name} {value}\n")

        metrics.send_to(append)
        return super().load()


def counted(path: Path) -> dict[str, float]:
    """Return the sum of each metric in the file of a `CountedJob`."""
    sums: dict[str, float] = {}
    for line in path.read_text().splitlines():
        name, value = line.split()
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@dataclass(frozen=True)
class BreakingJob(TokenizeJob):
    """A job whose first shard breaks the GPU, for the process that makes the file `once`."""

    once: str = ""

    def load(self) -> Any:
        return BreaksOnce(super().load(), Path(self.once))


class BreaksOnce:
    def __init__(self, work: Tokenizer, once: Path) -> None:
        self._work, self._once = work, once

    def __call__(
        self, shard: Shard, stream: Stream, isolation: Isolation, needed: Sequence[int]
    ) -> ShardReport:
        if not self._once.exists():
            self._once.touch()
            self._work.encoders[0].call(_read_outside)
        work: Work = self._work
        return work(shard, stream, isolation, needed)

    def close(self) -> None:
        self._work.close()


def _read_outside() -> None:
    """Start a kernel that fails; nothing waits for it here, so the next batch learns of it."""
    import torch

    row = torch.zeros(8, device="cuda")
    row.index_select(0, torch.tensor([1 << 40]).cuda())
