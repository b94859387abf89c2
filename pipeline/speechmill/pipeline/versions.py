"""The packages that can change a token, and their versions in this process.

Ray sends these functions by value to nodes that may have another speechmill, or none: they need
nothing of it.
"""

from collections.abc import Iterable, Mapping
from ctypes import CDLL, c_char_p
from ctypes.util import find_library
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Versions = dict[str, str | None]  # by package; None: not installed
# By package: its version on this node, and the wanted one.
Differences = dict[str, tuple[str | None, str | None]]

# A codec, a quality function or an enhancer may add others, see `Job.packages`.
_TOKEN_PACKAGES = (
    *("speechmill", "torch", "torchaudio", "numpy"),
    *("soxr", "soundfile", "av", "miniaudio"),
    # Libraries that soundfile and av bring along, unless the system has them.
    *("libsndfile", "libavcodec", "libopus"),
)
_BUILDS = ("torch", "torchaudio")  # of which 2.11.0+cpu and 2.11.0+cu130 are the same version


def token_versions(packages: Iterable[str] = ()) -> Versions:
    """The versions of the packages that can change a token in any run, and of these others."""
    return installed([*_TOKEN_PACKAGES, *packages])


def decoding_versions(versions: Versions, packages: Iterable[str] = ()) -> Versions:
    """Those that matter where audio is decoded: torch is loaded there only if `packages` has it."""
    return {n: v for n, v in versions.items() if n not in _BUILDS or n in packages}


@cache
def library_versions(*packages: str) -> dict[str, str]:
    """The versions that are recorded with tokens: also of pyarrow, which can change their files."""
    found = token_versions(["pyarrow", *packages])
    return {name: version for name, version in found.items() if version}


def differences(wanted: Mapping[str, str | None]) -> Differences:
    """The packages that this process does not have in the wanted version."""
    found = installed(wanted)
    return {
        name: (found[name], wanted[name])
        for name in wanted
        if _release(name, found[name]) != _release(name, wanted[name])
    }


def lacks_only_torch(found: Differences) -> bool:
    """Whether a node is as wanted but for torch: it holds no worker, and decodes."""
    return bool(found) and all(
        name in _BUILDS and there is None for name, (there, _) in found.items()
    )


def installed(names: Iterable[str]) -> Versions:
    """The versions of packages here."""
    libraries = {"libsndfile": _libsndfile, "libavcodec": _libavcodec, "libopus": _libopus}
    return {name: libraries[name]() if name in libraries else _package(name) for name in names}


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _libsndfile() -> str | None:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, and the library is not
        return None
    return str(soundfile.__libsndfile_version__)


def _libavcodec() -> str | None:
    try:
        import av
    except (ImportError, OSError):
        return None
    return ".".join(map(str, av.library_versions["libavcodec"]))


def libopus_path() -> str | None:
    """The libopus that the wheels of PyAV bring, else that of the system; None without one."""
    import av

    package = Path(av.__file__).parent
    for folder in (package.parent / "av.libs", package / ".dylibs"):
        for path in folder.glob("libopus[-.]*"):
            return str(path)
    return find_library("opus")


def _libopus() -> str | None:
    try:
        path = libopus_path()
    except (ImportError, OSError):
        return None
    if not path:
        return None
    said = CDLL(path).opus_get_version_string
    said.restype = c_char_p
    return bytes(said()).decode().removeprefix("libopus ")


def _release(name: str, found: str | None) -> str | None:
    return found.partition("+")[0] if found and name in _BUILDS else found
