"""`runs/<run id>/report.html`: one run of a dataset on one page."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from speechmill.jobs.display import require_files
from speechmill.jobs.existing_dataset import UNFINISHED, run_ids
from speechmill.jobs.report import render
from speechmill.pipeline.dataset.layout import ShardOutput, readable
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.redaction import public_text, public_values
from speechmill.pipeline.run.run_log import read_events, read_summary, run_folder
from speechmill.pipeline.run.runner import EventKind
from speechmill.pipeline.storage import join

_BARS = 60
_SLOWEST = 10

Logged = dict[str, Any]  # an event, as the log of a run has it


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The files of one run; `summary` is None if it was killed."""

    run_id: str
    config: str
    events: list[Logged]
    summary: dict[str, Any] | None

    @property
    def committed(self) -> list[Logged]:
        return [event for event in self.events if event["event"] == EventKind.COMMITTED]


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars of the audio that was committed in equal parts of the run."""

    peak: str
    heights: list[float]  # from 0 to 1


def write_report(dataset: ShardOutput, run_id: str | None = None) -> str:
    """Write the page of a run, by default of the newest, and return its URL."""
    runs = run_ids(dataset.root, dataset.storage)
    if not runs or (run_id and run_id not in runs):
        raise InputError(f"no run {run_id or ''} in {dataset.root}; there are {runs or 'none'}")
    folder = run_folder(dataset.root, run_id or runs[-1])
    with readable(folder):
        page = run_page(read_run(dataset, run_id or runs[-1]))
    url = join(folder, "report.html")
    dataset.storage.put(url, page.encode())
    require_files([url], dataset.storage)
    return url


def read_run(dataset: ShardOutput, run_id: str) -> RunRecord:
    """Read all files of a run; those of early versions may hold signatures of URLs."""
    folder, storage = run_folder(dataset.root, run_id), dataset.storage
    config = public_text(storage.read_bytes(join(folder, "config.yaml")).decode())
    events = list(map(public_values, read_events(folder, storage)))
    return RunRecord(run_id, config, events, read_summary(folder, storage))


def run_page(run: RunRecord) -> str:
    """Return the page as HTML."""
    status = run.summary["status"] if run.summary else UNFINISHED
    return render(
        "run.html",
        title=f"Run {run.run_id}: {status}",
        sentence=(run.summary or {}).get("bottleneck") or "",
        facts=_facts(run),
        chart=_chart(run),
        rejects=_rejects(run),
        failures=_failures(run.events),
        slowest=_slowest(run),
        config=run.config,
    )


def _facts(run: RunRecord) -> dict[str, str]:
    audio = sum(event["audio_seconds"] for event in run.committed)
    seconds = run.summary["seconds"] if run.summary else _span(run.events)
    return {
        "shards": f"{len(run.committed):,} done",
        "utterances": f"{sum(event['rows'] for event in run.committed):,}",
        "audio": f"{audio / 3600:,.2f} h",
        "time": f"{seconds:,.0f} s",
        "speed": f"{audio / seconds:,.0f} x real time" if seconds else "",
    }


def _chart(run: RunRecord) -> Chart | None:
    if not run.committed:
        return None
    start, width = _time(run.events[0]), max(_span(run.events), 1e-3) / _BARS
    bars = [0.0] * _BARS
    for event in run.committed:
        bars[min(int((_time(event) - start) / width), _BARS - 1)] += event["audio_seconds"]
    top = max(bars) or 1.0
    peak = f"{top / width:,.0f} x real time at the highest, bars of {width:,.1f} s"
    return Chart(peak, [bar / top for bar in bars])


def _rejects(run: RunRecord) -> dict[str, str]:
    total: Counter[str] = Counter()
    for event in run.committed:
        total.update(event["rejects"])
    return {reason: f"{count:,}" for reason, count in total.most_common()}


def _failures(events: Iterable[Logged]) -> dict[str, str]:
    return {
        f"{event['event']}, attempt {event['attempts']}: {event['shard']}": (
            f"{event['error']}: {event['message']}"
        )
        for event in events
        if event.get("error") and event.get("shard")
    }


def _slowest(run: RunRecord) -> dict[str, str]:
    ordered = sorted(run.committed, key=lambda event: -event["encode_seconds"])[:_SLOWEST]
    return {
        event["shard"]: f"{event['encode_seconds']:,.1f} s for {event['audio_seconds']:,.0f} s"
        for event in ordered
    }


def _span(events: list[Logged]) -> float:
    return _time(events[-1]) - _time(events[0]) if events else 0.0


def _time(event: Logged) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
