"""What a codec package exports as `FAMILY`, and how a codec's identity is computed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.fetch import digest_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

UNTRAINED_SEED = 0
UNPUBLISHED = "none published"  # the licence of weights that do not exist


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of a variant beside its numbers; "unknown" is said where it is.

    `files` are the published weights by role, "checkpoint" or the name of an option: urls, with
    revision and digest as far as they are known. `load_codec` takes them unless told otherwise.
    """

    parameters: int | None = None  # of all networks, for inference; None where it is not known
    paper: str = "unknown"
    licence: str = "unknown"  # of the published weights
    files: Mapping[str, str] = field(default_factory=dict)


if TYPE_CHECKING:
    from speechmill.codecs.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecFamily:
    """Codecs that share one architecture: the seat that a codec package fills.

    `info(name, checkpoint=, config=, **options)` must be cheap: it builds no network.
    `load(name, checkpoint=, config=, device=, precision=, **options)` gives a codec whose `info`
    equals it. `checkpoint` is a path or url or None (random weights), `config` a dict or None,
    `device` a torch.device; name, option names, precision and device are checked before the call.
    `cards` hold what is known of the variants, by name.
    `recipe(name, checkpoint=, config=, settings=, enhance=, **options)` gives a `Recipe`, its
    weights random from torch's global generator where there is no checkpoint.
    """

    variants: tuple[str, ...]
    info: Callable[..., CodecInfo]
    load: Callable[..., Codec]
    options: frozenset[str] = frozenset()  # keywords that only this family understands
    file_options: frozenset[str] = frozenset()  # those of them whose value is a path or URL
    file_settings: frozenset[str] = frozenset()  # settings of the recipe that are a path or URL
    cards: Mapping[str, Card] = field(default_factory=dict)
    recipe: Callable[..., "Recipe"] | None = None  # how it is trained


class Identity(TypedDict):
    """The part of a `CodecInfo` that says which codec it is."""

    revision: str
    trained: bool
    checkpoint_sha256: str | None


def identity(
    family: str,
    algorithm: int,
    sizes: "DataclassInstance",
    files: Mapping[str, str | Path | None],
    **choices: Any,
) -> Identity:
    """Return which codec `sizes` and the weights in `files` (url by role, or None) make.

    `algorithm` is raised when the same weights give other codes, `choices` are the options that
    change them. Without a "checkpoint" the weights are random, of `UNTRAINED_SEED`.
    """
    architecture = {"family": family, "algorithm": algorithm, "config": asdict(sizes), **choices}
    digests = {role: digest_of(url) for role, url in files.items() if url is not None}
    sha256 = digests.get("checkpoint")
    seed = {"seed": UNTRAINED_SEED} if sha256 is None else {}
    return {
        "revision": revision_of(architecture, {**digests, **seed}),
        "trained": sha256 is not None,
        "checkpoint_sha256": sha256,
    }


def revision_of(architecture: Mapping[str, Any], weights: Mapping[str, str | int]) -> str:
    """Digest everything that decides the codes, 16 hex digits; key order does not matter.

    `weights` maps each file's role to its sha256, or "seed" to the seed of random weights.
    """
    identity = {"architecture": architecture, "weights": weights}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
