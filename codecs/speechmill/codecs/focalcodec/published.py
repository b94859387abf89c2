"""The published `config.json`: five parts, each a class name and its constructor's arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from speechmill.codecs.config import did_you_mean, override, read_section
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.focalcodec.config import (
    V001,
    V002,
    VARIANTS,
    FocalCodecConfig,
    VocosConfig,
    WaveNeXtConfig,
)

_CLASSES = {
    "encoder": ("WavLM",),
    "compressor": ("FocalEncoder",),
    "quantizer": ("BinarySphericalQuantizer",),
    "decompressor": ("FocalDecoder",),
    "decoder": ("WaveNeXt", "Vocos"),
}
_KEYS = [f"{part}_{kind}" for part in _CLASSES for kind in ("name", "config")]
_IGNORED = {  # needed only by training or the authors' caches
    "dropout",
    "max_cached_steps",
    "use_flex_attention",
    "layerscale_init",
    "tanhscale_init",
    "store_hidden",
    "padding",
}
_KEYS_OF_V001 = {"input_channels", "padding"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quantizer:
    codebook_size: int


def read_focalcodec_config(name: str, values: Mapping[str, Any] | None) -> FocalCodecConfig:
    """Return the sizes of the variant `name`, or the family's defaults, replaced by `values`.

    Missing keys take the defaults of the version that wrote the file; version 0.0.1 has other names
    for the decoder's arguments.
    """
    values = values or {}
    for key in values:
        if key not in _KEYS:
            raise InvalidConfig(f"unknown key {key!r}{did_you_mean(key, _KEYS)}; known: {_KEYS}")
    decoder = read_section("decoder_config", values.get("decoder_config") or {})
    is_v001 = not _KEYS_OF_V001.isdisjoint(decoder)
    base = VARIANTS.get(name, V001 if is_v001 else V002)
    quantizer = override(_Quantizer(codebook_size=base.codebook_size), _part(values, "quantizer"))
    return replace(
        base,
        encoder=override(base.encoder, _part(values, "encoder")),
        compressor=override(base.compressor, _part(values, "compressor")),
        codebook_size=quantizer.codebook_size,
        decompressor=override(base.decompressor, _part(values, "decompressor")),
        decoder=override(_decoder(base, values), _part(values, "decoder")),
    )


def _part(values: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the arguments of one part that change its computation."""
    name = values.get(f"{part}_name", _CLASSES[part][0])
    if name not in _CLASSES[part]:
        raise InvalidConfig(f"{part}_name is {name!r}; known: {', '.join(_CLASSES[part])}")
    arguments = read_section(f"{part}_config", values.get(f"{part}_config") or {})
    if part == "decoder" and "input_channels" in arguments:
        arguments["input_dim"] = arguments.pop("input_channels")
    return {key: value for key, value in arguments.items() if key not in _IGNORED}


def _decoder(base: FocalCodecConfig, values: Mapping[str, Any]) -> WaveNeXtConfig | VocosConfig:
    kinds: dict[str, type[WaveNeXtConfig | VocosConfig]]
    kinds = {"WaveNeXt": WaveNeXtConfig, "Vocos": VocosConfig}
    kind = kinds.get(values.get("decoder_name", ""), type(base.decoder))
    return base.decoder if isinstance(base.decoder, kind) else kind()
