"""Which settings are paths, and how they become absolute.

Workers run in other working directories than the command that was typed. So every path is made
absolute once, where a configuration is loaded.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

_PATH, _ENTRIES = "path", "path_entries"
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
