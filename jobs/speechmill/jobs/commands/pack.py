"""`speechmill pack`: audio files in, WebDataset shards out."""

from speechmill.jobs.config import PackConfig
from speechmill.jobs.display import Display
from speechmill.pipeline.shards.packing import pack as pack_files
from speechmill.pipeline.storage import Storage


def pack(config: PackConfig, display: Display) -> None:
    """Write the shards that are not there yet, and say what each holds."""
    clips = size = skipped = shards = 0
    for shard in pack_files(config, Storage(config.storage)):
        shards += 1
        clips += shard.clips
        size += shard.bytes
        skipped += shard.skipped
        if not shard.skipped:
            display.line(f"{shard.url}  {shard.clips} clips, {shard.bytes / 1e6:.1f} MB")
    display.line(f"{shards} shards of {clips} clips, {size / 1e6:.1f} MB; {skipped} were there")
