"""What a run takes, from what a probe of it took: GPU-hours, wall time, requests and cost."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import ceil, isfinite

from speechmill.jobs.commands.plan.probe import Place, Probe
from speechmill.jobs.commands.plan.sampling import Estimate, agreed
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.read_ahead import count_ranges
from speechmill.pipeline.run.run_log import FLUSH_SECONDS
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.probed import ProbedCodec, ProbedShard

Value = Callable[[ProbedCodec], float]  # of what a codec made of a part

SCALES = (1, 8, 64, 512)  # GPUs, or machines
KEYS_OF_A_LIST = 1000  # objects that one LIST names
_LISTS = 14  # of a run beside the pages of its listings, counted on S3, as are the next two
_GETS, _HEADS_OF_A_RUN = 3, 15
_PUTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices in any one currency; None where none was given."""

    gpu_hour: float | None = None
    core_hour: float | None = None
    million_requests: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            price = getattr(self, one.name)
            if price is not None and not (isfinite(price) and price >= 0):
                option = f"--{one.name.replace('_', '-')}"
                raise InputError(f"{option} is {price:g}; give a price of 0 or more")


@dataclass(frozen=True, slots=True)
class Finished:
    """What the parts of earlier runs say about the shards that are left; None: no parts."""

    audio_seconds: Estimate
    bytes_out: Estimate
    parts: int


@dataclass(frozen=True, slots=True)
class CodecForecast:
    """What one codec gives."""

    audio_seconds: Estimate
    bytes_out: Estimate
    clips: Estimate
    rejects: Estimate
    encode_seconds: Estimate  # of its device
    rejecting_shards: Estimate  # which have a file in rejects/
    finished: Finished | None
    finished_fit: bool  # the finished parts are part of the estimates


@dataclass(frozen=True, slots=True)
class Wall:
    """The time from the start to the end of the run on a number of GPUs, or of machines."""

    units: int
    seconds: Estimate

    @property
    def unit_hours(self) -> float:
        """The hours that are paid for, with those in which some have nothing left to do."""
        return self.units * self.seconds.value / 3600


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests to object stores; none go to a local disk."""

    get: int = 0
    head: int = 0
    list: int = 0
    put: int = 0

    @property
    def total(self) -> int:
        return self.get + self.head + self.list + self.put


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What the run of all codecs takes."""

    decode_cpu_seconds: Estimate
    encode_seconds: Estimate
    start_seconds: float  # to start and to end the workers
    place: Place
    requests: Requests
    walls: list[Wall]

    def cost(self, wall: Wall, prices: Prices) -> float | None:
        """Return the cost on a number of units; None without any price."""
        hours = wall.unit_hours
        terms = [
            (prices.gpu_hour, hours if self.place.on_gpu else 0.0),
            (prices.core_hour, hours * self.cores),
            (prices.million_requests, self.requests.total / 1e6),
        ]
        given = [price * amount for price, amount in terms if price is not None]
        return sum(given) if given else None

    @property
    def decode_cores(self) -> float:
        """Cores that decode as fast as one device encodes."""
        encode = self.encode_seconds.value
        return self.decode_cpu_seconds.value / encode if encode else 0.0

    @property
    def cores(self) -> float:
        """Cores of one unit: of a machine all, of a GPU those that decode and one that feeds it."""
        return self.decode_cores + 1 if self.place.on_gpu else self.place.cores


def forecast_codec(
    probe: Probe, position: int, todo: set[Shard], finished: Finished | None
) -> CodecForecast:
    """Return what a codec makes of its shards."""

    def of(part: ProbedShard) -> ProbedCodec:
        return part.codecs[position]

    def total(value: Value, fixed: Value = lambda one: 0.0) -> Estimate:
        return probe.total(lambda part: value(of(part)), todo, lambda part: fixed(of(part)))

    audio, fit = agreed(
        total(lambda one: one.report.audio_seconds), finished.audio_seconds if finished else None
    )
    tokens = total(lambda one: one.part_bytes + one.reject_bytes, lambda one: one.fixed_bytes)
    return CodecForecast(
        audio_seconds=audio,
        bytes_out=agreed(tokens, finished.bytes_out)[0] if finished and fit else tokens,
        clips=total(lambda one: one.report.rows),
        rejects=total(lambda one: sum(one.report.rejects.values())),
        encode_seconds=total(lambda one: one.report.encode_seconds),
        rejecting_shards=total(*2 * (lambda one: float(one.reject_bytes > 0),)),
        finished=finished,
        finished_fit=fit,
    )


def forecast_run(
    probe: Probe, codecs: Sequence[CodecForecast], todo: Sequence[Sequence[Shard]], output: str
) -> RunForecast:
    """Return what the run takes; `todo` are the shards of each codec."""
    shards = sorted((s for stratum in probe.strata for s in stratum), key=lambda s: s.url)
    walls = [_wall(probe, shards, units) for units in SCALES]
    return RunForecast(
        decode_cpu_seconds=probe.total(lambda part: part.decode_cpu_seconds),
        encode_seconds=probe.total(lambda part: part.encode_seconds),
        start_seconds=probe.start_seconds,
        place=probe.place,
        requests=_requests(shards, codecs, todo, output, walls[0]),
        walls=walls,
    )


def busy_seconds(probe: Probe) -> Estimate:
    """Return the seconds that one unit works.

    Workers on GPUs encode while others decode, and the slower of both sets the pace. On a CPU both
    take turns; there the time of the probe is divided by the work of its parts.
    """
    if probe.place.on_gpu and not probe.place.in_process:
        encode = probe.total(lambda part: part.encode_seconds)
        decode = probe.total(lambda part: part.decode_cpu_seconds).times(1 / probe.place.cores)
        return max(encode, decode, key=lambda each: each.value)
    work = probe.total(lambda part: part.work_seconds)
    return work.times(probe.seconds / probe.work_seconds if probe.work_seconds else 0.0)


def _wall(probe: Probe, shards: Sequence[Shard], units: int) -> Wall:
    busy, stream = busy_seconds(probe), probe.total(lambda part: part.decode_seconds)
    total = sum(shard.size for shard in shards) or 1
    tasks = [busy.value * shard.size / total for shard in shards]
    # A shard alone is as fast as its one decode stream.
    longest = max(shard.size for shard in shards) / total * max(busy.value, stream.value)
    work = max(finish_time(tasks, units), longest)
    error = None if busy.relative is None else busy.relative * work
    return Wall(units, Estimate(probe.start_seconds + work, error))


def finish_time(seconds: Sequence[float], workers: int) -> float:
    """Return when the last of some tasks ends, each started in order by the first free worker."""
    if workers >= len(seconds):
        return max(seconds, default=0.0)
    free = [0.0] * workers
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def heads_of(url: str) -> int:
    """HEADs for a shard: S3 compares its version with each range, others are asked before."""
    return 0 if url.startswith(("s3://", "s3a://")) else 1


def _requests(
    shards: Sequence[Shard],
    codecs: Sequence[CodecForecast],
    todo: Sequence[Sequence[Shard]],
    output: str,
    wall: Wall,
) -> Requests:
    """Count requests as a run without faults makes them; `wall` is its time on one unit."""
    remote = [shard for shard in shards if not is_local(shard.url)]
    gets = sum(count_ranges(shard.size) for shard in remote)
    heads = sum(heads_of(shard.url) for shard in remote)
    found = [gets, heads, ceil(len(remote) / KEYS_OF_A_LIST), 0]
    if not is_local(output):
        for codec, mine in zip(codecs, todo, strict=True):
            listings = 2 * ceil(len(mine) / KEYS_OF_A_LIST)
            log = min(len(mine), int(wall.seconds.value / FLUSH_SECONDS))
            puts = len(mine) + round(codec.rejecting_shards.value) + log
            for place, more in enumerate((_GETS, _HEADS_OF_A_RUN, _LISTS + listings, _PUTS + puts)):
                found[place] += more
    return Requests(*found)
