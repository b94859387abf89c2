"""What compaction costs and gives: `python -m tests.bench.compact PARTS FILE_MB THREADS`.

Makes a token dataset of parts of a quarter of an hour each on the local disk (8 codebooks of 1024
random codes, 50 frames/s, clips of 1 to 20 s, some text and JSON each), compacts it in this
process, and prints speed, memory, sizes and the requests of an epoch.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from speechmill.codecs import codec_info
from speechmill.jobs.commands.compact import compact_dataset
from speechmill.jobs.display import Display
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.dataset.row_groups import list_row_groups
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, distinct_strings, token_schema
from speechmill.pipeline.tokenize.writer import PartWriter

CLIPS = 90  # of a part
INFO = codec_info("null")
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "in", "Spain"]


def write_part(dataset: TokenDataset, number: int) -> None:
    random = np.random.default_rng(number)
    shard = Shard(f"s3://corpus/shards/shard-{number:07d}.tar", 30_000_000, f"{number:032x}")
    frames = random.integers(50, 1000, CLIPS)
    texts = [" ".join(random.choice(WORDS, 25)) for _ in frames]
    keys = [f"speaker-{number % 999:03d}/{number:07d}-{clip:04d}" for clip in range(CLIPS)]
    columns = {
        "key": keys,
        "codes": [random.integers(0, 1024, 8 * n, dtype=np.uint16) for n in frames],
        "num_frames": frames,
        "num_codebooks": np.full(CLIPS, 8),
        "start": np.zeros(CLIPS),
        "end": frames / 50,
        "sample_rate": np.full(CLIPS, 16_000),
        "num_channels": np.ones(CLIPS),
        "duration": frames / 50,
        "audio_xxh3": random.integers(0, 2**64, CLIPS, dtype=np.uint64),
        "text": texts,
        "metadata": distinct_strings([f'{{"id": "{key}", "language": "en"}}' for key in keys]),
        "shard": [shard.url] * CLIPS,
        "index": np.arange(CLIPS),
    }
    schema = token_schema(INFO.codebook_sizes)
    place = schema.get_field_index("metadata")
    schema = schema.set(place, ROW_SCHEMA.field("metadata"))
    facts = {"device": "cpu", "precision": "fp32", "compile": False}
    with PartWriter(dataset.root, shard, dataset.storage, INFO, facts) as writer:
        writer.add(pa.RecordBatch.from_pydict(columns, schema=schema))
        writer.close(ShardEnd([]))


def total_bytes(dataset: TokenDataset) -> int:
    return sum(info.size for info in dataset.listed().values())


def main(parts: int, file_mb: float, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = TokenDataset(f"{folder}/out", Storage())
        source.claim(dataset_identity(INFO, "fp32", RecordingSettings()))
        for number in range(parts):
            write_part(source, number)
        before = total_bytes(source)
        print(f"{parts} parts of {before / parts / 1e3:.0f} kB, {before / 1e6:.0f} MB")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        target = TokenDataset(f"{folder}/compacted", source.storage)
        compact_dataset(
            source.root,
            target.root,
            file_mb=file_mb,
            without_failed=False,
            threads=threads,
            overrides=[],
            display=Display(Console(width=120)),
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        after, groups = total_bytes(target), list_row_groups(target)
        mb = before / 1e6
        print(f"{wall:.1f} s, {mb / wall:.0f} MB/s; CPU {cpu:.1f} s, {mb / cpu:.0f} MB/s")
        print(f"peak {peak / 1e3:.0f} MB, {memory / 1e3:.0f} MB of them before")
        print(f"{len(target.parts())} files, {after / 1e6:.0f} MB, {after / before:.1%} of before")
        print(f"{len(groups)} row groups, {after / len(groups) / 1e6:.1f} MB each")
        index = Path(f"{target.root}/index.parquet").stat().st_size
        print(f"index.parquet {index / 1e3:.1f} kB, {index / len(groups):.1f} bytes per row group")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]), float(given[1]), int(given[2]))
