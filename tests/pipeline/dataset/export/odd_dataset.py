"""A dataset of odd keys, written without audio, and what its rows hold."""

import numpy as np
import pyarrow as pa
import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize import writer
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.schema import token_schema
from tests.one_shard import PROVENANCE

CODEC = codec_info("null")
SIZES = CODEC.codebook_sizes
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
    count = len(keys)
    frames_B = 3 + np.arange(count) % 4
    random = np.random.default_rng(count)
    codes = [random.integers(0, SIZES, (frames, len(SIZES))).reshape(-1) for frames in frames_B]
    values = {
        "key": keys,
        "codes": codes,
        "num_frames": frames_B,
        "num_codebooks": [len(SIZES)] * count,
        "start": np.arange(count) % segments,
        "end": np.arange(count) % segments + frames_B / CODEC.frame_rate,
        "sample_rate": [16_000] * count,
        "num_channels": [1] * count,
        "duration": frames_B / CODEC.frame_rate,
        "audio_xxh3": [2**64 - 1] * count,
        "text": [None if row % 3 == 2 else f"text\nof {row}" for row in range(count)],
        "metadata": [f'{{"speaker": {row % 2}, "sources": []}}' for row in range(count)],
        "shard": [shard] * count,
        "index": np.arange(count) // segments,
    }
    schema = token_schema(SIZES)
    place = schema.get_field_index("metadata")
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    arrays[place] = arrays[place].dictionary_encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROWS_PER_GROUP", 4)
        source = Shard(shard, 1, "etag")
        part = writer.PartWriter(dataset.root, source, dataset.storage, CODEC, PROVENANCE)
        with part:
            schema = schema.set(place, pa.field("metadata", arrays[place].type))
            part.add(pa.RecordBatch.from_arrays(arrays, schema=schema))
            part.close(ShardEnd([]))


def odd_dataset(root: str, keys: dict[str, list[str]] = KEYS, segments: int = 1) -> TokenDataset:
    dataset = TokenDataset(root, Storage())
    dataset.claim(dataset_identity(CODEC, "fp32", DecodeSettings()))
    for shard, own in keys.items():
        write_part(dataset, shard, own, segments)
    return dataset


def stored(dataset: TokenDataset) -> list[tuple[str, str | None, np.ndarray]]:
    """The key, the text and codes_FK of every row, by part."""
    rows = []
    for name in sorted(dataset.parts()):
        rows += dataset.read_columns(name, ["key", "text", "codes"]).to_pylist()
    return [(r["key"], r["text"], np.array(r["codes"]).reshape(-1, len(SIZES))) for r in rows]
