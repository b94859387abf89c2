"""Configurations: a YAML file and overrides on the command line, checked against a schema."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError

from speechmill.jobs.schemas import CodecConfig, TokenizeConfig
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import make_absolute
from speechmill.pipeline.redaction import (
    public_environment,
    public_options,
    public_settings,
    public_text,
    remember_environment,
    remember_options,
    remember_settings,
)
from speechmill.pipeline.storage import join

KeyPath = tuple[Any, ...]  # names of sections and positions in lists, down to a value
_FROM_ENVIRONMENT = "_from_environment"  # attribute of a loaded configuration
_UNSET = re.compile(r"Environment variable '([^']*)' not found")  # what OmegaConf says
# OmegaConf 2.4 renamed it.
_register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: Path, overrides: list[str]) -> Schema:
    """Read a YAML file, apply `key=value` overrides and check all against the schema.

    Every local path in it becomes absolute. Raises `InputError` for a file that cannot be read,
    an unknown key (the nearest valid one is named), a value of another type, a missing value and
    a reference, such as `${oc.env:HOME}`, to something that does not exist.
    """
    return _checked(schema, [_read(path), _parse(overrides)], f"in {path} or ")


def from_overrides(schema: type[Schema], overrides: list[str]) -> Schema:
    """Like `load_config`, with overrides and without a file."""
    return _checked(schema, [_parse(overrides)], "")


def from_values(schema: type[Schema], values: dict[str, Any], overrides: list[str]) -> Schema:
    """Like `load_config`, with values that data gave: none of them refers to anything.

    Raises `InputError` for a text that OmegaConf would not take as it is, `${…}` or `???`.
    """
    for text in _texts(values):
        if "${" in text or text == "???":
            raise InputError(f"{text[:200]!r} in a dataset is no value of a setting")
    return _checked(schema, [OmegaConf.create(values), _parse(overrides)], "")


def _texts(value: Any) -> Iterator[str]:
    """Yield every text and key in values of data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in (*value, *(value.values() if isinstance(value, dict) else ())):
            yield from _texts(part)


def top_level_keys(path: Path) -> set[str]:
    """Return the keys of a YAML file; raises `InputError` if it cannot be read."""
    return set(map(str, _read(path)))


def check_overrides(schema: type, overrides: list[str]) -> None:
    """Raise `InputError` for an override that is not a key of the schema."""
    _check_keys(OmegaConf.to_container(_parse(overrides)), schema)


def for_each_codec(config: TokenizeConfig) -> list[TokenizeConfig]:
    """Return one configuration for each of `codecs`, into a folder of its name.

    Without `codecs`, return the configuration itself. Raises `InputError` for an entry that does
    not name a codec, and for one that occurs twice.
    """
    if not config.codecs:
        return [config]
    sections = [_codec_section(config.codec, n, one) for n, one in enumerate(config.codecs)]
    names = [section.name or "null" for section in sections]
    if len(set(names)) < len(names):
        raise InputError(f"codecs names one codec twice: {', '.join(names)}")
    return [
        _for_codec(config, position, *pair)
        for position, pair in enumerate(zip(sections, names, strict=True))
    ]


def _for_codec(
    config: TokenizeConfig, position: int, section: CodecConfig, name: str
) -> TokenizeConfig:
    """Return the configuration with one entry of `codecs` as its codec."""
    single = replace(config, codec=section, codecs=[], output=join(config.output, name))
    given = config.codecs[position]
    references: dict[KeyPath, str] = {}
    for path, text in _read_from_environment(config).items():
        if path == ("output",):
            references[path] = join(text, name)
        elif path[:2] == ("codecs", position):
            references["codec", *(path[2:] or ("name",))] = text
        elif path[0] != "codecs" and not (
            path[0] == "codec" and isinstance(given, dict) and path[1] in given
        ):
            references.setdefault(path, text)
    vars(single)[_FROM_ENVIRONMENT] = references
    return single


def _codec_section(common: CodecConfig, position: int, given: Any) -> CodecConfig:
    """Return an entry of `codecs`, a name or a section; `codec` has the values it leaves out."""
    section = OmegaConf.create(given if isinstance(given, dict) else {"name": given})
    _check_keys(OmegaConf.to_container(section), CodecConfig, f"codecs[{position}].")
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(common), section))
    except OmegaConfBaseException as error:
        raise InputError(f"codecs[{position}].{str(error).splitlines()[0]}") from error
    assert isinstance(merged, CodecConfig)
    make_absolute(merged)
    return merged


@contextmanager
def _named_keys() -> Iterator[None]:
    """Turn an error of OmegaConf into an `InputError` that names the key."""
    try:
        yield
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        if unset := _UNSET.search(said):
            said = f"the environment variable {unset[1]} is not set; export it before the command"
        raise InputError(f"{error.full_key}: {said}") from error


@_named_keys()
def _checked(schema: type[Schema], layers: list[DictConfig], where: str) -> Schema:
    """Merge the layers into the schema; where two set a key, the later one wins."""
    plain = [OmegaConf.to_container(layer) for layer in layers]
    for text in _texts(plain):
        if "\0" in text:
            raise InputError(f"{text[:200]!r} holds a NUL byte; no path or name can")
    for each in plain:
        _check_keys(each, schema)
    given = OmegaConf.merge(*plain)
    merged = OmegaConf.merge(OmegaConf.structured(schema), given)
    assert isinstance(merged, DictConfig)
    if schema is TokenizeConfig and merged.codecs and OmegaConf.is_missing(merged.codec, "name"):
        merged.codec.name = None  # each entry of codecs has its own
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise InputError(f"{missing[0]} is not set; write it {where}as {missing[0]}=…")
    loaded = OmegaConf.to_object(merged)
    assert isinstance(loaded, schema)
    references = dict(_environment_references(OmegaConf.to_container(given), merged))
    vars(loaded)[_FROM_ENVIRONMENT] = references
    make_absolute(loaded)
    _remember_secrets(loaded)
    return loaded


def to_yaml(config: object) -> str:
    """Return the configuration as YAML that can be run again, without its secrets.

    References are resolved, except those that read the environment.
    """
    whole: Any = OmegaConf.to_container(OmegaConf.structured(config))
    for path, text in _read_from_environment(config).items():
        _set(whole, path, text)
    ray = whole.get("ray", {})
    hidden = {
        **({"storage": public_options(whole["storage"])} if "storage" in whole else {}),
        **({"ray": ray | {"env": public_environment(ray["env"])}} if ray else {}),
    }
    return OmegaConf.to_yaml(OmegaConf.create(public_settings(whole) | hidden))


def _remember_secrets(config: object) -> None:
    """Hide the secrets of a configuration in everything that this process writes."""
    whole: Any = OmegaConf.to_container(OmegaConf.structured(config))
    remember_options(whole.pop("storage", {}))
    remember_environment((whole.pop("ray", None) or {}).get("env", {}))
    remember_settings(whole)


def _set(container: Any, path: KeyPath, text: str) -> None:
    *sections, name = path
    for section in sections:
        container = container[section]
    container[name] = text


def _read_from_environment(config: object) -> dict[KeyPath, str]:
    return dict(vars(config).get(_FROM_ENVIRONMENT, {}))


def _environment_references(
    given: Any, node: Any, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Yield every value as it is typed that reads the environment, itself or by a reference."""
    entries = given.items() if isinstance(given, dict) else enumerate(given)
    for name, value in entries:
        if isinstance(value, dict | list) and value:
            yield from _environment_references(value, node[name], (*path, name))
        elif isinstance(value, str) and "${" in value and _reads_environment(node, name):
            yield (*path, name), value


def _reads_environment(node: Any, name: Any) -> bool:
    """Resolve a value and say whether OmegaConf asked for an environment variable."""
    asked = False

    def env(*arguments: Any) -> Any:
        nonlocal asked
        asked = True
        return oc.env(*arguments)

    _register("oc.env", env, replace=True)
    try:
        value = node[name]
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)
    finally:
        _register("oc.env", oc.env, replace=True)
    return asked


def _read(path: Path) -> DictConfig:
    try:
        return _parse_yaml(path.read_text(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error


def _parse_yaml(text: str, where: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(io.StringIO(text))
    except Exception as error:  # a YAML parser raises errors of many kinds
        raise InputError(f"{where} is not YAML: {_yaml_fault(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"{where} must hold keys and values")
    return loaded


def _yaml_fault(error: Exception) -> str:
    """What a YAML parser says, in one line, and where; it counts lines and columns from 0."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__


def _parse(overrides: list[str]) -> DictConfig:
    """Read overrides; raises `InputError` for a key that is given twice."""
    parsed = OmegaConf.create()
    given: dict[tuple[str, ...], str] = {}  # the override of each key down to a value
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is not an override; write key=value")
        one = _parse_one(override)
        for path in _paths(OmegaConf.to_container(one)):
            _refuse_twice(path, override, given)
        given |= dict.fromkeys(_paths(OmegaConf.to_container(one)), override)
        parsed.merge_with(one)
    return parsed


def _parse_one(override: str) -> DictConfig:
    parsed = OmegaConf.create()
    key, _, value = override.partition("=")
    try:
        parsed.merge_with_dotlist([override])
    except Exception as error:  # a YAML parser raises errors of many kinds
        texts = _listed_texts(value)
        if texts is None:
            message = getattr(error, "problem", None) or _yaml_fault(error)
            if "{" in value or "[" in value[1:]:
                message += (
                    "; put a text with braces or brackets in double quotes, and all in single"
                )
            raise InputError(f"cannot read {override[:200]!r}: {message}") from error
        OmegaConf.update(parsed, key, texts)
    return parsed


def _listed_texts(value: str) -> list[Any] | None:
    """A list such as `[x-{0..3}.tar, c{a,b}/, corpus [v2]/]`, which is no YAML.

    Commas in braces and brackets separate nothing. None for a value that is no such list.
    """
    value = value.strip()
    if not (value.startswith("[") and value.endswith("]")) or '"' in value or "'" in value:
        return None
    texts, depth = [""], 0
    for mark in value[1:-1]:
        depth += (mark in "{[") - (mark in "]}")
        if depth < 0:
            return None
        if mark == "," and not depth:
            texts.append("")
        else:
            texts[-1] += mark
    stripped = [text.strip() for text in texts]
    return stripped if not depth and all(stripped) else None


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names that lead to each value; a list is one value."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _paths(each, (*path, str(name)))
    else:
        yield path


def _refuse_twice(path: tuple[str, ...], override: str, given: dict[tuple[str, ...], str]) -> None:
    """Raise `InputError` if an override before gave the value at this path, or one around it."""
    for other, before in given.items():
        shorter = min(len(path), len(other))
        if path[:shorter] != other[:shorter]:
            continue
        key = ".".join(path[:shorter])
        values = public_text(f", {before!r} and {override!r}")
        if path[0] in ("storage", "ray") or "options" in path:  # there may be a secret
            values = ""
        raise InputError(
            f"{key} is given twice{values}; give it once (the shell makes several arguments of one "
            "with braces, unless all of it is in single quotes)"
        )


def _check_keys(given: Any, schema: Any, prefix: str = "") -> None:
    """Refuse unknown keys, and a value where a section or a list belongs.

    An empty section that is optional becomes None: configurations of early versions hold such ones.
    """
    kinds = get_type_hints(schema)
    valid = [prefix + name for name in kinds]
    for name, value in given.items():
        key = f"{prefix}{name}"
        if key not in valid:
            near = get_close_matches(key, valid, n=1, cutoff=0.0)
            raise InputError(f"unknown key {key}; did you mean {near[0]}?")
        hint = kinds[str(name)]
        kind, entry = _kind(hint)
        optional = type(None) in get_args(hint)
        if is_dataclass(kind) and optional and value == {}:
            given[name] = None
        elif optional and value is None:
            continue
        elif is_dataclass(kind):
            _check_section(value, kind, key)
        elif kind is dict and is_dataclass(entry):
            if not isinstance(value, dict):
                raise InputError(f"{key} has named sections; set one of them, {key}.<name>.…")
            for label, section in value.items():
                _check_section(section, entry, f"{key}.{label}")
        elif kind is list and not isinstance(value, list):
            raise InputError(f"{key} is a list; write {key}=[…]")
        elif kind is str or (kind is list and entry is str):
            _check_texts(value if kind is list else [value], key)


def _check_texts(texts: list[Any], key: str) -> None:
    """Refuse what is text no longer: YAML reads 2024_01 as 202401, and {a,b} as a section."""
    for text in texts:
        if isinstance(text, int | float | dict):
            raise InputError(
                f"{key} is text, but YAML reads {text!r}; put the text in double quotes, and on "
                "the command line all of it in single quotes"
            )


def _check_section(value: Any, schema: Any, key: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{key} is a section; set one of its keys, {key}.<key>=…")
    _check_keys(value, schema, f"{key}.")


def _kind(hint: Any) -> tuple[Any, Any]:
    """Return the type of a field, without None or arguments, and the type of its entries."""
    if get_origin(hint) in (Union, UnionType):
        [hint] = [each for each in get_args(hint) if each is not type(None)]
    arguments = get_args(hint)
    return get_origin(hint) or hint, arguments[-1] if arguments else None
