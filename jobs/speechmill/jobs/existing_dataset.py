"""A dataset of earlier runs: how to reach it, its runs, and the settings that made it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from speechmill.codecs import Codec, CodecInfo, load_codec
from speechmill.codecs.errors import InvalidConfig, UnknownCodec
from speechmill.codecs.registry import UNTRAINED, plain_options
from speechmill.jobs.config import check_overrides, from_overrides, from_values
from speechmill.jobs.schemas import TokenizeConfig, default_device
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.run.run_log import read_summary, run_folder, run_ids
from speechmill.pipeline.storage import Storage, join

_CONFIG_BYTES = 2**22
_HUGE = 1e15  # no limit or option is as large
_SHOWN = 200  # characters of a path that an error shows
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


def last_summary(dataset: TokenDataset, runs: Sequence[str]) -> dict[str, Any] | None:
    """Return the summary of the newest of the runs, or None if it did not end or there is none."""
    return read_summary(run_folder(dataset.root, runs[-1]), dataset.storage) if runs else None


def dataset_config(dataset: TokenDataset, overrides: list[str]) -> TokenizeConfig:
    """Return the settings that made a dataset, changed by the overrides.

    A dataset is data: what it says can name no file, URL, function or variable of the environment.
    `dataset.json` gives the codec's name, its precision and how the audio was read. The newest run
    gives limits and options of the codec, and of them only numbers. Weights and a quality function
    come from the overrides, or are those that the codec is published with.
    """
    identity, recorded = dataset.require_identity(), recorded_config(dataset)
    audio = ("channels", "resampler", "gaps", "member")
    segment = identity.get("segment", "none")
    values = {
        "shards": [],
        "output": "",
        "codec": _codec_section(identity, _numbers(_section(recorded, "codec", "options"))),
        "audio": {name: identity[name] for name in audio if name in identity},
        "segment": {} if segment == "none" else segment,
        "limits": _numbers(_section(recorded, "limits")),
        "filters": {"max_peak": None, "min_mix": 0.0},  # every row has passed those of its run
    }
    with readable(dataset.root):
        return from_values(TokenizeConfig, values, overrides)


def _codec_section(identity: dict[str, Any], options: dict[str, int | float]) -> dict[str, Any]:
    """Return the codec that a dataset names; of the options, those that are its own and no path."""
    name = identity.get("codec")
    known = plain_options(name) if isinstance(name, str) else frozenset()
    return {
        "name": name,
        "checkpoint": None if identity.get("trained", True) else UNTRAINED,
        "precision": identity.get("precision", "fp32"),
        "compile": identity.get("compile", False),
        "options": {option: value for option, value in options.items() if option in known},
    }


def recorded_config(dataset: TokenDataset) -> dict[str, Any]:
    """Return the configuration of the newest run as plain data; empty if it cannot be read."""
    runs = run_ids(dataset.root, dataset.storage)
    if not runs:
        return {}
    url = join(run_folder(dataset.root, runs[-1]), "config.yaml")
    try:
        text = dataset.storage.read_small(url, _CONFIG_BYTES).decode()
        events = yaml.parse(text, yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            return {}  # a few aliases of aliases fill any memory, and no run writes one
        found = yaml.safe_load(text)
    except (InputError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _section(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a section, or an empty one in place of anything else."""
    found: Any = config
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _numbers(section: dict[str, Any]) -> dict[str, int | float]:
    """Return those of the values that are finite numbers."""
    named = {name: value for name, value in section.items() if isinstance(name, str)}
    numbers = {name: value for name, value in named.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if abs(value) < _HUGE}


def load_dataset_codec(dataset: TokenDataset, config: TokenizeConfig) -> tuple[Codec, str]:
    """Return the codec that made a dataset and its device, by default a GPU if there is one.

    Raises `DatasetConflict` if the codec that `config` names is another revision.
    """
    device = config.codec.device or default_device()
    try:
        info = config.codec.info()  # before a network is built
    except (InvalidConfig, UnknownCodec) as error:
        raise DatasetConflict(f"{dataset.root}: {error}{_made_with(dataset)}") from error
    _refuse_other_revision(dataset, info)
    codec = load_codec(**config.codec_options() | {"device": device})
    _refuse_other_revision(dataset, codec.info)
    return codec, device


def _refuse_other_revision(dataset: TokenDataset, codec: CodecInfo) -> None:
    wanted = dataset.require_identity().get("revision")
    if codec.revision != wanted:
        raise DatasetConflict(
            f"{dataset.root} holds tokens of revision {wanted}, {codec.title} loads as "
            f"{codec.revision}; set codec.checkpoint to the one that made "
            f"them{_made_with(dataset)}"
        )


def _made_with(dataset: TokenDataset) -> str:
    """Return the end of an error: the files that the newest run names, for the user to judge."""
    codec = _section(recorded_config(dataset), "codec")
    files = {name: codec.get(name) for name in ("checkpoint", "config")}
    used = [
        f"codec.{name}={path[:_SHOWN]!r}" for name, path in files.items() if isinstance(path, str)
    ]
    return f"; the run that made them had {' '.join(used)}" if used else ""
