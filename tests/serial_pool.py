"""A pool that tokenizes in this very process, for tests that are about other parts than Ray."""

import time

from speechmill.codecs import Codec
from speechmill.pipeline.run.runner import ShardResult
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.encode import tokenize_shard
from speechmill.pipeline.tokenize.writer import PartWriter, ShardReport

PROVENANCE = {"device": "cpu", "precision": "fp32", "compile": False}


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

    def free(self, exclusive: bool = False) -> int:
        return 1 - len(self.submitted)

    def submit(self, shard: Shard, exclusive: bool = False) -> None:
        self.submitted.append(shard)

    def can_copy(self, shard: Shard) -> bool:
        return False

    def wait(self, timeout: float | None = None) -> list[ShardResult]:
        if not self.submitted:
            time.sleep(timeout or 0)
            return []
        shard = self.submitted.pop()
        try:
            return [ShardResult(shard, tokenize_one(shard, *self.arguments))]
        except Exception as error:
            return [ShardResult(shard, error=error)]

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *_: object) -> None:
        pass
