"""HASRD: a semantic codebook over self-supervised features, acoustic ones over the residual.

Follows the abstract of Hussein et al., "HASRD: Hierarchical Acoustic and Semantic Representation
Disentanglement", arXiv 2506.00843, Interspeech 2025. The full text could not be read: this design
agrees with the abstract, but is not the authors' configuration, and they published no weights.
Every choice that the abstract does not state is a key of `HasrdConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import (
    FILE,
    UNTRAINED_SEED,
    CompileOptions,
    Config,
    NetworkFamily,
    Request,
    Settings,
)
from speechmill.codecs.fetch import pinned
from speechmill.codecs.hasrd.config import (
    CARDS,
    SAMPLE_RATE,
    VARIANTS,
    HasrdConfig,
    read_hasrd_config,
)

if TYPE_CHECKING:
    from speechmill.codecs.recipe import Enhance, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class HasrdOptions(CompileOptions):
    """`semantic_checkpoint` is the self-supervised model's file, in transformers' format.

    Encoding needs it, decoding does not.
    """

    semantic_checkpoint: str | Path | None = field(default=None, metadata=FILE)


HasrdRequest = Request[HasrdConfig, HasrdOptions]


class HasrdFamily(NetworkFamily[HasrdConfig, HasrdOptions]):
    """Facts, networks and training of HASRD."""

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: HasrdOptions
    ) -> HasrdConfig:
        return read_hasrd_config(name, config)

    def files(
        self, sizes: HasrdConfig, checkpoint: str | None, options: HasrdOptions
    ) -> Mapping[str, str | Path | None]:
        semantic = options.semantic_checkpoint
        if semantic is not None and sizes.semantic_sha256 is not None:
            semantic = pinned(semantic, sizes.semantic_sha256)
        return {"checkpoint": checkpoint, "semantic_checkpoint": semantic}

    def describe(self, request: HasrdRequest) -> CodecInfo:
        sizes = request.sizes
        return CodecInfo(
            name=request.name,
            **self.identify(request),
            sample_rate=SAMPLE_RATE,
            output_sample_rate=SAMPLE_RATE,
            hop_length=sizes.hop_length,
            frame_offset=sizes.hop_length - 1 if sizes.keep_partial else 0,
            min_frames=0,
            codebook_sizes=sizes.codebook_sizes,
            num_semantic_codebooks=1,
        )

    def build(self, request: HasrdRequest, info: CodecInfo, **execution: Any) -> Codec:
        """Return the codec; with `checkpoint` alone it only decodes."""
        from speechmill.codecs.hasrd.codec import HasrdCodec
        from speechmill.codecs.hasrd.weights import (
            read_hasrd,
            read_ssl,
            untrained_hasrd,
            untrained_ssl,
        )

        sizes, path, semantic = request.sizes, request.path(), request.path("semantic_checkpoint")
        ssl = None
        if semantic is not None:
            ssl = read_ssl(sizes, semantic)
        elif path is None:
            ssl = untrained_ssl(sizes, UNTRAINED_SEED)
        network = read_hasrd(sizes, path) if path else untrained_hasrd(sizes, UNTRAINED_SEED)
        return HasrdCodec(network, ssl, info, **execution)

    def build_recipe(
        self, request: HasrdRequest, settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        from speechmill.codecs.hasrd.recipe import HasrdRecipe, HasrdRecipeConfig

        semantic = request.path("semantic_checkpoint")
        if request.files["checkpoint"] is not None and semantic is None:
            raise InvalidConfig(
                f"{request.name} is trained on features of its self-supervised model; give "
                "semantic_checkpoint, the file that its centroids were fitted to"
            )
        recipe = HasrdRecipe(request.sizes, override(HasrdRecipeConfig(), settings))
        if semantic is not None:
            recipe.load_semantic(semantic)
        return recipe


FAMILY = HasrdFamily(
    "hasrd", sizes=HasrdConfig, variants=VARIANTS, options=HasrdOptions, cards=CARDS
)
