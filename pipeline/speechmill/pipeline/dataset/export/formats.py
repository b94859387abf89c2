"""The formats of an export by their names."""

from collections.abc import Callable
from dataclasses import dataclass

from speechmill.pipeline.dataset.export import (
    card,
    kaldi,
    lhotse,
    megatron,
    memmap,
    parquet,
    webdataset,
)
from speechmill.pipeline.dataset.export.part import Files, Part, Whole


def _nothing(_: Whole) -> Files:
    yield from ()


@dataclass(frozen=True, slots=True)
class Format:
    """How a part is written, and what the format can hold."""

    write: Callable[[Part], Files]  # into `data/`; the file that readers look for comes last
    describe: Callable[[Whole], Files] = _nothing  # files at the root, after all parts
    one_sequence: bool = False  # no rows of several streams
    listed_by_words: bool = False  # readers split a list of its files at white space
    by_frame: bool = False  # only one id, or row of ids, for each frame


FORMATS = {
    "parquet": Format(parquet.write),
    "hf": Format(parquet.write, card.describe),
    "megatron": Format(megatron.write, megatron.describe, one_sequence=True, listed_by_words=True),
    "webdataset": Format(webdataset.write),
    "lhotse": Format(lhotse.write, by_frame=True),
    "kaldi": Format(kaldi.write),
    "memmap": Format(memmap.write),
}
