"""The log of one run, in files beside the dataset: `runs/<run id>/`."""

import json
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count
from typing import Any

from speechmill.pipeline import metrics
from speechmill.pipeline.errors import StorageError, StorageNotFound
from speechmill.pipeline.redaction import public_values
from speechmill.pipeline.run.diagnosis import Bottleneck, BottleneckStage, find_bottleneck
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.text import clean, clean_json, message_of
from speechmill.pipeline.tokenize.writer import ShardReport
from speechmill.pipeline.versions import library_versions

FLUSH_SECONDS = 30.0  # the whole file is written again: objects cannot be appended to
_MIN_SECONDS = 120.0  # the times of a shorter run are mostly those of starting it
SUMMARY = "summary.json"
_ID_TIME = "%Y%m%d-%H%M%S"  # how the id of a run begins
_LONGEST_START = 2**20  # bytes of the first event
LATEST = 100  # shards from which the current bottleneck is found
_BOTTLENECK_SECONDS = 1.0  # between two looks for it
FILE_BYTES = 2**23  # of one file; a month's events in one would fill the driver's memory

_REPORT_FIELDS = tuple(each.name for each in fields(ShardReport))

logger = logging.getLogger(__name__)


class RunStatus(StrEnum):
    """How a run ended, as `summary.json` names it."""

    DONE = "done"
    FAILED = "failed"  # some shards were given up on
    ABORTED = "aborted"
    INTERRUPTED = "interrupted"


class RunLog:
    """Writes `config.yaml` at the start, `events.jsonl` during the run, `summary.json` at the end.

    When `events.jsonl` is full, `events-0001.jsonl`, `events-0002.jsonl`, … follow. A thread
    writes, so that workers never wait for the log.
    """

    def __init__(self, root: str, storage: Storage, config_yaml: str):
        self.earlier = run_ids(root, storage)
        self.run_id = _id_after(self.earlier)
        self._folder = run_folder(root, self.run_id)
        self._storage = storage
        self._lines: list[str] = []  # of the file that is being written
        self._bytes = 0
        self._full_files = 0
        self._latest: deque[ShardReport] = deque(maxlen=LATEST)
        self._bottleneck_at = -math.inf  # when it was last looked for
        self._writer = ThreadPoolExecutor(1, "run-log")
        self._writing: Future[None] | None = None
        self._started = time.monotonic()
        self._flushed = -math.inf  # the start is written at once, for a run that is killed
        self._put("config.yaml", config_yaml)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def record(self, kind: EventKind, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        # The clock may be set while the run goes on; `elapsed` goes on too.
        line = {"time": now, "elapsed": round(self.elapsed, 3), "event": kind}
        text = clean_json(json.dumps(line | public_values(facts)))[0]
        self._lines.append(text + "\n")
        self._bytes += len(self._lines[-1])
        idle = self._writing is None or self._writing.done()
        due = idle and time.monotonic() - self._flushed > FLUSH_SECONDS
        if due or self._bytes > FILE_BYTES:
            self._flush()

    def record_event(self, event: Event) -> None:
        if event.report:
            self._latest.append(event.report)
            self._find_bottleneck()
        facts: dict[str, Any] = {"shard": event.shard.url, "attempts": event.attempts}
        if event.report:
            facts |= {name: getattr(event.report, name) for name in _REPORT_FIELDS}
        if event.error:
            facts |= {"error": type(event.error).__name__, "message": message_of(event.error)}
        if event.reason:
            facts |= {"reason": event.reason}
        if event.delay:
            facts |= {"delay": round(event.delay, 3)}
        if event.node:
            facts |= {"node": event.node}
        self.record(event.kind, **facts)

    def finish(
        self, status: RunStatus, totals: Totals, passed_over: Mapping[str, int] | None = None
    ) -> None:
        """Write the summary and close the log.

        `passed_over` counts, by reason, the files that are not shards.
        """
        self.record(EventKind.RUN_ENDED, status=status)
        self._flush()
        summary = {
            "run": self.run_id,
            "status": status,
            "seconds": round(self.elapsed, 3),
            "libraries": library_versions(),
            "bottleneck": bottleneck_sentence(totals, self.elapsed),
            **asdict(totals),
            "listing_passed_over": dict(passed_over or {}),
        }
        self._writer.submit(self._write, SUMMARY, json.dumps(summary, indent=2) + "\n")
        self._writer.shutdown()

    def _find_bottleneck(self) -> None:
        if time.monotonic() - self._bottleneck_at > _BOTTLENECK_SECONDS:
            self._bottleneck_at = time.monotonic()
            _show_bottleneck(self._latest)

    def _flush(self) -> None:
        name, text = events_name(self._full_files), "".join(self._lines)
        self._writing = self._writer.submit(self._write, name, text)
        self._flushed = time.monotonic()
        if self._bytes > FILE_BYTES:
            self._lines.clear()
            self._bytes = 0
            self._full_files += 1

    def _write(self, name: str, text: str) -> None:
        """A log that cannot be written must not end the run."""
        try:
            self._put(name, text)
        except StorageError as error:
            logger.warning("the run goes on without %s: %s", name, error)

    def _put(self, name: str, text: str) -> None:
        self._storage.put(join(self._folder, name), clean(text).encode())


def bottleneck_of(parts: Collection[ShardReport] | Collection[Totals]) -> Bottleneck | None:
    """The bottleneck of some shards, or of a whole run."""
    return find_bottleneck(
        encode=sum(part.encode_seconds for part in parts),
        starved=sum(part.starved_seconds for part in parts),
        decode=sum(part.decode_seconds for part in parts),
        decode_cpu=sum(part.decode_cpu_seconds for part in parts),
        read=sum(part.read_seconds for part in parts),
    )


def bottleneck_sentence(totals: Totals, elapsed: float) -> str | None:
    """What slowed a whole run down; None if the run was too short to tell."""
    found = bottleneck_of([totals]) if elapsed > _MIN_SECONDS else None
    return found.sentence if found else None


def _show_bottleneck(reports: Collection[ShardReport]) -> None:
    found = bottleneck_of(reports)
    for stage in BottleneckStage:
        is_bottleneck = found is not None and found.stage is stage
        metrics.record(metrics.BOTTLENECK, float(is_bottleneck), stage=stage)


def count_event(event: Event) -> None:
    """Add an event to the metrics: once, although each output of the run logs it."""
    if event.kind == EventKind.RETRY:
        metrics.record(metrics.RETRIES, 1, error=type(event.error).__name__)
    if event.kind in (EventKind.COMMITTED, EventKind.GIVE_UP):
        metrics.record(metrics.SHARDS, 1, end=event.kind)
    if event.report:
        metrics.record(metrics.UTTERANCES, event.report.rows)
        metrics.record(metrics.AUDIO_SECONDS, event.report.audio_seconds)
        metrics.record(metrics.FRAMES, event.report.frames)
        for reason, count in event.report.rejects.items():
            metrics.record(metrics.REJECTS, count, reason=reason)


def count_worker_event(kind: EventKind, facts: Mapping[str, Any]) -> None:
    """Add what happened to a worker to the metrics."""
    metrics.record(metrics.WORKER_EVENTS, 1, event=kind, error=facts.get("error", ""))


def run_folder(root: str, run_id: str) -> str:
    """The folder of a run's files."""
    return join(root, "runs", run_id)


def run_ids(root: str, storage: Storage) -> list[str]:
    """The runs that have a folder in a dataset, oldest first."""
    files = storage.list_files(join(root, "runs"))
    return sorted(info.url.split("/")[-2] for info in files if info.url.endswith("/config.yaml"))


def versions_of_last_run(root: str, runs: Sequence[str], storage: Storage) -> dict[str, str]:
    """The versions of libraries of the newest of these runs; empty if it does not tell."""
    if not runs:
        return {}
    folder = run_folder(root, runs[-1])
    try:
        with storage.open(join(folder, events_name(0))) as log:
            started = json.loads(log.readline(_LONGEST_START))
        found = started.get("libraries") or (read_summary(folder, storage) or {})["libraries"]
        return {str(name): str(version) for name, version in found.items()}
    except (StorageNotFound, ValueError, LookupError, TypeError, AttributeError):
        return {}  # killed before its log was written, or damaged


def time_of_run(run_id: str) -> datetime | None:
    """When a run began, in UTC, by its id; None for a name that no run has."""
    try:
        return datetime.strptime(run_id[:15], _ID_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _id_after(earlier: Collection[str]) -> str:
    """An id of now, or of a second after the newest run, if the clock was set back since."""
    began = datetime.now(UTC)
    newest = max(filter(None, map(time_of_run, earlier)), default=None)
    with suppress(OverflowError):  # a name of the year 9999
        began = max(began, newest + timedelta(seconds=1)) if newest else began
    return f"{began.strftime(_ID_TIME)}-{secrets.token_hex(2)}"


def read_events(folder: str, storage: Storage) -> Iterator[dict[str, Any]]:
    """The events of a run in order, from all their files."""
    existing = {info.url for info in storage.list_files(folder)}
    for number in count():
        url = join(folder, events_name(number))
        if url not in existing:
            return
        yield from map(json.loads, storage.read_bytes(url).decode().splitlines())


def read_summary(folder: str, storage: Storage) -> dict[str, Any] | None:
    """The summary of a run; None if the run did not end."""
    try:
        return dict(json.loads(storage.read_bytes(join(folder, SUMMARY))))
    except StorageNotFound:
        return None


def events_name(number: int) -> str:
    """The name of the file of events that follows `number` full ones."""
    return f"events-{number:04d}.jsonl" if number else "events.jsonl"
