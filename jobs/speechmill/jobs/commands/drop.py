"""`speechmill drop`: take rows out of a token dataset, and keep them out."""

from dataclasses import dataclass

from rich.console import Console

from speechmill.jobs.display import facts_table, print_line
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.pipeline.dataset.drop import drop_rows, named_entries, selected_entries
from speechmill.pipeline.dataset.key_file import read_keys
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.tokenize.drops import SCHEMA


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was dropped from a dataset, or would be."""

    root: str
    dry_run: bool
    entries: int  # that this call names, without those of other datasets
    unmatched: int  # of them, those that select no row and no reject
    elsewhere: int  # entries of other datasets
    parts: int
    parts_changed: int
    rows: int
    audio_hours: float


def drop_from_dataset(
    root: str, keys: str | None, where: str | None, dry_run: bool, overrides: list[str]
) -> Dropped:
    """Drop what a key file or a condition names, and what earlier calls recorded.

    Raises `InputError` for both at once, for a bad file or condition, and without a dataset.
    """
    if keys is not None and where is not None:
        raise InputError("give --keys or --where, not both; drop twice to drop what either names")
    condition = None if where is None else Where(where, "--where")
    dataset = open_dataset(root, overrides)
    dataset.require_identity()
    entries, elsewhere = SCHEMA.empty_table(), 0
    if keys is not None:
        entries, elsewhere = named_entries(read_keys(keys, dataset.storage), dataset)
    elif condition:
        entries = selected_entries(condition, dataset)
    found = drop_rows(dataset, entries, dry_run)
    return Dropped(
        root=dataset.root,
        dry_run=dry_run,
        entries=found.entries,
        unmatched=found.unmatched,
        elsewhere=elsewhere,
        parts=found.parts,
        parts_changed=found.parts_changed,
        rows=found.rows,
        audio_hours=found.audio_seconds / 3600,
    )


def print_dropped(found: Dropped, console: Console) -> None:
    """Print a table, and what is left to do by hand."""
    rows = f"{found.rows:,} utterances, {found.audio_hours:,.3f} h"
    facts = {
        "dataset": found.root,
        "would drop" if found.dry_run else "dropped": rows,
        "parts": f"{found.parts_changed:,} of {found.parts:,} "
        f"{'hold them' if found.dry_run else 'written again'}",
        "entries": f"{found.entries:,}, of which {found.unmatched:,} match nothing",
        **({"of other datasets": f"{found.elsewhere:,} entries"} if found.elsewhere else {}),
    }
    console.print(facts_table(facts))
    if found.rows and not found.dry_run:
        print_line(
            console,
            "exports, compacted copies and each report.html may still hold them: "
            "make them again or delete them (docs/guide/curate.md)",
        )
