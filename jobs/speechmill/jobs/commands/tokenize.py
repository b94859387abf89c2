"""`speechmill tokenize`: shards in, a token dataset out, resumed where it was left."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from speechmill.codecs import CodecInfo, codec_info
from speechmill.jobs.commands.report import write_report
from speechmill.jobs.config import for_each_codec, to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.jobs.shard_run import clear_failures, keep_failures, require_parts, stop_signal
from speechmill.pipeline.audio.recordings import Recordings
from speechmill.pipeline.dataset.layout import TokenDataset, identity
from speechmill.pipeline.errors import RunStopped
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.ray_workers import WorkerEventCallback
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, EventKind, Pool, Totals, run
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput


@dataclass(frozen=True)
class _Part:
    """One codec of a run, with the dataset that it fills."""

    config: TokenizeConfig
    codec: CodecInfo
    dataset: TokenDataset

    @property
    def codec_output(self) -> CodecOutput:
        return CodecOutput(self.dataset.root, self.codec, self.config.codec_options())


StartPool = Callable[
    [TokenizeJob, WorkerSettings, RaySettings, Mapping[Shard, Sequence[int]], WorkerEventCallback],
    AbstractContextManager[Pool],
]


def tokenize(
    config: TokenizeConfig, display: ShardDisplay, start_pool: StartPool = RayPool
) -> Totals:
    """Tokenize every shard that has no part yet, for every codec.

    Raises an `InputError` or `DatasetConflict` before anything is computed, and whatever error
    makes going on pointless afterwards; shards given up on are counted in the result.
    """
    storage = Storage(config.storage, config.storage_patience)
    parts = [_part(single, storage) for single in for_each_codec(config)]
    for codec in (part.codec for part in parts):
        display.line(f"codec    {codec.title}, revision {codec.revision}, {codec.kbps:.2f} kbit/s")
    shards = list_shards(config.shards, storage)
    recording = config.decode_settings()
    Recordings(recording, [part.codec for part in parts])  # refuses what does not go together
    needed: dict[Shard, list[int]] = {}
    failed = []
    for position, part in enumerate(parts):
        part.dataset.claim(identity_of(part.config, part.codec))
        left = part.dataset.todo(shards)
        for shard in left:
            needed.setdefault(shard, []).append(position)
        failed.append(part.dataset.failed_names())
        for shard in set(shards) - set(left):
            clear_failures(shard, part.dataset, failed[-1])
        display.line(f"output   {part.dataset.root}")
    todo = [shard for shard in shards if shard in needed]
    display.line(f"shards   {len(shards)}, of which {len(shards) - len(todo)} are done")
    if not todo:
        display.line("nothing left to do")
        return Totals()
    return _run(config, parts, todo, needed, failed, display, start_pool)


def _part(config: TokenizeConfig, storage: Storage) -> _Part:
    dataset = TokenDataset(storage.absolute(config.output), storage)
    return _Part(config, codec_of(config), dataset)


def _run(
    config: TokenizeConfig,
    parts: list[_Part],
    todo: list[Shard],
    needed: dict[Shard, list[int]],
    failed: list[dict[str, list[str]]],
    display: ShardDisplay,
    start_pool: StartPool,
) -> Totals:
    totals = Totals()
    committed: list[list[Shard]] = [[] for _ in parts]
    storage = parts[0].dataset.storage
    logs = [RunLog(part.dataset.root, storage, to_yaml(part.config)) for part in parts]
    for log, part in zip(logs, parts, strict=True):
        codec = part.codec
        facts = {"codec": codec.name, "revision": codec.revision, "shards": len(todo)}
        log.record(EventKind.RUN_STARTED, **facts)

    def on_event(event: Event) -> None:
        totals.add(event)
        for position in needed[event.shard]:
            if event.report:
                committed[position].append(event.shard)
            logs[position].record_event(event)
            keep_failures(event, parts[position].dataset, failed[position])
        display.event(event, totals, logs[0].elapsed)

    def on_worker_event(kind: EventKind, **facts: Any) -> None:
        for log in logs:
            log.record(kind, **facts)

    first, *others = (part.codec_output for part in parts)
    job = TokenizeJob(
        output=first.output,
        codec=first.codec,
        codec_options=first.codec_options,
        storage=storage,
        decode=config.decode_settings(),
        others=tuple(others),
    )
    status = RunStatus.ABORTED
    try:
        with (
            display.running(todo),
            start_pool(job, config.workers, config.ray, needed, on_worker_event) as pool,
            stop_signal() as should_stop,  # after the pool: ray.init sets a handler of its own
        ):
            run(todo, pool, config.workers, on_event, should_stop=should_stop)
        for part, shards in zip(parts, committed, strict=True):
            require_parts(shards, part.dataset)
        status = RunStatus.FAILED if totals.failed else RunStatus.DONE
    except (KeyboardInterrupt, RunStopped):
        status = RunStatus.INTERRUPTED
        raise
    finally:
        for log, part in zip(logs, parts, strict=True):
            log.finish(status, totals)
            write_report(part.dataset, log.run_id)
    display.summary(totals, logs[0].elapsed)
    return totals


def codec_of(config: TokenizeConfig) -> CodecInfo:
    """What is known of the codec before it is loaded."""
    options = config.codec_options()
    del options["device"], options["precision"]
    return codec_info(options.pop("name"), **options)


def identity_of(config: TokenizeConfig, codec: CodecInfo) -> dict[str, Any]:
    """What must be the same for two runs to write into one dataset."""
    chosen = config.codec
    return identity(codec, chosen.precision, config.decode_settings(), compiled=chosen.compile)
