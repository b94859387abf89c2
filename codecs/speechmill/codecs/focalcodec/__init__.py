"""FocalCodec: one binary code per frame from focal modulation over WavLM features.

Della Libera et al., "FocalCodec: Low-Bitrate Speech Coding via Focal Modulation Networks", arXiv
2502.04465, and "FocalCodec-Stream", arXiv 2509.16195, whose causal variants also encode in
chunks of 80 ms and decode to 24 kHz. The published code and weights are under Apache-2.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.family import UNTRAINED_SEED, CodecFamily, identity
from speechmill.codecs.fetch import fetch
from speechmill.codecs.focalcodec.cards import CARDS
from speechmill.codecs.focalcodec.config import SAMPLE_RATE, VARIANTS
from speechmill.codecs.focalcodec.published import configured

if TYPE_CHECKING:
    import torch

    from speechmill.codecs.recipe import Enhance, Recipe

_ALGORITHM = 1  # raised when the same weights give other codes


def info(
    name: str, *, checkpoint: str | None, config: dict[str, Any] | None, compile: bool = False
) -> CodecInfo:
    """Return the facts; the name is recorded as it was given."""
    sizes = configured(name, config)
    return CodecInfo(
        name=name,
        **identity("focalcodec", _ALGORITHM, sizes, {"checkpoint": checkpoint}),
        sample_rate=SAMPLE_RATE,
        output_sample_rate=sizes.output_sample_rate,
        hop_length=sizes.hop_length,
        frame_offset=sizes.frame_offset,
        min_frames=1,
        codebook_sizes=(sizes.codebook_size,),
        num_semantic_codebooks=1,
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    compile: bool = False,
) -> Codec:
    """Return the codec, with random weights where there is no checkpoint."""
    from speechmill.codecs.focalcodec.codec import FocalCodec
    from speechmill.codecs.focalcodec.weights import build, build_untrained

    sizes = configured(name, config)
    if checkpoint is None:
        network = build_untrained(sizes, UNTRAINED_SEED)
    else:
        network = build(sizes, fetch(checkpoint))
    facts = info(name, checkpoint=checkpoint, config=config)
    return FocalCodec(network, sizes, facts, device=device, precision=precision, compiled=compile)


def recipe(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    settings: dict[str, Any],
    enhance: Enhance | None,
) -> Recipe:
    """Return how the codec is trained."""
    from speechmill.codecs.focalcodec.recipe import FocalCodecRecipe, FocalCodecRecipeConfig

    trained = FocalCodecRecipe(
        configured(name, config), override(FocalCodecRecipeConfig(), settings)
    )
    if checkpoint is not None:
        trained.start_from(fetch(checkpoint))
    return trained


FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset({"compile"}),
    file_settings=frozenset({"wavlm"}),
    cards=CARDS,
    recipe=recipe,
)
