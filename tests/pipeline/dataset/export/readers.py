"""The libraries that users read exports with: each gives the key and the ids of every utterance.

A format that keeps no keys gives None.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Read = Iterator[tuple[str | None, np.ndarray]]


def read_parquet(folder: Path) -> Read:
    for file in sorted(folder.glob("data/*.parquet")):
        yield from map(_row, pq.read_table(file).to_pylist())


def read_hf(folder: Path) -> Read:
    import datasets

    yield from map(_row, datasets.load_dataset(str(folder), split="train"))


def _row(row: dict[str, Any]) -> tuple[str, np.ndarray]:
    streams = [row[name] for name in row if name.startswith("codes_")]
    return row["key"], np.stack(streams, axis=1) if streams else np.array(row["input_ids"])


@cache
def indexed_dataset() -> Callable[[str], Any]:
    """Of Megatron-Core, whose import takes seconds."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return IndexedDataset


def read_megatron(folder: Path) -> Read:
    for file in sorted(folder.glob("data/*.idx")):
        found = indexed_dataset()(str(file.with_suffix("")))
        assert found.document_indices.tolist() == list(range(len(found) + 1))
        for document in range(len(found)):
            yield None, found[document].copy()  # its memory goes with it


def read_webdataset(folder: Path) -> Read:
    import webdataset

    urls = sorted(map(str, folder.glob("data/*.tar")))
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        assert sample.get("txt") == sample["json"]["text"]
        yield sample["json"]["key"], sample["npy"]


def read_lhotse(folder: Path) -> Read:
    from lhotse import CutSet

    for cut in CutSet.from_shar(
        in_dir=folder / "data"
    ).to_eager():  # refuses an id that comes twice
        codes = cut.load_codes()
        assert len(codes) == cut.codes.num_frames == round(cut.duration / cut.codes.frame_shift)
        yield cut.custom["key"], codes


def read_kaldi(folder: Path) -> Read:
    import kaldiio

    lines = [file.read_text() for file in sorted(folder.glob("data/*.jsonl"))]
    keys = {row["id"]: row["key"] for row in map(json.loads, "".join(lines).splitlines())}
    scp = folder.parent / f"{folder.name}.scp"  # of all parts, as with `cat`
    scp.write_text("".join(file.read_text() for file in sorted(folder.glob("data/*.scp"))))
    found = kaldiio.load_scp(str(scp))
    assert found.keys() == keys.keys()
    for name in found:
        yield keys[name], found[name]


def read_memmap(folder: Path) -> Read:
    for file in sorted(folder.glob("data/*.ids.npy")):
        ids = np.load(file, mmap_mode="r")
        ends = np.load(str(file).replace(".ids.", ".ends."), mmap_mode="r")
        yield from ((None, document) for document in np.split(ids, ends[:-1]))


READERS: dict[str, Callable[[Path], Read]] = {
    "parquet": read_parquet,
    "hf": read_hf,
    "megatron": read_megatron,
    "webdataset": read_webdataset,
    "lhotse": read_lhotse,
    "kaldi": read_kaldi,
    "memmap": read_memmap,
}
