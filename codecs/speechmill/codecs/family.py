"""The interface of a codec package, `FAMILY`, and the identity of its codecs."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.fetch import digest_of, fetch, pinned_digest

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance

    from speechmill.codecs.recipe import Enhance, Recipe

UNTRAINED_SEED = 0
UNPUBLISHED = "none published"  # the licence where nobody published weights
# By precision, the least share of a known clip's codes that a device must give as a CPU does in
# float32. Of seven untrained codecs bf16 left 70 % equal or more; wrong kernels leave under 10 %.
EQUAL_CODES = {"fp32": 0.9, "tf32": 0.8, "bf16": 0.5, "fp16": 0.5}
LONGEST_CLIPS = {"cuda": 320.0}  # s, by type of device; on others any length is tried
# Of codecs that attend from every frame to all others: on a CPU they need about 10 GB for it.
LONGEST_ATTENDED = {"cpu": 640.0}

Config = dict[str, Any] | None  # as the user gave it, unchecked
Settings = Mapping[str, Any]  # of a recipe
SizesT = TypeVar("SizesT", bound="DataclassInstance")
OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Facts about a variant that are not in its `info`; "unknown" if they are not published.

    `files` are the published weights by role, "checkpoint" or the name of an option: urls, with
    revision and digest as far as they are known. They are the defaults of `load_codec`.
    `equal_codes` replaces `EQUAL_CODES` for the precisions that it names, `longest_clips` replaces
    `LONGEST_CLIPS` for the types of devices.
    """

    parameters: int | None = None  # of all networks, for inference; None if unknown
    paper: str = "unknown"
    licence: str = "unknown"  # of the published weights
    files: Mapping[str, str] = field(default_factory=dict)
    equal_codes: Mapping[str, float] = field(default_factory=dict)
    longest_clips: Mapping[str, float] = field(default_factory=dict)

    @property
    def unpinned(self) -> tuple[str, ...]:
        """The roles of published files without a known digest: their host may replace them."""
        return tuple(role for role, url in self.files.items() if pinned_digest(url) is None)

    def least_equal_codes(self, precision: str) -> float:
        """Return the share below which the codes of a known clip are wrong, not rounded."""
        return {**EQUAL_CODES, **self.equal_codes}[precision]

    def longest_clip(self, device_type: str) -> float:
        """Return the most seconds of audio that encode should take at once, maybe infinite."""
        return {**LONGEST_CLIPS, **self.longest_clips}.get(device_type, inf)


@dataclass(kw_only=True, eq=False)
class CodecFamily:
    """Codecs that share one architecture, as the registry sees them.

    `info(name, checkpoint=, config=, **options)` must be cheap: it builds no network.
    `load(name, checkpoint=, config=, device=, precision=, **options)` returns a codec with that
    `info`. `checkpoint` is a path or url or None (random weights), `config` a dict or None,
    `device` a torch.device; name, option names, precision and device have been checked.
    `recipe(name, checkpoint=, config=, settings=, enhance=, **options)` returns a `Recipe`; without
    a checkpoint its weights are random, drawn from torch's global generator.
    """

    variants: tuple[str, ...]
    info: Callable[..., CodecInfo]
    load: Callable[..., Codec]
    options: frozenset[str] = frozenset()  # keywords of this family alone
    file_options: frozenset[str] = frozenset()  # options whose value is a path or URL
    file_settings: frozenset[str] = frozenset()  # recipe settings whose value is a path or URL
    cards: Mapping[str, Card] = field(default_factory=dict)  # by variant
    recipe: Callable[..., Recipe] | None = None  # how it is trained
    # Distributions whose version can change a code, beside torch and the family's own.
    packages: tuple[str, ...] = ()

    def trains_with(self, option: str) -> bool:
        """Return whether `recipe` takes the option."""
        return self.recipe is not None and option in signature(self.recipe).parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class NoOptions:
    """The options of a family that has none of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileOptions(NoOptions):
    """The options of a family whose encoder can be compiled."""

    compile: bool = False


FILE = {"file": True}  # metadata of an option that is a path or URL: the identity includes it


@dataclass(frozen=True, slots=True)
class Request(Generic[SizesT, OptionsT]):
    """The codec that was asked for."""

    name: str
    sizes: SizesT
    options: OptionsT
    files: Mapping[str, str | Path | None]  # path or URL by role; "checkpoint" is the network's

    def path(self, role: str = "checkpoint") -> Path | None:
        """Return a local copy of the file, or None if none was given."""
        url = self.files.get(role)
        return None if url is None else fetch(url)


class NetworkFamily(CodecFamily, Generic[SizesT, OptionsT]):
    """A family of neural networks; one dataclass holds their sizes, another one the options.

    A subclass defines `describe`, `build` and, if its codecs can be trained, `build_recipe`; they
    import torch only inside `build` and `build_recipe`. `algorithm` is a version: increase it when
    a change of the code makes the same weights give other codes.
    """

    def __init__(
        self,
        name: str,
        *,
        sizes: type[SizesT],
        variants: Mapping[str, Any],
        options: type[OptionsT],
        algorithm: int = 1,
        cards: Mapping[str, Card] | None = None,
        file_settings: frozenset[str] = frozenset(),
        packages: tuple[str, ...] = (),
    ) -> None:
        trainable = type(self).build_recipe is not NetworkFamily.build_recipe
        super().__init__(
            variants=tuple(variants),
            info=self._info,
            load=self._load,
            options=frozenset(option.name for option in fields(options)),
            file_options=frozenset(o.name for o in fields(options) if o.metadata == FILE),
            file_settings=file_settings,
            cards=cards or {},
            recipe=self._recipe if trainable else None,
            packages=packages,
        )
        self.name, self.algorithm = name, algorithm
        self.presets, self.sizes_type, self.options_type = variants, sizes, options

    @abstractmethod
    def describe(self, request: Request[SizesT, OptionsT]) -> CodecInfo:
        """Return the facts about the codec, including those of `identify`."""

    @abstractmethod
    def build(self, request: Request[SizesT, OptionsT], info: CodecInfo, **execution: Any) -> Codec:
        """Return the codec, with weights from `UNTRAINED_SEED` if there is no checkpoint.

        `execution` is `device`, `precision` and, if `compile` is an option, `compiled`.
        """

    def build_recipe(
        self, request: Request[SizesT, OptionsT], settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        """Return the recipe before it has read the checkpoint."""
        raise NotImplementedError

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: OptionsT
    ) -> SizesT:
        """Return the variant's sizes, or the family's defaults, replaced by those of `config`."""
        return override(self.presets.get(name) or self.sizes_type(), config)

    def files(
        self, sizes: SizesT, checkpoint: str | None, options: OptionsT
    ) -> Mapping[str, str | Path | None]:
        """Return the files that are part of the identity, by role."""
        roles = {role: getattr(options, role) for role in self.file_options}
        return {"checkpoint": checkpoint, **roles}

    def identify(self, request: Request[SizesT, OptionsT], **choices: Any) -> Identity:
        """Return the identity; `choices` are the options that change the codes."""
        return identity(self.name, self.algorithm, request.sizes, request.files, **choices)

    def trains_with(self, option: str) -> bool:
        return option in self.file_options

    def _request(
        self,
        name: str,
        checkpoint: str | None,
        config: Config,
        values: Mapping[str, Any],
    ) -> Request[SizesT, OptionsT]:
        options = self.options_type(**values)
        sizes = self.read_sizes(name, config, checkpoint, options)
        return Request(name, sizes, options, self.files(sizes, checkpoint, options))

    def _info(
        self, name: str, *, checkpoint: str | None, config: Config, **options: Any
    ) -> CodecInfo:
        return self.describe(self._request(name, checkpoint, config, options))

    def _load(
        self,
        name: str,
        *,
        checkpoint: str | None,
        config: Config,
        device: torch.device,
        precision: str,
        **options: Any,
    ) -> Codec:
        execution: dict[str, Any] = {"device": device, "precision": precision}
        if "compile" in self.options:
            execution["compiled"] = options.get("compile", False)
        request = self._request(name, checkpoint, config, options)
        return self.build(request, self.describe(request), **execution)

    def _recipe(
        self,
        name: str,
        *,
        checkpoint: str | None,
        config: Config,
        settings: Settings,
        enhance: Enhance | None,
        **options: Any,
    ) -> Recipe:
        request = self._request(name, checkpoint, config, options)
        recipe = self.build_recipe(request, settings, enhance)
        path = request.path()
        if path is not None:
            recipe.start_from(path)
        return recipe


class Identity(TypedDict):
    """The fields of a `CodecInfo` that identify the codec."""

    revision: str
    trained: bool
    checkpoint_sha256: str | None


def identity(
    family: str,
    algorithm: int,
    sizes: DataclassInstance,
    files: Mapping[str, str | Path | None],
    **choices: Any,
) -> Identity:
    """Return the identity of a codec of these `sizes` and `files` (url by role, or None).

    `algorithm` is the version of the code, see `NetworkFamily`; `choices` are the options that
    change the codes. Without a "checkpoint" the weights are random, from `UNTRAINED_SEED`.
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
    """Return the digest of all that decides the codes: 16 hex digits, in any order of keys.

    `weights` maps each file's role to its sha256, or "seed" to the seed of random weights.
    """
    identity = {"architecture": architecture, "weights": weights}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
