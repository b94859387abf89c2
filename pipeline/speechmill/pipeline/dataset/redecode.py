"""Decode recordings of a token dataset with two decoders, and compare both with the rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from speechmill.pipeline.audio.comparison import compare_decoders
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.dataset.layout import TokenDataset, shard_of
from speechmill.pipeline.dataset.reencode import drawn_rows
from speechmill.pipeline.errors import SpeechmillError
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.tokenize.describe import audio_suffix

_COLUMNS = ["key", "index", "end"]


@dataclass(frozen=True, slots=True)
class Redecoded:
    """A recording that was decoded again; it is right if there is no error."""

    part: str  # name of the file below `tokens/`
    key: str
    error: str | None = None
    has_other: bool = True  # whether a second decoder knows the format


def redecode(
    dataset: TokenDataset, roots: Roots, count: int, settings: RecordingSettings, seed: int = 0
) -> Iterator[Redecoded]:
    """Yield the recordings of `count` random rows of the parts whose tars lie below `roots`."""
    whole = dataset.require_identity().get("segment", "none") == "none"
    for section, table in drawn_rows(dataset, roots, count, seed, _COLUMNS):
        rows = {row["index"]: row for row in table.to_pylist()}
        shard, left = shard_of(section.footer), dict(rows)
        try:
            samples = read_samples(
                shard,
                dataset.storage,
                settings.limits.member_bytes,
                audio_member=settings.audio.member,
            )
            for sample in samples:
                if isinstance(sample, Sample) and sample.index in left:
                    row = left.pop(sample.index)
                    yield _redecoded(section.file, row, sample, settings, whole)
        except SpeechmillError as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "the tar has no such sample any more"
        yield from (Redecoded(section.file, row["key"], reason) for row in left.values())


def _redecoded(
    part: str, row: dict[str, Any], sample: Sample, settings: RecordingSettings, whole: bool
) -> Redecoded:
    """Compare one recording; `whole` says that its row ends with it."""
    try:
        data = sample.members[audio_suffix(sample, settings.audio.member)]
        found = compare_decoders(data, settings.audio, settings.limits)
    except SpeechmillError as error:
        return Redecoded(part, row["key"], f"{type(error).__name__}: {error}")
    fault = found.fault
    if whole and abs(row["end"] - found.seconds) > 1e-3:
        fault = f"the row has {row['end']:.3f} s, the recording {found.seconds:.3f} s"
    return Redecoded(part, row["key"], fault, found.has_other)
