"""What a reader is made with, checked."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from numbers import Real
from os import PathLike, fspath
from typing import Any

from speechmill.pipeline.dataset.documents import Encoder
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.pattern import is_int
from speechmill.pipeline.dataset.reader.source import Source
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.schema import token_schema

Named = str | PathLike[str] | TokenDataset
Weighted = list[tuple[Named, float]]
Datasets = Named | Sequence[tuple[Named, float]]

_LARGEST = 2**63 - 1
_COLUMNS = [name for name in token_schema((2,), version=2).names if name != "codes"]


def pairs_of(datasets: Datasets) -> Weighted:
    """The datasets with their weights; one alone has the weight 1."""
    if isinstance(datasets, str | PathLike | TokenDataset):
        return [(datasets, 1.0)]
    if not isinstance(datasets, Sequence):
        raise InputError(f"datasets is {datasets!r}; give a path, or a list of paths with weights")
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
    parts: Collection[str] | None,
) -> None:
    """Refuse settings that are impossible for every dataset."""
    for named, weight in weighted:
        if not isinstance(named, str | PathLike | TokenDataset):
            raise InputError(f"{named!r} is not a dataset; give its path")
        if not isinstance(weight, Real) or not 0 < weight < float("inf"):
            url = named.root if isinstance(named, TokenDataset) else named
            raise InputError(f"the weight of {url} is {weight!r}; give a number over 0")
    if isinstance(parts, str) or not isinstance(parts, Iterable | None):
        raise InputError(f"parts is {parts!r}; give a list of names")
    if encoder is not None and not (hasattr(encoder, "encode") and hasattr(encoder, "columns")):
        raise InputError(
            f"encoder is {encoder!r}; give PatternEncoder(pattern), or a template of make_template"
        )
    if (encoder is None) != (sequence_length is None):
        given, missing = (
            ("sequence_length", "encoder") if encoder is None else ("encoder", "sequence_length")
        )
        raise InputError(f"{given} is set without {missing}; packing needs both")


def require_number(name: str, value: Any, least: int, *, or_none: bool = False) -> None:
    """Raise `InputError` unless a setting is a whole number from `least` up."""
    if not (or_none and value is None) and not is_int(value, least, _LARGEST):
        cure = f"give a whole number from {least} up"
        raise InputError(f"{name} is {value!r}; {cure}{', or None' if or_none else ''}")


def require_parts(parts: Collection[str] | None, sources: Sequence[Source]) -> None:
    """Raise `InputError` for a name of a part that no dataset has."""
    missing = set(parts or ()).difference(*(source.groups.parts for source in sources))
    if missing:  # a part without rows has no row groups
        missing = missing.difference(*(source.dataset.parts() for source in sources))
    if missing:
        raise InputError(f"parts names {min(missing)!r}, which no dataset has; leave it out")


def require_one_codec(sources: Sequence[Source]) -> None:
    """Raise `DatasetConflict` if the codes of two datasets mean different sounds."""
    first = sources[0]
    for source in sources:
        if (source.codec, source.revision) != (first.codec, first.revision):
            raise DatasetConflict(
                f"{source.dataset.root} holds codes of {source.codec} {source.revision}, "
                f"{first.dataset.root} of {first.codec} {first.revision}, and no model can tell "
                "them apart; name datasets of one codec"
            )


def known_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns beside the codes, which always come."""
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InputError(f"columns is {columns!r}; give a list of names, or ()")
    wanted = [name for name in columns if name != "codes"]
    for name in wanted:
        if name not in _COLUMNS:
            near = get_close_matches(str(name), _COLUMNS, n=1, cutoff=0.0)
            raise InputError(f"a row has no column {name!r}; did you mean {near[0]!r}?")
    return tuple(wanted)


def opened(dataset: Named, storage: Storage) -> TokenDataset:
    """The dataset at a URL, or one that is there already."""
    if isinstance(dataset, TokenDataset):
        return dataset
    return TokenDataset(storage.absolute(fspath(dataset)), storage)


def description_of(encoder: Encoder | None) -> Any:
    """What an encoder does, or the name of its class if it does not say it."""
    if encoder is None:
        return None
    describe = getattr(encoder, "description", None)
    return describe() if describe else type(encoder).__qualname__
