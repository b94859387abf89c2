"""What a worker measured while it tokenized a part of a shard."""

from dataclasses import dataclass

from speechmill.pipeline.tokenize.writer import ShardReport


@dataclass(frozen=True, slots=True)
class ProbedCodec:
    """What one codec made of the part of a shard."""

    report: ShardReport
    part_bytes: int  # of the Parquet file in tokens/
    fixed_bytes: float  # of them, those that do not grow with the rows, such as dictionaries
    reject_bytes: int  # of the one in rejects/


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedShard(ShardReport):
    """What the part of a shard took and gave."""

    bytes_read: float  # of the tar
    whole: bool
    warm: bool  # the process had finished a part before
    device: str
    codecs: dict[int, ProbedCodec]  # by position

    @property
    def work_seconds(self) -> float:
        """The seconds in which it was decoded or encoded."""
        return self.decode_cpu_seconds + self.encode_seconds
