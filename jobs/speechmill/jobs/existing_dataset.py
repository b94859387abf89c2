"""A dataset of earlier runs: how to reach it, its runs, and the configuration that made it."""

from dataclasses import dataclass, field
from typing import Any

from speechmill.codecs import Codec, load_codec
from speechmill.jobs.config import check_overrides, from_overrides, from_yaml
from speechmill.jobs.schemas import TokenizeConfig, default_device
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.run.run_log import read_summary, run_folder
from speechmill.pipeline.storage import Storage, join

UNFINISHED = "did not end: killed, or still running"  # status of a run without a summary


@dataclass
class StorageConfig:
    """How the store of a dataset is reached."""

    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation


def open_dataset(root: str, overrides: list[str]) -> TokenDataset:
    """Return the dataset at a URL; of the overrides, those of the store are used.

    Raises `InputError` for an override that is not a key of `tokenize`.
    """
    check_overrides(TokenizeConfig, overrides)
    mine = [override for override in overrides if override.startswith("storage")]
    settings = from_overrides(StorageConfig, mine)
    storage = Storage(settings.storage, settings.storage_patience)
    return TokenDataset(storage.absolute(root), storage)


def check_codebooks(wanted: int | None, available: int, owner: str) -> int:
    """Return how many codebooks to use, all by default; raises `InputError` for more."""
    if wanted is not None and not 1 <= wanted <= available:
        raise InputError(f"codebooks is {wanted}; {owner} has 1 to {available}")
    return wanted or available


def run_ids(root: str, storage: Storage) -> list[str]:
    """Return the runs that have a folder in a dataset, oldest first."""
    files = storage.list_files(join(root, "runs"))
    return sorted(info.url.split("/")[-2] for info in files if info.url.endswith("/config.yaml"))


def last_summary(dataset: TokenDataset) -> dict[str, Any] | None:
    """Return the summary of the newest run, or None if it did not end or there was no run."""
    runs = run_ids(dataset.root, dataset.storage)
    return read_summary(run_folder(dataset.root, runs[-1]), dataset.storage) if runs else None


def last_config(dataset: TokenDataset, overrides: list[str]) -> TokenizeConfig:
    """Return the configuration of the newest run, changed by the overrides."""
    runs = run_ids(dataset.root, dataset.storage)
    if not runs:
        dataset.require_identity()  # an output that is not a dataset has its own message
        raise InputError(f"no run of {dataset.root} left a runs/<run id>/config.yaml")
    url = join(run_folder(dataset.root, runs[-1]), "config.yaml")
    return from_yaml(TokenizeConfig, dataset.storage.read_bytes(url).decode(), url, overrides)


def load_dataset_codec(dataset: TokenDataset, config: TokenizeConfig) -> tuple[Codec, str]:
    """Return the codec that made a dataset and its device, by default a GPU if there is one.

    Raises `DatasetConflict` if the codec that `config` names is another revision.
    """
    identity = dataset.require_identity()
    device = config.codec.device or default_device()
    codec = load_codec(**config.codec_options() | {"device": device})
    if codec.info.revision != identity["revision"]:
        raise DatasetConflict(
            f"{dataset.root} holds tokens of revision {identity['revision']}, {codec.info.title} "
            f"loads as {codec.info.revision}; set codec.checkpoint to the one that made them"
        )
    return codec, device
