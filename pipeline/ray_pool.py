"""Workers as Ray actors, each with one codec on one GPU (or a share of one, or the CPU).

With `ray_metrics` the only module that imports ray. An actor owns the decode streams of the shards
it was given: Ray tasks on the CPUs that yield batches into the object store and stop when enough
lie there.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline import ray_metrics
from pipeline.bottleneck import Turn, timed
from pipeline.decode import DecodeSettings, Isolation, decode_shard
from pipeline.errors import InputError, StreamBroken, WorkerLost
from pipeline.runner import Outcome
from pipeline.shard import Shard
from pipeline.storage import Storage
from pipeline.tokens import Batch, ShardEnd, split
from pipeline.writer import PartWriter, ShardReport, combined
from speech_codecs.api import CodecInfo

# glibc's defaults return every large buffer to the kernel: FocalCodec encoded 4.7x slower so. Only
# the main arena heeds the thresholds, and a worker computes in threads.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_MAX_SHARDS_IN_FLIGHT = 16
_MAX_LOAD_CRASHES = 3

logger = logging.getLogger(__name__)


@dataclass
class WorkerSettings:
    """How many codecs run, and what each of them gets."""

    count: int | None = None  # default: one per GPU share, or 1 where num_gpus is 0
    num_gpus: float = 1.0  # of each worker; a fraction shares a GPU, 0 runs on the CPU
    threads: int | None = None  # CPU threads of each codec; default: its share of all CPUs
    shards_in_flight: int | None = None  # default: as many as the CPUs can decode at once, plus 1
    decode_cpus: float = 1.0  # CPUs that one decode stream occupies
    buffer_mb: float = 512.0  # decoded audio that may wait for one worker
    max_attempts: int = 3  # failures of one shard before it is given up on


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


class _Worker:
    """One codec on one device, tokenizing a few shards at a time in threads of its own."""

    def __init__(
        self, job: TokenizeJob, settings: WorkerSettings, threads: int, stream_objects: int
    ):
        self.job = job
        ray_metrics.export()
        self.turn = Turn()
        self.threads = threads
        self.decode = ray.remote(_decode).options(
            name="decode_shard",
            num_returns="streaming",
            num_cpus=settings.decode_cpus,
            max_retries=0,
            _generator_backpressure_num_objects=stream_objects,
        )

    def load(self) -> None:
        """Load the codec; apart from `__init__`, so that its errors arrive as they are."""
        import torch

        from pipeline.handover import Handover
        from speech_codecs import load_codec
        from speech_codecs.errors import CheckpointError

        torch.set_num_threads(self.threads)  # Ray sets it to 1 for an actor that claims no CPU
        self.handovers = [Handover(t.codec_options["device"]) for t in self.job.targets]
        self.codecs = [load_codec(**target.codec_options) for target in self.job.targets]
        for codec, target in zip(self.codecs, self.job.targets, strict=True):
            if codec.info != target.codec:
                raise CheckpointError(
                    f"{target.codec.name} is revision {codec.info.revision} on "
                    f"{ray.util.get_node_ip_address()}, but {target.codec.revision} at the driver; "
                    "give every node the same checkpoint and the same version of speechmill"
                )

    def tokenize(self, shard: Shard, isolation: Isolation, needed: Sequence[int]) -> ShardReport:
        """Tokenize a shard for the codecs in these positions, decoding it once."""
        from pipeline.tokenize import tokenize_shard

        job = self.job
        stream = self.decode.remote(
            shard, job, [job.targets[position].codec for position in needed], isolation
        )
        streams = zip(needed, split(_values(stream), len(needed)), strict=True)
        with ThreadPoolExecutor(len(needed)) as threads:
            reports = [
                threads.submit(
                    tokenize_shard,
                    batches,
                    self.codecs[position],
                    self._writer(shard, job.targets[position]),
                    self.turn,
                    self.handovers[position],
                )
                for position, batches in streams
            ]
        return combined([report.result() for report in reports])

    def _writer(self, shard: Shard, target: Target) -> PartWriter:
        from pipeline.tokenize import device_kind

        options = target.codec_options
        device = device_kind(options["device"])
        provenance = {
            "device": device,
            "precision": options["precision"],
            "compile": options.get("compile", False),
        }
        return PartWriter(target.output, shard, self.job.storage, target.codec, provenance)


def _decode(
    shard: Shard, job: TokenizeJob, codecs: Sequence[CodecInfo], isolation: Isolation
) -> Iterator[Batch | ShardEnd]:
    ray_metrics.export()
    yield from timed(decode_shard(shard, job.storage, job.decode, codecs, isolation=isolation))


def _values(stream: Any) -> Iterator[Batch | ShardEnd]:
    for reference in stream:
        yield ray.get(reference)


class RayPool:
    """The pool of `pipeline.runner` on a Ray cluster, local or not."""

    def __init__(
        self,
        job: TokenizeJob,
        settings: WorkerSettings,
        cluster: RaySettings,
        needed: Mapping[Shard, Sequence[int]] | None = None,
    ):
        """`needed` has the codecs, by position, of the shards that not all of them need."""
        _connect(cluster)
        ray_metrics.export()
        self._all = range(len(job.targets))
        self._needed = needed or {}
        resources = ray.cluster_resources()
        count = settings.count or _worker_count(settings, resources)
        threads = settings.threads or max(1, int(resources.get("CPU", 1) / count))
        self._slots = settings.shards_in_flight or _shards_in_flight(settings, resources, count)
        actor = ray.remote(_Worker).options(
            num_gpus=settings.num_gpus,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=self._slots + 1,
            scheduling_strategy="SPREAD",
        )
        objects = _stream_objects(job, settings, self._slots)
        self._workers = [actor.remote(job, settings, threads, objects) for _ in range(count)]
        self._held: dict[ActorHandle, int] = {}  # shards at each worker that is ready
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, Shard]] = {}
        self._loading: dict[ray.ObjectRef, ActorHandle] = {}
        self._broken: set[Shard] = set()  # whose decoding ended with its process
        self._crashes: Counter[ActorHandle] = Counter()  # while loading, one after the other
        for worker in self._workers:
            self._start(worker)

    def free(self) -> int:
        return sum(self._slots - held for held in self._held.values())

    def submit(self, shard: Shard) -> None:
        worker = min(self._held, key=lambda each: self._held[each])
        self._held[worker] += 1
        needed = self._needed.get(shard, self._all)
        isolation = Isolation.FULL if shard in self._broken else Isolation.WATCHED
        self._running[worker.tokenize.remote(shard, isolation, needed)] = (worker, shard)

    def wait(self) -> list[Outcome]:
        [reference], _ = ray.wait([*self._running, *self._loading], num_returns=1)
        if reference in self._loading:
            self._finish_loading(reference)
            return []
        return self._finish_shard(reference)

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers and their decode streams; parts that are not whole never appear."""
        for worker in self._workers:
            ray.kill(worker)
        ray.shutdown()

    def _start(self, worker: ActorHandle) -> None:
        self._loading[worker.load.remote()] = worker

    def _finish_loading(self, reference: ray.ObjectRef) -> None:
        worker = self._loading.pop(reference)
        try:
            ray.get(reference)
        except RayActorError as error:
            self._crashes[worker] += 1
            if self._crashes[worker] < _MAX_LOAD_CRASHES:
                self._start(worker)
            else:
                self._drop(WorkerLost(f"a worker died {_MAX_LOAD_CRASHES} times loading: {error}"))
        except RayTaskError as error:
            self._drop(_cause(error))
        else:
            self._crashes[worker] = 0
            self._held[worker] = 0

    def _drop(self, error: Exception) -> None:
        """Go on without a worker that cannot load, unless it was the last."""
        if not self._loading and not self._held:
            raise error
        logger.warning("going on without a worker that cannot load its codec: %s", error)

    def _finish_shard(self, reference: ray.ObjectRef) -> list[Outcome]:
        worker, shard = self._running.pop(reference)
        try:
            outcome = Outcome(shard, ray.get(reference))
        except RayActorError as error:
            return [Outcome(shard, error=WorkerLost(str(error))), *self._restart(worker, error)]
        except RayTaskError as error:
            outcome = Outcome(shard, error=_cause(error))
        if isinstance(outcome.error, StreamBroken):
            self._broken.add(shard)
        self._held[worker] -= 1
        return [outcome]

    def _restart(self, worker: ActorHandle, error: Exception) -> list[Outcome]:
        """Ray starts the process again; whatever else it held is lost with it."""
        lost = [ref for ref, (holder, _) in self._running.items() if holder == worker]
        del self._held[worker]
        self._start(worker)
        return [Outcome(self._running.pop(ref)[1], error=WorkerLost(str(error))) for ref in lost]


def _connect(cluster: RaySettings) -> None:
    variables = ALLOCATOR | cluster.env
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if cluster.address:
        try:
            env = {"env_vars": variables}
            ray.init(address=cluster.address, runtime_env=env, **quiet)
        except ConnectionError as error:
            raise InputError(
                f"{error}; start Ray there, or set ray.address=null for one of this run's own"
            ) from error
        return
    # Processes of a local cluster inherit them; a runtime_env costs each of them over a second.
    with _environment({"RAY_USAGE_STATS_ENABLED": "0"} | variables):
        ray.init(
            address="local",  # without it, one that happens to run here would be taken
            num_cpus=cluster.num_cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **quiet,
        )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _worker_count(settings: WorkerSettings, resources: dict[str, float]) -> int:
    if not settings.num_gpus:
        return 1
    count = int(resources.get("GPU", 0) / settings.num_gpus)
    if not count:
        raise InputError(
            f"the cluster has {resources.get('GPU', 0):g} GPUs, a worker wants "
            f"{settings.num_gpus:g}; set workers.num_gpus=0 to run on the CPU"
        )
    return count


def _shards_in_flight(settings: WorkerSettings, resources: dict[str, float], count: int) -> int:
    streams = int(resources.get("CPU", 1) / settings.decode_cpus / count)
    return min(streams + 1, _MAX_SHARDS_IN_FLIGHT)


def _stream_objects(job: TokenizeJob, settings: WorkerSettings, slots: int) -> int:
    """How many batches of one stream may lie in the object store."""
    batch_mb = job.decode.batch.seconds * max(t.codec.sample_rate for t in job.targets) * 4 / 1e6
    return max(2, int(settings.buffer_mb / slots / batch_mb))


def _cause(error: RayTaskError) -> Exception:
    """What the task raised, out of Ray's wrapping; Ray's own failures as ours."""
    cause = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, RayError):
        return StreamBroken(f"{type(cause).__name__}: {cause}")
    return cause if isinstance(cause, Exception) else WorkerLost(str(error))
