"""`speechmill tokenize`: shards in, a token dataset out; a second run resumes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from speechmill.codecs import CodecInfo, codec_card
from speechmill.codecs.shapes import ShapeSettings
from speechmill.jobs.config import for_each_codec, to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.jobs.shard_run import RunOutput, run_shards
from speechmill.pipeline.audio.recordings import Recordings
from speechmill.pipeline.dataset.drop import read_drops, require_another_drop
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity, recorded_batch
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.run.runner import Totals
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.canary import KEY, reference_codes, stored_reference
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput


def tokenize_shards(config: TokenizeConfig, display: ShardDisplay) -> Totals:
    """Tokenize every shard that has no part yet, for every codec.

    Raises an `InputError` or `DatasetConflict` before anything is computed, and the error that ends
    a run early; shards given up on are counted in the result.
    """
    storage = Storage(config.storage, config.storage_patience)
    configs = for_each_codec(config)
    codecs = [single.codec.info() for single in configs]
    for codec in codecs:
        display.line(f"codec    {codec.title}, revision {codec.revision}, {codec.kbps:.2f} kbit/s")
        if not codec.trained:
            display.line("weights  random, so its tokens have no meaning: set its checkpoint")
    passed_over: list[PassedOver] = []
    shards = list_shards(config.shards, storage, passed_over)
    job = tokenize_job(configs, codecs, storage)
    outputs = [_run_output(*pair, storage) for pair in zip(configs, job.outputs, strict=True)]
    totals = run_shards(shards, outputs, job, config, display, passed_over)
    for output in job.outputs:
        _say_new_drops(output, storage, display)
    return totals


def tokenize_job(
    configs: Sequence[TokenizeConfig], codecs: Sequence[CodecInfo], storage: Storage
) -> TokenizeJob:
    """Return the job of a run; there is a configuration for each codec.

    Raises `InputError` for settings that do not fit the codecs.
    """
    settings = configs[0].decode_settings()
    Recordings(settings, codecs)
    wanted = tuple(_codec_output(*pair, storage) for pair in zip(configs, codecs, strict=True))
    longest = tuple(_longest_clip(*pair) for pair in zip(configs, wanted, strict=True))
    return TokenizeJob(wanted, storage, replace(settings, longest_clips=longest))


def _say_new_drops(output: CodecOutput, storage: Storage, display: ShardDisplay) -> None:
    """Say what to do about drops that were recorded after the workers got theirs.

    Until `drop` is run again, the dataset is neither read nor exported.
    """
    dataset = TokenDataset(output.output, storage)
    if read_drops(dataset) != output.drops:
        require_another_drop(dataset)
        display.line(
            f"dropped  rows were dropped while this run wrote: run `speechmill drop "
            f"{dataset.root}` to drop them from its parts too"
        )


def _longest_clip(config: TokenizeConfig, output: CodecOutput) -> float:
    """Return the most seconds that the codec takes: those of its batches, if they are fixed."""
    if output.batch:
        return output.batch.longest_seconds
    return codec_card(output.codec.name).longest_clip(_device_type(config))


def _device_type(config: TokenizeConfig) -> str:
    device: str = config.codec_options()["device"]
    return device.partition(":")[0]


def _codec_output(config: TokenizeConfig, codec: CodecInfo, storage: Storage) -> CodecOutput:
    """Return the codec with its canary and its batches: those of the dataset if there is one."""
    output, options = storage.absolute(config.output), config.codec_options()
    dataset = TokenDataset(output, storage)
    identity = dataset.read_identity()
    batch = batch_shapes(config, codec, identity or {})
    if identity is None:
        return CodecOutput(output, codec, options, reference_codes(codec, options), batch)
    canary, drops = stored_reference(identity, codec), read_drops(dataset)
    return CodecOutput(output, codec, options, canary, batch, drops)


def batch_shapes(
    config: TokenizeConfig, codec: CodecInfo, identity: dict[str, Any]
) -> ShapeSettings | None:
    """Return the shapes of the batches, if they can change codes.

    Of those of the dataset, only `batch.seconds` is compared with the configuration, so that a
    dataset is continued even if another version of speechmill has other defaults.
    """
    if _device_type(config) != "cuda":
        return None
    seconds = config.batch.seconds
    recorded = recorded_batch(identity)
    if recorded and recorded.seconds == seconds:
        return recorded
    longest = codec_card(codec.name).longest_clip("cuda")
    return ShapeSettings(seconds=seconds, longest_seconds=longest)


def _run_output(config: TokenizeConfig, output: CodecOutput, storage: Storage) -> RunOutput:
    dataset, codec = TokenDataset(output.output, storage), output.codec
    facts = {"codec": codec.name, "revision": codec.revision}
    identity = identity_of(config, codec, output.batch)
    if output.canary:
        identity[KEY] = output.canary.to_json()
    return RunOutput(dataset, identity, facts, to_yaml(config))


def identity_of(
    config: TokenizeConfig, codec: CodecInfo, batch: ShapeSettings | None = None
) -> dict[str, Any]:
    """Return the settings that two runs must share to write into one dataset."""
    chosen = config.codec
    return dataset_identity(
        codec, chosen.precision, config.decode_settings(), compiled=chosen.compile, batch=batch
    )
