"""Rejects by reason with examples, and the shards that were given up on."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from speechmill.jobs.report.parts import Contents, FoundPart, list_parts, sampled
from speechmill.jobs.report.sample import open_part, read_group
from speechmill.jobs.report.wording import ending, limited, share
from speechmill.pipeline import errors
from speechmill.pipeline.dataset.layout import DAMAGE, TokenDataset
from speechmill.pipeline.errors import SpeechmillError

_REASONS = 20  # that are named
_EXAMPLES = 3  # of each
_FILES = 40  # of rejects that are read
_FILES_PER_REASON = 2
_GROUPS = 2  # row groups of a file
_FILE_BYTES = 2**28
_MOST_FAILED = 100
_FAILED_BYTES = 2**20
_STRINGS = ["key", "shard", "member", "stage", "error", "message"]
_COLUMNS = [*_STRINGS, "index"]


@dataclass(frozen=True, slots=True)
class Example:
    """A sample that was rejected."""

    key: str
    message: str
    place: str


@dataclass(slots=True)
class Reason:
    """A class of errors, how many samples it cost, and some of them."""

    name: str
    meaning: str
    count: int
    share: str  # of all samples
    width: float  # percent of the most frequent one
    examples: list[Example] = field(default_factory=list)

    @property
    def count_shown(self) -> str:
        return f"{self.count:,}"


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard that was given up on."""

    shard: str
    error: str
    message: str
    attempts: str


def reject_reasons(
    dataset: TokenDataset, contents: Contents, seed: int, faults: list[str]
) -> list[Reason]:
    """The most frequent reasons, each with examples of random parts."""
    samples = contents.rows + sum(contents.rejects.values())
    common = contents.rejects.most_common(_REASONS)
    reasons = {
        name: Reason(limited(name), _meaning(name), n, share(n, samples), 100 * n / common[0][1])
        for name, n in common
        if n
    }
    if reasons:
        _add_examples(dataset, contents, reasons, seed, faults)
    return list(reasons.values())


def _meaning(reason: str) -> str:
    """What the class of an error says about itself."""
    found = getattr(errors, reason, None)
    known = isinstance(found, type) and issubclass(found, SpeechmillError)
    return (found.__doc__ or "").partition("\n")[0] if known else ""


def _add_examples(
    dataset: TokenDataset,
    contents: Contents,
    reasons: dict[str, Reason],
    seed: int,
    faults: list[str],
) -> None:
    chosen: set[str] = set()
    for name in reversed(reasons):  # the rare ones first
        own = contents.parts_of_reason[name]
        chosen |= (
            set(sampled(own, _FILES_PER_REASON, seed, name)) if len(chosen) < _FILES else set()
        )
    files = [part for part in list_parts(dataset, "rejects") if part.name in chosen]
    for part in files:
        try:
            _read_examples(dataset, part, reasons, seed)
        except (SpeechmillError, OSError, *DAMAGE) as error:
            faults.append(f"rejects/{part.name}.parquet: {type(error).__name__}: {error}")


def _read_examples(
    dataset: TokenDataset, part: FoundPart, reasons: dict[str, Reason], seed: int
) -> None:
    if part.size > _FILE_BYTES:
        raise ValueError(f"{part.size} bytes, and no such file has over {_FILE_BYTES}")
    file = open_part(dataset.storage, part, _STRINGS)
    for number in sampled(range(file.num_row_groups), _GROUPS, seed, part.name):
        table = read_group(file, number, _COLUMNS)
        names = [str(name) for name in table["error"].to_pylist()]
        rows = list(enumerate(names))
        random.Random(seed).shuffle(rows)
        for row, name in rows:
            reason = reasons.get(name)
            if reason and len(reason.examples) < _EXAMPLES:
                reason.examples.append(_example(table.slice(row, 1).to_pylist()[0]))


def _example(row: dict[str, Any]) -> Example:
    place = f"sample {row['index']} of {ending(row['shard'])}, {limited(row['stage'], 20)}"
    return Example(limited(row["member"] or row["key"], 120), limited(row["message"], 300), place)


def failed_shards(dataset: TokenDataset, faults: list[str]) -> tuple[list[FailedShard], int]:
    """The first records of `failed/`, and how many there are."""
    infos = [i for i in dataset.storage.list_files(f"{dataset.root}/failed") if "/." not in i.url]
    return [
        record for info in infos[:_MOST_FAILED] if (record := _failed(dataset, info.url, faults))
    ], len(infos)


def _failed(dataset: TokenDataset, url: str, faults: list[str]) -> FailedShard | None:
    try:
        found = json.loads(dataset.storage.read_small(url, _FAILED_BYTES))
        return FailedShard(
            limited(found["shard"], 300),
            limited(found["error"], 100),
            limited(found["message"], 500),
            limited(found.get("attempts", "?"), 20),
        )
    except (SpeechmillError, *DAMAGE) as error:
        faults.append(f"failed/{url.rpartition('/')[2]}: {type(error).__name__}: {error}")
        return None
