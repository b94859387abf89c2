"""Checks of GPUs: the driver, the CUDA that torch was built with, and whether they agree."""

import csv
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechmill.jobs.commands.doctor.checks import Said, fault, ok, warning

_QUERY = "index,name,memory.total,memory.used,compute_cap,driver_version"
_SECONDS = 10.0  # nvidia-smi hangs if a GPU does
_USED = 0.05  # share of the memory that may be in use without a warning
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver sees it."""

    index: str
    name: str
    total_gb: float
    used_gb: float
    capability: str
    driver: str

    @classmethod
    def of(cls, row: Sequence[str]) -> "Gpu":
        index, name, total, used, capability, driver = (cell.strip() for cell in row)
        return cls(index, name, _gb(total), _gb(used), capability, driver)


def gpus(needed: bool) -> Iterator[Said]:
    """Every GPU; a fault if torch cannot use one although this machine's run needs it."""
    import torch

    try:
        found = _seen_by_driver()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        found = []
        if _DRIVER.exists():
            yield warning(
                f"the driver is loaded, but nvidia-smi does not answer ({error}); start the "
                "container with --gpus all, or test the driver"
            )
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not usable:
        yield _unusable(found, needed, torch.version.cuda)
        return
    for gpu in found:
        yield _described(gpu, torch.version.cuda)
    if len(found) > usable:
        yield ok(f"torch uses {usable} of {len(found)}; CUDA_VISIBLE_DEVICES or MIG hides others")
    elif not found:
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(usable))
        yield ok(f"{usable}, {names}; there is no nvidia-smi to ask who uses them")


def _seen_by_driver() -> list[Gpu]:
    """What nvidia-smi lists; raises for a machine without it."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    return [Gpu.of(row) for row in csv.reader(done.stdout.splitlines()) if row]


def _unusable(found: Sequence[Gpu], needed: bool, built_for: str | None) -> Said:
    """What to say if torch has no GPU."""
    if found and not built_for:
        said = (
            f"{len(found)} {found[0].name}, but this torch is built for CPUs; install the torch "
            "of docs/guide/install.md, which is built for CUDA"
        )
    elif found:
        said = (
            f"{len(found)} {found[0].name} with driver {found[0].driver}, but torch for CUDA "
            f"{built_for} cannot use them; update the driver, or unset CUDA_VISIBLE_DEVICES"
        )
    else:
        said = "none"
    if needed:
        return fault(f"{said}; set workers.num_gpus=0 to run on the CPU, or run on a GPU node")
    return warning(said) if found else ok(f"{said}, so runs on this machine use the CPU")


def _described(gpu: Gpu, built_for: str | None) -> Said:
    said = (
        f"{gpu.index}: {gpu.name}, {gpu.total_gb:,.0f} GB, compute capability {gpu.capability}, "
        f"driver {gpu.driver}, CUDA {built_for}"
    )
    if gpu.used_gb > _USED * gpu.total_gb:
        return warning(
            f"{said}; {gpu.used_gb:,.1f} GB are in use: nvidia-smi names the processes, end them "
            "or choose others with CUDA_VISIBLE_DEVICES"
        )
    return ok(said)


def _gb(mib: str) -> float:
    return float(mib) * 2**20 / 1e9 if mib.replace(".", "").isdigit() else 0.0
