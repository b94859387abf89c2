"""Sources of shards, expanded: lists in `.txt` files and ranges in braces.

A list is data. Its lines name what lies below its own folder. Elsewhere a list on this machine may
name files of this machine and objects of the stores that `foreign.PROTOCOLS` has; a list in a store
may name objects of that store, and nothing of this machine.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from braceexpand import braceexpand

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.foreign import Roots, check_foreign, without_file
from speechmill.pipeline.paths import absolute_path
from speechmill.pipeline.shards.sources import clean_url
from speechmill.pipeline.storage import Storage, join

MAX_NAMES = 1_000_000  # that one source or line may stand for
MAX_TOTAL = 10_000_000  # that the lines of all lists may stand for
MAX_LISTS = 1000  # that one run may read, with the lists that lists name
MAX_DEPTH = 20
MAX_LIST_BYTES = 2**28
_MANY = 2 * MAX_NAMES  # beyond it, nothing is counted
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")


def expand_sources(sources: Iterable[str], storage: Storage) -> Iterator[str]:
    """Yield every tar, glob and folder that the sources name.

    Raises `InputError`, with the list and the line, for one that a list may not name, and for a
    list that names itself.
    """
    lists = _Lists(storage)
    for source in sources:
        for name in expand_braces(source, "shards"):
            yield from lists.read(absolute_path(name), ()) if name.endswith(".txt") else [name]


def expand_braces(source: str, where: str) -> list[str]:
    """The names that a source with ranges in braces stands for; a path that exists is one name."""
    if "\0" in source:
        raise InputError(f"{where}: {source!r} holds a NUL byte")
    if exists(source):
        return [source]
    try:
        if _num_names(source) > MAX_NAMES:
            raise InputError(
                f"{where}: {source[:200]!r} stands for over {MAX_NAMES:,} names; give their folder"
            )
        return list(braceexpand(source))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot expand the braces of {source[:200]!r}") from error


def exists(path: str) -> bool:
    """Whether a path is one of this machine; a URL never is."""
    return os.path.exists(path)  # noqa: PTH110 - Path raises for a list in braces of over 255 bytes


class _Lists:
    """Reads lists and the lists that they name."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.num_read = self.num_names = 0

    def read(self, url: str, above: tuple[str, ...]) -> Iterator[str]:
        spelled = clean_url(url)
        if spelled in above:
            raise InputError(f"{url} names itself: {' -> '.join((*above, spelled))}")
        if len(above) == MAX_DEPTH:
            raise InputError(f"lists name lists, {MAX_DEPTH} deep, at last {url}; flatten them")
        self.num_read += 1
        if self.num_read > MAX_LISTS:
            raise InputError(
                f"over {MAX_LISTS} lists are read, at last {url}; does one name itself?"
            )
        for number, line in enumerate(self._lines(url), start=1):
            entry, origin = line.strip(), f"{url}, line {number}"
            if entry and not entry.startswith("#"):
                for name in self._names(entry, url, origin):
                    yield from (
                        self.read(name, (*above, spelled)) if name.endswith(".txt") else [name]
                    )

    def _lines(self, url: str) -> list[str]:
        try:
            return self.storage.read_small(url, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{url} is not UTF-8 ({error}); is it a list of shards?") from error

    def _names(self, entry: str, url: str, origin: str) -> Iterator[str]:
        """What a line stands for, each as a path or URL that the list may name."""
        folder = posixpath.dirname(url)
        whole = _relative_to(folder, entry)
        entries = [entry] if exists(whole) else expand_braces(entry, origin)
        for each in entries:
            name = without_file(_relative_to(folder, each))
            self._check(name, url, origin)
            self.num_names += 1
            if self.num_names > MAX_TOTAL:
                raise InputError(
                    f"{origin}: the lists name over {MAX_TOTAL:,} shards; give folders"
                )
            yield name

    def _check(self, name: str, url: str, origin: str) -> None:
        folder = posixpath.dirname(url)
        if Roots((folder,)).hold(name) and ".." not in name.split("/"):
            return
        check_foreign(name, origin, self.storage)
        if is_local(url):
            return
        if is_local(name) or name.partition("://")[0] != url.partition("://")[0]:
            raise InputError(
                f"{origin}: a list in a store may name objects of that store only, not {name!r}; "
                "copy the list to this machine and name the copy"
            )


def _relative_to(folder: str, entry: str) -> str:
    return entry if "://" in entry or entry.startswith("/") or not folder else join(folder, entry)


def _num_names(pattern: str) -> int:
    """How many names a pattern stands for, or a few more."""
    alternatives = [[1, 0]]  # of each open brace: names of the current one, and of those before
    for token in re.split(r"(\\.|[{},])", pattern):
        if token == "{":
            alternatives.append([1, 0])
        elif token == "," and len(alternatives) > 1:
            current, before = alternatives[-1]
            alternatives[-1] = [1, min(before + current, _MANY)]
        elif token == "}" and len(alternatives) > 1:
            names = sum(alternatives.pop())
            alternatives[-1][0] = min(alternatives[-1][0] * names, _MANY)
        elif len(alternatives) > 1:
            alternatives[-1][0] *= _num_in_range(token)
    return max(chain.from_iterable(alternatives))


def _num_in_range(text: str) -> int:
    if found := _RANGE.fullmatch(text):
        first, last, step = (int(number or 1) for number in found.groups())
        return abs(last - first) // max(step, 1) + 1
    return 52 if _LETTERS.fullmatch(text) else 1
