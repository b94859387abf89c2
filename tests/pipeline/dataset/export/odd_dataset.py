"""A dataset of odd keys, written without audio, and what its rows hold."""

import numpy as np

from speechmill.codecs import codec_info
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import Shard
from tests.token_parts import CODEC, empty_dataset, write_rows

INFO = codec_info(CODEC)
SIZES = INFO.codebook_sizes
SHARDS = ("in/a b[1]*.tar", "in/b.tar")
KEYS = {
    SHARDS[0]: [
        *("plain", "plain", "plain~2", "../x", "x" * 300, "a\0b", "a b\tc", "日本\u3000語/ü", ""),
        *("call.flac", "call.txt", "__x__/y", "/etc/x", "a/./b", "-", "| rm x |", "'\"\\<b>"),
    ],
    SHARDS[1]: ["plain", "second", "third"],
}


def write_part(dataset: TokenDataset, shard: str, keys: list[str], segments: int = 1) -> None:
    """A part in row groups of four rows; every third row has no text.

    Each recording has this many segments, which are rows.
    """
    rows = np.arange(len(keys))
    frames = 3 + rows % 4
    write_rows(
        dataset,
        Shard(shard, 1, "etag"),
        frames,
        seed=len(keys),
        rows_per_group=4,
        key=keys,
        start=rows % segments,
        end=rows % segments + frames / INFO.frame_rate,
        audio_xxh3=[2**64 - 1] * len(keys),
        text=[None if row % 3 == 2 else f"text\nof {row}" for row in rows],
        metadata=[f'{{"speaker": {row % 2}, "sources": []}}' for row in rows],
        index=rows // segments,
    )


def odd_dataset(root: str, keys: dict[str, list[str]] = KEYS, segments: int = 1) -> TokenDataset:
    dataset = empty_dataset(root)
    for shard, own in keys.items():
        write_part(dataset, shard, own, segments)
    return dataset


def stored(dataset: TokenDataset) -> list[tuple[str, str | None, np.ndarray]]:
    """The key, the text and codes_FK of every row, by part."""
    rows = []
    for name in sorted(dataset.parts()):
        rows += dataset.read_columns(name, ["key", "text", "codes"]).to_pylist()
    return [(r["key"], r["text"], np.array(r["codes"]).reshape(-1, len(SIZES))) for r in rows]
