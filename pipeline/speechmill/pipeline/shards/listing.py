"""A shard is one tar: the unit of work, of failure and of commit."""

import hashlib
import logging
import posixpath
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import FileInfo, Listing, is_local, local_files
from speechmill.pipeline.links import HIDDEN, OUTSIDE, PassedOver
from speechmill.pipeline.redaction import public_url
from speechmill.pipeline.shards.shard_lists import exists, expand_sources
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.text import replace_escaped, shown

PLAN = "pack.json"  # of `pack`, beside the tars
NO_TAR = "not a .tar by its name"
PACKED_TOO = "beside the same tar without gzip"
TARS = (".tar", ".tar.gz", ".tgz")

_PARALLEL_REQUESTS = 16
_WEB = ("http://", "https://")
_NO_SHARDS = (NO_TAR, HIDDEN)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a listing; its identity is its content, never a rank or an index."""

    url: str
    size: int  # bytes
    etag: str

    @property
    def version(self) -> FileInfo:
        """What a listing said of it."""
        return FileInfo(self.url, self.size, self.etag)

    @property
    def stem(self) -> str:
        """Its file name without suffix, with U+FFFD for bytes that are not UTF-8.

        `_` stands for a dot at the start: files of a dataset with hidden names are never read.
        """
        stem = replace_escaped(_without_suffix(posixpath.basename(self.url)))
        return f"_{stem[1:]}" if stem.startswith(".") else stem

    @property
    def name(self) -> str:
        """The name of its files in a token dataset, without folder and suffix."""
        identity = "\n".join((self.url, str(self.size), self.etag))
        return f"{self.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def stem_of_part(name: str) -> str:
    """The stem of the shard whose files in a token dataset have this name."""
    return name.rpartition("-")[0]


def list_shards(
    sources: Sequence[str], storage: Storage, passed_over: list[PassedOver] | None = None
) -> list[Shard]:
    """Every tar of the sources, sorted by URL, each once.

    A source is a tar, a brace range (`s3://b/x-{000..127}.tar`), a glob, a folder (every `.tar`,
    `.tar.gz` and `.tgz` below it, but hidden ones) or a list: a `.txt` with one source per line,
    relative to its own folder. Links that lead below the folder are followed; a link that a glob or
    a path names may lead anywhere. What a folder or glob has beside its shards is added to
    `passed_over`; without this list, a warning counts what may be a shard. In a store, this takes
    one listing per folder, never a request per shard. Raises `InputError` for a tar that does not
    exist, for a source without tars, and for two tars with one part.
    """
    if isinstance(sources, str) or not sources:
        raise InputError(f"shards must be a list of at least one tar, folder or glob: {sources!r}")
    found: dict[str, FileInfo] = {}
    folders: set[str] = set()
    left: list[PassedOver] = []
    tars: list[str] = []
    on_web_servers: list[str] = []
    for source in expand_sources(sources, storage):
        if _is_on_web_server(source):
            on_web_servers.append(source)
        elif source.endswith(TARS) and not is_pattern(source):
            tars.append(storage.absolute(source))
        else:
            infos, others = _matches(source, storage)
            if not infos:
                raise InputError(_none_found(source, others))
            found |= {info.url: info for info in infos}
            folders.add(storage.absolute(source).rstrip("/"))
            left += others
    found |= _look_up(tars, storage)
    found |= _look_up_each(on_web_servers, storage)
    read = found.keys() | folders
    left = [one for one in dict.fromkeys(left) if one.url not in read]
    if passed_over is None:
        _warn(left)
    else:
        passed_over += left
    shards = [Shard(i.url, i.size, i.etag) for i in sorted(found.values(), key=lambda i: i.url)]
    _refuse_names(shards)
    return shards


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(tar) for tar in TARS if name.endswith(tar)), name)


def _matches(source: str, storage: Storage) -> Listing:
    """The tars of a folder or a glob, and the files that are passed over.

    macOS writes a hidden `._x.tar` beside `x.tar`. What the source itself names is not hidden.
    """
    infos, left = storage.glob(source) if is_pattern(source) else storage.list_linked(source)
    named = set(storage.absolute(source).split("/"))
    hidden = {
        info.url
        for info in infos
        if any(part[:1] == "." and part not in named for part in info.url.split("/"))
    }
    left += [PassedOver(url, HIDDEN) for url in sorted(hidden)]
    infos = [info for info in infos if info.url not in hidden]
    if is_pattern(source):
        return infos, left
    reasons = _reasons(infos)
    missed = {url: why for url, why in reasons.items() if not url.endswith(f"/{PLAN}")}
    left += [PassedOver(url, why) for url, why in missed.items()]
    return [info for info in infos if info.url not in reasons], left


def _reasons(infos: Sequence[FileInfo]) -> dict[str, str]:
    """By URL, why some files of a folder are not shards."""
    tars = {info.url for info in infos if info.url.endswith(".tar")}
    reasons = {}
    for url in (info.url for info in infos):
        if not url.endswith(TARS):
            reasons[url] = NO_TAR
        elif url not in tars and f"{_without_suffix(url)}.tar" in tars:
            reasons[url] = PACKED_TOO
    return reasons


def _none_found(source: str, left: Sequence[PassedOver]) -> str:
    """What to say of a source without shards."""
    said = f"no .tar found at {source}; "
    if missed := [one for one in left if one.reason not in _NO_SHARDS]:
        said += f"{missed[0].url} is {missed[0].reason}"
        if missed[0].reason == OUTSIDE:
            glob = join(source, "**", "*.tar")
            said += f": to follow links anywhere, name them by a glob, such as {glob}"
        return said
    pack = "`speechmill pack` makes shards of audio"
    return said + ("does its page link to them?" if source.startswith(_WEB) else pack)


def _warn(left: Sequence[PassedOver]) -> None:
    """Log what may be a shard, for callers that do not say it themselves."""
    missed = [one for one in left if one.reason not in _NO_SHARDS]
    for reason, count in Counter(one.reason for one in missed).items():
        first = next(one.url for one in missed if one.reason == reason)
        logger.warning("passed over %d, %s, such as %s", count, reason, shown(first))


def _refuse_names(shards: Sequence[Shard]) -> None:
    """Raise `InputError` for two tars that have one part."""
    by_name: dict[str, Shard] = {}
    for shard in shards:
        other = by_name.setdefault(shard.name, shard)
        if other != shard:
            raise InputError(
                f"{other.url} and {shard.url} would both be written to {shard.name}; rename one"
            )


def _is_on_web_server(source: str) -> bool:
    """Return whether a source is one tar on a server that has no listing."""
    path = public_url(source)
    is_one = path.endswith(TARS) and not any(mark in path for mark in "*{[")
    return is_one and source.startswith(_WEB)


def _look_up_each(urls: list[str], storage: Storage) -> dict[str, FileInfo]:
    """Size and etag of tars on web servers, by one request for each.

    Raises `InputError` for two tars whose URLs differ only in login or query.
    """
    typed: dict[str, str] = {}
    for url in urls:
        if typed.setdefault(public_url(url), url) != url:
            raise InputError(
                f"shards names {public_url(url)} twice, with another query; name each tar once, "
                "and give each a path of its own"
            )
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as threads:
        return {info.url: info for info in threads.map(storage.info, typed.values())}


def is_pattern(source: str) -> bool:
    """Return whether a source has wildcards and is not a path that exists."""
    return any(mark in source for mark in "*?[") and not exists(source)


def _look_up(tars: list[str], storage: Storage) -> dict[str, FileInfo]:
    """Size and etag of single tars: a look at each on this machine, else a listing per folder."""
    found = local_files(tar for tar in tars if is_local(tar))
    by_folder: dict[str, list[str]] = {}
    for tar in tars:
        if not is_local(tar):
            by_folder.setdefault(posixpath.dirname(tar), []).append(tar)
    for folder, names in by_folder.items():
        prefix = posixpath.commonprefix([posixpath.basename(name) for name in names])
        listed = {info.url: info for info in storage.list_files(folder, prefix)}
        found |= {name: listed[name] for name in names if name in listed}
    if missing := sorted(set(tars) - set(found)):
        listed_missing = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        raise InputError(f"{len(missing)} of {len(tars)} shards do not exist: {listed_missing}")
    return found
