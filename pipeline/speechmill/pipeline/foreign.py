"""URLs that data names: lines of an index, rows of a manifest, footers of a published dataset.

Whoever types a URL may type any that fsspec opens. What a stranger wrote may choose neither the
protocol nor the host, and points only below the folders that the command line names.
"""

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.storage import Storage

PROTOCOLS = ("file", "s3", "hf", "gs", "az")
_CONFIGURED = ("http", "https")
# A bucket or container; with a dot or an `@`, adlfs takes it for the account to log in to.
_BUCKET = re.compile(r"[\w.-]+")
_CONTAINER = re.compile(r"[\w$-]+")


def check_foreign(url: str, origin: str, storage: Storage) -> None:
    """Raise `InputError` for a URL that data may not name; `origin` is its file and line."""
    if fault := _fault(url, storage):
        raise InputError(f"{origin}: {url!r} {fault}")


def _fault(url: str, storage: Storage) -> str | None:
    if "\0" in url:
        return "holds a NUL byte"
    if "::" in url:
        return "chains protocols by `::`; only a URL of the command line may"
    protocol, separator, rest = url.partition("://")
    if not separator or protocol == "file":
        path = rest if separator else url
        return None if path.startswith("/") else "is not an absolute path"
    if protocol in _CONFIGURED and protocol not in storage.options:
        return f"is of {protocol}, which data may use only if storage.{protocol} is set"
    if protocol not in (*PROTOCOLS, *_CONFIGURED):
        allowed = ", ".join(PROTOCOLS)
        return f"is of {protocol!r}; data may use {allowed}. Name it on the command line instead"
    if not _is_plain(protocol, rest.partition("/")[0]):
        return "chooses a host or an account; only a URL of the command line may"
    return None


def _is_plain(protocol: str, authority: str) -> bool:
    """Whether the part before the path is a name, of an account that the configuration chose."""
    if protocol in _CONFIGURED:
        return "@" not in authority
    return bool((_CONTAINER if protocol == "az" else _BUCKET).fullmatch(authority))


def without_file(url: str) -> str:
    """A local path without `file://`; other URLs as they are."""
    return url.removeprefix("file://")


@dataclass(frozen=True, slots=True)
class Roots:
    """Folders, or single files, that the command line names."""

    urls: tuple[str, ...]  # as typed, and as a listing spells them

    @classmethod
    def of(cls, urls: Iterable[str], storage: Storage) -> "Roots":
        both = [spelling for url in urls for spelling in (storage.absolute(url), url)]
        return cls(tuple(dict.fromkeys(both)))

    def hold(self, url: str) -> bool:
        """Whether a URL is that of a root or lies below one; `..` leads nowhere else."""
        if "::" in url or "\0" in url:
            return False
        return any(_is_below(without_file(url), root) for root in self.urls)


def _is_below(url: str, root: str) -> bool:
    if is_local(url) != is_local(root):
        return False
    if is_local(url):
        if ".." in url.split("/"):  # of a path without it, links are those of the user's disk
            url, root = os.path.realpath(url), os.path.realpath(root)
        url, root = posixpath.normpath(url), posixpath.normpath(root)
    elif ".." in unquote(url).split("/"):
        return False
    return url == root or url.startswith(root.rstrip("/") + "/")
