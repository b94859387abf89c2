"""`speechmill duplicates`: recordings and rows that token datasets hold more than once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from speechmill.jobs.display import Display, add_plain_row, facts_table, require_files
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.pipeline.dataset.duplicates import Duplicates, find_duplicates
from speechmill.pipeline.dataset.key_file import write_keys, writer_of
from speechmill.pipeline.dataset.where import Where

_LARGEST = 20  # groups that are shown
_MEMBERS = 10  # of a group, in JSON


@dataclass(frozen=True, slots=True)
class DuplicateReport:
    """What was found, in numbers, and the groups that waste most time."""

    by: str
    compared: int  # recordings, or rows by codes
    groups: int
    copies: int  # all but the first of each group
    wasted_hours: float
    largest: list[dict[str, Any]]
    output: str | None


def report_duplicates(
    roots: list[str], by: str, where: str | None, output: str | None, overrides: list[str]
) -> DuplicateReport:
    """Compare datasets, and write the copies into a key file for `drop`.

    Raises `InputError` before anything is read if the file could not be written.
    """
    condition = None if where is None else Where(where, "--where")
    datasets = [open_dataset(root, overrides) for root in roots]
    if output is not None:
        writer_of(output)
    found = find_duplicates(datasets, by, condition)
    copies = found.copies
    if output is not None:
        write_keys(copies, output, datasets[0].storage)
        require_files([output], datasets[0].storage)
    seconds = float(np.sum(copies["duration"].to_numpy()))
    return DuplicateReport(
        by=by,
        compared=found.compared,
        groups=found.groups,
        copies=len(copies),
        wasted_hours=seconds / 3600,
        largest=_largest(found),
        output=output,
    )


def _largest(found: Duplicates) -> list[dict[str, Any]]:
    """The groups whose copies have most audio: their counts, hours and first members."""
    groups, place_N = np.unique(found.table["group"].to_numpy(), return_inverse=True)
    seconds_N = np.where(found.first_N, 0.0, found.table["duration"].to_numpy())
    wasted_M = np.bincount(place_N, seconds_N, len(groups))
    largest = np.argsort(-wasted_M, kind="stable")[:_LARGEST]
    return [_group(found.table, place_N == group, wasted_M[group]) for group in largest]


def _group(table: pa.Table, member_N: Any, wasted: float) -> dict[str, Any]:
    members = table.filter(pa.array(member_N)).drop_columns("group")
    shown = members.slice(0, _MEMBERS).to_pylist()
    return {"copies": len(members) - 1, "wasted_hours": wasted / 3600, "members": shown}


def print_duplicates(found: DuplicateReport, console: Console) -> None:
    """Print the numbers, then the largest groups with the member that stays."""
    what = "recordings" if found.by == "audio" else "rows"
    facts = {
        "compared": f"{found.compared:,} {what} by {found.by}",
        "groups": f"{found.groups:,}",
        "copies": f"{found.copies:,}, {found.wasted_hours:,.3f} h",
        **({"written": found.output} if found.output else {}),
    }
    console.print(facts_table(facts))
    if not found.largest:
        return
    table = Table("copies", "hours", "first", "in", "next", "in", box=None)
    for group in found.largest:
        cells = [cell for one in group["members"][:2] for cell in (_label(one), _place(one))]
        add_plain_row(table, f"{group['copies']:,}", f"{group['wasted_hours']:.3f}", *cells)
    Display(console).table(table)


def _label(member: dict[str, Any]) -> str:
    start = "" if member["start"] is None else f" at {member['start']:g} s"
    return f"{member['key']}{start}"


def _place(member: dict[str, Any]) -> str:
    """The dataset and the tar by the last part of their URLs; --json has all of them."""
    return ": ".join(member[name].rpartition("/")[2] for name in ("dataset", "shard"))


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The datasets and the overrides among arguments; an override is one of the store."""
    overrides = [one for one in arguments if one.startswith("storage") and "=" in one]
    return [one for one in arguments if one not in overrides], overrides
