"""Time of the driver per shard, with more workers than a test cluster can have.

    python -m tests.bench.scheduler [--shards 100000] [--actors 1000] [--failures 0.01]

The runner, the policy, the totals and the log of the run are real. The workers and the clock are
simulated: an actor holds a few shards, and one attempt in a hundred fails, because the actor dies
with all its shards, a decoder crashes, or a tar is cut.
"""

import argparse
import hashlib
import heapq
import random
import tempfile
import time
from collections import Counter

import psutil

from speechmill.pipeline.errors import ShardCut, StreamBroken, WorkerLost
from speechmill.pipeline.run.policy import RunSettings
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, ShardResult, Totals, run
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.writer import ShardReport

SLOTS = 3  # shards in flight at one actor
SECONDS = 40.0  # median time of a shard
RESTART_SECONDS = 90.0  # until an actor that died has loaded its codec again


class SimulatedPool:
    """Simulated actors, on a clock that jumps from one event to the next."""

    def __init__(self, actors: int, failures: float):
        self.now = 0.0
        self.own_seconds = 0.0  # real seconds spent in this class
        self.chance = random.Random(0)
        self.failures = failures
        self.held: list[set[Shard]] = [set() for _ in range(actors)]
        self.open = list(range(actors)) * SLOTS  # one entry for each free slot
        self.events: list[tuple[float, int, int, Shard | None, str]] = []
        self.count = 0

    def clock(self) -> float:
        return self.now

    def free(self, exclusive: bool = False) -> int:
        return len(self._idle()) if exclusive else len(self.open)

    def can_copy(self, shard: Shard) -> bool:
        return any(shard not in self.held[actor] for actor in self.open)

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        started = time.perf_counter()
        actor = self._idle().pop() if exclusive else self.open[-1]
        self.open.remove(actor)
        self.held[actor].add(shard)
        end = "report" if self.chance.random() > self.failures else self.chance.choice(FAULTS)
        self._later(SECONDS * self.chance.lognormvariate(0, 0.6), actor, shard, end)
        self.own_seconds += time.perf_counter() - started

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        started = time.perf_counter()
        try:
            if timeout is not None and (not self.events or self.events[0][0] > self.now + timeout):
                self.now += timeout
                return []
            self.now, _, actor, shard, end = heapq.heappop(self.events)
            return self._results(actor, shard, end)
        finally:
            self.own_seconds += time.perf_counter() - started

    def _idle(self) -> set[int]:
        return {actor for actor in self.open if not self.held[actor]}

    def _results(self, actor: int, shard: Shard | None, end: str) -> list[ShardResult]:
        if shard is None:  # the actor is back
            self.open += [actor] * SLOTS
            return []
        if shard not in self.held[actor]:  # lost when the actor died
            return []
        if end == "death":
            lost = sorted(self.held[actor], key=lambda each: each.url)
            self.open = [each for each in self.open if each != actor]
            self.held[actor].clear()
            self._later(RESTART_SECONDS, actor, None, "")
            error = WorkerLost(f"actor {actor} died")
            return [ShardResult(each, error=error, shared_loss=len(lost) > 1) for each in lost]
        self.held[actor].remove(shard)
        self.open.append(actor)
        if end == "report":
            report = ShardReport(shard.name, 500, 45_000, 3600.0, {"UndecodableAudio": 1})
            return [ShardResult(shard, report)]
        error = ShardCut(f"{shard.url} is cut") if end == "cut" else StreamBroken("decoder died")
        return [ShardResult(shard, error=error)]

    def _later(self, seconds: float, actor: int, shard: Shard | None, end: str) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds, self.count, actor, shard, end))


FAULTS = ("death", "broken", "cut")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--failures", type=float, default=0.01)
    arguments = parser.parse_args()
    shards = [_shard(number) for number in range(arguments.shards)]
    pool = SimulatedPool(arguments.actors, arguments.failures)
    totals, ends = Totals(), Counter[Shard]()
    memory: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(folder, Storage(), "")

        def on_event(event: Event) -> None:
            totals.add(event)
            log.record_event(event)
            ends[event.shard] += event.kind in ("committed", "give up")
            if (totals.shards + totals.failed) % (arguments.shards // 4) == 1:
                memory.append((totals.shards + totals.failed, _memory_mb()))

        started = time.perf_counter()
        run(shards, pool, RunSettings(), on_event, clock=pool.clock)
        seconds = time.perf_counter() - started
        log.finish(RunStatus.FAILED, totals)
    assert set(ends.values()) == {1}, "a shard ended twice"
    assert len(ends) == len(shards) == totals.shards + totals.failed, "a shard was lost"
    driver = (seconds - pool.own_seconds) / len(shards)
    print(f"{totals.shards:,} shards done, {totals.failed:,} given up on, none lost or done twice")
    print(f"{totals.retries:,} retries, {pool.now / 3600:.2f} hours on the simulated clock")
    print(f"driver  {driver * 1e3:.3f} ms per shard ({seconds:.1f} s in all with the simulation)")
    for count, megabytes in memory:
        print(f"memory  {megabytes:,.0f} MB after {count:,} shards")


def _shard(number: int) -> Shard:
    etag = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return Shard(f"s3://corpus/train-{number:06d}.tar", 10**9, etag)


def _memory_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


if __name__ == "__main__":
    main()
