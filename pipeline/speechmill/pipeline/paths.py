"""Which settings are paths, how they become absolute, and safe names of files for keys.

Workers run in other working directories than the command that was typed. So every path is made
absolute once, where a configuration is loaded.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

_PATH, _ENTRIES = "path", "path_entries"
_LONGEST = 240  # bytes of a name in its folder; with a suffix, most disks take 255
_DEEPEST = 720  # bytes of a name with its folders; object stores take 1024 with those above
_SHORT = 180  # bytes that are kept of a longer name
_ODD = re.compile(r"^\.{0,2}$|[\x00-\x1f\x7f\ud800-\udfff]")
PATH: Mapping[str, Any] = {_PATH: ()}  # metadata of a field: a path or URL, or a list of them


def path_or(*words: str) -> Mapping[str, Any]:
    """Metadata of a field that holds a path or URL, or one of these words."""
    return {_PATH: words}


def path_entries(names: Callable[[Any], Collection[str]]) -> Mapping[str, Any]:
    """Metadata of a dict field; `names` takes its section and returns the keys that hold paths."""
    return {_ENTRIES: names}


@dataclass(frozen=True, slots=True)
class PathSetting:
    """One path of a configuration, where it is kept and what it is called."""

    name: str  # with its sections, such as codec.checkpoint
    holder: dict[str, Any]
    key: str
    words: Collection[str]  # values that are not paths

    def absolute(self, value: Any) -> Any:
        """Return the value with every path in it absolute."""
        if isinstance(value, list):
            return [self.absolute(each) for each in value]
        if not isinstance(value, str) or value in self.words:
            return value
        return absolute_path(value)


def path_settings(section: Any, prefix: str = "") -> Iterator[PathSetting]:
    """Yield every path of a section and of the sections in it."""
    for field in fields(section):
        name, value = f"{prefix}{field.name}", getattr(section, field.name)
        if _PATH in field.metadata:
            yield PathSetting(name, vars(section), field.name, field.metadata[_PATH])
        elif value and _ENTRIES in field.metadata:
            for key in field.metadata[_ENTRIES](section):
                if key in value:
                    yield PathSetting(f"{name}.{key}", value, key, ())
        elif is_dataclass(value):
            yield from path_settings(value, f"{name}.")
        elif isinstance(value, dict):
            for label, each in value.items():
                if is_dataclass(each):
                    yield from path_settings(each, f"{name}.{label}.")


def make_absolute(section: Any) -> None:
    """Make every path of a section and of the sections in it absolute, in place."""
    for setting in path_settings(section):
        setting.holder[setting.key] = setting.absolute(setting.holder[setting.key])


def absolute_path(path: str) -> str:
    """Return a local path as every process of this machine finds it; a URL stays as it is.

    A slash at the end stays, and so do braces and wildcards. The spelling of a tar is part of its
    identity, so `..` stays too, and only the `./` at the start goes, as fsspec has it.
    """
    if "://" in path:
        return path
    path = "" if path == "." else path.removeprefix("./")
    home = os.path.expanduser(path)  # noqa: PTH111 - Path raises for a ~name without a user
    return os.path.join(Path.cwd(), home)  # noqa: PTH118 - Path drops the slash at the end


def safe_name(key: str) -> str:
    """A name of a file below a folder for the key of a stranger: nearly always the key itself.

    A key that points elsewhere (`../x`, `/x`), holds control characters or is too long loses that
    part, and gets 16 hex digits of its digest.
    """
    parts = key.split("/")
    if is_plain(key) and all(_fits(part, _LONGEST) for part in parts) and _fits(key, _DEEPEST):
        return key
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    *folders, last = (_shortened(_ODD.sub("_", part)) for part in parts)
    last = f"{last}-{digest}"
    name = "/".join([*folders, last])
    return name if _fits(name, _DEEPEST) else last


def is_plain(key: str) -> bool:
    """Whether a key is a path that only leads down, without control characters."""
    return not any(_ODD.search(part) for part in key.split("/"))


def safe_names(keys: Iterable[str], suffix: str) -> list[str]:
    """A safe name for each key, all of them distinct and none, with its suffix, another's folder.

    The first of several keys with one name has it; the others get `~2`, `~3`, ….
    """
    names = [safe_name(key) for key in keys]
    taken = {folder for name in names for folder in _folders(name)}
    uses: dict[str, int] = {}
    for place, name in enumerate(names):
        while f"{names[place]}{suffix}" in taken:
            uses[name] = uses.get(name, 1) + 1
            names[place] = f"{name}~{uses[name]}"
        taken.add(f"{names[place]}{suffix}")
    return names


def _folders(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _fits(text: str, limit: int) -> bool:
    return len(text.encode()) <= limit


def _shortened(part: str) -> str:
    return part if _fits(part, _SHORT) else part.encode()[:_SHORT].decode(errors="ignore")
