"""Which part of a run holds the others up, from where its time went."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from speechmill.pipeline.metrics import DECODE_CPU_SECONDS, DECODE_SECONDS, record
from speechmill.pipeline.tokenize.schema import Batch, ShardEnd

STAGES = ("encode", "decode", "storage")
_BUSY = 0.9  # share of the time from which on a device counts as full
_COMPUTING = 0.5  # share of its time that a decoder computes where storage is fast enough


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The stage that sets the pace, and what to change."""

    stage: str  # encode | decode | storage
    sentence: str


def find_bottleneck(
    encode: float, starved: float, decode: float, decode_cpu: float
) -> Bottleneck | None:
    """Say what to change; None where nothing was encoded.

    All in seconds, summed over workers: codecs that computed, codecs that had shards but no batch,
    decoders at work, and the part of that in which they computed.
    """
    if encode <= 0:
        return None
    busy = encode / (encode + starved)
    if busy >= _BUSY:
        return Bottleneck(
            "encode",
            f"encoding sets the pace: the codecs computed {busy:.0%} of the time; more workers or "
            "a lower precision would be faster, more decoders would not",
        )
    waiting = 1 - decode_cpu / decode if decode else 0.0
    if waiting > 1 - _COMPUTING:
        return Bottleneck(
            "storage",
            f"reading sets the pace: the codecs lacked audio {1 - busy:.0%} of the time, and the "
            f"decoders waited for storage {waiting:.0%} of theirs; raise workers.shards_in_flight "
            "and lower workers.decode_cpus, or bring the shards nearer",
        )
    return Bottleneck(
        "decode",
        f"decoding sets the pace: the codecs lacked audio {1 - busy:.0%} of the time; add CPUs to "
        "the cluster, or use fewer workers",
    )


def timed(batches: Iterator[Batch | ShardEnd]) -> Iterator[Batch | ShardEnd]:
    """The same batches, of which the last says how long they took, and how much was computing."""
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
            batch = replace(batch, decode_seconds=seconds, decode_cpu_seconds=cpu_seconds)
            seconds = cpu_seconds = 0.0  # of several ends the first one tells
        yield batch
