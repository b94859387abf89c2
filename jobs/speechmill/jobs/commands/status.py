"""`speechmill status`: what a token dataset holds, from the footers of its parts."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from speechmill.jobs.display import facts_table, print_line
from speechmill.jobs.existing_dataset import UNFINISHED, last_summary
from speechmill.pipeline.dataset.drop_part import DROPPED
from speechmill.pipeline.dataset.layout import COMPACTED, TokenDataset, readable
from speechmill.pipeline.run.run_log import run_ids


@dataclass(frozen=True, slots=True)
class Status:
    """A token dataset in numbers."""

    root: str
    codec: str
    revision: str
    trained: bool
    precision: str
    parts: int
    rows: int
    frames: int
    audio_hours: float
    rejects: dict[str, int]  # with those that were dropped
    dropped: int  # samples and segments
    bad_json: int
    cleaned: int  # names and texts with U+FFFD for what is not UTF-8
    failed: list[dict[str, Any]]
    last_run: dict[str, Any] | None  # its summary; None if it did not end, or there was none
    runs: int
    compacted: dict[str, Any] | None  # from which dataset, and how many parts it had


def read_status(dataset: TokenDataset) -> Status:
    """Read the footers and the last run; raises `InputError` without a dataset."""
    identity = dataset.require_identity()
    with readable(dataset.root):
        return _status(dataset, identity)


def _status(dataset: TokenDataset, identity: dict[str, Any]) -> Status:
    names = sorted(dataset.parts())
    footers = dataset.footers(names)
    rejects: Counter[str] = Counter()
    for footer in footers:
        rejects.update(footer["rejects"])
    runs = run_ids(dataset.root, dataset.storage)
    return Status(
        root=dataset.root,
        codec=identity["codec"],
        revision=identity["revision"],
        trained=identity["trained"],
        precision=identity["precision"],
        parts=len(names),
        rows=sum(footer["rows"] for footer in footers),
        frames=sum(footer["frames"] for footer in footers),
        audio_hours=sum(footer["audio_seconds"] for footer in footers) / 3600,
        rejects=dict(sorted(rejects.items())),
        dropped=rejects[DROPPED],
        bad_json=sum(footer["bad_json"] for footer in footers),
        cleaned=sum(footer.get("cleaned", 0) for footer in footers),
        failed=dataset.failures(),
        last_run=last_summary(dataset, runs),
        runs=len(runs),
        compacted=identity.get(COMPACTED),
    )


def print_status(found: Status, console: Console) -> None:
    """Print a table, then each failed shard on a line; raises `InputError` for damaged records."""
    with readable(found.root):
        rows = _facts(found)
        lines = [f"failed  {f['shard']}: {f['error']}: {f['message']}" for f in found.failed]
    console.print(facts_table(rows))
    for line in lines:
        print_line(console, line)


def _facts(found: Status) -> dict[str, str]:
    mark = "" if found.trained else " (untrained)"
    counts = {error: count for error, count in found.rejects.items() if error != DROPPED}
    rejects = ", ".join(f"{count} {error}" for error, count in counts.items())
    made = found.compacted
    return {
        "dataset": found.root,
        "codec": f"{found.codec}{mark}, revision {found.revision}, {found.precision}",
        "parts": f"{found.parts}",
        **({"compacted": f"from {made['parts']} parts of {made['source']}"} if made else {}),
        "utterances": f"{found.rows:,}",
        "audio": f"{found.audio_hours:,.3f} h",
        "frames": f"{found.frames:,}",
        "rejects": rejects or "0",
        **({"dropped": f"{found.dropped:,} samples or segments"} if found.dropped else {}),
        "bad metadata": f"{found.bad_json}",
        **({"not UTF-8": f"{found.cleaned} names and texts"} if found.cleaned else {}),
        "failed shards": f"{len(found.failed)}",
        "last run": _describe_run(found.last_run) if found.runs else "none",
    }


def _describe_run(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return UNFINISHED
    bottleneck = f"; {summary['bottleneck']}" if summary.get("bottleneck") else ""
    return f"{summary['run']}, {summary['status']} after {summary['seconds']:,.0f} s{bottleneck}"
