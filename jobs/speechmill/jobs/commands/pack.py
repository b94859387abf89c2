"""`speechmill pack`: audio files in, WebDataset shards out."""

from speechmill.jobs.display import Display, require_files
from speechmill.jobs.schemas import PackConfig
from speechmill.pipeline.shards.packing import pack_files
from speechmill.pipeline.storage import Storage


def pack_audio(config: PackConfig, display: Display) -> None:
    """Write the shards that are not there yet, and print what each holds."""
    storage = Storage(config.storage, config.storage_patience)
    clips = size = skipped = shards = 0
    for shard in pack_files(config, storage):
        shards += 1
        clips += shard.clips
        size += shard.bytes
        skipped += shard.skipped
        if not shard.skipped:
            require_files([shard.url], storage)
            display.line(f"{shard.url}  {shard.clips} clips, {shard.bytes / 1e6:.1f} MB")
    display.line(f"{shards} shards of {clips} clips, {size / 1e6:.1f} MB; {skipped} were there")
