"""A random sample of the rows of a dataset: durations, codes, and utterances to listen to."""

import io
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.jobs.report.parts import FoundPart, sampled
from speechmill.pipeline.dataset.documents import Utterances, utterances_of
from speechmill.pipeline.dataset.layout import DAMAGE, TokenDataset
from speechmill.pipeline.errors import StorageError
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.writer import ROWS_PER_GROUP

MOST_GROUPS = 256  # row groups that are read
_GROUP_BYTES = 2**29  # of one column of a row group, unpacked
_ALL_VALUES = 2**29  # codes of all of them
_IN_MEMORY = 2**25  # bytes; of a larger file only the row group is read
_THREADS = 4  # each holds one row group
_MOST_CODEBOOKS, _MOST_ENTRIES = 255, 2**24  # of a codec; entries of all its codebooks
_COUNTED = ["codes", "duration"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """A row group that was read."""

    part: FoundPart
    number: int
    durations_N: Doubles  # s


@dataclass(slots=True)
class RowSample:
    """The rows of some row groups, and how often they use each code."""

    groups: list[Group] = field(default_factory=list)
    counts: CodeCounts | None = None
    values: int = 0

    @property
    def parts(self) -> int:
        return len({group.part.name for group in self.groups})

    @property
    def durations_N(self) -> Doubles:
        return joined_durations(self.groups)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is."""

    part: FoundPart
    group: int
    row: int  # of the row group


def codebook_sizes(identity: dict[str, Any]) -> tuple[int, ...]:
    """The sizes that `dataset.json` states; raises `ValueError` for what no codec has."""
    sizes = identity["codebook_sizes"]
    if not isinstance(sizes, list) or not 0 < len(sizes) <= _MOST_CODEBOOKS:
        raise ValueError("dataset.json: codebook_sizes is not a list of 1 to 255 sizes")
    for size in sizes:
        if not isinstance(size, int) or not 0 < size <= _MOST_ENTRIES:
            raise ValueError(f"dataset.json: a codebook of {str(size)[:40]} entries")
    if sum(sizes) > _MOST_ENTRIES:
        raise ValueError(f"dataset.json: codebooks of {sum(sizes):,} entries in all")
    return tuple(sizes)


def sample_rows(
    dataset: TokenDataset,
    parts: Sequence[FoundPart],
    sizes: tuple[int, ...],
    seed: int,
    faults: list[str],
) -> RowSample:
    """Read random row groups of random parts, each part in the same number."""
    chosen = sampled(parts, MOST_GROUPS, seed, "parts")
    random.Random(seed).shuffle(chosen)  # if codes are too many, the first ones are a sample too
    each = MOST_GROUPS // max(1, len(chosen))
    found = RowSample(counts=CodeCounts(sizes))
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(chosen), _THREADS):
            if found.values > _ALL_VALUES:
                break
            few = chosen[start : start + _THREADS]
            read = threads.map(lambda part: _read_part(dataset, part, sizes, each, seed), few)
            for part, result in zip(few, read, strict=True):
                if isinstance(result, str):
                    faults.append(f"tokens/{part.name}.parquet is not sampled: {result}")
                else:
                    _add(found, part, result)
    return found


def _add(found: RowSample, part: FoundPart, read: list[tuple[int, Utterances]]) -> None:
    assert found.counts
    for number, rows in read:
        found.counts.add(rows.codes_NK.T)
        durations_N = rows.table["duration"].to_numpy()
        found.groups.append(Group(part, number, durations_N))
        found.values += rows.codes_NK.size


def _read_part(
    dataset: TokenDataset, part: FoundPart, sizes: tuple[int, ...], most: int, seed: int
) -> list[tuple[int, Utterances]] | str:
    """Return some row groups of a part, or why it cannot be read."""
    try:
        file = open_part(dataset.storage, part)
        numbers = sampled(range(file.num_row_groups), most, seed, part.name)
        return [(number, _read_group(file, number, sizes)) for number in numbers]
    except (StorageError, OSError, *DAMAGE) as error:
        return f"{type(error).__name__}: {error}"


def _read_group(file: pq.ParquetFile, number: int, sizes: tuple[int, ...]) -> Utterances:
    rows = utterances_of(read_group(file, number, _COUNTED), len(sizes))
    highest_K = rows.codes_NK.max(axis=0, initial=0)
    for book, size in enumerate(sizes):
        if highest_K[book] >= size:
            raise ValueError(f"code {highest_K[book]} of codebook {book}, which has {size}")
    seconds_N = rows.table["duration"].to_numpy()
    if not (np.isfinite(seconds_N) & (seconds_N >= 0)).all():
        raise ValueError("durations that are not numbers from 0 up")
    return rows


def open_part(
    storage: Storage, part: FoundPart, strings: Sequence[str] = ("key", "text")
) -> pq.ParquetFile:
    """Open a part; a small one is read at once.

    Strings are read as dictionaries, so that one which is stored once is in memory once.
    """
    small = part.size <= _IN_MEMORY
    source = io.BytesIO(storage.read_bytes(part.url)) if small else storage.open(part.url)
    return pq.ParquetFile(source, read_dictionary=list(strings))


def read_group(file: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
    """Some columns of a row group; raises `ValueError` if it is larger than any that is written."""
    group = file.metadata.row_group(number)
    if group.num_rows > ROWS_PER_GROUP * 16:
        raise ValueError(f"row group {number} has {group.num_rows} rows")
    wanted = {name.partition(".")[0] for name in columns}
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema.partition(".")[0] in wanted and (
            max(column.num_values, column.total_uncompressed_size) > _GROUP_BYTES
        ):
            raise ValueError(f"{column.path_in_schema} of row group {number} is too large")
    present = [name for name in columns if name in file.schema_arrow.names]
    return file.read_row_group(number, columns=present).combine_chunks()


def joined_durations(groups: Sequence[Group]) -> Doubles:
    """The durations of the rows of all groups, s."""
    return np.concatenate([np.empty(0), *(group.durations_N for group in groups)])


def choose_utterances(groups: Sequence[Group], most: int, seed: int) -> list[Place]:
    """Choose rows by chance, spread over durations and parts, the shortest first.

    The rows, ordered by duration, are cut into `most` equal strata; each gives one row, if possible
    of a part that gave none yet.
    """
    durations_N = joined_durations(groups)
    sizes = [len(group.durations_N) for group in groups]
    if not len(durations_N) or not most:
        return []
    group_N, first_G = np.repeat(np.arange(len(groups)), sizes), np.cumsum([0, *sizes])
    chance, used, chosen = np.random.default_rng(seed), set[str](), []
    strata = np.array_split(np.argsort(durations_N, kind="stable"), min(most, len(durations_N)))
    for stratum_S in map(chance.permutation, strata):
        fresh = (row for row in stratum_S if groups[group_N[row]].part.name not in used)
        row = next(fresh, stratum_S[0])
        group = groups[group_N[row]]
        used.add(group.part.name)
        chosen.append(Place(group.part, group.number, int(row - first_G[group_N[row]])))
    return chosen
