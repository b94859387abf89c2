"""A pool that tokenizes in this very process, for tests that are about other parts than Ray."""

from pipeline.decode import DecodeSettings, decode_shard
from pipeline.runner import Outcome
from pipeline.shard import Shard
from pipeline.storage import Storage
from pipeline.tokenize import tokenize_shard
from pipeline.writer import PartWriter, ShardReport
from speech_codecs import Codec

PROVENANCE = {"device": "cpu", "precision": "fp32"}


def tokenize_one(
    shard: Shard,
    output: str,
    storage: Storage,
    codec: Codec,
    settings: DecodeSettings | None = None,
) -> ShardReport:
    batches = decode_shard(shard, storage, settings or DecodeSettings(), [codec.info])
    writer = PartWriter(output, shard, storage, codec.info, PROVENANCE)
    return tokenize_shard(batches, codec, writer)


class SerialPool:
    def __init__(
        self,
        output: str,
        storage: Storage,
        codec: Codec,
        settings: DecodeSettings | None = None,
    ):
        self.arguments = (output, storage, codec, settings)
        self.submitted: list[Shard] = []

    def free(self) -> int:
        return 1 - len(self.submitted)

    def submit(self, shard: Shard) -> None:
        self.submitted.append(shard)

    def wait(self) -> list[Outcome]:
        shard = self.submitted.pop()
        try:
            return [Outcome(shard, tokenize_one(shard, *self.arguments))]
        except Exception as error:
            return [Outcome(shard, error=error)]
