"""A dataset that earlier runs made: how to reach it, and the configuration that made it."""

from dataclasses import dataclass, field
from typing import Any

from speechmill.codecs import Codec, load_codec
from speechmill.jobs.config import from_overrides, from_yaml
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.run.run_log import run_folder
from speechmill.pipeline.storage import Storage, join


@dataclass
class _StorageConfig:
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_dataset(root: str, overrides: list[str]) -> TokenDataset:
    """The dataset at a URL; `storage.…` among the overrides says how its store is reached."""
    mine = [override for override in overrides if override.startswith("storage.")]
    storage = Storage(from_overrides(_StorageConfig, mine).storage)
    return TokenDataset(storage.absolute(root), storage)


def run_ids(root: str, storage: Storage) -> list[str]:
    """The runs that left a folder below a dataset, oldest first."""
    files = storage.list_files(join(root, "runs"))
    return sorted(info.url.split("/")[-2] for info in files if info.url.endswith("/config.yaml"))


def last_config(dataset: TokenDataset, overrides: list[str]) -> TokenizeConfig:
    """The configuration of the newest run, with `key=value` over it."""
    runs = run_ids(dataset.root, dataset.storage)
    if not runs:
        raise InputError(f"no run of {dataset.root} left a runs/<run id>/config.yaml")
    url = join(run_folder(dataset.root, runs[-1]), "config.yaml")
    return from_yaml(TokenizeConfig, dataset.storage.read_bytes(url).decode(), url, overrides)


def load_the_codec(dataset: TokenDataset, overrides: list[str]) -> tuple[Codec, str]:
    """The codec that made a dataset, and the device it is on: a GPU, where there is one.

    Raises `DatasetConflict` where it comes out as another revision.
    """
    import torch

    identity = dataset.require_identity()
    config = last_config(dataset, overrides)
    device = config.codec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    codec = load_codec(**config.codec_options() | {"device": device})
    if codec.info.revision != identity["revision"]:
        raise DatasetConflict(
            f"{dataset.root} holds tokens of revision {identity['revision']}, {codec.info.title} "
            f"loads as {codec.info.revision}; set codec.checkpoint to the one that made them"
        )
    return codec, device
