"""`speechmill plan`: what `tokenize` would do with a configuration; nothing is written."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from speechmill.codecs import CodecInfo
from speechmill.jobs.commands.tokenize import identity_of
from speechmill.jobs.config import for_each_codec
from speechmill.jobs.display import facts_table
from speechmill.jobs.passed_over import passed_over_summary
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage, join

_SAMPLE = 64  # parts, at least, whose footers give the seconds of audio per byte of tar


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a run before it starts."""

    codec: str
    output: str
    is_new: bool
    shards: int
    bytes: int
    todo: int
    todo_bytes: int
    failed_before: int  # of those to do
    todo_hours: float | None  # of audio; None before the first part
    todo_seconds: float | None  # time that it takes at the last run's speed
    passed_over: str  # the files that are not shards, counted by reason


def plan_runs(config: TokenizeConfig) -> list[Plan]:
    """Return what a run with this configuration would do, for each codec.

    Raises the errors that `tokenize` raises before it starts.
    """
    storage = Storage(config.storage, config.storage_patience)
    codecs = [(single, single.codec.info()) for single in for_each_codec(config)]
    passed_over: list[PassedOver] = []
    shards = list_shards(config.shards, storage, passed_over)
    left = passed_over_summary(passed_over)
    return [_plan(*each, shards, left, storage) for each in codecs]


def _plan(
    config: TokenizeConfig,
    codec: CodecInfo,
    shards: Sequence[Shard],
    passed_over: str,
    storage: Storage,
) -> Plan:
    dataset = TokenDataset(storage.absolute(config.output), storage)
    found = dataset.read_identity()
    if found is not None:
        dataset.refuse_other(found, identity_of(config, codec))
    todo = dataset.todo(shards)
    todo_bytes = sum(shard.size for shard in todo)
    with readable(dataset.root):
        per_byte, speed = _audio_per_byte(dataset), _last_speed(dataset)
    seconds = None if per_byte is None else per_byte * todo_bytes
    failed = dataset.parts("failed")
    return Plan(
        codec=codec.title,
        output=dataset.root,
        is_new=found is None,
        shards=len(shards),
        bytes=sum(shard.size for shard in shards),
        todo=len(todo),
        todo_bytes=todo_bytes,
        failed_before=sum(shard.name in failed for shard in todo),
        todo_hours=None if seconds is None else seconds / 3600,
        todo_seconds=seconds / speed if seconds is not None and speed else None,
        passed_over=passed_over,
    )


def _audio_per_byte(dataset: TokenDataset) -> float | None:
    """Return the seconds of audio per byte of tar, from some of the finished parts."""
    names = sorted(dataset.parts())
    footers = dataset.footers(names[:: max(1, len(names) // _SAMPLE)])
    size = sum(Shard(**footer["source"]).size for footer in footers)
    return sum(footer["audio_seconds"] for footer in footers) / size if size else None


def _last_speed(dataset: TokenDataset) -> float | None:
    """Return the speed, in times real time, of the newest run that committed a part."""
    files = dataset.storage.list_files(join(dataset.root, "runs"))
    for info in sorted(files, key=lambda each: each.url, reverse=True):
        if info.url.endswith("/summary.json"):
            summary = json.loads(dataset.storage.read_bytes(info.url))
            if summary["audio_seconds"]:
                return float(summary["audio_seconds"] / summary["seconds"])
    return None


def plans_json(plans: list[Plan]) -> str:
    """Return a plan for each codec, for a script."""
    return json.dumps([asdict(found) for found in plans], indent=2)


def print_plan(found: Plan, console: Console) -> None:
    """Print a plan as a table."""
    before = f", {found.failed_before} of them failed before" if found.failed_before else ""
    hours = "not known before the first part"
    if found.todo_hours is not None:
        hours = f"about {found.todo_hours:,.2f} h, by the parts that are done"
    rows = {
        "codec": found.codec,
        "output": f"{found.output} ({'new' if found.is_new else 'continued'})",
        "shards": f"{found.shards:,}, {found.bytes / 1e9:,.2f} GB",
        "to do": f"{found.todo:,}, {found.todo_bytes / 1e9:,.2f} GB{before}",
        "audio to do": hours,
    }
    if found.passed_over:
        rows["passed over"] = found.passed_over
    if found.todo_seconds is not None:
        rows["time"] = f"about {found.todo_seconds / 3600:,.2f} h at the last run's speed"
    console.print(facts_table(rows))
