"""`speechmill tokenize`: shards in, a token dataset out; a second run resumes."""

from typing import Any

from speechmill.codecs import CodecInfo
from speechmill.jobs.config import for_each_codec, to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.jobs.shard_run import RunOutput, run_shards
from speechmill.pipeline.audio.recordings import Recordings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.run.runner import Totals
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
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
    shards = list_shards(config.shards, storage)
    settings = config.decode_settings()
    Recordings(settings, codecs)  # refuses settings that do not fit the codecs
    pairs = list(zip(configs, codecs, strict=True))
    codec_outputs = tuple(
        CodecOutput(storage.absolute(single.output), codec, single.codec_options())
        for single, codec in pairs
    )
    job = TokenizeJob(codec_outputs, storage, settings)
    outputs = [_output(single, codec, storage) for single, codec in pairs]
    return run_shards(shards, outputs, job, config, display)


def _output(config: TokenizeConfig, codec: CodecInfo, storage: Storage) -> RunOutput:
    dataset = TokenDataset(storage.absolute(config.output), storage)
    facts = {"codec": codec.name, "revision": codec.revision}
    return RunOutput(dataset, identity_of(config, codec), facts, to_yaml(config))


def identity_of(config: TokenizeConfig, codec: CodecInfo) -> dict[str, Any]:
    """Return the settings that two runs must share to write into one dataset."""
    chosen = config.codec
    return dataset_identity(
        codec, chosen.precision, config.decode_settings(), compiled=chosen.compile
    )
