"""A run as the doctor sees it, whatever its command: where it reads, writes and computes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from speechmill.jobs.commands.doctor import cluster, store
from speechmill.jobs.commands.doctor.checks import ALL_THE_TIME, Check, Said, fault, warning
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage

_STORE_SECONDS = 20.0
_HANGS = fault(
    f"no answer within {_STORE_SECONDS:g} s; check endpoint_url, the network and the proxies"
)
SLOW_LISTING = warning("listing takes longer than the doctor has, so the rest is not checked")
_SLOW_RAY = warning("joining the cluster takes longer than the doctor has")


@dataclass(kw_only=True)
class Run:
    """What all commands have; `checks` are those of one command, `last` follows all others."""

    command: str
    storage: Storage
    inputs: list[str]
    output: str
    ray: RaySettings | None  # None: in this process
    num_gpus: float  # of each worker
    workers: WorkerSettings | None = None  # of a command that decodes beside its workers
    packages: tuple[str, ...] = ()  # whose versions must be the same on all nodes
    reads_shards: bool = True  # rather than files of audio
    checks: list[Check] = field(default_factory=list)
    last: Check | None = None
    shards: list[Shard] = field(default_factory=list)  # of the input, once it is listed

    @property
    def is_here(self) -> bool:
        """Whether it computes on this machine."""
        return self.ray is None or self.ray.address is None

    @property
    def needs_gpu(self) -> bool:
        """Whether it fails on a machine without a GPU that torch can use, if this is that one."""
        return self.is_here and self.num_gpus > 0


def store_checks(run: Run) -> list[Check]:
    """Checks of the stores, which may hang."""
    storage, output = run.storage, run.storage.absolute(run.output)
    watched, owner = (output, "output") if not is_local(output) else (run.inputs[0], "input")
    shards = Check("shards", partial(_shards, run), ("input",))
    return [
        _of_store(Check("input", partial(store.reach, run.inputs, storage))),
        *([_of_store(shards, SLOW_LISTING)] if run.reads_shards else []),
        _of_store(Check("output", partial(store.output, output, storage), cleans_up=True)),
        _of_store(Check("clock", partial(store.clock, watched, storage), (owner,)), _HANGS),
    ]


def ray_check(run: Run) -> Check:
    """The check of where workers run, in the main thread, as Ray wants it."""
    if run.ray is None:
        return Check("ray", cluster.not_used)
    wanted = cluster.Wanted(run.ray, run.workers, run.num_gpus, run.packages)
    find = cluster.local if run.is_here else cluster.joined
    return Check("ray", partial(find, wanted), seconds=ALL_THE_TIME, late=_SLOW_RAY)


def _shards(run: Run) -> Iterator[Said]:
    return store.shards(run.inputs, run.storage, run.shards.extend)


def _of_store(check: Check, late: Said = _HANGS) -> Check:
    return replace(check, seconds=_STORE_SECONDS, late=late, cures=store.storage_cure)
