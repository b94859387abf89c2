"""One shard tokenized in this process, for tests of everything but the pools."""

from contextlib import suppress

from speechmill.codecs import Codec, UnknownCodec, codec_packages
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.encode import tokenize_shard
from speechmill.pipeline.tokenize.encoders import BatchByBatch
from speechmill.pipeline.tokenize.schema import schema_version
from speechmill.pipeline.tokenize.writer import PartWriter, ShardReport
from speechmill.pipeline.versions import library_versions

PROVENANCE: dict[str, object] = {"device": "cpu", "precision": "fp32", "compile": False}


def tokenize_one(
    shard: Shard,
    output: str,
    storage: Storage,
    codec: Codec,
    settings: DecodeSettings | None = None,
) -> ShardReport:
    settings = settings or DecodeSettings()
    provenance = PROVENANCE
    batches = decode_shard(shard, storage, settings, [codec.info])
    version = schema_version(settings.audio.channels)
    with suppress(UnknownCodec):  # one that only a test has
        packages = codec_packages(codec.info.name)
        provenance = PROVENANCE | {"libraries": library_versions(*packages)}
    writer = PartWriter(output, shard, storage, codec.info, provenance, version)
    return tokenize_shard(batches, BatchByBatch(codec), writer)
