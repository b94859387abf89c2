"""DualCodec: a semantic codebook over self-supervised features, acoustic ones over the residual.

Li et al., "DualCodec: A Low-Frame-Rate, Semantically-Enhanced Neural Audio Codec for Speech
Generation", arXiv 2505.13000.

As in the authors' code, decoding n frames returns n hops less 4 samples
(`CodecInfo.missing_samples`): the decoder's odd rate loses a column.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.dualcodec.config import (
    CARDS,
    FBANK_HOP,
    FBANK_STACK,
    FBANK_WINDOW,
    SEMANTIC_RATE,
    VARIANTS,
    DualCodecConfig,
    read_dualcodec_config,
)
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
from speechmill.codecs.fetch import fetch

if TYPE_CHECKING:
    from speechmill.codecs.recipe import Enhance, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class DualCodecOptions(CompileOptions):
    """Encoding needs both semantic files, decoding does not.

    Without `keep_partial`, n frames need n hops and 119 samples (at 24 kHz), as in the authors'
    code: 10 s give 249 frames at 25 Hz and 124 at 12.5 Hz. With it, the last frame is the mean of
    the features that exist; only clips under 599 samples, shorter than a fbank window, have none.
    """

    semantic_checkpoint: str | Path | None = field(default=None, metadata=FILE)  # w2v-BERT 2.0
    semantic_stats: str | Path | None = field(default=None, metadata=FILE)  # of its features
    num_codebooks: int | None = None  # encode to the first ones only
    keep_partial: bool = False  # encode the end of a clip too

    def __post_init__(self) -> None:
        if (self.semantic_checkpoint is None) != (self.semantic_stats is None):
            raise InvalidConfig("semantic_checkpoint and semantic_stats belong together; give both")


DualCodecRequest = Request[DualCodecConfig, DualCodecOptions]


class DualCodecFamily(NetworkFamily[DualCodecConfig, DualCodecOptions]):
    """Facts, networks and training of DualCodec."""

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: DualCodecOptions
    ) -> DualCodecConfig:
        """Return the sizes, with as many codebooks as the checkpoint holds."""
        sizes = read_dualcodec_config(VARIANTS.get(name, DualCodecConfig()), config)
        if checkpoint is None:
            return sizes
        from speechmill.codecs.dualcodec.weights import count_acoustic_codebooks

        held = count_acoustic_codebooks(fetch(checkpoint))
        return replace(sizes, n_codebooks=held) if held else sizes

    def describe(self, request: DualCodecRequest) -> CodecInfo:
        sizes, options = request.sizes, request.options
        books = _num_codebooks(sizes, options.num_codebooks)
        choices = {"num_codebooks": books, "keep_partial": options.keep_partial}
        return CodecInfo(
            name=request.name,
            **self.identify(request, **choices),
            sample_rate=sizes.sample_rate,
            output_sample_rate=sizes.sample_rate,
            hop_length=sizes.hop_length,
            frame_offset=_frame_offset(sizes, options.keep_partial),
            min_frames=0,
            codebook_sizes=sizes.codebook_sizes[:books],
            num_semantic_codebooks=1,
            missing_samples=sizes.missing_samples,
        )

    def build(self, request: DualCodecRequest, info: CodecInfo, **execution: Any) -> Codec:
        from speechmill.codecs.dualcodec.codec import DualCodec
        from speechmill.codecs.dualcodec.weights import (
            read_dualcodec,
            read_semantic,
            untrained_dualcodec,
            untrained_semantic,
        )

        sizes, path, keep_partial = request.sizes, request.path(), request.options.keep_partial
        w2vbert, stats = request.path("semantic_checkpoint"), request.path("semantic_stats")
        semantic = None
        if w2vbert is not None and stats is not None:
            semantic = read_semantic(sizes, w2vbert, stats, keep_partial=keep_partial)
        elif path is None:
            semantic = untrained_semantic(sizes, UNTRAINED_SEED, keep_partial=keep_partial)
        if path is None:
            network = untrained_dualcodec(sizes, UNTRAINED_SEED)
        else:
            network = read_dualcodec(sizes, path)
        return DualCodec(network, semantic, info, **execution)

    def build_recipe(
        self, request: DualCodecRequest, settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        from speechmill.codecs.dualcodec.recipe import DualCodecRecipe, DualCodecRecipeConfig

        w2vbert, stats = request.path("semantic_checkpoint"), request.path("semantic_stats")
        if request.files["checkpoint"] is not None and w2vbert is None:
            raise InvalidConfig(
                f"{request.name} is trained on features of w2v-BERT; give semantic_checkpoint and "
                "semantic_stats"
            )
        recipe = DualCodecRecipe(request.sizes, override(DualCodecRecipeConfig(), settings))
        if w2vbert is not None and stats is not None:
            recipe.load_semantic(w2vbert, stats)
        return recipe


def _num_codebooks(sizes: DualCodecConfig, asked: int | None) -> int:
    held = len(sizes.codebook_sizes)
    if asked is None:
        return held
    if not 1 <= asked <= held:
        raise InvalidConfig(f"num_codebooks is {asked}, must be 1 to {held}")
    return asked


def _frame_offset(sizes: DualCodecConfig, keep_partial: bool) -> int:
    """Return `CodecInfo.frame_offset`.

    A frame is computed if the audio at 16 kHz contains enough of its fbank windows: with
    `keep_partial` the first one, otherwise all but the last one, because the last pair of windows
    may be incomplete. Resampling rounds the number of samples up.
    """
    window = FBANK_WINDOW if keep_partial else FBANK_WINDOW - FBANK_STACK * FBANK_HOP
    needed = (window - 1) * sizes.sample_rate // SEMANTIC_RATE + 1
    return sizes.hop_length - needed if keep_partial else -needed


FAMILY = DualCodecFamily(
    "dualcodec",
    sizes=DualCodecConfig,
    variants=VARIANTS,
    options=DualCodecOptions,
    cards=CARDS,
)
