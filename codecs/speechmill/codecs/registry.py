"""Find codecs by name: their facts, or the loaded codec.

To add a codec, add a package that exports `FAMILY` and one line to `FAMILIES`; see
docs/guide/add-a-codec.md. Third-party packages register under the entry point group
"speechmill.codecs": family name = "their.package:FAMILY".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import ConfigSource, did_you_mean, read_config
from speechmill.codecs.errors import InvalidConfig, UnknownCodec
from speechmill.codecs.family import Card, CodecFamily
from speechmill.codecs.fetch import pinned

if TYPE_CHECKING:
    import torch

    from speechmill.codecs.recipe import Enhance, Recipe

UNTRAINED = "untrained"  # a checkpoint of this name means random weights
ENTRY_POINT_GROUP = "speechmill.codecs"
FAMILIES = {
    "focalcodec": "speechmill.codecs.focalcodec",
    "hasrd": "speechmill.codecs.hasrd",
    "null": "speechmill.codecs.null",
    "dualcodec": "speechmill.codecs.dualcodec",
    "pure": "speechmill.codecs.pure",
    "simwhisper": "speechmill.codecs.simwhisper",
    "transformers": "speechmill.codecs.transformers_codecs",
}


def load_codec(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    sha256: str | None = None,
    config: ConfigSource = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    self_check: bool = True,
    **options: Any,
) -> Codec:
    """Return the codec on `device`, ready to encode.

    `checkpoint` is a path, s3:// or hf:// url, or "untrained": random weights from a fixed seed.
    If `sha256` is given, the file must have this digest. Without a checkpoint a variant takes its
    published weights; it is untrained if there are none, or if a `config` changes it. `config`
    (dict or JSON file) replaces the variant's values; with it, `name` may be a family. `precision`
    is one of fp32, tf32, bf16, fp16; most codes of a known clip must equal those of fp32, unless
    `self_check` is false. Raises a `CodecError`.
    """
    import torch

    from speechmill.codecs.precision import check_precision
    from speechmill.codecs.self_check import refuse_wrong_codes

    device = torch.device(device)
    check_precision(precision, device)
    family, arguments = _resolve(name, _pinned(checkpoint, sha256), config, options)
    codec = family.load(name, device=device, precision=precision, **arguments)
    if self_check and precision != "fp32":
        arguments.pop("compile", None)  # compiled code calls no hooks, which name a wrong module
        exact = family.load(name, device=device, precision="fp32", **arguments)
        refuse_wrong_codes(codec, exact, precision, device)
    return codec


def codec_info(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    sha256: str | None = None,
    config: ConfigSource = None,
    **options: Any,
) -> CodecInfo:
    """Return the `info` that `load_codec` would give, without building a network.

    A remote checkpoint is fetched unless its sha256 is given or known: it is part of the identity.
    """
    family, arguments = _resolve(name, _pinned(checkpoint, sha256), config, options)
    return family.info(name, **arguments)


def codec_card(name: str) -> Card:
    """Return the facts about a variant that are not in its `info`: size, paper, licence, files.

    A family has the defaults.
    """
    return _find(name, configured=True).cards.get(name, Card())


def file_arguments(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return which options of a codec, and which settings of its recipe, are paths or URLs.

    `name` is a variant or a family. Raises `UnknownCodec`.
    """
    family = _find(name, configured=True)
    return family.file_options, family.file_settings


def plain_options(name: str) -> frozenset[str]:
    """Return the options of a codec, or of a family, that are neither paths nor URLs.

    Raises `UnknownCodec`.
    """
    family = _find(name, configured=True)
    return family.options - family.file_options


def codec_packages(name: str) -> tuple[str, ...]:
    """Return the distributions, beside torch, whose version can change a code of a codec.

    `name` is a variant or a family; one of a third party counts too. Raises `UnknownCodec`.
    """
    family = _find(name, configured=True)
    owners = {
        entry_point.dist.name
        for entry_point in entry_points(group=ENTRY_POINT_GROUP)
        if entry_point.dist and _load_entry_point(entry_point) is family
    }
    return (*family.packages, *sorted(owners))


def load_recipe(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    config: ConfigSource = None,
    settings: Mapping[str, Any] | None = None,
    enhance: Enhance | None = None,
    **options: Any,
) -> Recipe:
    """Return the codec's training recipe, with its network.

    `checkpoint` is as in `load_codec`; "untrained" means random weights, from torch's global
    generator. `settings` are those of the recipe; `enhance` is a frozen speech enhancer, for
    recipes that learn from one. Raises a `CodecError`.
    """
    family, arguments = _resolve(name, checkpoint, config, options)
    if family.recipe is None:
        raise InvalidConfig(f"{name} cannot be trained")
    for option in sorted(arguments.keys() - {"checkpoint", "config"}):
        if not family.trains_with(option):
            raise InvalidConfig(f"{name} is not trained with the option {option!r}; leave it out")
    return family.recipe(name, settings=dict(settings or {}), enhance=enhance, **arguments)


def list_codecs() -> list[str]:
    """Return the names that `load_codec` knows without a `config`, sorted."""
    return sorted(variant for _, family in _families() for variant in family.variants)


def _resolve(
    name: str, checkpoint: str | Path | None, config: ConfigSource, options: dict[str, Any]
) -> tuple[CodecFamily, dict[str, Any]]:
    family = _find(name, configured=config is not None)
    for option in options:
        if option not in family.options:
            known = sorted(family.options)
            raise InvalidConfig(f"{name} has no option {option!r}; its options: {known or 'none'}")
    if checkpoint is None and config is None and name in family.cards:
        options = {**family.cards[name].files, **options}
        checkpoint = options.pop("checkpoint", None)
    source = None if checkpoint in (None, UNTRAINED) else str(checkpoint)
    return family, {"checkpoint": source, "config": read_config(config), **options}


def _pinned(checkpoint: str | Path | None, sha256: str | None) -> str | Path | None:
    if sha256 is None:
        return checkpoint
    if checkpoint in (None, UNTRAINED):
        raise InvalidConfig(f"sha256 is {sha256!r}, but no checkpoint is named; name its file too")
    return pinned(str(checkpoint), sha256)


def _find(name: str, *, configured: bool) -> CodecFamily:
    for family_name, family in _families():
        if name in family.variants or (configured and name == family_name):
            return family
        if name == family_name:
            variants = ", ".join(family.variants)
            raise UnknownCodec(f"{name!r} is a family: name one of {variants}, or give config=")
    known = list_codecs()
    raise UnknownCodec(f"no codec {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")


def _families() -> Iterator[tuple[str, CodecFamily]]:
    """Yield our families, then third-party ones; each is imported only when it is reached."""
    for family_name, module in FAMILIES.items():
        yield family_name, import_module(module).FAMILY
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        family = _load_entry_point(entry_point)
        if family is not None:
            yield entry_point.name, family


def _load_entry_point(entry_point: EntryPoint) -> CodecFamily | None:
    """Return None, with a warning, if a third-party package is broken: others must still load."""
    try:
        family = entry_point.load()
    except (ImportError, AttributeError) as error:
        warnings.warn(f"codec {entry_point.value!r} cannot be imported: {error}", stacklevel=2)
        return None
    if isinstance(family, CodecFamily):
        return family
    warnings.warn(f"codec {entry_point.value!r} is not a CodecFamily", stacklevel=2)
    return None
