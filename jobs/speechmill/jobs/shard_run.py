"""A run over shards: claims its outputs, processes what they lack, keeps logs and failures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from speechmill.jobs.display import UNREACHABLE, ShardDisplay
from speechmill.jobs.passed_over import passed_over_lines
from speechmill.jobs.report.run_page import write_report
from speechmill.jobs.stop_signal import stop_signal
from speechmill.pipeline import metrics
from speechmill.pipeline.dataset.layout import ShardOutput
from speechmill.pipeline.errors import RunStopped, StorageError
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.redaction import public_values
from speechmill.pipeline.run.job import Job, RaySettings, WorkerEventCallback, WorkerSettings
from speechmill.pipeline.run.local_pool import LocalPool
from speechmill.pipeline.run.run_log import (
    RunLog,
    RunStatus,
    count_event,
    count_worker_event,
    versions_of_last_run,
)
from speechmill.pipeline.run.runner import Event, EventKind, Pool, Totals, run
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.text import message_of
from speechmill.pipeline.versions import library_versions


class RunConfig(Protocol):
    """The part of a configuration that says where a run computes."""

    workers: WorkerSettings
    ray: RaySettings


@dataclass
class RunOutput:
    """One output of a run: its identity, and the state of the run there."""

    folder: ShardOutput
    identity: dict[str, Any]  # must be that of the earlier runs
    facts: dict[str, Any]  # about the model, for the log
    config_yaml: str
    needed: set[Shard] = field(default_factory=set)  # no part yet
    failed: dict[str, list[str]] = field(default_factory=dict)  # records of failures, by shard URL
    committed: list[Shard] = field(default_factory=list)
    num_left: int = field(init=False)  # shards that have not ended
    log: RunLog = field(init=False)

    def claim(self, shards: Sequence[Shard]) -> None:
        """Find the shards to do; raises `DatasetConflict` for an output of another identity."""
        self.folder.claim(self.identity)
        self.needed = set(self.folder.todo(shards))
        self.num_left = len(self.needed)
        self.failed = self.folder.failed_names()
        for shard in shards:
            if shard.url in self.failed and shard not in self.needed:
                self._clear_failures(shard)

    def start(
        self, num_shards: int, passed_over: Mapping[str, int], versions: Mapping[str, str]
    ) -> list[str]:
        """Begin the log; return the versions of libraries that are not those of the run before.

        `passed_over` counts, by reason, the files that are not shards.
        """
        root, storage = self.folder.root, self.folder.storage
        self.log = RunLog(root, storage, self.config_yaml)
        facts = {"shards": num_shards, "passed_over": passed_over, "libraries": versions}
        self.log.record(EventKind.RUN_STARTED, **self.facts, **facts)
        before = versions_of_last_run(root, self.log.earlier, storage)
        return [
            f"{name} {before[name]} -> {versions[name]}"
            for name in versions.keys() & before.keys()
            if before[name] != versions[name]
        ]

    def take(self, event: Event) -> None:
        """Log an event, and keep `failed/` to the shards that are failed now."""
        self.log.record_event(event)
        if event.kind is EventKind.GIVE_UP:
            record = {
                "shard": event.shard.url,
                "error": type(event.error).__name__,
                "message": message_of(event.error) if event.error else "",
                "reason": event.reason,
                "attempts": event.attempts,
            }
            self.folder.mark_failed(event.shard, public_values(record))
        elif event.kind is EventKind.COMMITTED:
            self.committed.append(event.shard)
            self._clear_failures(event.shard)
        if event.kind in (EventKind.GIVE_UP, EventKind.COMMITTED):
            self.num_left -= 1
            self.show_left()

    def show_left(self) -> None:
        """Tell the metrics how many shards are left."""
        metrics.record(metrics.SHARDS_LEFT, self.num_left, output=self.folder.root)

    def settle(self) -> None:
        """Clear `failed/` of shards that have a part by now.

        Raises `StorageError` if a part that was committed is not there.
        """
        there = self.folder.parts()
        for name in self.folder.parts("failed") & there:  # another run gave up on what this one did
            self.folder.clear_failed(name)
        if missing := sorted({shard.name for shard in self.committed} - there):
            raise StorageError(
                f"{len(missing)} parts were committed, but are not at {self.folder.root}, such as "
                f"{missing[0]}; {UNREACHABLE}"
            )

    def finish(self, status: RunStatus, totals: Totals, passed_over: Mapping[str, int]) -> None:
        self.log.finish(status, totals, passed_over)
        write_report(self.folder, self.log.run_id)

    def _clear_failures(self, shard: Shard) -> None:
        """Remove the records of every version of a tar."""
        for name in self.failed.pop(shard.url, []):
            self.folder.clear_failed(name)


def run_shards(
    shards: Sequence[Shard],
    outputs: Sequence[RunOutput],
    job: Job,
    config: RunConfig,
    display: ShardDisplay,
    passed_over: Sequence[PassedOver],
) -> Totals:
    """Process every shard that lacks a part at one of the outputs.

    What the listing passed over is named first, and counted at the end and in the log. Shards given
    up on are counted in the result. Raises `DatasetConflict` before anything is computed, and the
    error that ends a run early.
    """
    for line in passed_over_lines(passed_over):
        display.line(line)
    for output in outputs:
        output.claim(shards)
        display.line(f"output   {output.folder.root}")
    todo = [shard for shard in shards if any(shard in output.needed for output in outputs)]
    display.line(f"shards   {len(shards)}, {len(shards) - len(todo)} of them done")
    if not todo:
        display.line("nothing left to do")
        return Totals()
    by_reason = Counter(one.reason for one in passed_over)
    versions = library_versions(*job.packages)
    changed = {line for one in outputs for line in one.start(len(todo), by_reason, versions)}
    if changed:
        display.line(f"versions {', '.join(sorted(changed))} since the last run")
    totals = Totals()
    status = RunStatus.ABORTED
    try:
        _process(todo, outputs, job, config, display, totals)
        status = RunStatus.FAILED if totals.failed else RunStatus.DONE
    except (KeyboardInterrupt, RunStopped):
        status = RunStatus.INTERRUPTED
        raise
    finally:
        for output in outputs:
            output.finish(status, totals, by_reason)
    display.summary(totals, outputs[0].log.elapsed, passed_over)
    return totals


def _process(
    todo: list[Shard],
    outputs: Sequence[RunOutput],
    job: Job,
    config: RunConfig,
    display: ShardDisplay,
    totals: Totals,
) -> None:
    def on_event(event: Event) -> None:
        totals.add(event)
        count_event(event)
        for output in outputs:
            if event.shard in output.needed:
                output.take(event)
        display.event(event, totals, outputs[0].log.elapsed)

    def on_worker_event(kind: EventKind, **facts: Any) -> None:
        count_worker_event(kind, facts)
        for output in outputs:
            output.log.record(kind, **facts)

    needed = {
        shard: [number for number, output in enumerate(outputs) if shard in output.needed]
        for shard in todo
        if any(shard not in output.needed for output in outputs)
    }
    with (
        display.running(todo),
        _start_pool(job, config, needed, on_worker_event) as pool,
        stop_signal() as should_stop,  # after the pool: ray.init sets a handler of its own
    ):
        for output in outputs:
            output.show_left()
        run(todo, pool, config.workers, on_event, should_stop=should_stop)
    for output in outputs:
        output.settle()


def _start_pool(
    job: Job,
    config: RunConfig,
    needed: dict[Shard, list[int]],
    on_worker_event: WorkerEventCallback,
) -> AbstractContextManager[Pool]:
    if config.workers.count == 0:
        return LocalPool(job, config.workers, needed, on_worker_event)
    from speechmill.pipeline.run.ray_pool import RayPool

    return RayPool(job, config.workers, config.ray, needed, on_worker_event)
