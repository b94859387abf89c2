"""Encode rows of a token dataset again, each alone, from their source audio."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.codecs.api import Codec
from speechmill.codecs.errors import CodecError
from speechmill.pipeline.dataset.layout import TokenDataset, readable, shard_of
from speechmill.pipeline.dataset.section_rows import RowReader, sections_below
from speechmill.pipeline.dataset.sections import Section
from speechmill.pipeline.errors import SpeechmillError
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.tokenize.batching import Batch, BatchSettings
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.encoders import BatchByBatch
from speechmill.pipeline.tokenize.schema import (
    SCHEMA_VERSIONS,
    channels_of,
    row_label,
    token_schema,
    with_codes,
)

_COMPARED = [
    "key",
    "index",
    "start",
    "channel",
    "codes",
    "num_frames",
    "num_codebooks",
    "audio_xxh3",
]
_ALONE = BatchSettings(seconds=1e-9, window_seconds=1e-9)  # each clip is a batch of its own


@dataclass(frozen=True, slots=True)
class Reencoded:
    """The comparison of one row with its tokens of today."""

    part: str  # name of the file below `tokens/`
    key: str
    start: float  # s
    channel: int | None
    num_frames: int
    mismatches: tuple[int, ...]  # codes that differ, per codebook
    device: str  # kind of device that first encoded the row
    error: str | None = None  # why the row could not be compared

    @property
    def place(self) -> str:
        """The name of the row, for messages."""
        return row_label(self.key, self.start, self.channel)


def reencode(
    dataset: TokenDataset,
    roots: Roots,
    count: int,
    codec: Codec,
    settings: DecodeSettings,
    seed: int = 0,
) -> Iterator[Reencoded]:
    """Yield `count` random rows of the parts whose tars lie below `roots`, or all if fewer."""
    settings = replace(settings, batch=_ALONE)
    for section, rows in drawn_rows(dataset, roots, count, seed):
        yield from _reencode_rows(dataset, rows, section, codec, settings)


def drawn_rows(
    dataset: TokenDataset, roots: Roots, count: int, seed: int, columns: list[str] | None = None
) -> Iterator[tuple[Section, pa.Table]]:
    """Random rows of each drawn shard whose tar lies below the roots.

    Raises `InputError` for a part that is damaged.
    """
    sections = sections_below(dataset, roots)
    with readable(dataset.root):
        drawn = _drawn([section.rows for section in sections], count, seed)
    for number, rows in drawn.items():
        section = sections[number]
        url = dataset.part_url(section.file)
        with dataset.storage.open(url) as stream, readable(url):
            reader = RowReader(pq.ParquetFile(stream), columns)
            places = [section.first + row for row in rows]
            table = pa.concat_tables([reader.rows(place, place + 1) for place in places])
        yield section, table


def _drawn(sizes: Sequence[int], count: int, seed: int) -> dict[int, list[int]]:
    """Random rows by part; every row of the dataset has the same probability."""
    ends = list(accumulate(sizes, initial=0))
    picked = sorted(random.Random(seed).sample(range(ends[-1]), min(count, ends[-1])))
    parts = np.searchsorted(ends, picked, side="right") - 1
    drawn: dict[int, list[int]] = {}
    for row, part in zip(picked, parts.tolist(), strict=True):
        drawn.setdefault(part, []).append(row - ends[part])
    return drawn


def _reencode_rows(
    dataset: TokenDataset,
    wanted: pa.Table,
    section: Section,
    codec: Codec,
    settings: DecodeSettings,
) -> Iterator[Reencoded]:
    schema = token_schema(codec.info.codebook_sizes, max(SCHEMA_VERSIONS))
    with readable(dataset.part_url(section.file)):
        shard, device = shard_of(section.footer), str(section.footer["device"])
        names = [n for n in _COMPARED if n != "channel" or n in wanted.column_names]
        wanted = wanted.select(names).cast(pa.schema([schema.field(n) for n in names]))
    only = set(wanted["index"].to_pylist())
    again: dict[tuple[int, float, int | None], dict[str, Any]] = {}
    reason = "the sample no longer gives this row"

    def take(batch: Batch, codes_BFK: npt.NDArray[np.int64]) -> None:
        rows = with_codes(batch.rows, codes_BFK, batch.first_frame_B, batch.num_frames_B, schema)
        compared = rows.select(_COMPARED).to_pylist()
        again.update({(row["index"], row["start"], row["channel"]): row for row in compared})

    try:
        batches = decode_shard(shard, dataset.storage, settings, [codec.info], only)
        end = BatchByBatch(codec).encode_shard(batches, take).end
        reason = next((f"{r.error}: {r.message}" for r in end.rejects), reason)
    except (SpeechmillError, CodecError) as error:
        reason = f"{type(error).__name__}: {error}"
    for row, channel in zip(wanted.to_pylist(), channels_of(wanted), strict=True):
        now = again.get((row["index"], row["start"], channel))
        yield _compared(row | {"channel": channel}, now, section.file, device, reason)


def _compared(
    row: dict[str, Any], now: dict[str, Any] | None, part: str, device: str, reason: str
) -> Reencoded:
    books = row["num_codebooks"]
    place = (row["key"], row["start"], row["channel"])
    result = Reencoded(part, *place, row["num_frames"], (0,) * books, device)
    if now is None:
        return replace(result, error=reason)
    if now["audio_xxh3"] != row["audio_xxh3"]:
        return replace(result, error="the audio is not the one that was encoded")
    if now["num_codebooks"] != books:
        return replace(result, error=f"{now['num_codebooks']} codebooks, the row has {books}")
    if now["num_frames"] != row["num_frames"]:
        return replace(result, error=f"{now['num_frames']} frames, the row has {row['num_frames']}")
    if len(now["codes"]) != len(row["codes"]):
        return replace(result, error=f"{len(now['codes'])} codes, the row has {len(row['codes'])}")
    before_FK, now_FK = (np.array(r["codes"]).reshape(-1, books) for r in (row, now))
    return replace(result, mismatches=tuple((before_FK != now_FK).sum(axis=0).tolist()))
