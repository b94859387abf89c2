"""What a run counts on its way, in whichever of its processes; where it is shown is set elsewhere.

Without a sink, as in a script or a test, recording goes nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A time series; counters only grow."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    is_gauge: bool = False


Sink = Callable[[Metric, float, dict[str, str]], None]

# Counted by the driver, as shards end.
SHARDS = Metric("shards", "Shards that ended", ("end",))  # committed | give up
RETRIES = Metric("retries", "Failures of shards that were tried again", ("error",))
REJECTS = Metric("rejects", "Samples that became rejects", ("reason",))
UTTERANCES = Metric("utterances", "Rows of committed parts")
AUDIO_SECONDS = Metric("audio_seconds", "Seconds of audio in committed parts")
FRAMES = Metric("frames", "Frames in committed parts")
BOTTLENECK = Metric("bottleneck", "1 for the stage that holds the run up", ("stage",), True)

# Counted by the workers, batch by batch.
BATCHES = Metric("batches", "Batches encoded")
BATCH_SECONDS = Metric("batch_audio_seconds", "Seconds of audio in the batches encoded")
PADDED_SECONDS = Metric("batch_padded_seconds", "The same with the padding behind each clip")
ENCODE_SECONDS = Metric("encode_busy_seconds", "Seconds in which the codec computed")
STARVED_SECONDS = Metric("encode_starved_seconds", "Seconds in which it had shards but no batch")

# Counted by the processes that decode.
DECODE_SECONDS = Metric("decode_busy_seconds", "Seconds in which shards were read and decoded")
DECODE_CPU_SECONDS = Metric("decode_cpu_seconds", "The part of them spent computing")

# Counted by all of them.
STORAGE_REQUESTS = Metric("storage_requests", "Operations on storage", ("operation",))
STORAGE_BYTES = Metric("storage_bytes", "Bytes to and from storage", ("direction",))
STORAGE_RETRIES = Metric("storage_retries", "Operations on storage that were tried again")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

_sink: Sink | None = None


def send_to(sink: Sink | None) -> None:
    """Hand over all that this process records from now on; None for nowhere."""
    global _sink
    _sink = sink


def record(metric: Metric, value: float, **labels: str) -> None:
    """Add to a counter, or set a gauge."""
    if _sink:
        _sink(metric, value, labels)
