"""What the driver of a run costs, with more workers than a test cluster can have.

    python -m tests.bench.scheduler [--shards 100000] [--workers 1000] [--no-copies]

All of the driver is real: the claim of the output, the runner, its policy, the pool, the totals,
the display, the log and the report. Ray, the workers and the clock are simulated, as
`simulated_ray` says, and so is the listing of the output. So this does not measure Ray itself:
`tests.bench.ray_calls` does.
"""

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial

import psutil
import pytest
from rich.console import Console

from speechmill.jobs import shard_run
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.shard_run import RunOutput, run_shards
from speechmill.pipeline.dataset.layout import AUDIO, TokenDataset
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.run import ray_calls, ray_nodes, ray_pool, ray_workers, run_log, runner
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from tests.bench.simulated_ray import Finished, SimulatedRay, World

SLOTS = 3  # shards in flight at one worker
ENDS = (EventKind.COMMITTED, EventKind.GIVE_UP)


@dataclass
class SimulatedJob:
    """As much of a job as the driver asks for."""

    output: str
    num_outputs: int = 1
    waiting_shards: int = 0
    object_mb: float = 1.0
    packages: tuple[str, ...] = ()


class SimulatedDataset(TokenDataset):
    """A dataset whose parts are those of the shards that simulated workers committed."""

    shards: list[Shard]
    committed: bytearray

    def listed(self, folder: str | None = None) -> dict[str, FileInfo]:
        if folder not in (None, self.folder):
            return super().listed(folder)
        done = (shard for shard, end in zip(self.shards, self.committed, strict=True) if end)
        return {
            name: FileInfo(self.part_url(name), 500_000, "e") for name in (s.name for s in done)
        }


class CountingDisplay(ShardDisplay):
    """Counts how often each shard ended, and the memory as they end."""

    def __init__(self, num_shards: int):
        super().__init__(Console(file=io.StringIO()))
        self.ends = bytearray(num_shards)
        self.copies = 0
        self.memory: list[tuple[int, float]] = []

    def event(self, event: Event, totals: Totals, elapsed: float) -> None:
        super().event(event, totals, elapsed)
        self.copies += event.kind is EventKind.COPY
        if event.kind in ENDS:
            self.ends[number_of(event.shard)] += 1
            if (totals.shards + totals.failed) % max(1, len(self.ends) // 4) == 1:
                self.memory.append((totals.shards + totals.failed, memory_mb()))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One simulated run."""

    totals: Totals
    ray: SimulatedRay
    display: CountingDisplay
    driver_seconds: float  # CPU time of the process, without the simulation
    loop_seconds: float  # of that, in the thread of the driver until the last shard has ended
    peak_mb: float

    @property
    def busiest(self) -> float:
        """CPU seconds of the driver in the second of the clock in which it had most to do."""
        return max(self.ray.busy.values()) / 1e6


@contextmanager
def simulated(ray: SimulatedRay) -> Iterator[None]:
    """Put the simulation in place of Ray and of the clock."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ray_nodes, ray_pool, ray_workers):
            patch.setattr(module, "ray", ray)
        for module in (ray_pool, ray_workers, run_log):
            patch.setattr(module, "time", ray)
        patch.setattr(ray_calls, "SimpleQueue", lambda: Finished(ray))
        patch.setattr(ray_workers, "is_gone", ray.is_gone)
        patch.setattr(ray_workers, "draining_nodes", set)
        patch.setattr(ray_workers, "has_autoscaler", lambda: False)
        patch.setattr(ray_pool, "connected", lambda cluster: nullcontext())
        patch.setattr(ray_pool, "export_metrics", lambda: None)
        patch.setattr(shard_run, "run", partial(runner.run, clock=ray.monotonic))
        yield


def simulate(num_shards: int, world: World, copies: bool = True) -> Measured:
    """Run as many shards in a simulated world; each must have ended once."""
    shards = [shard_of(number) for number in range(num_shards)]
    display = CountingDisplay(num_shards)
    committed = bytearray(num_shards)

    def commit(shard: Shard) -> None:
        committed[number_of(shard)] = 1

    ray = SimulatedRay(world, commit)
    settings = WorkerSettings(shards_in_flight=SLOTS)
    settings = settings if copies else replace(settings, straggler_factor=None)
    with tempfile.TemporaryDirectory() as root, simulated(ray):
        dataset = SimulatedDataset(root, Storage())
        dataset.shards, dataset.committed = shards, committed
        output = RunOutput(dataset, {AUDIO: 1}, {}, "")
        started = time.process_time()
        totals = run_shards(
            shards, [output], SimulatedJob(root), Config(settings), display, passed_over=[]
        )
        driver = time.process_time() - started - ray.own_seconds
    assert set(display.ends) == {1}, "a shard was lost, or ended twice"
    assert num_shards == totals.shards + totals.failed
    assert sum(committed) >= totals.shards
    return Measured(
        totals=totals,
        ray=ray,
        display=display,
        driver_seconds=driver,
        loop_seconds=sum(ray.busy.values()) / 1e6,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )


@dataclass
class Config:
    workers: WorkerSettings
    ray: RaySettings = field(default_factory=RaySettings)


def shard_of(number: int) -> Shard:
    """A shard of a corpus; the URL and the ETag are as long as those of a store."""
    return Shard(f"s3://corpus/train-{number:07d}.tar", 10**9, f"{number:032x}")


def number_of(shard: Shard) -> int:
    return int(shard.etag, 16)


def memory_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--no-copies", action="store_true", help="run no slow shard twice")
    for one in fields(World):
        kind = int if one.type in (int, "int") else float
        option = f"--{one.name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=one.default)
    given = vars(parser.parse_args())
    num_shards, copies = given.pop("shards"), not given.pop("no_copies")
    world = World(**given)
    print_measured(simulate(num_shards, world, copies), world, num_shards)


def print_measured(found: Measured, world: World, num_shards: int) -> None:
    ray, totals = found.ray, found.totals
    ms = 1e3 / num_shards
    repeated = ray.repeated_seconds / ray.run_seconds
    print(f"{totals.shards:,} shards done, {totals.failed:,} given up on, none lost or ended twice")
    print(f"retries     {totals.retries:,}")
    print(f"copies      {found.display.copies:,}")
    print(f"lost nodes  {ray.lost_nodes:,}, with {ray.lost_shards:,} shards in flight")
    print(f"clock       {ray.now:,.0f} s, {num_shards / ray.now:,.0f} shards a second")
    print(f"driver      {found.driver_seconds * ms:.3f} ms of a CPU per shard")
    print(f"  its loop  {found.loop_seconds * ms:.3f}, before the report and the last listing")
    print(f"busy        {found.loop_seconds / ray.now:.1%} of the time")
    print(f"  at most   {found.busiest:.2f} s in one second")
    print(f"repeated    {repeated:.3%} of the work; by the formula {world.repeated_share:.3%}")
    for count, megabytes in found.display.memory:
        print(f"memory      {megabytes:,.0f} MB after {count:,} shards")
    print(f"peak        {found.peak_mb:,.0f} MB")
    print(f"simulation  {ray.own_seconds * ms:.3f} ms per shard, not counted above")
    print(f"calls       {dict(ray.calls)}")


if __name__ == "__main__":
    main()
