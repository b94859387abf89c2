"""Copy a checkpoint from its url to this node and compute its digest, without torch.

A plain path is read in place, and so is package://name/path, a file of an installed package. A file
at any other url is copied to the node's cache once, even if many processes ask at the same time.
Every url may end in #sha256=<64 hex digits>, the digest that the file must have.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from speechmill.codecs.errors import CheckpointError

_PINNED = re.compile(r"(?P<url>.+)#sha256=(?P<sha256>[0-9a-f]{64})", re.IGNORECASE)
_PACKAGED = "package://"
PACKAGES = {  # that read the URLs of a protocol
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


def fetch(url: str | Path, sha256: str | None = None) -> Path:
    """Return a local file with the content of `url`: a path, s3://, hf:// or other fsspec url.

    The forms are hf://owner/repo[@revision]/path and package://name/path. Raises `CheckpointError`
    if the file cannot be read or has another digest than `sha256`; a wrong copy is removed from the
    cache.
    """
    url, written = _unpinned(str(url))
    sha256 = sha256 or written
    with _one_kind_of_error(url):
        if "://" not in url or url.startswith(_PACKAGED):
            path = _packaged(url) if url.startswith(_PACKAGED) else Path(url).expanduser()
            if not path.is_file():
                raise CheckpointError(f"no checkpoint {url!r}; a path must name a file")
            _verify(path, url, sha256)
            return path
        path = _fetch_hf(url) if url.startswith("hf://") else _fetch_fsspec(url, sha256)
        _verify(path, url, sha256, remove=True)
    return path


@contextmanager
def _one_kind_of_error(url: str) -> Iterator[None]:
    """Raise an error of any store's library, which have no base in common, as `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"cannot fetch {url!r}: {_reason(url, error)}; name another checkpoint, or 'untrained' "
            "for random weights"
        ) from error


def _reason(url: str, error: Exception) -> str:
    """Return what went wrong, in one line."""
    protocol, _, rest = url.partition("://")
    if isinstance(error, ImportError) and protocol in PACKAGES:
        return f"{protocol}:// needs a package; pip install {PACKAGES[protocol]}"
    message = " ".join(str(error).split())
    reason = type(error).__name__ + (f": {message}" if message not in ("", "None") else "")
    is_missing = isinstance(error, FileNotFoundError)
    return f"{reason} (in {rest.partition('/')[0]!r})" if is_missing else reason


def pinned(url: str | Path, sha256: str) -> str:
    """Return `url` with the digest that its file must have, in place of one that it has already.

    Raises `CheckpointError` if `sha256` is not a digest.
    """
    plain, _ = _unpinned(str(url))
    url = f"{plain}#sha256={sha256}"
    if not _PINNED.fullmatch(url):
        raise CheckpointError(f"{sha256!r} is not a sha256 of {plain!r}; give its 64 hex digits")
    return url


def pinned_digest(url: str | Path) -> str | None:
    """Return the digest that the file at `url` must have, if the url says so."""
    return _unpinned(str(url))[1]


def digest_of(url: str | Path) -> str:
    """Return the sha256 of the file at `url`; a pinned remote file is not fetched for it."""
    plain, sha256 = _unpinned(str(url))
    if sha256 is not None and "://" in plain:
        return sha256
    return digest(fetch(url))


def digest(path: Path) -> str:
    """Return the file's sha256, computed once per process unless the file changes."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


def _unpinned(url: str) -> tuple[str, str | None]:
    """Return the url without its digest, and the digest."""
    found = _PINNED.fullmatch(url)
    return (found["url"], found["sha256"].lower()) if found else (url, None)


def cache_dir() -> Path:
    """Return the user's cache folder, for downloads and for results computed once per machine."""
    configured = os.environ.get("SPEECHMILL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "speechmill"


def _packaged(url: str) -> Path:
    """Return the path of a file of an installed package; the file may not exist."""
    package, _, path = url.removeprefix(_PACKAGED).partition("/")
    try:
        return Path(str(files(package))) / path
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"no package for checkpoint {url!r}: {error}") from error


def _fetch_hf(url: str) -> Path:
    from huggingface_hub import hf_hub_download

    parts = url.removeprefix("hf://").split("/", 2)
    if len(parts) != 3:
        raise CheckpointError(f"{url!r} is not hf://owner/repo[@revision]/path")
    repo, _, revision = parts[1].partition("@")
    cached = hf_hub_download(
        f"{parts[0]}/{repo}", parts[2], revision=revision or None, cache_dir=cache_dir() / "hf"
    )
    return Path(cached)


def _fetch_fsspec(url: str, sha256: str | None) -> Path:
    """Return the cached copy; its name contains the object's version, so a new one is fetched."""
    import fsspec

    filesystem, remote = fsspec.core.url_to_fs(url)
    version = hashlib.sha256(f"{url} {filesystem.ukey(remote)}".encode()).hexdigest()[:16]
    cached = cache_dir() / f"{version}-{Path(remote).name}"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cached.with_name(f"{cached.name}.lock")):
        if not cached.exists():
            partial = cached.with_name(f"{cached.name}.part")
            filesystem.get_file(remote, str(partial))
            _verify(partial, url, sha256, remove=True)
            partial.replace(cached)
    return cached


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file frees it, even if the process dies
        yield


def _verify(path: Path, url: str, expected: str | None, *, remove: bool = False) -> None:
    if expected is None or digest(path) == expected.lower():
        return
    found = digest(path)
    if remove:
        path.resolve().unlink(missing_ok=True)  # the hub's cache holds links
        path.unlink(missing_ok=True)
    raise CheckpointError(f"{url!r} has sha256 {found}, expected {expected}; is it another file?")


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
