"""FocalCodec: one binary code per frame from focal modulation over WavLM features.

Della Libera et al., "FocalCodec: Low-Bitrate Speech Coding via Focal Modulation Networks", arXiv
2502.04465, and "FocalCodec-Stream", arXiv 2509.16195, whose causal variants also encode in
chunks of 80 ms and decode to 24 kHz. The published code and weights are under Apache-2.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.family import (
    UNTRAINED_SEED,
    CompileOptions,
    Config,
    NetworkFamily,
    Request,
    Settings,
)
from speechmill.codecs.focalcodec.config import CARDS, SAMPLE_RATE, VARIANTS, FocalCodecConfig
from speechmill.codecs.focalcodec.published import read_focalcodec_config

if TYPE_CHECKING:
    from speechmill.codecs.recipe import Enhance, Recipe

FocalCodecRequest = Request[FocalCodecConfig, CompileOptions]


class FocalCodecFamily(NetworkFamily[FocalCodecConfig, CompileOptions]):
    """Facts, networks and training of FocalCodec; `config` is the authors' `config.json`."""

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: CompileOptions
    ) -> FocalCodecConfig:
        return read_focalcodec_config(name, config)

    def describe(self, request: FocalCodecRequest) -> CodecInfo:
        sizes = request.sizes
        return CodecInfo(
            name=request.name,
            **self.identify(request),
            sample_rate=SAMPLE_RATE,
            output_sample_rate=sizes.output_sample_rate,
            hop_length=sizes.hop_length,
            frame_offset=sizes.frame_offset,
            min_frames=1,
            codebook_sizes=(sizes.codebook_size,),
            num_semantic_codebooks=1,
        )

    def build(self, request: FocalCodecRequest, info: CodecInfo, **execution: Any) -> Codec:
        from speechmill.codecs.focalcodec.codec import FocalCodec
        from speechmill.codecs.focalcodec.weights import read_focalcodec, untrained_focalcodec

        sizes, path = request.sizes, request.path()
        if path is None:
            network = untrained_focalcodec(sizes, UNTRAINED_SEED)
        else:
            network = read_focalcodec(sizes, path)
        return FocalCodec(network, sizes, info, **execution)

    def build_recipe(
        self, request: FocalCodecRequest, settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        from speechmill.codecs.focalcodec.recipe import FocalCodecRecipe, FocalCodecRecipeConfig

        return FocalCodecRecipe(request.sizes, override(FocalCodecRecipeConfig(), settings))


FAMILY = FocalCodecFamily(
    "focalcodec",
    sizes=FocalCodecConfig,
    variants=VARIANTS,
    options=CompileOptions,
    cards=CARDS,
    file_settings=frozenset({"wavlm"}),
)
