"""The filesystem of a URL, and the files that it lists, in one form for every store.

The only module that imports fsspec.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from speechmill.codecs.fetch import PACKAGES
from speechmill.pipeline import links, web_files
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.links import DANGLING, PassedOver
from speechmill.pipeline.redaction import public_url
from speechmill.pipeline.storage_errors import http_header
from speechmill.pipeline.text import escape_bytes, unescape_bytes

FileSystem: TypeAlias = fsspec.AbstractFileSystem

_UNCHAINED = ("file", "s3", "s3a", "hf", "gs", "gcs", "az", "abfs", "http", "https")
_NO_RETRIES = {"total_max_attempts": 1, "mode": "standard"}  # for botocore


@dataclass(frozen=True, slots=True)
class FileInfo:
    """An entry of a listing; its URL is without credentials."""

    url: str
    size: int  # bytes
    etag: str  # changes with the content: the store's ETag, or the modification time


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a folder: its URL there, and the file itself, which a link may lead to."""

    url: str
    file: FileInfo


Listing = tuple[list[FileInfo], list[PassedOver]]  # sorted by URL


def open_filesystem(url: str, options: Mapping[str, dict[str, Any]]) -> tuple[FileSystem, str]:
    """The filesystem of a URL, with the options of its protocol, and the path there.

    Raises `InputError` for an unknown protocol, and for one whose package is not installed.
    """
    protocol = "file" if is_local(url) else url.partition("://")[0]
    # A cached listing from before a commit would hide it.
    chosen = {"use_listings_cache": False} | options.get(protocol, {})
    if protocol in ("s3", "s3a"):
        config = chosen.get("config_kwargs", {})
        chosen["config_kwargs"] = config | {"retries": _NO_RETRIES}
    fs, path = _opened(url, protocol, chosen)
    if hasattr(fs, "retries"):
        fs.retries = 1
    return fs, _unescaped(path) if is_local_disk(fs) else path


def _opened(url: str, protocol: str, options: dict[str, Any]) -> tuple[FileSystem, str]:
    """The filesystem and the path.

    fsspec takes `::` for a chain of protocols, as in `simplecache::s3://…`. But names in a listing
    may hold it too, so after one of these protocols it is a part of the name.
    """
    try:
        if protocol not in _UNCHAINED:
            fs, path = url_to_fs(url, **options)
            return fs, str(path)
        kind = fsspec.get_filesystem_class(protocol)
        path = kind._strip_protocol(url)
        return kind(**kind._get_kwargs_from_urls(url) | options), str(path)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        cure = f"pip install {package}" if package else str(error)
        raise InputError(
            f"{public_url(url)}: {protocol}:// needs a package that is missing: {cure}"
        ) from error
    except ValueError as error:
        if all(part in fsspec.available_protocols() for part in protocol.split("::")):
            raise
        raise InputError(
            f"{public_url(url)}: {protocol!r} is not a known protocol; use a path, s3://, hf://, "
            "gs://, az:// or https://"
        ) from error


def is_local(url: str) -> bool:
    """Whether a URL is a path on this machine."""
    return url.startswith(("/", "file://")) or "://" not in url


def is_local_disk(fs: FileSystem) -> bool:
    """Whether a filesystem is that of this machine."""
    return "file" in fs.protocol


def is_s3(fs: FileSystem) -> bool:
    """Whether a filesystem is one of s3fs."""
    return "s3" in fs.protocol


def find_files(fs: FileSystem, path: str, prefix: str) -> list[FileInfo]:
    """Every file below a folder whose name starts with `prefix`, sorted by URL."""
    if web_files.is_web(fs):
        return _sorted(fs, web_files.find(fs, path))
    narrowed = {"prefix": prefix} if prefix and is_s3(fs) else {}
    return _sorted(fs, fs.find(path, detail=True, **narrowed))


def glob_files(fs: FileSystem, pattern: str) -> Listing:
    """Every file that matches a pattern; links to nothing are passed over."""
    entries = _glob_web(fs, pattern) if web_files.is_web(fs) else fs.glob(pattern, detail=True)
    linked = [name for name, details in entries.items() if details.get("islink")]
    gone = {name for name in linked if not fs.exists(name)}
    kept = {name: entries[name] for name in entries.keys() - gone}
    return _sorted(fs, kept), [PassedOver(url_of(fs, name), DANGLING) for name in sorted(gone)]


def _glob_web(fs: FileSystem, pattern: str) -> dict[str, dict[str, Any]]:
    folder = re.split(r"[*\[]", pattern, maxsplit=1)[0].rpartition("/")[0] + "/"
    matches = re.compile(glob_translate(pattern)).match
    return {url: details for url, details in web_files.find(fs, folder).items() if matches(url)}


def _sorted(fs: FileSystem, found: Mapping[str, dict[str, Any]]) -> list[FileInfo]:
    """The results of a search, by URL; links are followed, folders omitted.

    s3fs also returns the folder itself if its first object is written during the listing.
    """
    followed = {name: fs.info(name) if d.get("islink") else d for name, d in found.items()}
    files = [info_of(fs, name, d) for name, d in followed.items() if d["type"] == "file"]
    return sorted(files, key=lambda file: file.url)


def file_info(fs: FileSystem, path: str) -> FileInfo:
    """What a listing would say of a file."""
    return info_of(fs, path, file_details(fs, path))


def file_details(fs: FileSystem, path: str) -> dict[str, Any]:
    """What the store says of a file; `size` is its bytes."""
    return web_files.details(fs, path) if web_files.is_web(fs) else dict(fs.info(path))


def answer_time(fs: FileSystem, path: str) -> datetime | None:
    """The `Date` of an answer of S3, also of a refusal; None for other stores."""
    if not is_s3(fs):
        return None
    try:
        answer = fs.call_s3("list_objects_v2", Bucket=path.partition("/")[0], MaxKeys=1)
    except OSError as error:
        date = http_header(error, "date")
        if not date:
            raise
    else:
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    return parsedate_to_datetime(date) if date else None


def info_of(fs: FileSystem, path: str, details: dict[str, Any]) -> FileInfo:
    """What a listing would say of a file, from what the store said of it."""
    stamps = ("ETag", "etag", "mtime", "LastModified", "created")
    stamp = next((details[name] for name in stamps if details.get(name)), "")
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    return FileInfo(url_of(fs, path), int(details["size"] or 0), str(stamp).strip('"'))


def url_of(fs: FileSystem, path: str) -> str:
    """The URL of a path, always valid UTF-8."""
    return escape_bytes(path) if is_local_disk(fs) else str(fs.unstrip_protocol(path))


def local_files(paths: Iterable[str]) -> dict[str, FileInfo]:
    """Those of these paths of this machine that lead to a file, by one look at each."""
    found = {path: links.file_at(_unescaped(path)) for path in paths}
    return {
        path: FileInfo(path, stat.st_size, _stamp(stat)) for path, stat in found.items() if stat
    }


def walk_files(path: str, roots: Sequence[str] | None) -> tuple[list[FoundFile], list[PassedOver]]:
    """Every file below a folder of this machine; links lead below one of `roots`, or anywhere."""
    found = links.walk(path, roots)
    files = [
        FoundFile(
            escape_bytes(each.path),
            # The plan of a pack holds this time, also if it is 0.
            FileInfo(escape_bytes(each.real), each.stat.st_size, str(each.stat.st_mtime)),
        )
        for each in found.files
    ]
    return files, _escaped(found.passed_over)


def linked_files(path: str) -> Listing:
    """Every file below a folder of this machine; links lead below it, and no folder comes twice."""
    found = links.walk(path, [path], once=True)
    files = [
        FileInfo(escape_bytes(each.path), each.stat.st_size, _stamp(each.stat))
        for each in found.files
    ]
    return files, _escaped(found.passed_over)


def _escaped(passed_over: Iterable[PassedOver]) -> list[PassedOver]:
    return [PassedOver(escape_bytes(one.url), one.reason) for one in passed_over]


def _stamp(found: os.stat_result) -> str:
    """The etag of a local file, as `info_of` makes it from what fsspec says."""
    return str(found.st_mtime or found.st_ctime)


def _unescaped(path: str) -> str:
    """The path of a file of this machine, as a listing gives it."""
    return unescape_bytes(path) if "\\x" in path and not os.path.lexists(path) else path
