"""What a reader is made with, checked."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from speechmill.pipeline.dataset.documents import Encoder
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.schema import token_schema

Weighted = list[tuple[str | TokenDataset, float]]
Datasets = str | TokenDataset | Sequence[tuple[str | TokenDataset, float]]

_COLUMNS = [name for name in token_schema((2,), version=2).names if name != "codes"]


def pairs_of(datasets: Datasets) -> Weighted:
    """The datasets with their weights; one alone has the weight 1."""
    if isinstance(datasets, str | TokenDataset):
        return [(datasets, 1.0)]
    if not datasets:
        raise InputError("the list of datasets is empty; name at least one")
    for pair in datasets:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"{pair!r} has no weight; give pairs such as ('out/tokens', 0.5)")
    return [*datasets]


def require_settings(
    weighted: Weighted,
    encoder: Encoder | None,
    sequence_length: int | None,
    seed: int,
    shuffle_rows: int | None,
) -> None:
    """Refuse settings that are impossible for every dataset."""
    if wrong := [(url, weight) for url, weight in weighted if not 0 < weight < float("inf")]:
        raise InputError(f"the weight of {wrong[0][0]} is {wrong[0][1]}; give a number over 0")
    if (encoder is None) != (sequence_length is None):
        given, missing = (
            ("sequence_length", "encoder") if encoder is None else ("encoder", "sequence_length")
        )
        raise InputError(f"{given} is set without {missing}; packing needs both")
    if sequence_length is not None and sequence_length < 1:
        raise InputError(f"sequence_length is {sequence_length}; give a number from 1 up")
    if seed < 0:
        raise InputError(f"seed is {seed}; give a number from 0 up")
    if shuffle_rows is not None and shuffle_rows < 1:
        raise InputError(f"shuffle_rows is {shuffle_rows}; give a number from 1 up, or None")


def known_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns beside the codes, which always come."""
    wanted = [name for name in columns if name != "codes"]
    for name in wanted:
        if name not in _COLUMNS:
            near = get_close_matches(name, _COLUMNS, n=1, cutoff=0.0)
            raise InputError(f"a row has no column {name!r}; did you mean {near[0]!r}?")
    return tuple(wanted)


def opened(dataset: str | TokenDataset, storage: Storage) -> TokenDataset:
    """The dataset at a URL, or one that is there already."""
    if isinstance(dataset, TokenDataset):
        return dataset
    return TokenDataset(storage.absolute(dataset), storage)


def description_of(encoder: Encoder | None) -> Any:
    """What an encoder does, or the name of its class if it does not say it."""
    if encoder is None:
        return None
    describe = getattr(encoder, "description", None)
    return describe() if describe else type(encoder).__qualname__
