"""`speechmill tokenize`: shards in, a token dataset out, resumed where it was left."""

from jobs.config import TokenizeConfig, to_yaml
from jobs.display import Display
from jobs.report import write_report
from pipeline.dataset import TokenDataset, identity
from pipeline.pieces import Recordings
from pipeline.ray_pool import RayPool, TokenizeJob
from pipeline.run_log import RunLog
from pipeline.runner import Event, Totals, run
from pipeline.shard import Shard, list_shards
from pipeline.storage import Storage
from speech_codecs import CodecInfo, codec_info


def tokenize(config: TokenizeConfig, display: Display) -> Totals:
    """Tokenize every shard that has no part yet.

    Raises an `InputError` or `DatasetConflict` before anything is computed, and whatever error
    makes going on pointless afterwards; shards given up on are counted in the result.
    """
    storage = Storage(config.storage)
    codec = codec_of(config)
    display.line(f"codec    {codec.title}, revision {codec.revision}, {codec.kbps:.2f} kbit/s")
    shards = list_shards(config.shards, storage)
    dataset = TokenDataset(storage.absolute(config.output), storage)
    recording = config.decode_settings()
    Recordings(recording, [codec])  # refuses what does not go together, before any work
    dataset.claim(identity(codec, config.codec.precision, recording))
    todo = dataset.todo(shards)
    display.line(f"output   {dataset.root}")
    display.line(f"shards   {len(shards)}, of which {len(shards) - len(todo)} are done")
    if not todo:
        display.line("nothing left to do")
        return Totals()
    return _run(config, codec, dataset, todo, display)


def _run(
    config: TokenizeConfig,
    codec: CodecInfo,
    dataset: TokenDataset,
    todo: list[Shard],
    display: Display,
) -> Totals:
    totals = Totals()
    log = RunLog(dataset.root, dataset.storage, to_yaml(config))
    log.record("run started", codec=codec.name, revision=codec.revision, shards=len(todo))
    failed_before = dataset.parts("failed")

    def on_event(event: Event) -> None:
        totals.add(event)
        log.record_event(event)
        _keep_failures(event, dataset, failed_before)
        display.event(event, totals, log.elapsed)

    job = TokenizeJob(
        output=dataset.root,
        codec=codec,
        codec_options=config.codec_options(),
        storage=dataset.storage,
        decode=config.decode_settings(),
    )
    status = "aborted"
    try:
        with display.running(todo), RayPool(job, config.workers, config.ray) as pool:
            run(todo, pool, config.workers.max_attempts, on_event)
        status = "failed" if totals.failed else "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        log.finish(status, totals)
        write_report(dataset, log.run_id)
    display.summary(totals, log.elapsed)
    return totals


def codec_of(config: TokenizeConfig) -> CodecInfo:
    """What is known of the codec before it is loaded."""
    options = config.codec_options()
    del options["device"], options["precision"]
    return codec_info(options.pop("name"), **options)


def _keep_failures(event: Event, dataset: TokenDataset, failed_before: set[str]) -> None:
    """Keep `failed/` to the shards that are failed now."""
    if event.kind == "give up":
        record = {
            "shard": event.shard.url,
            "error": type(event.error).__name__,
            "message": str(event.error),
            "attempts": event.attempts,
        }
        dataset.mark_failed(event.shard, record)
    elif event.kind == "committed" and event.shard.name in failed_before:
        dataset.clear_failed(event.shard)
