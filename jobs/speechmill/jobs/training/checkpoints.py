"""Checkpoints of a run: everything that the next step depends on, in one file.

    OUTPUT/checkpoints/step-00001000.pt

A file appears by one atomic PUT (temp, fsync and rename on a disk), so a run that was killed finds
its last checkpoint whole. Nothing else is kept between runs.
"""

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.paths import path_settings
from speechmill.pipeline.redaction import public_settings
from speechmill.pipeline.storage import Storage, join

_NAME = re.compile(r"step-(\d+)\.pt")
VERSION = 1

# Settings that change where, when and how long a run computes, but not its result. The identity
# holds the revision of the enhancer instead of its settings.
NOT_IN_IDENTITY = (
    "output",
    "ray",
    "storage",
    "storage_patience",
    "workers",
    "checkpoint",
    "validation",
    "log",
    "device",
    "threads",
    "frames",
    "limits.expansion",
    "limits.metadata_mb",
    "data.prefetch",
    "data.threads",
    "optimizer.max_skipped",
    "on_collapse",
    "enhancer",
)
ENHANCER_REVISION = "enhancer_revision"
# Settings that early checkpoints do not have, with the values that they had.
_ADDED_SINCE = {"audio.gaps": "reject", "discriminators.lr_factor": 1.0}


class Checkpoints:
    """The checkpoints of one run directory; keeps the newest `keep` of them."""

    def __init__(self, root: str, storage: Storage, keep: int):
        self.folder = join(root, "checkpoints")
        self.storage = storage
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete the oldest ones.

        Raises a `StorageError` if it cannot be written; the earlier checkpoints are still there.
        """
        buffer = io.BytesIO()
        torch.save({"version": VERSION, "step": step, **state}, buffer)
        self.storage.put(self._url(step), buffer.getvalue())
        for old in self.steps()[: -self.keep or None]:
            self.storage.delete(self._url(old))

    def latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, on the CPU, or None if there is none."""
        steps = self.steps()
        if not steps:
            return None
        data = self.storage.read_bytes(self._url(steps[-1]))
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state.get("version") != VERSION:
            raise DatasetConflict(
                f"{self._url(steps[-1])} has checkpoint version {state.get('version')}, but this "
                f"program reads version {VERSION}; finish the run with the version that started it"
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


def put_weights(
    url: str, weights: Mapping[str, Tensor], facts: Mapping[str, Any], storage: Storage
) -> None:
    """Write weights as safetensors, with facts about them in the header."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    # One key: the library writes several in no fixed order.
    storage.put(url, save(tensors, {"speechmill": json.dumps(facts)}))


def run_identity(settings: Mapping[str, Any], enhancer_revision: str | None) -> dict[str, Any]:
    """Return the settings that a resumed run must share with its checkpoint: {"a.b": value}."""
    revision = {} if enhancer_revision is None else {ENHANCER_REVISION: enhancer_revision}
    return _identity_settings(_flatten(public_settings(settings))) | revision


def saved_identity(checkpoint: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the identity in a checkpoint, with the relative paths of early versions absolute.

    Those versions also kept logins and signatures of URLs, which do not change a result.
    """
    saved = {
        key: public_settings(value, key.rpartition(".")[2])
        for key, value in _identity_settings(checkpoint["identity"]).items()
    }
    for setting in path_settings(config):
        if setting.name in saved:
            saved[setting.name] = setting.absolute(saved[setting.name])
    return saved


def refuse_difference(saved: Mapping[str, Any], current: Mapping[str, Any], url: str) -> None:
    """Raise `InputError` that names every difference between a checkpoint and this run."""
    saved = {key: value for key, value in _ADDED_SINCE.items() if key in current} | dict(saved)
    keys = sorted(set(saved) | set(current))
    differences = [
        f"{key} was {saved.get(key)!r} and is {current.get(key)!r}"
        for key in keys
        if saved.get(key) != current.get(key)
    ]
    if differences:
        raise InputError(
            f"{url} holds a run of another configuration: {'; '.join(differences)}. Give another "
            "output, or start there from these weights with codec.checkpoint=…"
        )


def _identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_IN_IDENTITY)
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
