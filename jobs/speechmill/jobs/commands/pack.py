"""`speechmill pack`: audio files in, WebDataset shards out."""

from speechmill.jobs.display import Display, require_files
from speechmill.jobs.passed_over import passed_over_lines, passed_over_summary
from speechmill.jobs.schemas import PackConfig
from speechmill.pipeline.shards.packing import pack_shards, plan_pack
from speechmill.pipeline.storage import Storage


def pack_audio(config: PackConfig, display: Display) -> None:
    """Write the shards that are not there yet; print what each holds and what is in none."""
    storage = Storage(config.storage, config.storage_patience)
    plan = plan_pack(config, storage)
    for line in passed_over_lines(plan.passed_over):
        display.line(line)
    clips = size = skipped = shards = 0
    for shard in pack_shards(plan.shards, config.output, storage):
        shards += 1
        clips += shard.clips
        size += shard.bytes
        skipped += shard.skipped
        if not shard.skipped:
            require_files([shard.url], storage)
            display.line(f"{shard.url}  {shard.clips} clips, {shard.bytes / 1e6:.1f} MB")
    left = f"; passed over {len(plan.passed_over)}: {passed_over_summary(plan.passed_over)}"
    display.line(
        f"{shards} shards of {clips} clips, {size / 1e6:.1f} MB; {skipped} were there"
        f"{left if plan.passed_over else ''}"
    )
