"""What a pool of workers needs: the job, how many workers, and which cluster."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.run.policy import RunSettings
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.writer import ShardReport

_MAX_DECODE_STREAMS = 64


@dataclass
class WorkerSettings(RunSettings):
    """How many workers run, and the resources of each."""

    # Default: one per GPU share, also on nodes that join; 1 on CPUs. 0: in this process, no Ray.
    count: int | None = None
    num_gpus: float = 1.0  # of each worker; a fraction shares a GPU, 0 runs on the CPU
    threads: int | None = None  # CPU threads of each model; default: its share of all CPUs
    shards_in_flight: int | None = None  # default: two for each CPU that decodes, and one
    decode_cpus: float = 1.0  # for each shard; half of it if shards are in a store
    buffer_mb: float = 512.0  # decoded audio that may wait for one worker

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 0:
            raise InputError(
                f"workers.count is {self.count}; give the number of workers, or 0 to run in this "
                "process without Ray"
            )


@dataclass
class RaySettings:
    """Which cluster to run on."""

    address: str | None = None  # default: a local one, for this run
    num_cpus: int | None = None  # of the local one
    env: dict[str, str] = field(default_factory=dict)  # variables for every worker process


WorkerEventCallback = Callable[..., None]  # called with an EventKind, and facts by keyword

# Runs a generator function in another process and yields its items, some of them ahead.
Stream = Callable[..., Iterator[Any]]


class Work(Protocol):
    """A job with its models loaded; several threads may call it at the same time."""

    def __call__(
        self, shard: Shard, stream: Stream, isolation: Isolation, needed: Sequence[int]
    ) -> ShardReport:
        """Turn a shard into its parts and commit them, or raise with nothing committed.

        `needed` are the positions of the outputs that lack a part of it.
        """
        ...

    def close(self) -> None:
        """End what computes beside the shards."""
        ...


class Job(Protocol):
    """Everything that a worker must know; sent to it once."""

    @property
    def output(self) -> str:
        """The folder of its parts, or the first of several."""
        ...

    @property
    def num_outputs(self) -> int:
        """How many parts a shard has."""
        ...

    @property
    def packages(self) -> Sequence[str]:
        """Distributions that can change what it writes, beside those of `token_versions`."""
        ...

    @property
    def waiting_shards(self) -> int:
        """How many shards may be read and wait for clips of others to fill their batches."""
        ...

    @property
    def object_mb(self) -> float:
        """Approximate size of the largest object of a stream, MB."""
        ...

    def load(self) -> Work:
        """Load the models, in the worker."""
        ...


def fits(options: Mapping[str, Any], node: Mapping[str, float]) -> bool:
    """Whether a node has what a task or an actor claims."""
    return all(
        node.get(resource, 0) >= (options.get(name) or 0)
        for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU"))
    )


def worker_count(num_gpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers of `num_gpus` GPUs fit on nodes with these resources.

    Raises `InputError` if none fits.
    """
    if not num_gpus:
        return 1
    gpus = [node.get("GPU", 0) for node in nodes]
    count = sum(int(each / num_gpus) for each in gpus)
    if count:
        return count
    most = f", at most {max(gpus):g} on a node" if sum(gpus) else ""
    raise InputError(
        f"the cluster has {sum(gpus):g} GPUs{most}, a worker wants {num_gpus:g}; set "
        "workers.num_gpus=0 to run on the CPU, or workers.count to wait for nodes with GPUs"
    )


def check_decode_cpus(settings: WorkerSettings, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise `InputError` if no node has the CPUs of one decode stream: it would wait for ever."""
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    if most < settings.decode_cpus:
        raise InputError(
            f"a decode stream wants {settings.decode_cpus:g} CPUs, and no node of the cluster has "
            f"more than {most:g}; lower workers.decode_cpus, or set workers.count to wait for nodes"
        )


def claimed_cpus(settings: WorkerSettings, url: str) -> float:
    """CPUs that the decode stream of a shard claims.

    From a store two shards share the CPUs of one, since each waits about as long as it computes.
    """
    return settings.decode_cpus if is_local(url) else settings.decode_cpus / 2


def decode_streams(settings: WorkerSettings, resources: dict[str, float], count: int) -> int:
    """How many shards the CPUs of one of `count` workers decode at the same time."""
    if not settings.decode_cpus:
        return _MAX_DECODE_STREAMS
    streams = int(resources.get("CPU", 1) / settings.decode_cpus / count)
    return min(max(1, streams), _MAX_DECODE_STREAMS)


def stream_objects(job: Job, settings: WorkerSettings, slots: int) -> int:
    """How many objects of one stream may wait in the object store."""
    return max(2, int(settings.buffer_mb / slots / job.object_mb))
