"""A dataset that earlier runs made: how to reach it, and the configuration that made it."""

from dataclasses import dataclass, field
from typing import Any

from jobs.config import TokenizeConfig, from_overrides, from_yaml
from pipeline.dataset import TokenDataset
from pipeline.errors import InputError
from pipeline.storage import Storage, join


@dataclass
class _StorageConfig:
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_dataset(root: str, overrides: list[str]) -> TokenDataset:
    """The dataset at a URL; `storage.…` among the overrides says how its store is reached."""
    mine = [override for override in overrides if override.startswith("storage.")]
    storage = Storage(from_overrides(_StorageConfig, mine).storage)
    return TokenDataset(storage.absolute(root), storage)


def last_config(dataset: TokenDataset, overrides: list[str]) -> TokenizeConfig:
    """The configuration of the newest run, with `key=value` over it."""
    files = dataset.storage.list_files(join(dataset.root, "runs"))
    configs = sorted(info.url for info in files if info.url.endswith("/config.yaml"))
    if not configs:
        raise InputError(f"no run of {dataset.root} left a runs/<run id>/config.yaml")
    text = dataset.storage.read_bytes(configs[-1]).decode()
    return from_yaml(TokenizeConfig, text, configs[-1], overrides)
