"""`runs/<run id>/report.html`: one run on one page that needs nothing else to be read."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from string import Template
from typing import Any

from speechmill.jobs.display import require_files
from speechmill.jobs.existing_dataset import run_ids
from speechmill.pipeline.dataset.layout import ShardOutput
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.run_log import read_events, read_summary, run_folder
from speechmill.pipeline.run.runner import EventKind
from speechmill.pipeline.storage import join

_BARS = 60
_SLOWEST = 10
_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top }
th { font-weight: 600 } svg { width: 100%; height: 8rem; background: #f4f4f4 }
rect { fill: #3b6ea5 } pre { background: #f4f4f4; padding: 1rem; overflow: auto }
</style>
<h1>$title</h1><p>$sentence</p>
$body
</html>
""")


@dataclass(frozen=True, slots=True)
class Run:
    """What one run left in its folder; `summary` is None where it was killed."""

    run_id: str
    config: str
    events: list[dict[str, Any]]
    summary: dict[str, Any] | None


def write_report(dataset: ShardOutput, run_id: str | None = None) -> str:
    """Write the page of a run, by default of the newest; gives its URL."""
    runs = run_ids(dataset.root, dataset.storage)
    if not runs or (run_id and run_id not in runs):
        raise InputError(f"no run {run_id or ''} in {dataset.root}; there are {runs or 'none'}")
    run = read_run(dataset, run_id or runs[-1])
    url = join(run_folder(dataset.root, run.run_id), "report.html")
    dataset.storage.put(url, render(run).encode())
    require_files([url], dataset.storage)
    return url


def read_run(dataset: ShardOutput, run_id: str) -> Run:
    """Everything that a run wrote down."""
    folder, storage = run_folder(dataset.root, run_id), dataset.storage
    config = storage.read_bytes(join(folder, "config.yaml")).decode()
    return Run(run_id, config, list(read_events(folder, storage)), read_summary(folder, storage))


def render(run: Run) -> str:
    """The page; everything that came from outside is escaped."""
    done = [event for event in run.events if event["event"] == EventKind.COMMITTED]
    status = run.summary["status"] if run.summary else "did not end: killed, or still at work"
    sections = [
        _table("Run", _facts(run, done)),
        _speed(run, done),
        _table("Rejects", _rejects(done)),
        _table("Failures", _failures(run.events)),
        _table("Slowest shards", _slowest(done)),
        f"<h2>Configuration</h2><pre>{escape(run.config)}</pre>",
    ]
    sentence = (run.summary or {}).get("bottleneck") or ""
    return _PAGE.substitute(
        title=escape(f"Run {run.run_id}: {status}"),
        sentence=escape(sentence),
        body="\n".join(sections),
    )


def _facts(run: Run, done: list[dict[str, Any]]) -> dict[str, str]:
    audio = sum(event["audio_seconds"] for event in done)
    seconds = run.summary["seconds"] if run.summary else _span(run.events)
    return {
        "shards": f"{len(done):,} done",
        "utterances": f"{sum(event['rows'] for event in done):,}",
        "audio": f"{audio / 3600:,.2f} h",
        "time": f"{seconds:,.0f} s",
        "speed": f"{audio / seconds:,.0f} x real time" if seconds else "",
    }


def _speed(run: Run, done: list[dict[str, Any]]) -> str:
    """Bars of the audio committed in each stretch of the run."""
    if not done:
        return ""
    begin, width = _time(run.events[0]), max(_span(run.events), 1e-3) / _BARS
    bars = [0.0] * _BARS
    for event in done:
        bars[min(int((_time(event) - begin) / width), _BARS - 1)] += event["audio_seconds"]
    top = max(bars) or 1.0
    shapes = "".join(
        f'<rect x="{i}" y="{1 - bar / top:.4f}" width=".9" height="{bar / top:.4f}"/>'
        for i, bar in enumerate(bars)
    )
    peak = f"{top / width:,.0f} x real time at the highest, bars of {width:,.1f} s"
    chart = f'<svg viewBox="0 0 {_BARS} 1" preserveAspectRatio="none">{shapes}</svg>'
    return f"<h2>Audio committed</h2><p>{peak}</p>{chart}"


def _rejects(done: list[dict[str, Any]]) -> dict[str, str]:
    total: Counter[str] = Counter()
    for event in done:
        total.update(event["rejects"])
    return {reason: f"{count:,}" for reason, count in total.most_common()}


def _failures(events: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {
        f"{event['event']}, attempt {event['attempts']}: {event['shard']}": (
            f"{event['error']}: {event['message']}"
        )
        for event in events
        if event.get("error") and event.get("shard")
    }


def _slowest(done: list[dict[str, Any]]) -> dict[str, str]:
    ordered = sorted(done, key=lambda event: -event["encode_seconds"])[:_SLOWEST]
    return {
        event["shard"]: f"{event['encode_seconds']:,.1f} s for {event['audio_seconds']:,.0f} s"
        for event in ordered
    }


def _table(title: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items()
    )
    return f"<h2>{title}</h2><table>{cells}</table>"


def _span(events: list[dict[str, Any]]) -> float:
    return _time(events[-1]) - _time(events[0]) if events else 0.0


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
