"""`speechmill status`: what a token dataset holds, from the footers of its parts."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from speechmill.jobs.existing_dataset import run_ids
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.run.run_log import read_summary, run_folder
from speechmill.pipeline.storage import Storage


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
    rejects: dict[str, int]
    bad_json: int
    failed: list[dict[str, Any]]
    last_run: dict[str, Any] | None  # its summary; None where it did not end, or none ran


def read_status(root: str, storage: Storage) -> Status:
    """Raises `InputError` where there is no dataset."""
    dataset = TokenDataset(storage.absolute(root), storage)
    identity = dataset.require_identity()
    names = sorted(dataset.parts())
    footers = dataset.footers(names)
    rejects: Counter[str] = Counter()
    for footer in footers:
        rejects.update(footer["rejects"])
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
        bad_json=sum(footer["bad_json"] for footer in footers),
        failed=dataset.failures(),
        last_run=_last_summary(dataset),
    )


def _last_summary(dataset: TokenDataset) -> dict[str, Any] | None:
    runs = run_ids(dataset.root, dataset.storage)
    if not runs:
        return None
    return read_summary(run_folder(dataset.root, runs[-1]), dataset.storage)
