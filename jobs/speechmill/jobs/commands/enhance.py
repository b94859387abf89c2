"""`speechmill enhance`: shards in, shards of original and enhanced audio out."""

from speechmill.jobs.commands.report import write_report
from speechmill.jobs.config import to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import EnhanceConfig
from speechmill.jobs.shard_run import clear_failures, keep_failures, require_parts, stop_signal
from speechmill.pipeline.enhance.load import load_enhancer
from speechmill.pipeline.enhance.paired_shards import EnhanceJob, PairedShards, identity
from speechmill.pipeline.enhance.pairs import PairSettings
from speechmill.pipeline.errors import RunStopped
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, EventKind, Totals, run
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage


def enhance(config: EnhanceConfig, display: ShardDisplay) -> Totals:
    """Pair every shard that has no part yet.

    Raises an `InputError`, `CodecError` or `DatasetConflict` before anything is computed, and
    whatever error makes going on pointless afterwards.
    """
    storage = Storage(config.storage, config.storage_patience)
    enhancer = load_enhancer(config.enhancer)
    display.line(f"enhancer {enhancer.name}, revision {enhancer.revision}")
    settings = PairSettings(config.audio, config.limits, config.gate)
    shards = list_shards(config.shards, storage)
    output = PairedShards(storage.absolute(config.output), storage)
    output.claim(identity(enhancer, settings))
    todo = output.todo(shards)
    display.line(f"output   {output.root}")
    display.line(f"shards   {len(shards)}, of which {len(shards) - len(todo)} are done")
    failed = output.failed_names()
    for shard in set(shards) - set(todo):
        clear_failures(shard, output, failed)
    if not todo:
        display.line("nothing left to do")
        return Totals()
    job = EnhanceJob(output.root, storage, config.enhancer, enhancer.revision, settings)
    return _run(config, job, output, todo, failed, display)


def _run(
    config: EnhanceConfig,
    job: EnhanceJob,
    output: PairedShards,
    todo: list[Shard],
    failed: dict[str, list[str]],
    display: ShardDisplay,
) -> Totals:
    totals = Totals()
    committed: list[Shard] = []
    log = RunLog(output.root, output.storage, to_yaml(config))
    facts = {"enhancer": config.enhancer.name, "revision": job.revision}
    log.record(EventKind.RUN_STARTED, **facts, shards=len(todo))

    def on_event(event: Event) -> None:
        totals.add(event)
        if event.report:
            committed.append(event.shard)
        log.record_event(event)
        keep_failures(event, output, failed)
        display.event(event, totals, log.elapsed)

    status = RunStatus.ABORTED
    try:
        with (
            display.running(todo),
            RayPool(job, config.workers, config.ray, on_worker_event=log.record) as pool,
            stop_signal() as should_stop,  # after the pool: ray.init sets a handler of its own
        ):
            run(todo, pool, config.workers, on_event, should_stop=should_stop)
        require_parts(committed, output)
        status = RunStatus.FAILED if totals.failed else RunStatus.DONE
    except (KeyboardInterrupt, RunStopped):
        status = RunStatus.INTERRUPTED
        raise
    finally:
        log.finish(status, totals)
        write_report(output, log.run_id)
    display.summary(totals, log.elapsed)
    return totals
