"""Checks of this machine: Python, libraries, limits, memory and disks."""

import os
import platform
import resource
import shutil
import struct
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from speechmill.codecs.fetch import cache_dir
from speechmill.jobs.commands.doctor.checks import Said, fault, ok, warning
from speechmill.pipeline.redaction import public_url

_OLDEST_PYTHON = (3, 11)
_OPEN_FILES = 4096  # a run on Ray holds hundreds
_MEMORY_GB, _DISK_GB = 2.0, 2.0  # the least that is free without a warning
_SHM_GB = 1.0  # of /dev/shm, where Ray keeps its objects
_SHM = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
_INSTALL = "see docs/guide/install.md"


def python() -> Iterator[Said]:
    """The interpreter and its system."""
    bits = struct.calcsize("P") * 8
    said = f"{platform.python_version()}, {bits} bit, {platform.system()} {platform.machine()}"
    if sys.version_info < _OLDEST_PYTHON or bits < 64:
        yield fault(f"{said}; install Python 3.11 or newer for 64 bit")
    elif sys.platform != "linux":
        yield warning(f"{said}: only Linux is tested; run on Linux if something fails")
    else:
        yield ok(said)


def libraries() -> Iterator[Said]:
    """Those that change a token or a byte of a part, as the footers of parts name them."""
    from speechmill.pipeline.versions import library_versions

    yield ok(", ".join(f"{name} {version}" for name, version in library_versions().items()))


def torch_pair() -> Iterator[Said]:
    """Whether torch and torchaudio load together."""
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    try:
        import torchaudio
    except (ImportError, OSError, AttributeError) as error:
        wanted = ".".join(torch.__version__.split(".")[:2])
        yield warning(
            f"torchaudio does not load beside torch {torch.__version__}, {built} ({error}), and "
            f"codecs that need it will not; install torch below 2.15 (this is {wanted}) and "
            f"torchaudio 2.11 from one index, {_INSTALL}"
        )
    else:
        yield ok(f"torch {torch.__version__} and torchaudio {torchaudio.__version__}, {built}")


def system() -> Iterator[Said]:
    """The C library, and the limit of open files."""
    name, version = platform.libc_ver()
    allocator = os.environ.get("LD_PRELOAD")
    said = f"{name or 'C library unknown'} {version}".strip()
    said += f", LD_PRELOAD={allocator}" if allocator else ""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = "any number of" if limit == resource.RLIM_INFINITY else f"{limit:,}"
    said += f", {files} open files"
    if limit != resource.RLIM_INFINITY and limit < _OPEN_FILES:
        yield warning(f"{said}: few for a run on Ray; raise them with ulimit -n {min(most, 65536)}")
    else:
        yield ok(said)


def memory(on_ray: bool) -> Iterator[Said]:
    """RAM that is free, within the limit of a container, and the RAM disk that Ray uses."""
    total, free = _memory_gb()
    said = f"{free:,.1f} of {total:,.1f} GB free"
    if not on_ray or not _SHM.is_dir():
        shm = None
    else:
        shm = shutil.disk_usage(_SHM).free / 1e9
        said += f", {shm:,.1f} GB in {_SHM}"
    if free < _MEMORY_GB:
        yield warning(f"{said}: a codec needs about {_MEMORY_GB:g} GB; end other processes")
    elif shm is not None and shm < _SHM_GB:
        yield warning(
            f"{said}, so Ray keeps its objects on a disk, which is slow; start the container with "
            "docker run --shm-size=8g, or mount a larger tmpfs there"
        )
    else:
        yield ok(said)


def disks() -> Iterator[Said]:
    """Temporary files, and the cache of weights."""
    yield _temporary()
    yield _cache(cache_dir())


def proxies() -> Iterator[Said]:
    """Proxies of the environment, which stores and the Hugging Face hub are reached through."""
    found = urllib.request.getproxies()
    without = found.pop("no", "")
    if found:
        names = ", ".join(f"{kind} by {public_url(url)}" for kind, url in sorted(found.items()))
        beside = (
            f", but not for {without}" if without else "; NO_PROXY names hosts to reach directly"
        )
        yield ok(f"{names}{beside}")


def free_gb(folder: Path) -> float:
    """Free space of the disk on which a folder is, or would be, in GB."""
    return shutil.disk_usage(existing(folder)).free / 1e9


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _temporary() -> Said:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"speechmill")
    except OSError as error:
        return fault(f"TMPDIR cannot be written: {error}; set TMPDIR to a folder that can")
    return _space(f"TMPDIR {folder}", Path(folder), "set TMPDIR to a larger disk")


def _cache(folder: Path) -> Said:
    place, found = f"SPEECHMILL_CACHE {folder}", existing(folder)
    if not (found.is_dir() and os.access(found, os.W_OK | os.X_OK)):
        return warning(
            f"{place} cannot be written, so no weights can be fetched; set SPEECHMILL_CACHE to a "
            "folder that can"
        )
    return _space(place, folder, "set SPEECHMILL_CACHE to a larger disk")


def _space(place: str, folder: Path, cure: str) -> Said:
    free = free_gb(folder)
    said = f"{place}: {free:,.1f} GB free"
    return warning(f"{said}; {cure}") if free < _DISK_GB else ok(said)


def _memory_gb() -> tuple[float, float]:
    """GB of this machine, or of the cgroup that limits this process, and those that are free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    facts = {name: float(rest.split()[0]) * 1024 for name, rest in (e.split(":") for e in lines)}
    total, free = facts["MemTotal"], facts["MemAvailable"]
    files = [_CGROUP / f"memory.{name}" for name in ("max", "current", "stat")]
    if all(path.exists() for path in files):
        limit, used, stat = (path.read_text().strip() for path in files)
        if limit != "max":
            counts = dict(line.split() for line in stat.splitlines())
            cached = float(counts.get("inactive_file", 0))  # goes first when memory is short
            total = min(total, float(limit))
            free = min(free, float(limit) - float(used) + cached)
    return total / 1e9, free / 1e9
