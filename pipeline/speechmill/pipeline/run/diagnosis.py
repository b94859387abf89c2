"""The stage that limits the speed of a run, from the time that each stage took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from speechmill.pipeline.metrics import DECODE_CPU_SECONDS, DECODE_SECONDS, record
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd

_BUSY = 0.9  # share of the time above which a device counts as fully used
_COMPUTING = 0.5  # share of its time that a decoder computes if storage is fast enough


class BottleneckStage(StrEnum):
    """The stages of tokenizing whose times are compared."""

    ENCODE = "encode"
    DECODE = "decode"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The slowest stage, and what to change."""

    stage: BottleneckStage
    sentence: str


def find_bottleneck(
    encode: float, starved: float, decode: float, decode_cpu: float, read: float
) -> Bottleneck | None:
    """Say what to change, or return None if nothing was encoded.

    All times are in seconds, summed over workers: codecs computing, codecs with shards but without
    a batch, decoders at work, and the parts of that time in which the decoders used a CPU, and in
    which they read. Time without a CPU that is not reading is waiting for one.
    """
    if encode <= 0:
        return None
    busy = encode / (encode + starved)
    if busy >= _BUSY:
        return Bottleneck(
            BottleneckStage.ENCODE,
            f"the codecs computed {busy:.0%} of the time; more workers or a lower precision would "
            "be faster, more decoders would not",
        )
    waiting = min(decode - decode_cpu, read) / decode if decode else 0.0
    if waiting > 1 - _COMPUTING:
        return Bottleneck(
            BottleneckStage.STORAGE,
            f"the codecs waited for audio {1 - busy:.0%} of the time, and the decoders for storage "
            f"{waiting:.0%} of theirs; raise workers.shards_in_flight and lower "
            "workers.decode_cpus, or move the shards closer to the workers",
        )
    return Bottleneck(
        BottleneckStage.DECODE,
        f"the codecs waited {1 - busy:.0%} of the time for decoding; add CPUs to the cluster, or "
        "use fewer workers",
    )


def timed(batches: Iterator[Batch | ShardEnd]) -> Iterator[Batch | ShardEnd]:
    """Yield the same batches; the first `ShardEnd` says how long they took to make."""
    seconds = cpu_seconds = 0.0
    while True:
        started, cpu_started = time.perf_counter(), time.thread_time()
        batch = next(batches, None)
        step, cpu_step = time.perf_counter() - started, time.thread_time() - cpu_started
        record(DECODE_SECONDS, step)
        record(DECODE_CPU_SECONDS, cpu_step)
        seconds, cpu_seconds = seconds + step, cpu_seconds + cpu_step
        if batch is None:
            return
        if isinstance(batch, ShardEnd):
            record(DECODE_CPU_SECONDS, batch.decode_cpu_seconds)
            cpu_seconds += batch.decode_cpu_seconds  # of another process
            batch = replace(batch, decode_seconds=seconds, decode_cpu_seconds=cpu_seconds)
            seconds = cpu_seconds = 0.0  # with several codecs only the first end carries the times
        yield batch
