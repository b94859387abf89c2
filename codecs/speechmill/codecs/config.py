"""Read a codec's configuration, and compute sizes that follow from it, without torch."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speechmill.codecs.errors import InvalidConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigSource = Mapping[str, Any] | str | Path | None  # the values, or their JSON file
ConfigT = TypeVar("ConfigT", bound="DataclassInstance")


def read_config(config: ConfigSource) -> dict[str, Any] | None:
    """Return the configuration as a dict; a string or path names a JSON file."""
    if config is None or isinstance(config, Mapping):
        return None if config is None else dict(config)
    try:
        values = json.loads(Path(config).read_text())
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"cannot read the configuration {str(config)!r}: {error}") from error
    if not isinstance(values, dict):
        raise InvalidConfig(f"{str(config)!r} holds {type(values).__name__}, not a JSON object")
    return values


def override(base: ConfigT, values: Mapping[str, Any] | None) -> ConfigT:
    """Return `base` with `values` in place of its own; lists become tuples.

    Raises `InvalidConfig` for an unknown key and for a value of another type than that of `base`.
    """
    known = [field.name for field in fields(base)]
    for key in values or {}:
        if key not in known:
            raise InvalidConfig(f"unknown key {key!r}{did_you_mean(key, known)}; known: {known}")
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in (values or {}).items()}
    for key, value in frozen.items():
        check_type(key, value, getattr(base, key))
    return replace(base, **frozen)


def check_type(key: str, value: Any, default: Any) -> None:
    """Raise `InvalidConfig` unless `value` has the type of `default`; None allows any type."""
    if isinstance(default, tuple) and isinstance(value, tuple):
        for item in value if default else ():
            check_type(f"an entry of {key}", item, default[0])
        return
    types: dict[type, Any] = {float: (int, float), dict: Mapping}
    expected = types.get(type(default), type(default))
    is_bool = isinstance(value, bool) == isinstance(default, bool)
    if default is not None and not (isinstance(value, expected) and is_bool):
        raise InvalidConfig(f"{key} is {value!r}, must be like {default!r}")


def read_section(name: str, value: Any) -> dict[str, Any]:
    """Return a copy of a section of a configuration, or raise `InvalidConfig`."""
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{name} is {value!r}, not a mapping")
    return dict(value)


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ", did you mean 'x'?", or an empty string if no known name is similar."""
    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many input columns one output column of the convolutions depends on."""
    steps = (prod(strides[:i]) for i in range(len(strides)))
    return 1 + sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=True))


def missing_columns(rates: tuple[int, ...]) -> int:
    """Return how many columns of the last frame transposed convolutions do not compute.

    With a kernel of 2 x rate and a padding of half the rate, rounded up, a layer of odd rate
    returns one column less, which later rates multiply.
    """
    return sum(rate % 2 * prod(rates[i + 1 :]) for i, rate in enumerate(rates))
