"""SimWhisper-Codec: grouped finite scalar codes of a simplified Whisper encoder.

Zhang et al., "Speaking Clearly: A Simplified Whisper-Based Codec for Low-Bitrate Speech Coding",
arXiv 2510.20504.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.family import UNTRAINED_SEED, Card, CodecFamily, identity
from speechmill.codecs.fetch import fetch
from speechmill.codecs.simwhisper.config import (
    MEL_HOP,
    SAMPLE_RATE,
    STRIDE,
    VARIANTS,
    SimWhisperConfig,
    read_published,
)

if TYPE_CHECKING:
    import torch

    from speechmill.codecs.recipe import Enhance, Recipe

_ALGORITHM = 1  # raised when the same weights give other codes


def info(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    keep_partial: bool = False,
    compile: bool = False,
) -> CodecInfo:
    """Return the facts; `config` is the authors' `generator_params`.

    The authors drop a clip's last frame unless the clip fills it. With `keep_partial` it is kept
    where the network computes one, that is for more than 160 samples.
    """
    sizes = _sizes(name, config)
    frame_offset = sizes.hop_length - MEL_HOP * STRIDE + MEL_HOP - 1 if keep_partial else 0
    return CodecInfo(
        name=name,
        **identity(
            "simwhisper", _ALGORITHM, sizes, {"checkpoint": checkpoint}, keep_partial=keep_partial
        ),
        sample_rate=SAMPLE_RATE,
        output_sample_rate=SAMPLE_RATE,
        hop_length=sizes.hop_length,
        frame_offset=frame_offset,
        min_frames=0,
        codebook_sizes=(sizes.codebook_size,) * sizes.num_groups,
        num_semantic_codebooks=0,
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    keep_partial: bool = False,
    compile: bool = False,
) -> Codec:
    """Return the codec, with random weights where there is no checkpoint."""
    from speechmill.codecs.simwhisper.codec import SimWhisperCodec
    from speechmill.codecs.simwhisper.weights import build, build_untrained

    sizes = _sizes(name, config)
    if checkpoint is None:
        network = build_untrained(sizes, UNTRAINED_SEED)
    else:
        network = build(sizes, fetch(checkpoint))
    facts = info(name, checkpoint=checkpoint, config=config, keep_partial=keep_partial)
    return SimWhisperCodec(network, facts, device=device, precision=precision, compiled=compile)


def recipe(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    settings: dict[str, Any],
    enhance: Enhance | None,
) -> Recipe:
    """Return how the codec is trained."""
    from speechmill.codecs.simwhisper.recipe import SimWhisperRecipe, SimWhisperRecipeConfig

    chosen = override(SimWhisperRecipeConfig(), settings)
    trained = SimWhisperRecipe(_sizes(name, config), chosen)
    if checkpoint is not None:
        trained.start_from(fetch(checkpoint))
    return trained


def _sizes(name: str, config: dict[str, Any] | None) -> SimWhisperConfig:
    return VARIANTS[name] if config is None else read_published(config)


CARDS = {
    "simwhisper-16k": Card(
        parameters=291_315_186,
        paper="arXiv 2510.20504",
        files={
            "checkpoint": "hf://ZhangXinWhut/SimWhisper_Codec/SimWhisperCodec.pt"
            "#sha256=eadb9840af449d39513a2b826e5513af65ead1b1b88083c91fd471237ea90dc7"
        },
    )
}
FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset({"compile", "keep_partial"}),
    file_settings=frozenset({"whisper"}),
    cards=CARDS,
    recipe=recipe,
)
