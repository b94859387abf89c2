"""The pipeline's encoder on clips out of memory: what the whole pipeline is compared with."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmill.codecs import load_codec
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd
from speechmill.pipeline.tokenize.encode import shard_encoders
from speechmill.pipeline.tokenize.schema import token_schema, with_codes
from speechmill.pipeline.tokenize.writer import CodecOutput


def seconds_of_encoding(
    decoded: Sequence[list[Batch | ShardEnd]], output: CodecOutput, rounds: int = 1
) -> float:
    """Return the seconds per round in which the pipeline's encoder encodes shards in memory.

    Like a worker, it takes several shards at the same time if they share batches.
    """
    codec = load_codec(**output.codec_options, self_check=False)
    [encoder], close = shard_encoders([output], [codec])
    schema = token_schema(codec.info.codebook_sizes)

    def take(batch: Batch, codes_BFK: npt.NDArray[np.int64]) -> None:
        with_codes(batch.rows, codes_BFK, batch.first_frame_B, batch.num_frames_B, schema)

    def encode_all(shards: Sequence[list[Batch | ShardEnd]]) -> None:
        with ThreadPoolExecutor(1 + output.waiting_shards) as pool:
            list(pool.map(lambda batches: encoder.encode_shard(batches, take), shards))

    encode_all(_warm_up(decoded, output))
    started = time.perf_counter()
    encode_all([*decoded] * rounds)  # at once, because only the end leaves batches incomplete
    seconds = time.perf_counter() - started
    close()
    return seconds / rounds


def _warm_up(shards: Sequence[Any], output: CodecOutput) -> list[Any]:
    """Return one shard; with fixed shapes all, because then graphs are captured."""
    return [*shards] if output.batch else [shards[0]]
