"""The last check of a run: some of its own clips through its own workers."""

from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from speechmill.jobs.commands.doctor.checks import Said, fault, ok, warning
from speechmill.jobs.commands.doctor.machine import free_gb
from speechmill.jobs.commands.plan.plan import Listed, Plan, probed
from speechmill.jobs.commands.plan.probe import NothingToTokenize, Probe, ProbeSize
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import message_of

PROBE = ProbeSize(seconds=4.0)
LATE = warning(
    "no shard was tokenized in the time that the doctor has (compiling alone takes minutes); "
    "`speechmill plan` measures longer"
)


def speed(config: TokenizeConfig, listed: list[Listed], storage: Storage) -> Iterator[Said]:
    """Tokenize parts of some shards into memory, as `speechmill plan` does.

    Raises what ends a run, such as `DeviceWrong` of a worker.
    """
    try:
        plan = probed(Plan(listed, ""), config, storage, PROBE)
    except NothingToTokenize as error:
        yield warning(message_of(error))
        return
    if plan.probe is None:
        yield ok("nothing is left to do")
        return
    yield from _unreadable(plan.probe)
    yield _cores(plan)
    yield from _space(plan, config.output)


def _unreadable(probe: Probe) -> Iterator[Said]:
    if probe.unreadable:
        shard, error = next(iter(probe.unreadable.items()))
        total = len(probe.unreadable) + len(probe.parts)
        yield fault(
            f"{len(probe.unreadable)} of {total} probed shards cannot be read, so the run would "
            f"end with exit code 1; the first is {shard.url}: {type(error).__name__}: "
            f"{message_of(error)}; repair or remove them"
        )


def _cores(plan: Plan) -> Said:
    """Compare the cores that decode as fast as a device encodes with those there are."""
    run = plan.run
    assert run
    audio = max(each.audio_seconds.value for each in plan.forecasts)
    decode, encode = run.decode_cpu_seconds.value, run.encode_seconds.value
    on = "this CPU" if not run.place.on_gpu else run.place.device
    said = (
        f"this input decodes {_times(audio, decode)} real time on a core, and encodes "
        f"{_times(audio, encode)} on {on}"
    )
    if not run.place.on_gpu:
        return ok(f"{said}; {run.place.cores:g} cores do both")
    said += f": a GPU needs {run.cores:.1f} cores, there are {run.place.cores:g} for each"
    if run.cores <= run.place.cores:
        return ok(said)
    busy = max(0.0, run.place.cores - 1) / run.decode_cores
    return warning(
        f"{said}, so GPUs compute {busy:.0%} of the time; add nodes with CPUs, or convert the "
        "input to 16 kHz FLAC"
    )


def _times(audio: float, seconds: float) -> str:
    if not seconds:
        return "any number of times"
    speed = audio / seconds
    return f"{speed:,.0f} x" if speed >= 10 else f"{speed:.1f} x"


def _space(plan: Plan, root: str) -> Iterator[Said]:
    """Compare the size of the tokens with the free space of a local output."""
    if not is_local(root):
        return
    sizes = [each.bytes_out for each in plan.forecasts]
    size = sum(each.low if each.low is not None else each.value for each in sizes)
    free = 1e9 * free_gb(Path(root.removeprefix("file://")))
    if size > free:
        yield fault(
            f"the tokens take about {decimal(int(size))}, {root} has {decimal(int(free))} free; "
            "set an output on a larger disk"
        )
