"""What a codec package exports as `FAMILY`, and how a codec's identity is computed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from speech_codecs.api import Codec, CodecInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecFamily:
    """Codecs that share one architecture: the seat that a codec package fills.

    `info(name, checkpoint=, config=, **options)` must be cheap: it builds no network.
    `load(name, checkpoint=, config=, device=, precision=, **options)` gives a codec whose `info`
    equals it. `checkpoint` is a path or url or None (random weights), `config` a dict or None,
    `device` a torch.device; name, option names, precision and device are checked before the call.
    """

    variants: tuple[str, ...]
    info: Callable[..., CodecInfo]
    load: Callable[..., Codec]
    options: frozenset[str] = frozenset()  # keywords that only this family understands


def revision_of(architecture: Mapping[str, Any], weights: Mapping[str, str | int]) -> str:
    """Digest everything that decides the codes, 16 hex digits; key order does not matter.

    `weights` maps each file's role to its sha256, or "seed" to the seed of random weights.
    """
    identity = {"architecture": architecture, "weights": weights}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
