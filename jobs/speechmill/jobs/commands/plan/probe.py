"""Runs the stages of `tokenize` on a sample of the shards, in the pool that a run has."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace

from speechmill.jobs.commands.plan.sampling import (
    Estimate,
    Observed,
    Stratum,
    estimate_sum,
    probing_order,
    stratify,
)
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.errors import InputError, RunStopped
from speechmill.pipeline.run.job import WorkerSettings
from speechmill.pipeline.run.local_pool import LocalPool
from speechmill.pipeline.run.runner import Event, EventKind, Pool, run
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.text import message_of
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.probe_job import ProbeJob
from speechmill.pipeline.tokenize.probed import ProbedShard
from speechmill.pipeline.tokenize.writer import CodecOutput

_PARTS = 16  # that share the time: four of each stratum
_POLL_SECONDS = 1.0


class NothingToTokenize(InputError):
    """The probe found no audio; a run may still end without an error."""


@dataclass(frozen=True, slots=True)
class ProbeSize:
    """How long to probe, or how many whole shards; 0 for not at all."""

    seconds: float | None = 60.0
    shards: int | None = None

    @classmethod
    def parse(cls, text: str) -> "ProbeSize":
        """Read `60s` as seconds and `16` as shards; raises `InputError` for anything else."""
        found = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d{1,9})?) ?s", text.strip(), re.ASCII)
        if not found:
            raise InputError(
                f"--probe is {text[:100]!r}; give seconds such as 60s, a number of whole shards "
                "such as 16, or 0 for none"
            )
        shards, seconds = found.groups()
        return cls(None, int(shards)) if shards else cls(float(seconds))

    @property
    def is_none(self) -> bool:
        return not (self.seconds or self.shards)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the probe ran, as the unit of the run that it stands for."""

    device: str  # the name of the GPU, or `cpu`
    cores: float  # for each GPU, or of the machine
    in_process: bool  # one shard after the other, without Ray

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


@dataclass
class Probe:
    """What some shards took, and which shards they stand for."""

    strata: list[list[Shard]]
    parts: dict[Shard, ProbedShard] = field(default_factory=dict)
    unreadable: dict[Shard, Exception] = field(default_factory=dict)
    seconds: float = 0.0  # of all the parts
    last_at: float = 0.0  # when the last part ended, time.perf_counter()
    work_seconds: float = 0.0  # in which the parts were decoded or encoded
    work_bytes: float = 0.0  # that they were made of; more than were read if some came again
    start_seconds: float = 0.0  # to start and to end workers
    place: Place = field(default=Place("cpu", 1.0, True))

    @property
    def bytes_read(self) -> float:
        return sum(part.bytes_read for part in self.parts.values())

    def take(self, event: Event) -> None:
        """Keep what came of a shard."""
        if isinstance(event.report, ProbedShard):
            self.parts[event.shard] = event.report
            self.last_at = time.perf_counter()
            self.work_seconds += event.report.work_seconds
            self.work_bytes += event.report.bytes_read
        elif event.kind is EventKind.GIVE_UP and event.error:
            self.unreadable[event.shard] = event.error

    def knows(self, shard: Shard) -> bool:
        """Whether a shard was read to its end, or cannot be read."""
        part = self.parts.get(shard)
        return shard in self.unreadable or (part is not None and part.whole)

    def total(
        self,
        value: Callable[[ProbedShard], float],
        among: set[Shard] | None = None,
        fixed: Callable[[ProbedShard], float] = lambda part: 0.0,
    ) -> Estimate:
        """Return the sum of a value over all shards, or `among` these.

        A shard that cannot be read has 0 of everything; `fixed` is the part of the value that a
        shard has once, however large it is.
        """
        groups = [
            [shard for shard in stratum if among is None or shard in among]
            for stratum in self.strata
        ]
        return estimate_sum(
            [
                Stratum(
                    len(group),
                    sum(shard.size for shard in group),
                    tuple(self._observed(group, value, fixed)),
                )
                for group in groups
                if group
            ]
        )

    def _observed(
        self,
        group: Sequence[Shard],
        value: Callable[[ProbedShard], float],
        fixed: Callable[[ProbedShard], float],
    ) -> list[Observed]:
        return [
            Observed(shard.size, part.bytes_read, value(part), fixed(part))
            for shard in group
            if (part := self.parts.get(shard))
        ] + [Observed(shard.size, shard.size, 0.0) for shard in group if shard in self.unreadable]


def probe_shards(
    job: TokenizeJob,
    needed: Mapping[Shard, Sequence[int]],
    config: TokenizeConfig,
    size: ProbeSize,
    say: Callable[[str], None],
) -> Probe:
    """Tokenize parts of some shards into memory.

    `needed` lists the missing outputs of each shard, by position. Raises `InputError` if no shard
    can be read or none has audio, and the errors that end a run.
    """
    strata = stratify(list(needed), lambda shard: shard.size)
    order = probing_order(strata)[: size.shards]
    probe = Probe(strata)
    workers = config.workers
    is_here = workers.count == 0 or config.ray.address is None
    if workers.num_gpus and is_here and not _has_gpu():
        job, workers = _on_cpu(job), replace(workers, num_gpus=0)
    share = size.seconds and size.seconds / min(_PARTS, len(order))
    say(f"probing some of {len(needed):,} shards, {_how_long(size, order)}")
    began = time.perf_counter()
    with _start_pool(ProbeJob(job, share), workers, config, needed) as pool:
        warm_bytes = _warm_up(pool, order)
        resources = getattr(pool, "resources", {"CPU": os.cpu_count() or 1, "GPU": 1})
        ready = time.perf_counter()

        def is_over() -> bool:
            return size.seconds is not None and time.perf_counter() - ready > size.seconds

        with suppress(RunStopped):
            while cut := [shard for shard in order if not probe.knows(shard)]:
                run(cut, pool, workers, probe.take, should_stop=is_over)
        ended = time.perf_counter()
    probe.seconds = max(0.0, probe.last_at - ready)  # parts that were broken off do not count
    # Warm processes would have made these parts too, so only the rest of that time is a start.
    warm_seconds = warm_bytes * probe.seconds / probe.work_bytes if probe.work_bytes else 0.0
    probe.start_seconds = max(0.0, ready - began - warm_seconds) + time.perf_counter() - ended
    _refuse_silent(probe)
    probe.place = _place(probe, resources, workers)
    return probe


def _how_long(size: ProbeSize, order: Sequence[Shard]) -> str:
    if size.seconds is None:
        return f"{len(order)} of them to their end"
    return f"for about {size.seconds:g} s after the codec has loaded"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _on_cpu(job: TokenizeJob) -> TokenizeJob:
    """Return the job in float32 on the CPU; clips that are too long for the GPU stay rejects."""
    return replace(job, outputs=tuple(map(_output_on_cpu, job.outputs)))


def _output_on_cpu(output: CodecOutput) -> CodecOutput:
    options = output.codec_options | {"device": "cpu", "precision": "fp32"}
    options.pop("compile", None)
    return replace(output, codec_options=options, batch=None)


def _start_pool(
    job: ProbeJob,
    workers: WorkerSettings,
    config: TokenizeConfig,
    needed: Mapping[Shard, Sequence[int]],
) -> AbstractContextManager[Pool]:
    if workers.count == 0:
        return LocalPool(job, workers, needed)
    from speechmill.pipeline.run.ray_pool import RayPool

    return RayPool(job, workers, config.ray, needed, one_worker=True)


def _warm_up(pool: Pool, order: Sequence[Shard]) -> float:
    """Let every process of the pool start, import and compile; return the bytes that it read."""
    while not (free := pool.free()):
        pool.wait(_POLL_SECONDS)
    waiting, num_bytes = set(order[:free]), 0.0
    for shard in order[:free]:
        pool.submit(shard)
    while waiting:
        for result in pool.wait(_POLL_SECONDS):
            waiting.discard(result.shard)
            num_bytes += result.report.bytes_read if isinstance(result.report, ProbedShard) else 0.0
    return num_bytes


def _place(probe: Probe, resources: Mapping[str, float], workers: WorkerSettings) -> Place:
    device = next(iter(probe.parts.values())).device
    units = resources.get("GPU") or 1.0 if device != "cpu" else 1.0
    return Place(device, resources.get("CPU", 1.0) / units, workers.count == 0)


def _refuse_silent(probe: Probe) -> None:
    """Raise `InputError` if the probe found nothing that a run could tokenize."""
    if not probe.parts and probe.unreadable:
        shard, error = next(iter(probe.unreadable.items()))
        raise InputError(
            f"none of {len(probe.unreadable)} probed shards can be read; the first is {shard.url}: "
            f"{type(error).__name__}: {message_of(error)}; repair or remove them, or list the "
            "input with --probe 0"
        )
    if not probe.parts:
        raise NothingToTokenize(
            "the probe ended before a shard did; give it more time with --probe 300s"
        )
    if not any(part.rows for part in probe.parts.values()):
        rejects: Counter[str] = Counter()
        for part in probe.parts.values():
            rejects.update(part.rejects)
        found = ", ".join(f"{count} {error_name}" for error_name, count in sorted(rejects.items()))
        raise NothingToTokenize(
            f"{len(probe.parts)} probed shards hold no audio that would be tokenized: they have "
            f"{found or 'no samples'}; docs/reference/errors.md explains the names, and --probe 0 "
            "lists the input alone"
        )
