"""Files to pack, and what is in the tars."""

from collections.abc import Iterable
from pathlib import Path

import webdataset

from speechmill.pipeline.shards.packing import PackedShard, PackSettings, pack_files
from speechmill.pipeline.storage import Storage


def write_files(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * size)
    return folder


def pack(source: object, output: object, **settings: object) -> list[PackedShard]:
    return list(pack_files(PackSettings(str(source), str(output), **settings), Storage()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def samples_in(shards: Iterable[PackedShard]) -> dict[str, dict[str, bytes]]:
    """The samples that webdataset reads: the members of each key, by suffix."""
    dataset = webdataset.WebDataset(
        [shard.url for shard in shards], shardshuffle=False, empty_check=False
    )
    found = {}
    for sample in dataset:
        key = sample["__key__"]
        assert key not in found
        found[key] = {name: data for name, data in sample.items() if not name.startswith("__")}
    return found
