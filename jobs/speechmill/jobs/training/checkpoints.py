"""Checkpoints of a training run: all that the next step depends on, in one file that is whole.

    OUTPUT/checkpoints/step-00001000.pt

A file appears by one atomic PUT (temp, fsync and rename on a disk), so a run that was killed finds
the last one whole. Nothing else is kept between runs: what exists is the truth.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import torch

from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.paths import path_settings
from speechmill.pipeline.storage import Storage, join

_NAME = re.compile(r"step-(\d+)\.pt")
VERSION = 1

# Settings that change where, when and how long a run computes, not what.
FREE = (
    "output",
    "ray",
    "storage",
    "workers",
    "checkpoint",
    "validation",
    "log",
    "device",
    "threads",
    "frames",
    "data.prefetch",
    "data.threads",
    "optimizer.max_skipped",
)


class Checkpoints:
    """The checkpoints of one run directory; keeps the newest `keep` of them."""

    def __init__(self, root: str, storage: Storage, keep: int):
        self.folder = join(root, "checkpoints")
        self.storage = storage
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete what is too many.

        Raises a `StorageError` where it cannot be written; those before are still there then.
        """
        buffer = io.BytesIO()
        torch.save({"version": VERSION, "step": step, **state}, buffer)
        self.storage.put(join(self.folder, f"step-{step:08d}.pt"), buffer.getvalue())
        for old in self.steps()[: -self.keep or None]:
            self.storage.delete(self._url(old))

    def latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, on the CPU, or None where there is none."""
        steps = self.steps()
        if not steps:
            return None
        data = self.storage.read_bytes(self._url(steps[-1]))
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state.get("version") != VERSION:
            raise DatasetConflict(
                f"{self._url(steps[-1])} is of checkpoint version {state.get('version')}, this is "
                f"version {VERSION}; finish the run with the version that began it"
            )
        return dict(state)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending."""
        try:
            files = self.storage.list_files(self.folder)
        except StorageNotFound:
            return []
        matches = (_NAME.fullmatch(info.url.rpartition("/")[2]) for info in files)
        return sorted(int(match[1]) for match in matches if match)

    def _url(self, step: int) -> str:
        return join(self.folder, f"step-{step:08d}.pt")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one before, flat: {"a.b": value}."""
    return _without_free(_flatten(config))


def saved_identity(state: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the identity in a checkpoint, with the paths that early versions kept as typed."""
    saved = _without_free(state["identity"])
    for setting in path_settings(config):
        if setting.name in saved:
            saved[setting.name] = setting.absolute(saved[setting.name])
    return saved


def refuse_difference(saved: Mapping[str, Any], current: Mapping[str, Any], url: str) -> None:
    """Raise `InputError` naming every setting in which a checkpoint differs."""
    keys = sorted(set(saved) | set(current))
    differences = [
        f"{key} was {saved.get(key)!r} and is {current.get(key)!r}"
        for key in keys
        if saved.get(key) != current.get(key)
    ]
    if differences:
        raise InputError(
            f"{url} holds a run of another configuration: {'; '.join(differences)}. Give another "
            "output, or begin there from these weights with codec.checkpoint=…"
        )


def _without_free(settings: Mapping[str, Any]) -> dict[str, Any]:
    online = settings.get("enhancement") == "online"
    free = FREE if online else (*FREE, "enhancer")
    return {k: v for k, v in settings.items() if not any(_is_below(k, name) for name in free)}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")
