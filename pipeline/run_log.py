"""What one run did, in files beside the dataset: `runs/<run id>/`."""

import json
import secrets
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.runner import Event, Totals
from pipeline.storage import Storage, join
from pipeline.writer import library_versions

FLUSH_SECONDS = 30.0  # objects cannot be appended to: the whole file is put again
FILE_BYTES = 2**23  # then another file is begun: a month's events would fill the driver's memory


class RunLog:
    """Writes `config.yaml` at the start, `events.jsonl` on the way, `summary.json` at the end.

    What does not fit into `events.jsonl` goes on in `events-0001.jsonl`, `events-0002.jsonl`, …
    """

    def __init__(self, root: str, storage: Storage, config_yaml: str):
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.run_id = f"{started}-{secrets.token_hex(2)}"
        self._folder = join(root, "runs", self.run_id)
        self._storage = storage
        self._lines: list[str] = []  # of the file that is being written
        self._bytes = 0
        self._full_files = 0
        self._flushed = time.monotonic()
        self._started = time.monotonic()
        self._put("config.yaml", config_yaml)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def record(self, kind: str, **facts: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind} | facts
        self._lines.append(json.dumps(line) + "\n")
        self._bytes += len(self._lines[-1])
        if self._bytes > FILE_BYTES or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def record_event(self, event: Event) -> None:
        facts: dict[str, Any] = {"shard": event.shard.url, "attempts": event.attempts}
        if event.report:
            facts |= asdict(event.report)
        if event.error:
            facts |= {"error": type(event.error).__name__, "message": str(event.error)}
        self.record(event.kind, **facts)

    def finish(self, status: str, totals: Totals) -> None:
        """Close the run; `status` is done, failed, aborted or interrupted."""
        self.record("run ended", status=status)
        self._flush()
        summary = {
            "run": self.run_id,
            "status": status,
            "seconds": round(self.elapsed, 3),
            "libraries": library_versions(),
            **asdict(totals),
        }
        self._put("summary.json", json.dumps(summary, indent=2) + "\n")

    def _flush(self) -> None:
        self._put(events_name(self._full_files), "".join(self._lines))
        self._flushed = time.monotonic()
        if self._bytes > FILE_BYTES:
            self._lines.clear()
            self._bytes = 0
            self._full_files += 1

    def _put(self, name: str, text: str) -> None:
        self._storage.put(join(self._folder, name), text.encode())


def events_name(number: int) -> str:
    """The file of a run's events that begins after `number` full ones."""
    return f"events-{number:04d}.jsonl" if number else "events.jsonl"
