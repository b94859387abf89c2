"""A shard is one tar: the unit of work, of failure and of commit."""

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.links import HIDDEN, PassedOver
from speechmill.pipeline.redaction import public_url
from speechmill.pipeline.shards.shard_lists import exists, expand_sources
from speechmill.pipeline.storage import FileInfo, Storage, is_local
from speechmill.pipeline.text import replace_escaped

PLAN = "pack.json"  # of `pack`, beside the tars
NO_TAR = "not a .tar by its name"
TWICE = "behind a link to a folder that is read already"
PACKED_TOO = "beside the same tar without gzip"
TARS = (".tar", ".tar.gz", ".tgz")

_PARALLEL_REQUESTS = 16
_WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a listing; its identity is its content, never a rank or an index."""

    url: str
    size: int  # bytes
    etag: str

    @property
    def stem(self) -> str:
        """Its file name without suffix, with U+FFFD for bytes that are not UTF-8."""
        return replace_escaped(_without_suffix(posixpath.basename(self.url)))

    @property
    def name(self) -> str:
        """The name of its files in a token dataset, without folder and suffix."""
        identity = "\n".join((self.url, str(self.size), self.etag))
        return f"{self.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def list_shards(
    sources: Sequence[str], storage: Storage, passed_over: list[PassedOver] | None = None
) -> list[Shard]:
    """Every tar of the sources, sorted by URL, each once.

    A source is a tar, a brace range (`s3://b/x-{000..127}.tar`), a glob, a folder (every `.tar`,
    `.tar.gz` and `.tgz` below it, but hidden ones) or a list: a `.txt` with one source per line,
    relative to its own folder. What is no shard in a folder is added to `passed_over`. This takes
    one listing per folder, never a request per shard. Raises `InputError` for a tar that does not
    exist, for a source without tars, and for two tars with one part.
    """
    if isinstance(sources, str) or not sources:
        raise InputError(f"shards must be a list of at least one tar, folder or glob: {sources!r}")
    found: dict[str, FileInfo] = {}
    tars: list[str] = []
    on_web_servers: list[str] = []
    for source in expand_sources(sources, storage):
        if _is_on_web_server(source):
            on_web_servers.append(source)
        elif source.endswith(TARS) and not is_pattern(source):
            tars.append(storage.absolute(source))
        elif is_pattern(source):
            found |= _visible(storage.glob(source), source, storage)
        else:
            found |= _visible(_tars_below(source, storage, passed_over), source, storage)
    found |= _look_up(tars, storage)
    found |= _look_up_each(on_web_servers, storage)
    shards = [Shard(i.url, i.size, i.etag) for i in sorted(found.values(), key=lambda i: i.url)]
    _refuse_names(shards)
    return shards


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(tar) for tar in TARS if name.endswith(tar)), name)


def _tars_below(
    source: str, storage: Storage, passed_over: list[PassedOver] | None
) -> list[FileInfo]:
    """Every tar below a folder; the rest is passed over."""
    infos = storage.list_files(source)
    tars = [info for info in infos if info.url.endswith(TARS)]
    plain = {info.url for info in tars if info.url.endswith(".tar")}
    packed_too = {
        url for url in {info.url for info in tars} - plain if f"{_without_suffix(url)}.tar" in plain
    }
    if passed_over is not None:
        passed_over += _others_below(storage.absolute(source), infos, storage)
        passed_over += [PassedOver(url, PACKED_TOO) for url in packed_too]
    return [info for info in tars if info.url not in packed_too]


def _others_below(root: str, infos: list[FileInfo], storage: Storage) -> Iterator[PassedOver]:
    """What a folder holds beside its tars."""
    for info in infos:
        path = info.url[len(root) :]
        if not info.url.endswith(TARS) and "/." not in path and not path.endswith(f"/{PLAN}"):
            yield PassedOver(info.url, NO_TAR)
    if is_local(root):
        yield from _links(root, {info.url for info in infos}, storage)


def _links(root: str, listed: set[str], storage: Storage) -> list[PassedOver]:
    """Links to folders, which a listing does not follow, and others that lead nowhere."""
    found, left = storage.walk(root, [root])
    left = [one for one in left if one.reason != HIDDEN and one.url not in listed]
    return left + [PassedOver(each.url, TWICE) for each in found if each.url not in listed]


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


def _visible(infos: list[FileInfo], source: str, storage: Storage) -> dict[str, FileInfo]:
    """The files by URL, without hidden ones: macOS writes `._x.tar` beside `x.tar`.

    A file or folder that the source itself names is not hidden.
    """
    named = set(storage.absolute(source).split("/"))
    found = {
        info.url: info
        for info in infos
        if not any(part[:1] == "." and part not in named for part in info.url.split("/"))
    }
    if not found:
        pack = "`speechmill pack` makes shards of audio"
        cure = "does its page link to them?" if source.startswith(_WEB) else pack
        raise InputError(f"no .tar found at {source}; {cure}")
    return found


def _look_up(tars: list[str], storage: Storage) -> dict[str, FileInfo]:
    """Size and etag of single tars, by one listing per folder."""
    by_folder: dict[str, list[str]] = {}
    for tar in tars:
        by_folder.setdefault(posixpath.dirname(tar), []).append(tar)
    found: dict[str, FileInfo] = {}
    for folder, names in by_folder.items():
        prefix = posixpath.commonprefix([posixpath.basename(name) for name in names])
        listed = {info.url: info for info in storage.list_files(folder, prefix)}
        found |= {name: listed[name] for name in names if name in listed}
    if missing := sorted(set(tars) - set(found)):
        listed_missing = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        raise InputError(f"{len(missing)} of {len(tars)} shards do not exist: {listed_missing}")
    return found
