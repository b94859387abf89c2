"""PURE Codec: residual quantization whose first stage is taught by a speech enhancer.

Shi et al., "PURE Codec: Progressive Unfolding of Residual Entropy for Speech Codec Learning",
arXiv 2511.22687. The enhancer is a teacher in training only: encode and decode never need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.family import UNPUBLISHED, UNTRAINED_SEED, Card, CodecFamily, identity
from speechmill.codecs.fetch import fetch
from speechmill.codecs.pure.config import VARIANTS, PureConfig

if TYPE_CHECKING:
    import torch

    from speechmill.codecs.recipe import Enhance, Recipe

_ALGORITHM = 2  # raised when the same weights give other codes


def info(
    name: str, *, checkpoint: str | None, config: dict[str, Any] | None, compile: bool = False
) -> CodecInfo:
    """Return the facts; the name is recorded as it was given."""
    sizes = override(VARIANTS.get(name, PureConfig()), config)
    return CodecInfo(
        name=name,
        **identity("pure", _ALGORITHM, sizes, {"checkpoint": checkpoint}),
        sample_rate=sizes.sample_rate,
        output_sample_rate=sizes.sample_rate,
        hop_length=sizes.hop_length,
        frame_offset=sizes.hop_length - 1,
        min_frames=1,
        codebook_sizes=(sizes.codebook_size,) * sizes.num_codebooks,
        num_semantic_codebooks=0,
        context=sizes.context,
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
    from speechmill.codecs.pure.codec import PureCodec
    from speechmill.codecs.pure.weights import build, build_untrained

    sizes = override(VARIANTS.get(name, PureConfig()), config)
    if checkpoint is None:
        network = build_untrained(sizes, UNTRAINED_SEED)
    else:
        network = build(sizes, fetch(checkpoint))
    facts = info(name, checkpoint=checkpoint, config=config)
    return PureCodec(network, facts, device=device, precision=precision, compiled=compile)


def recipe(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    settings: dict[str, Any],
    enhance: Enhance | None,
) -> Recipe:
    """Return how the codec is trained."""
    from speechmill.codecs.pure.recipe import PureRecipe, PureRecipeConfig

    sizes = override(VARIANTS.get(name, PureConfig()), config)
    trained = PureRecipe(sizes, override(PureRecipeConfig(), settings), enhance)
    if checkpoint is not None:
        trained.start_from(fetch(checkpoint))
    return trained


_PAPER = "arXiv 2511.22687"
_SMALL = (  # of half precision, which float32 holds to the last bit; see docs/training.md
    "package://speechmill.codecs/pure/pure-16k-small.safetensors"
    "#sha256=8e16310e3f683e33698043d795dd7f35191f8a97361253acb786768940809e8f"
)
CARDS = {
    name: Card(parameters=24_937_377, paper=_PAPER, licence=UNPUBLISHED) for name in VARIANTS
}  # all but the small one are prefixes of one network
CARDS["pure-16k-small"] = Card(
    parameters=3_723_712, paper=_PAPER, licence="Apache-2.0", files={"checkpoint": _SMALL}
)
FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset({"compile"}),
    cards=CARDS,
    recipe=recipe,
)
