"""`speechmill plan`: what `tokenize` would do with a configuration; nothing is written there."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from speechmill.codecs import CodecInfo
from speechmill.jobs.commands.plan.forecast import (
    CodecForecast,
    Finished,
    Prices,
    RunForecast,
    forecast_codec,
    forecast_run,
)
from speechmill.jobs.commands.plan.probe import Probe, ProbeSize, probe_shards
from speechmill.jobs.commands.plan.sampling import Observed, Stratum, estimate_sum
from speechmill.jobs.commands.tokenize import batch_shapes, identity_of, tokenize_job
from speechmill.jobs.config import for_each_codec
from speechmill.jobs.passed_over import passed_over_summary
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.dataset.layout import TokenDataset, readable, shard_of
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage, join

_SAMPLE = 64  # parts, at least, whose footers give the seconds of audio per byte of tar


@dataclass(frozen=True, slots=True)
class Listed:
    """The work of one codec before it starts, by listing it."""

    codec: CodecInfo
    dataset: TokenDataset
    is_new: bool
    shards: Sequence[Shard]
    todo: Sequence[Shard]
    failed_before: int  # of those to do
    finished: Finished | None
    last_speed: float | None  # of the last run, times real time


@dataclass(frozen=True, slots=True)
class Plan:
    """What is listed, and what a probe says about it."""

    codecs: list[Listed]
    passed_over: str  # the files that are not shards, counted by reason
    prices: Prices = field(default_factory=Prices)
    probe: Probe | None = None
    forecasts: list[CodecForecast] = field(default_factory=list)  # one for each codec
    run: RunForecast | None = None

    def with_forecasts(self) -> Iterator[tuple[Listed, CodecForecast | None]]:
        """Yield each codec with its forecast; None without a probe."""
        yield from zip_longest(self.codecs, self.forecasts)


def plan_run(
    config: TokenizeConfig,
    size: ProbeSize,
    prices: Prices,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Return what a run with this configuration would do and take, for each codec.

    `say` gets a line before the probe begins, which takes a while.

    Raises the errors that `tokenize` raises before it starts, and `InputError` if a probe finds
    nothing to tokenize.
    """
    storage = Storage(config.storage, config.storage_patience)
    configs = for_each_codec(config)
    codecs = [single.codec.info() for single in configs]
    passed_over: list[PassedOver] = []
    shards = list_shards(config.shards, storage, passed_over)
    listed = list_work(configs, codecs, shards, storage)
    plan = Plan(listed, passed_over_summary(passed_over), prices)
    return plan if size.is_none else probed(plan, config, storage, size, say)


def list_work(
    configs: Sequence[TokenizeConfig],
    codecs: Sequence[CodecInfo],
    shards: Sequence[Shard],
    storage: Storage,
) -> list[Listed]:
    """Return the work of each codec; raises `DatasetConflict` as a run does."""
    return [_listed(*pair, shards, storage) for pair in zip(configs, codecs, strict=True)]


def probed(
    plan: Plan,
    config: TokenizeConfig,
    storage: Storage,
    size: ProbeSize,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Return a plan of listed work with what a probe says about it; the same if all is done."""
    todo = [set(each.todo) for each in plan.codecs]
    shards = plan.codecs[0].shards
    needed = {shard: [n for n, mine in enumerate(todo) if shard in mine] for shard in shards}
    needed = {shard: positions for shard, positions in needed.items() if positions}
    if not needed:
        return plan
    codecs = [each.codec for each in plan.codecs]
    job = tokenize_job(for_each_codec(config), codecs, storage)
    probe = probe_shards(job, needed, config, size, say)
    forecasts = [
        forecast_codec(probe, position, mine, plan.codecs[position].finished)
        for position, mine in enumerate(todo)
    ]
    work = [each.todo for each in plan.codecs]
    run = forecast_run(probe, forecasts, work, plan.codecs[0].dataset.root)
    return replace(plan, probe=probe, forecasts=forecasts, run=run)


def _listed(
    config: TokenizeConfig, codec: CodecInfo, shards: Sequence[Shard], storage: Storage
) -> Listed:
    dataset = TokenDataset(storage.absolute(config.output), storage)
    found = dataset.read_identity()
    if found is not None:
        dataset.refuse_other(found, identity_of(config, codec, batch_shapes(config, codec, found)))
    todo = dataset.todo(shards)
    with readable(dataset.root):
        finished, speed = _finished(dataset, todo), _last_speed(dataset)
    failed = dataset.parts("failed")
    return Listed(
        codec=codec,
        dataset=dataset,
        is_new=found is None,
        shards=shards,
        todo=todo,
        failed_before=sum(shard.name in failed for shard in todo),
        finished=finished,
        last_speed=speed,
    )


def _finished(dataset: TokenDataset, todo: Sequence[Shard]) -> Finished | None:
    """Return what some of the finished parts say about the shards to do."""
    files = dataset.listed()
    names = sorted(files)
    chosen = names[:: max(1, len(names) // _SAMPLE)]
    footers = dataset.footers(chosen)
    audio, tokens = [], []
    for name, footer in zip(chosen, footers, strict=True):
        size = shard_of(footer).size
        audio.append(Observed(size, size, footer["audio_seconds"]))
        tokens.append(Observed(size, size, float(files[name].size)))
    if not any(one.size for one in audio):
        return None
    count, size = len(todo), sum(shard.size for shard in todo)
    of_audio, of_tokens = (estimate_sum([Stratum(count, size, tuple(e))]) for e in (audio, tokens))
    return Finished(of_audio, of_tokens, len(names))


def _last_speed(dataset: TokenDataset) -> float | None:
    """Return the speed, in times real time, of the newest run that committed a part."""
    files = dataset.storage.list_files(join(dataset.root, "runs"))
    for info in sorted(files, key=lambda each: each.url, reverse=True):
        if info.url.endswith("/summary.json"):
            summary = json.loads(dataset.storage.read_bytes(info.url))
            if summary["audio_seconds"]:
                return float(summary["audio_seconds"] / summary["seconds"])
    return None
