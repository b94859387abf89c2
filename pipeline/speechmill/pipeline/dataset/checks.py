"""Checks of one part of a token dataset: pure functions over its tables.

Each yields the faults that it finds, as pairs of the name of the check and a message.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.drops import Drops, is_key
from speechmill.pipeline.tokenize.schema import (
    LAYOUT,
    SCHEMA_VERSIONS,
    channels_of,
    rejects_of,
    row_label,
)

NamedFault = tuple[str, str]


def check_identity(footer: dict[str, Any], identity: dict[str, Any]) -> Iterator[NamedFault]:
    """Compare the codec and schema of the part with `dataset.json`."""
    codec = footer["codec"]
    stated = {
        "schema_version": footer["schema_version"],
        "layout": footer["layout"],
        "codec": codec["name"],
        "revision": codec["revision"],
        "trained": codec["trained"],
        "precision": footer["precision"],
        "compile": footer.get("compile", False),
        "codebook_sizes": codec["codebook_sizes"],
    }
    for key, value in stated.items():
        if identity[key] != value:
            yield "footer", f"{key} is {value!r}, dataset.json says {identity[key]!r}"
    if footer["schema_version"] not in SCHEMA_VERSIONS or footer["layout"] != LAYOUT:
        yield "footer", f"this version cannot read schema {footer['schema_version']}"


def check_counts(
    table: pa.Table, footer: dict[str, Any], rejected: pa.Table
) -> Iterator[NamedFault]:
    """Compare the counts of the footer with the tables."""
    counted = {
        "rows": len(table),
        "frames": pc.sum(table["num_frames"]).as_py() or 0,
        "rejects": dict(sorted(Counter(rejected["error"].to_pylist()).items())),
    }
    for name, value in counted.items():
        if footer[name] != value:
            check = "rejects" if name == "rejects" else "footer"
            yield check, f"the footer counts {footer[name]} {name}, there are {value}"
    seconds = pc.sum(table["duration"]).as_py() or 0.0
    if not np.isclose(seconds, footer["audio_seconds"], rtol=1e-9, atol=1e-6):
        yield "footer", f"the footer says {footer['audio_seconds']} s of audio, rows {seconds} s"


def check_code_values(table: pa.Table, codec: CodecInfo) -> Iterator[NamedFault]:
    """Compare the number of codes with the shape of each row, and codes with codebook sizes."""
    num_codebooks = table["num_codebooks"].to_numpy()
    if (num_codebooks != codec.num_codebooks).any():
        yield "codes", f"num_codebooks is not {codec.num_codebooks} in every row"
        return
    lengths = pc.list_value_length(table["codes"]).to_numpy()
    wrong = np.flatnonzero(lengths != table["num_frames"].to_numpy() * codec.num_codebooks)
    if len(wrong):
        row = int(wrong[0])
        message = (
            f"{len(wrong)} rows hold another number of codes than num_frames * num_codebooks, "
            f"first {table['key'][row].as_py()!r} with {lengths[row]}"
        )
        yield "codes", message
        return
    for chunk in table["codes"].chunks:
        codes_FK = chunk.flatten().to_numpy().reshape(-1, codec.num_codebooks)
        wrong_K = (codes_FK >= np.array(codec.codebook_sizes)).sum(axis=0)
        for book in np.flatnonzero(wrong_K):
            size = codec.codebook_sizes[book]
            yield "codes", f"{wrong_K[book]} codes of codebook {book} are not below {size}"


def check_times(table: pa.Table, codec: CodecInfo) -> Iterator[NamedFault]:
    """Compare the frames of each row with its duration; resampling may add or drop a frame."""
    seconds = table["end"].to_numpy() - table["start"].to_numpy()
    if not ((table["start"].to_numpy() >= 0) & (seconds > 0)).all():
        yield "rows", "start and end are not 0 <= start < end in every row"
        return
    expected = np.array([codec.num_frames(round(s * codec.sample_rate)) for s in seconds.tolist()])
    wrong = np.flatnonzero(abs(table["num_frames"].to_numpy() - expected) > 1)
    if len(wrong):
        row = int(wrong[0])
        message = (
            f"{len(wrong)} rows hold frames for another duration, first "
            f"{table['key'][row].as_py()!r}: {table['num_frames'][row]} of {seconds[row]} s"
        )
        yield "rows", message


def check_rows(
    table: pa.Table, rejected: pa.Table, source: Shard, segmented: bool
) -> Iterator[NamedFault]:
    """Find rows of another tar than the footer names, and keys that occur twice."""
    for name, rows in (("row", table), ("reject", rejected)):
        if others := set(rows["shard"].unique().to_pylist()) - {source.url}:
            yield "rows", f"a {name} is of {min(others)}, the footer says {source.url}"
    channels = channels_of(table)
    names = zip(table["key"].to_pylist(), table["start"].to_pylist(), channels, strict=True)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield "duplicate", f"{len(twice)} keys come twice, first {row_label(*twice[0])}"
    indices = table["index"].to_pylist()
    places = {*zip(indices, channels, strict=True), *((index, None) for index in indices)}
    rejects = zip(rejected["index"].to_pylist(), channels_of(rejected), strict=True)
    both = {index for index, channel in rejects if (index, channel) in places}
    if both and not segmented:
        yield "rejects", f"samples {_few(both)} of the tar are rows and rejects at once"


def check_dropped(
    table: pa.Table, rejected: pa.Table, source: Shard, drops: Drops
) -> Iterator[NamedFault]:
    """Find rows and rejects that a record of dropped samples names."""
    rejects = rejects_of(rejected)
    kept = drops.applied(table, rejects, source.url)
    rows = len(table) - len(kept.table)
    if rows or sorted(map(repr, kept.rejects)) != sorted(map(repr, rejects)):
        yield "dropped", f"{rows} rows are of samples that dropped/ names; run `speechmill drop`"


def check_channels(table: pa.Table) -> Iterator[NamedFault]:
    """Compare the channel of each row, in a dataset with this column, with those of its source."""
    if "channel" not in table.column_names:
        return
    pairs = list(zip(channels_of(table), table["num_channels"].to_pylist(), strict=True))
    if unnamed := sum(one is None and number > 1 for one, number in pairs):
        yield "rows", f"{unnamed} rows do not name their channel, though the source has several"
    if wrong := [one for one, number in pairs if one is not None and one >= number]:
        yield "rows", f"{len(wrong)} rows are of a channel that the source lacks, first {wrong[0]}"


def check_keys(found: dict[int, str], wanted: dict[int, str]) -> Iterator[str]:
    """Compare rows and rejects with the samples of the tar, by position and key."""
    if missing := wanted.keys() - found.keys():
        first = min(missing)
        yield (
            f"{len(missing)} samples of the tar are neither row nor reject, first "
            f"{wanted[first]!r} at {first}"
        )
    if extra := found.keys() - wanted.keys():
        key = found[min(extra)]
        yield f"{len(extra)} rows or rejects are not samples of the tar, first {key!r}"
    both = found.keys() & wanted.keys()
    other = [index for index in both if not is_key(found[index], wanted[index])]
    if other:
        first = min(other)
        yield (
            f"{len(other)} samples have another key in the tar, first {found[first]!r}, there "
            f"{wanted[first]!r}"
        )


def _few(numbers: set[int]) -> str:
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:5])) + (", …" if len(ordered) > 5 else "")
