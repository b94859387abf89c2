"""What Ray itself costs the driver: to start calls, to wait for one of many, to fetch answers.

    python -m tests.bench.ray_calls [--pending 12000]

An actor on a local cluster is blocked, so that calls to it stay pending, as those of thousands of
workers would; another one answers at once.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import ray

from speechmill.pipeline.run.ray_calls import PendingCalls
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.writer import ShardReport

ROUNDS = 20
BURST = 500  # calls at a time
SHARD = Shard("s3://corpus/train-0000001.tar", 10**9, "0" * 32)


class Idle:
    """An actor that reports shards without reading them, or blocks."""

    def run(self, shard: Shard, isolation: Isolation, needed: list[int]) -> ShardReport:
        return ShardReport(shard.name, 500, 45_000, 3600.0, {})

    def block(self) -> None:
        time.sleep(3600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=12_000)
    num_pending = parser.parse_args().pending
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    actor = ray.remote(Idle).options(num_cpus=0)
    blocked, answering = actor.remote(), actor.remote()
    blocked.block.remote()
    pending = [call(blocked) for _ in range(num_pending)]
    ray.get(call(answering))
    calls = PendingCalls()
    for reference in pending:
        calls.add(reference)

    def by_ray_wait() -> None:
        references = [*pending, call(answering)]
        ray.wait(references, num_returns=1)
        [done], _ = ray.wait(references, num_returns=len(references), timeout=0)
        ray.get(done)

    def by_pending_calls() -> None:
        calls.add(call(answering))
        [done] = calls.wait(60.0)
        ray.get(done)

    def burst() -> None:
        for _ in range(BURST):
            calls.add(call(answering))
        done = 0
        while done < BURST:
            done += len(ray.get(calls.wait(60.0)))

    print(f"with {num_pending:,} calls pending, CPU ms of this process for each shard")
    print(f"ray.wait, one at a time     {cpu_ms(by_ray_wait):7.3f}")
    print(f"PendingCalls, one at a time {cpu_ms(by_pending_calls):7.3f}")
    print(f"PendingCalls, {BURST} at once   {cpu_ms(burst, 5) / BURST:7.3f}")


def call(actor: Any) -> ray.ObjectRef:
    return actor.run.remote(SHARD, Isolation.WATCHED, [0])


def cpu_ms(work: Callable[[], None], rounds: int = ROUNDS) -> float:
    """Median CPU time of all threads of this process."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return median(times) * 1e3


if __name__ == "__main__":
    main()
