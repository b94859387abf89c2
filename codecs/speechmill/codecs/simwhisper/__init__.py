"""SimWhisper-Codec: grouped finite scalar codes of a simplified Whisper encoder.

Zhang et al., "Speaking Clearly: A Simplified Whisper-Based Codec for Low-Bitrate Speech Coding",
arXiv 2510.20504.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from speechmill.codecs.nn.whisper.sizes import MEL_HOP, SAMPLE_RATE, STRIDE
from speechmill.codecs.simwhisper.config import (
    CARDS,
    VARIANTS,
    SimWhisperConfig,
    read_published,
)

if TYPE_CHECKING:
    from speechmill.codecs.recipe import Enhance, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SimWhisperOptions(CompileOptions):
    """The authors drop a clip's last frame unless the clip fills it.

    `keep_partial` keeps it if the network computes one: for more than 160 samples.
    """

    keep_partial: bool = False


SimWhisperRequest = Request[SimWhisperConfig, SimWhisperOptions]


class SimWhisperFamily(NetworkFamily[SimWhisperConfig, SimWhisperOptions]):
    """Facts, networks and training of SimWhisper; `config` is the authors' `generator_params`."""

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: SimWhisperOptions
    ) -> SimWhisperConfig:
        base = VARIANTS.get(name)
        return base if base and config is None else read_published(config or {}, base)

    def describe(self, request: SimWhisperRequest) -> CodecInfo:
        sizes, keep_partial = request.sizes, request.options.keep_partial
        frame_offset = sizes.hop_length - MEL_HOP * STRIDE + MEL_HOP - 1 if keep_partial else 0
        return CodecInfo(
            name=request.name,
            **self.identify(request, keep_partial=keep_partial),
            sample_rate=SAMPLE_RATE,
            output_sample_rate=SAMPLE_RATE,
            hop_length=sizes.hop_length,
            frame_offset=frame_offset,
            min_frames=0,
            codebook_sizes=(sizes.codebook_size,) * sizes.num_groups,
            num_semantic_codebooks=0,
        )

    def build(self, request: SimWhisperRequest, info: CodecInfo, **execution: Any) -> Codec:
        from speechmill.codecs.simwhisper.codec import SimWhisperCodec
        from speechmill.codecs.simwhisper.weights import read_simwhisper, untrained_simwhisper

        sizes, path = request.sizes, request.path()
        if path is None:
            network = untrained_simwhisper(sizes, UNTRAINED_SEED)
        else:
            network = read_simwhisper(sizes, path)
        return SimWhisperCodec(network, info, **execution)

    def build_recipe(
        self, request: SimWhisperRequest, settings: Settings, enhance: Enhance | None
    ) -> Recipe:
        from speechmill.codecs.simwhisper.recipe import SimWhisperRecipe, SimWhisperRecipeConfig

        return SimWhisperRecipe(request.sizes, override(SimWhisperRecipeConfig(), settings))


FAMILY = SimWhisperFamily(
    "simwhisper",
    sizes=SimWhisperConfig,
    variants=VARIANTS,
    options=SimWhisperOptions,
    cards=CARDS,
    file_settings=frozenset({"whisper"}),
)
