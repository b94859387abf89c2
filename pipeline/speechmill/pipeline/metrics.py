"""The metrics that the processes of a run record.

They go to the sink of the process; without one, as in a script or a test, they are dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """A counter, which only grows, or a gauge."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    is_gauge: bool = False


Sink = Callable[[TimeSeries, float, dict[str, str]], None]

# Recorded by the driver, as shards end.
SHARDS = TimeSeries("shards", "Shards that ended", ("end",))  # committed | give up
RETRIES = TimeSeries("retries", "Failures of shards that were retried", ("error",))
REJECTS = TimeSeries("rejects", "Samples that became rejects", ("reason",))
UTTERANCES = TimeSeries("utterances", "Utterances in committed shards")
AUDIO_SECONDS = TimeSeries("audio_seconds", "Seconds of audio in committed shards")
FRAMES = TimeSeries("frames", "Frames in committed shards, of all codecs")
SHARDS_LEFT = TimeSeries("shards_left", "Shards of a run that have not ended", ("output",), True)
BOTTLENECK = TimeSeries(
    "bottleneck", "1 for the stage that limits the speed of the run", ("stage",), True
)
WORKERS_READY = TimeSeries("workers_ready", "Workers that take shards", is_gauge=True)
WORKER_EVENTS = TimeSeries(
    "worker_events", "Workers that started, died or were dropped, and drains", ("event", "error")
)

# Recorded by the workers, batch by batch.
BATCHES = TimeSeries("batches", "Batches encoded")
BATCH_SECONDS = TimeSeries("batch_audio_seconds", "Seconds of audio in the batches encoded")
PADDED_SECONDS = TimeSeries("batch_padded_seconds", "Seconds in the batches encoded, with padding")
ENCODE_SECONDS = TimeSeries("encode_busy_seconds", "Seconds in which the codec computed")
STARVED_SECONDS = TimeSeries(
    "encode_starved_seconds", "Seconds in which the codec had shards but no batch"
)

# Recorded by the processes that decode.
DECODE_SECONDS = TimeSeries("decode_busy_seconds", "Seconds in which shards were read and decoded")
DECODE_CPU_SECONDS = TimeSeries("decode_cpu_seconds", "CPU seconds of reading and decoding")

# Recorded by all of them.
STORAGE_REQUESTS = TimeSeries("storage_requests", "Operations on storage", ("operation",))
STORAGE_BYTES = TimeSeries("storage_bytes", "Bytes to and from storage", ("direction",))
STORAGE_RETRIES = TimeSeries("storage_retries", "Operations on storage that were retried")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, TimeSeries))

_sink: Sink | None = None


def send_to(sink: Sink | None) -> None:
    """Set the sink of this process; None drops everything."""
    global _sink
    _sink = sink


def record_batch(audio_seconds: float, padded_seconds: float, encode_seconds: float) -> None:
    """Count a batch that a codec has encoded."""
    record(BATCHES, 1)
    record(BATCH_SECONDS, audio_seconds)
    record(PADDED_SECONDS, padded_seconds)
    record(ENCODE_SECONDS, encode_seconds)


def record(metric: TimeSeries, value: float, **labels: str) -> None:
    """Add to a counter, or set a gauge."""
    if _sink:
        _sink(metric, value, labels)
