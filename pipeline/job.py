"""What a pool of workers is told: the job, how many workers, on which cluster."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.decode import DecodeSettings
from pipeline.errors import InputError
from pipeline.policy import RunSettings
from pipeline.storage import Storage
from speech_codecs.api import CodecInfo

_MAX_SHARDS_IN_FLIGHT = 16


@dataclass
class WorkerSettings(RunSettings):
    """How many codecs run, and what each of them gets."""

    count: int | None = None  # default: one per GPU share, also of late nodes; 1 if num_gpus is 0
    num_gpus: float = 1.0  # of each worker; a fraction shares a GPU, 0 runs on the CPU
    threads: int | None = None  # CPU threads of each codec; default: its share of all CPUs
    shards_in_flight: int | None = None  # default: as many as the CPUs can decode at once, plus 1
    decode_cpus: float = 1.0  # CPUs that one decode stream occupies
    buffer_mb: float = 512.0  # decoded audio that may wait for one worker


@dataclass
class RaySettings:
    """Which cluster to run on."""

    address: str | None = None  # default: a local one, for this run
    num_cpus: int | None = None  # of the local one
    env: dict[str, str] = field(default_factory=dict)  # variables for every worker process


@dataclass(frozen=True)
class Target:
    """A codec, and the dataset for its tokens."""

    output: str
    codec: CodecInfo
    codec_options: dict[str, Any]  # what `load_codec` takes


@dataclass(frozen=True)
class TokenizeJob(Target):
    """All that a worker must know; travels to it once."""

    storage: Storage
    decode: DecodeSettings
    others: tuple[Target, ...] = ()  # more codecs for the same audio

    @property
    def targets(self) -> tuple[Target, ...]:
        return (self, *self.others)


def worker_count(settings: WorkerSettings, resources: dict[str, float]) -> int:
    """How many workers a cluster with these resources has room for."""
    if not settings.num_gpus:
        return 1
    count = int(resources.get("GPU", 0) / settings.num_gpus)
    if not count:
        raise InputError(
            f"the cluster has {resources.get('GPU', 0):g} GPUs, a worker wants "
            f"{settings.num_gpus:g}; set workers.num_gpus=0 to run on the CPU"
        )
    return count


def shards_in_flight(settings: WorkerSettings, resources: dict[str, float], count: int) -> int:
    """How many shards one of `count` workers has at hand: those being decoded, and one more."""
    streams = int(resources.get("CPU", 1) / settings.decode_cpus / count)
    return min(streams + 1, _MAX_SHARDS_IN_FLIGHT)


def stream_objects(job: TokenizeJob, settings: WorkerSettings, slots: int) -> int:
    """How many batches of one stream may lie in the object store."""
    batch_mb = job.decode.batch.seconds * max(t.codec.sample_rate for t in job.targets) * 4 / 1e6
    return max(2, int(settings.buffer_mb / slots / batch_mb))
