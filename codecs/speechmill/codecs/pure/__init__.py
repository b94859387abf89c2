"""PURE Codec: residual quantization whose first stage learns from a speech enhancer.

Shi et al., "PURE Codec: Progressive Unfolding of Residual Entropy for Speech Codec Learning",
arXiv 2511.22687. Only training needs the enhancer; encode and decode do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.family import (
    UNTRAINED_SEED,
    CompileOptions,
    NetworkFamily,
    Request,
    Settings,
)
from speechmill.codecs.pure.config import CARDS, VARIANTS, PureConfig

if TYPE_CHECKING:
    from speechmill.codecs.recipe import Enhance, Recipe

PureRequest = Request[PureConfig, CompileOptions]


class PureFamily(NetworkFamily[PureConfig, CompileOptions]):
    """Facts, networks and training of PURE."""

    def describe(self, request: PureRequest) -> CodecInfo:
        sizes = request.sizes
        return CodecInfo(
            name=request.name,
            **self.identify(request),
            sample_rate=sizes.sample_rate,
            output_sample_rate=sizes.sample_rate,
            hop_length=sizes.hop_length,
            frame_offset=sizes.hop_length - 1,
            min_frames=1,
            codebook_sizes=(sizes.codebook_size,) * sizes.num_codebooks,
            num_semantic_codebooks=0,
            context=sizes.context,
        )

    def build(self, request: PureRequest, info: CodecInfo, **execution: Any) -> Codec:
        from speechmill.codecs.pure.codec import PureCodec
        from speechmill.codecs.pure.weights import read_pure, untrained_pure

        sizes, path = request.sizes, request.path()
        network = read_pure(sizes, path) if path else untrained_pure(sizes, UNTRAINED_SEED)
        return PureCodec(network, info, **execution)

    def build_recipe(
        self, request: PureRequest, settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        from speechmill.codecs.pure.recipe import PureRecipe, PureRecipeConfig

        return PureRecipe(request.sizes, override(PureRecipeConfig(), settings), enhance)


FAMILY = PureFamily(
    "pure", algorithm=2, sizes=PureConfig, variants=VARIANTS, options=CompileOptions, cards=CARDS
)
