"""Checks of the stores: what a run reads, and a scratch key where it writes."""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.filesize import decimal

from speechmill.jobs.commands.doctor.checks import Said, fault, ok, warning
from speechmill.jobs.commands.doctor.machine import free_gb
from speechmill.jobs.passed_over import passed_over_summary
from speechmill.jobs.report.wording import counted
from speechmill.pipeline.errors import (
    BucketNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
)
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage, join

_NOBODY = ".doctor"  # an object that nobody has
_READ = 2**16  # bytes of a shard
_SKEW, _REFUSED_SKEW = 60.0, 900.0  # s; S3 refuses requests from 15 minutes on
_DISK_GB = 1.0
_CURES: tuple[tuple[type[Exception], str], ...] = (
    (BucketNotFound, "create it, or correct the URL"),
    (
        StorageDenied,
        "check key, secret and endpoint_url of storage.<protocol>, and that their policy allows to "
        "list, read, write and delete there",
    ),
    (StorageFull, "free space there, or set another output"),
    (StorageUnavailable, "check endpoint_url, the network and the proxies"),
    (StorageError, "correct the path or URL"),
)


def storage_cure(error: Exception) -> str:
    """What to do about an error of a store that does not say so itself."""
    if "; set " in str(error):
        return ""
    if isinstance(error, StorageDenied) and "://" not in str(error):
        return "give this user permission, or set another output"
    return next((cure for kind, cure in _CURES if isinstance(error, kind)), "")


def reach(sources: Sequence[str], storage: Storage) -> Iterator[Said]:
    """Ask each store of the input for one object, which shows at once whether it answers."""
    remote = [source for source in sources if not is_local(source) and not _is_web(source)]
    for place in dict.fromkeys(map(_literal_start, remote)):
        started = time.perf_counter()
        try:
            storage.info(join(place, _NOBODY))
        except BucketNotFound:
            raise
        except StorageNotFound:  # the answer of a store that works
            pass
        yield ok(f"{place} answers within {1000 * (time.perf_counter() - started):,.0f} ms")


def _literal_start(source: str) -> str:
    """A source up to the folder in which its braces or wildcards begin."""
    start = re.split(r"[*?\[{]", source, maxsplit=1)[0]
    return start if start == source else start.rpartition("/")[0]


def _is_web(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def shards(
    sources: Sequence[str], storage: Storage, take: Callable[[list[Shard]], object]
) -> Iterator[Said]:
    """List the input, and read the beginning of a shard."""
    passed_over: list[PassedOver] = []
    found = list_shards(sources, storage, passed_over)
    first = max(found, key=lambda shard: shard.size)
    if not first.size:
        yield fault(f"all of {len(found):,} shards are empty; write them again")
        return
    started = time.perf_counter()
    with storage.open(first.url) as stream:
        data = stream.read(_READ)
    milliseconds = 1000 * (time.perf_counter() - started)
    size = decimal(sum(shard.size for shard in found))
    left = passed_over_summary(passed_over)
    take(found)
    yield ok(
        f"{counted(len(found), 'shard')}, {size}; read {len(data):,} bytes of {first.url} in "
        f"{milliseconds:,.0f} ms" + (f"; passed over {left}" if left else "")
    )


def output(root: str, storage: Storage) -> Iterator[Said]:
    """Write, read and delete a scratch key, as parts are written."""
    data = secrets.token_bytes(64)
    with _scratch(root, storage) as url:
        storage.put_new(url, data)
        is_conditional = not storage.put_new(url, data)
        is_same = storage.read_bytes(url) == data
    if not is_same:
        yield fault(f"{root} gives other bytes than were written; set an output that is consistent")
    elif not is_conditional:
        yield warning(
            f"{root} can be written, but ignores conditional writes (If-None-Match): of two "
            "workers that finish one shard at the same time the last one wins, not the first; run "
            "one driver at a time, with workers.straggler_factor=null"
        )
    else:
        yield _space(root)


def clock(url: str, storage: Storage) -> Iterator[Said]:
    """Compare the clock of this machine with that of an S3 store."""
    theirs = storage.clock(url)
    if theirs is None:
        return
    skew = (datetime.now(UTC) - theirs).total_seconds()
    direction = "ahead of" if skew > 0 else "behind"
    said = f"{abs(skew):,.0f} s {direction} that of the store"
    if abs(skew) < _SKEW:
        yield ok("that of the store, to a few seconds" if abs(skew) < 3 else said)
        return
    refused = ", and S3 refuses requests from 15 minutes on" if abs(skew) > _REFUSED_SKEW else ""
    yield warning(f"{said}{refused}; start chrony or another NTP client on this machine")


@contextmanager
def _scratch(root: str, storage: Storage) -> Iterator[str]:
    """The URL of an object that is removed at the end, with the folders made for it.

    `clear_leftovers` of a later run removes it, should this process be killed.
    """
    missing = _missing_folders(root)
    url = join(root, f".doctor-{secrets.token_hex(8)}.tmp")
    try:
        yield url
    finally:
        with suppress(StorageNotFound):
            storage.delete(url)
        for folder in missing:
            with suppress(OSError):  # another run has begun to write there
                folder.rmdir()


def _missing_folders(root: str) -> list[Path]:
    """The folders of a local output that do not exist, the innermost first."""
    if not is_local(root):
        return []
    path = Path(root.removeprefix("file://"))
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _space(root: str) -> Said:
    if not is_local(root):
        return ok(f"{root}: written, read and deleted a scratch key; conditional writes work")
    free = free_gb(Path(root.removeprefix("file://")))
    said = f"{root} can be written, {free:,.1f} GB free"
    return warning(f"{said}; set an output on a larger disk") if free < _DISK_GB else ok(said)
