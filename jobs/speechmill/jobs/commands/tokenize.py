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
    shards = list_shards(config.shards, storage)
    settings = config.decode_settings()
    Recordings(settings, codecs)  # refuses settings that do not fit the codecs
    wanted = tuple(_codec_output(*pair, storage) for pair in zip(configs, codecs, strict=True))
    job = TokenizeJob(wanted, storage, settings)
    outputs = [_run_output(*pair, storage) for pair in zip(configs, wanted, strict=True)]
    return run_shards(shards, outputs, job, config, display)


def _codec_output(config: TokenizeConfig, codec: CodecInfo, storage: Storage) -> CodecOutput:
    """Return the codec and its canary: that of the dataset, or of this machine for a new one."""
    output, options = storage.absolute(config.output), config.codec_options()
    identity = TokenDataset(output, storage).read_identity()
    if identity is None:
        return CodecOutput(output, codec, options, canary=reference_codes(codec, options))
    return CodecOutput(output, codec, options, canary=stored_reference(identity, codec))


def _run_output(config: TokenizeConfig, output: CodecOutput, storage: Storage) -> RunOutput:
    dataset, codec = TokenDataset(output.output, storage), output.codec
    facts = {"codec": codec.name, "revision": codec.revision}
    identity = identity_of(config, codec)
    if output.canary:
        identity[KEY] = output.canary.to_json()
    return RunOutput(dataset, identity, facts, to_yaml(config))


def identity_of(config: TokenizeConfig, codec: CodecInfo) -> dict[str, Any]:
    """Return the settings that two runs must share to write into one dataset."""
    chosen = config.codec
    return dataset_identity(
        codec, chosen.precision, config.decode_settings(), compiled=chosen.compile
    )
