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

FLUSH_SECONDS = 30.0  # objects cannot be appended to: the whole log is put again


class RunLog:
    """Writes `config.yaml` at the start, `events.jsonl` on the way, `summary.json` at the end."""

    def __init__(self, root: str, storage: Storage, config_yaml: str):
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.run_id = f"{started}-{secrets.token_hex(2)}"
        self._folder = join(root, "runs", self.run_id)
        self._storage = storage
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        self._started = time.monotonic()
        self._put("config.yaml", config_yaml)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def record(self, kind: str, **facts: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind} | facts
        self._lines.append(json.dumps(line))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
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
        self._put("events.jsonl", "".join(f"{line}\n" for line in self._lines))
        self._flushed = time.monotonic()

    def _put(self, name: str, text: str) -> None:
        self._storage.put(join(self._folder, name), text.encode())
