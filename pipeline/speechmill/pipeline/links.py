"""The files below a folder of this machine, with its links followed as far as they may lead."""

import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file or folder that was left out, and why."""

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was found, and the path of it without links."""

    path: str
    real: str
    stat: os.stat_result


@dataclass(slots=True)
class Walk:
    """Every file below a folder, by path.

    A link is followed if it leads below one of `roots`, or anywhere if they are None. Each is
    followed once, and none to a folder that it lies in: the walk ends, whatever the links are.
    With `once`, no folder is read a second time by another path; a path without links comes first.
    """

    files: list[LocalFile] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


HIDDEN = "hidden"
DANGLING = "a link to nothing"
ROUND = "a link to a folder that is read already"
OUTSIDE = "a link that leads out of the folder"
SPECIAL = "neither a file nor a folder"
UNREADABLE = "a folder that cannot be read"

_Folder = tuple[str, str, frozenset[str]]  # path, real path, real paths of the folders above


def walk(root: str, roots: Sequence[str] | None, *, once: bool = False) -> Walk:
    """Read a folder and all folders below it; what does not exist is empty."""
    real = None if roots is None else [os.path.realpath(each) for each in roots]
    return _Walker(real, once).walk(root)


def file_at(path: str) -> os.stat_result | None:
    """Size and times of a file, also at the end of a link; None if there is no file."""
    found = _stat(Path(path))
    return found if found and stat.S_ISREG(found.st_mode) else None


class _Walker:
    def __init__(self, roots: list[str] | None, once: bool):
        self.roots = roots
        self.once = once
        self.found = Walk()
        self.folders: list[_Folder] = []
        self.links: deque[_Folder] = deque()  # path, real path of the link itself, folders above
        self.followed: set[str] = set()
        self.known: set[str] = set()  # real paths of the folders that were read

    def walk(self, root: str) -> Walk:
        root = root.rstrip("/") or "/"
        real = os.path.realpath(root)
        if not self._allowed(real):
            self._pass_over(root, OUTSIDE)
        elif (found := _stat(Path(real))) and not stat.S_ISDIR(found.st_mode):
            self._add(root, real, found)
        else:
            self.folders.append((root, real, frozenset()))
        while self.folders or self.links:
            if self.folders:
                self._read(*self.folders.pop())
            else:
                self._follow(*self.links.popleft())
        self.found.files.sort(key=lambda file: file.path)
        self.found.passed_over.sort(key=lambda one: one.url)
        return self.found

    def _read(self, folder: str, real: str, above: frozenset[str]) -> None:
        if self.once and real in self.known:
            self._pass_over(folder, ROUND)
            return
        self.known.add(real)
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError:
            self._pass_over(folder, UNREADABLE)
            return
        for entry in entries:
            target = f"{real.rstrip('/')}/{entry.name}"
            if entry.name.startswith("."):
                self._pass_over(entry.path, HIDDEN)
            elif entry.is_symlink():
                self.links.append((entry.path, target, above | {real}))
            elif entry.is_dir():
                self.folders.append((entry.path, target, above | {real}))
            else:
                self._add(entry.path, target, _stat(entry))

    def _follow(self, path: str, link: str, above: frozenset[str]) -> None:
        real = os.path.realpath(link)
        if not self._allowed(real):
            self._pass_over(path, OUTSIDE)
        elif not (found := _stat(Path(real))):
            self._pass_over(path, DANGLING)
        elif not stat.S_ISDIR(found.st_mode):
            self._add(path, real, found)
        elif real in above or link in self.followed:
            self._pass_over(path, ROUND)
        else:
            self.followed.add(link)
            self.folders.append((path, real, above))

    def _add(self, path: str, real: str, found: os.stat_result | None) -> None:
        if found and stat.S_ISREG(found.st_mode):
            self.found.files.append(LocalFile(path, real, found))
        else:
            self._pass_over(path, SPECIAL)

    def _allowed(self, real: str) -> bool:
        roots = self.roots
        return roots is None or any(
            real == root or real.startswith(root.rstrip("/") + "/") for root in roots
        )

    def _pass_over(self, url: str, reason: str) -> None:
        self.found.passed_over.append(PassedOver(url, reason))


def _stat(path: Path | os.DirEntry[str]) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # gone, not permitted, or a link that names no path
        return None
