"""The logs of the runs of a dataset, read as the data of strangers: bounded, and line by line."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from speechmill.jobs.existing_dataset import UNFINISHED
from speechmill.jobs.report.wording import counted, limited
from speechmill.pipeline.dataset.layout import DAMAGE, ShardOutput
from speechmill.pipeline.errors import InputError, StorageError
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.run.run_log import (
    FILE_BYTES,
    SUMMARY,
    RunStatus,
    events_name,
    time_of_run,
)
from speechmill.pipeline.run.runner import EventKind
from speechmill.pipeline.storage import join

MOST_RUNS = 1000  # the newest
LOG_BYTES = 2**30  # of all runs together: the events of two million shards
SUMMARY_BYTES = 2**22
_FILE_BYTES = 2 * FILE_BYTES  # the last line of a full file makes it larger
_MOST_FAILURES = 200  # of a run, that are kept
_LAST_TIME = 4e10  # s since 1970: the year 3237
_HUGE = 1e15  # no count and no time is as large
_SECONDS = [
    f"{name}_seconds"
    for name in ("audio", "encode", "starved", "decode", "decode_cpu", "read", "write")
]
_FAILED = (EventKind.RETRY, EventKind.GIVE_UP, EventKind.ABORT)

Logged = dict[str, Any]  # an event, as the log of a run has it


@dataclass(frozen=True, slots=True)
class Commit:
    """A shard that was committed; `read` and `write` are None in logs of early versions."""

    time: float  # s since 1970
    shard: str  # name of the part
    rows: int
    audio: float  # s
    encode: float  # s, like the next five
    starved: float
    decode: float  # reading and decoding
    decode_cpu: float
    read: float | None
    write: float | None
    rejects: dict[str, int]

    @property
    def work(self) -> float:
        """Seconds that all stages took, one after the other."""
        return self.decode + self.encode + (self.write or 0.0)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed."""

    kind: str
    shard: str  # URL
    attempts: int
    error: str
    message: str


@dataclass(slots=True)
class Run:
    """One run; `started` and `ended` are those of its first and last event, s since 1970."""

    run_id: str
    status: str = UNFINISHED
    started: float | None = None
    ended: float | None = None
    began: float | None = None  # by its first event, s since 1970; None in early logs
    planned: int | None = None  # shards that it set out to do
    bottleneck: str = ""
    has_page: bool = False  # report.html
    commits: list[Commit] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)  # the first ones
    events: Counter[str] = field(default_factory=Counter)  # by kind

    @property
    def audio(self) -> float:
        """Seconds of audio that were committed."""
        return sum(commit.audio for commit in self.commits)

    @property
    def num_failures(self) -> int:
        """Attempts that failed."""
        return sum(self.events[kind] for kind in _FAILED)

    @property
    def seconds(self) -> float:
        return (self.ended or 0.0) - (self.started or 0.0)

    @property
    def left(self) -> int | None:
        """Shards that it set out to do and did not end; None if its log does not say how many."""
        if self.planned is None:
            return None
        ended = {commit.shard for commit in self.commits}
        return max(0, self.planned - len(ended) - self.events[EventKind.GIVE_UP])


def read_runs(dataset: ShardOutput, faults: list[str], only: str | None = None) -> list[Run]:
    """Read the newest runs, oldest first, or only one; a line in `faults` says what is damaged."""
    folder = join(dataset.root, "runs")
    below = len(join(dataset.storage.absolute(dataset.root), "runs")) + 1
    files: dict[str, dict[str, FileInfo]] = defaultdict(dict)
    for info in dataset.storage.list_files(folder):
        run_id, _, name = info.url[below:].partition("/")
        files[run_id][name] = info
    wanted = sorted(run_id for run_id, own in files.items() if "config.yaml" in own)
    if len(wanted) > MOST_RUNS:
        faults.append(f"{counted(len(wanted) - MOST_RUNS, 'early run')} left out")
        wanted = wanted[-MOST_RUNS:]
    reader = _LogReader(dataset, faults)
    chosen = [run_id for run_id in wanted if only in (None, run_id)]
    runs = [reader.read(run_id, files[run_id]) for run_id in reversed(chosen)]
    return runs[::-1]


@dataclass(slots=True)
class _LogReader:
    dataset: ShardOutput
    faults: list[str]
    bytes_left: int = LOG_BYTES

    def read(self, run_id: str, files: dict[str, FileInfo]) -> Run:
        began = time_of_run(run_id)
        run = Run(run_id, has_page="report.html" in files)
        run.started = began.timestamp() if began else None  # of a run without a log
        if SUMMARY in files:
            self._summary(run, files[SUMMARY])
        for number in count():
            info = files.get(name := events_name(number))
            if info is None:
                break
            self._events(run, name, info)
        run.commits.sort(key=lambda commit: commit.time)
        return run

    def _summary(self, run: Run, info: FileInfo) -> None:
        name = f"runs/{run.run_id}/{SUMMARY}"
        data = self._content(name, info, SUMMARY_BYTES)
        try:
            found = json.loads(data or b"{}")
            run.status = RunStatus(found["status"]).value
            run.bottleneck = limited(found.get("bottleneck") or "", 500)
        except DAMAGE as error:
            if data is not None:
                self._fault(f"{name} is damaged: {type(error).__name__}: {error}")

    def _events(self, run: Run, name: str, info: FileInfo) -> None:
        name = f"runs/{run.run_id}/{name}"
        data = self._content(name, info, min(_FILE_BYTES, self.bytes_left))
        self.bytes_left -= len(data or b"")
        wrong = []
        text = (data or b"").decode(errors="replace").rstrip("\n")
        for number, line in enumerate(text.split("\n") if text else (), 1):
            try:
                _take(run, json.loads(line))
            except DAMAGE:
                wrong.append(number)
        if wrong:
            self._fault(f"{name}: {counted(len(wrong), 'damaged line')}, first line {wrong[0]}")

    def _content(self, name: str, info: FileInfo, limit: int) -> bytes | None:
        """Return the bytes of a file, or None after a fault."""
        try:
            return self.dataset.storage.read_small(info.url, limit)
        except (InputError, StorageError) as error:
            self._fault(f"{name} is not read: {error}")
            return None

    def _fault(self, line: str) -> None:
        self.faults.append(line)


def _take(run: Run, event: Logged) -> None:
    """Add an event to its run; raises one of `DAMAGE` for what no run writes."""
    kind, time = EventKind(event["event"]), _time(event["time"])
    if "elapsed" in event:  # not in logs of early versions, which a clock that is set confuses
        elapsed = _number(event["elapsed"])
        run.began = time - elapsed if run.began is None else run.began
        time = _checked_time(run.began + elapsed)
    if kind is EventKind.COMMITTED:
        run.commits.append(_commit(event, time))
    elif kind in _FAILED:
        texts = [limited(event.get(name, ""), 500) for name in ("shard", "error", "message")]
        attempts = int(_number(event.get("attempts", 0)))
        if len(run.failures) < _MOST_FAILURES:
            run.failures.append(Failure(kind.value, texts[0], attempts, *texts[1:]))
    elif kind is EventKind.RUN_STARTED and "shards" in event:
        run.planned = int(_number(event["shards"]))
    if not run.events:
        run.started = time
    run.events[kind] += 1
    run.started = min(time, run.started or time)
    run.ended = max(time, run.ended or time)


def _commit(event: Logged, time: float) -> Commit:
    audio, encode, starved, decode, decode_cpu, read, write = _numbers(event, _SECONDS)
    rejects = {str(name)[:100]: int(_number(n)) for name, n in event.get("rejects", {}).items()}
    return Commit(
        time=time,
        shard=_name(event["shard"]),
        rows=int(_number(event["rows"])),
        audio=audio,
        encode=encode,
        starved=starved,
        decode=decode,
        decode_cpu=decode_cpu,
        read=read if "read_seconds" in event else None,
        write=write if "write_seconds" in event else None,
        rejects=rejects,
    )


def _numbers(event: Logged, names: Iterable[str]) -> list[float]:
    """Return these values, 0 for those that are missing."""
    return [_number(event.get(name, 0.0)) for name in names]


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is not a name")
    return value[:1000]


def _number(value: Any) -> float:
    """A count or a time; raises `ValueError` for what is neither."""
    if type(value) not in (int, float) or not 0 <= value < _HUGE:
        raise ValueError("not a number from 0 up")
    return float(value)


def _time(text: Any) -> float:
    moment = datetime.fromisoformat(text)
    return _checked_time((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _checked_time(seconds: float) -> float:
    if not 0 <= seconds < _LAST_TIME:
        raise ValueError("no run is of this time")
    return seconds


def commits_of(runs: Iterable[Run]) -> Iterator[Commit]:
    """Every shard that a run committed, run by run."""
    for run in runs:
        yield from run.commits
