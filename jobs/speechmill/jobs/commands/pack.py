"""`speechmill pack`: audio files in, WebDataset shards out."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from speechmill.jobs.display import Display, require_files
from speechmill.jobs.schemas import PackConfig
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.shards.packing import pack_shards, plan_pack
from speechmill.pipeline.storage import Storage

_NAMED = 5  # of the files that one reason leaves out
_REASONS = 20  # that are named; each unknown extension is one


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
    display.line(
        f"{shards} shards of {clips} clips, {size / 1e6:.1f} MB; {skipped} were there"
        f"{_summary(plan.passed_over)}"
    )


def _summary(passed_over: Sequence[PassedOver]) -> str:
    """How many files and folders each reason leaves out, or nothing if none does."""
    reasons = Counter(one.reason for one in passed_over).most_common()
    named = [f"{count} {_shown(reason)}" for reason, count in reasons[:_REASONS]]
    more = [f"{len(reasons) - _REASONS} more reasons"] if len(reasons) > _REASONS else []
    return f"; passed over {len(passed_over)}: {'; '.join([*named, *more])}" if reasons else ""


def passed_over_lines(passed_over: Sequence[PassedOver]) -> Iterator[str]:
    """Yield for each reason how many files and folders it leaves out, and the first of them."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in passed_over:
        by_reason[one.reason].append(one.url)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    for reason, urls in ordered[:_REASONS]:
        first = ", ".join(urls[:_NAMED]) + (", …" if len(urls) > _NAMED else "")
        yield _shown(f"passed over {len(urls)}, {reason}: {first}")
    if rest := ordered[_REASONS:]:
        num_files = sum(len(urls) for _, urls in rest)
        yield f"passed over {num_files} for {len(rest)} more reasons, as {_shown(rest[0][1][0])}"


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
