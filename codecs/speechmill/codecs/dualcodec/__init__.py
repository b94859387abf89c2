"""DualCodec: a semantic codebook over self-supervised features, acoustic ones over what is left.

Li et al., "DualCodec: A Low-Frame-Rate, Semantically-Enhanced Neural Audio Codec for Speech
Generation", arXiv 2505.13000. Options of `load_codec` beside `checkpoint` and `config`:
`semantic_checkpoint` and `semantic_stats`, the files of w2v-BERT 2.0 and of its features'
statistics, which encoding needs and decoding does not; `num_codebooks`, to encode to the first
ones only; `keep_partial`, to encode the end of a clip too.

Without it n frames take n hops and 119 samples more (at 24 kHz), as with the authors: 10 s give
249 frames at 25 Hz and 124 at 12.5 Hz. With it the last frame is the mean of what features there
are, and only clips under 599 samples, which hold no fbank window, have none.

As with the authors, decoding n frames gives n hops less 4 samples (`CodecInfo.missing_samples`):
the decoder's odd rate loses a column, and what is not computed is not made up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.dualcodec.cards import CARDS
from speechmill.codecs.dualcodec.config import (
    FBANK_HOP,
    FBANK_STACK,
    FBANK_WINDOW,
    SEMANTIC_RATE,
    VARIANTS,
    DualCodecConfig,
    configured,
)
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import UNTRAINED_SEED, CodecFamily, identity
from speechmill.codecs.fetch import fetch

if TYPE_CHECKING:
    import torch

    from speechmill.codecs.recipe import Enhance, Recipe

_ALGORITHM = 1  # raised when the same weights give other codes


def info(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    semantic_checkpoint: str | Path | None = None,
    semantic_stats: str | Path | None = None,
    num_codebooks: int | None = None,
    keep_partial: bool = False,
    compile: bool = False,
) -> CodecInfo:
    """Return the facts; the name is recorded as it was given."""
    sizes = _sizes(name, checkpoint, config)
    if (semantic_checkpoint is None) != (semantic_stats is None):
        raise InvalidConfig("semantic_checkpoint and semantic_stats belong together; give both")
    books = _num_codebooks(sizes, num_codebooks)
    files = {
        "checkpoint": checkpoint,
        "semantic_checkpoint": semantic_checkpoint,
        "semantic_stats": semantic_stats,
    }
    choices = {"num_codebooks": books, "keep_partial": keep_partial}
    return CodecInfo(
        name=name,
        **identity("dualcodec", _ALGORITHM, sizes, files, **choices),
        sample_rate=sizes.sample_rate,
        output_sample_rate=sizes.sample_rate,
        hop_length=sizes.hop_length,
        frame_offset=_frame_offset(sizes, keep_partial),
        min_frames=0,
        codebook_sizes=sizes.codebook_sizes[:books],
        num_semantic_codebooks=1,
        missing_samples=sizes.missing_samples,
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    semantic_checkpoint: str | Path | None = None,
    semantic_stats: str | Path | None = None,
    num_codebooks: int | None = None,
    keep_partial: bool = False,
    compile: bool = False,
) -> Codec:
    """Return the codec, with random weights where there is no checkpoint."""
    import torch

    from speechmill.codecs.dualcodec.codec import DualCodec
    from speechmill.codecs.dualcodec.semantic import SemanticFeatures
    from speechmill.codecs.dualcodec.untrained import random_network, random_w2vbert
    from speechmill.codecs.dualcodec.weights import read_network, read_stats, read_w2vbert

    facts = info(
        name,
        checkpoint=checkpoint,
        config=config,
        semantic_checkpoint=semantic_checkpoint,
        semantic_stats=semantic_stats,
        num_codebooks=num_codebooks,
        keep_partial=keep_partial,
    )
    sizes = _sizes(name, checkpoint, config)
    semantic = None
    if semantic_checkpoint is not None and semantic_stats is not None:
        w2vbert = read_w2vbert(sizes, fetch(semantic_checkpoint))
        stats = read_stats(sizes, fetch(semantic_stats))
        semantic = SemanticFeatures(sizes, w2vbert, *stats, keep_partial=keep_partial)
    elif checkpoint is None:
        w2vbert = random_w2vbert(sizes, UNTRAINED_SEED)
        stats = torch.zeros(sizes.semantic_in_dim), torch.ones(sizes.semantic_in_dim)
        semantic = SemanticFeatures(sizes, w2vbert, *stats, keep_partial=keep_partial)
    if checkpoint is None:
        network = random_network(sizes, UNTRAINED_SEED)
    else:
        network = read_network(sizes, fetch(checkpoint))
    return DualCodec(network, semantic, facts, device=device, precision=precision, compiled=compile)


def recipe(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    settings: dict[str, Any],
    enhance: Enhance | None,
    semantic_checkpoint: str | Path | None = None,
    semantic_stats: str | Path | None = None,
) -> Recipe:
    """Return how the codec is trained; of random weights throughout without any file."""
    from speechmill.codecs.dualcodec.recipe import DualCodecRecipe, DualCodecRecipeConfig

    if (semantic_checkpoint is None) != (semantic_stats is None):
        raise InvalidConfig("semantic_checkpoint and semantic_stats belong together; give both")
    if checkpoint is not None and semantic_checkpoint is None:
        raise InvalidConfig(
            f"{name} is trained behind w2v-BERT; give semantic_checkpoint and semantic_stats"
        )
    sizes = _sizes(name, checkpoint, config)
    trained = DualCodecRecipe(sizes, override(DualCodecRecipeConfig(), settings))
    if semantic_checkpoint is not None and semantic_stats is not None:
        trained.listen_to(fetch(semantic_checkpoint), fetch(semantic_stats))
    if checkpoint is not None:
        trained.start_from(fetch(checkpoint))
    return trained


def _sizes(name: str, checkpoint: str | None, config: dict[str, Any] | None) -> DualCodecConfig:
    """Return the configuration, with as many codebooks as the checkpoint holds."""
    sizes = configured(VARIANTS.get(name, DualCodecConfig()), config)
    if checkpoint is None:
        return sizes
    from speechmill.codecs.dualcodec.weights import count_acoustic_codebooks

    held = count_acoustic_codebooks(fetch(checkpoint))
    return replace(sizes, n_codebooks=held) if held else sizes


def _num_codebooks(sizes: DualCodecConfig, asked: int | None) -> int:
    held = len(sizes.codebook_sizes)
    if asked is None:
        return held
    if not 1 <= asked <= held:
        raise InvalidConfig(f"num_codebooks is {asked}, must be 1 to {held}")
    return asked


def _frame_offset(sizes: DualCodecConfig, keep_partial: bool) -> int:
    """Return what to add to the samples before dividing by the hop.

    The last frame is there from its first sample at 16 kHz on that completes a fbank window: any
    of its windows, or the last but one, because the last pair may lack one. Resampling rounds the
    number of samples up.
    """
    window = FBANK_WINDOW if keep_partial else FBANK_WINDOW - FBANK_STACK * FBANK_HOP
    needed = (window - 1) * sizes.sample_rate // SEMANTIC_RATE + 1
    return sizes.hop_length - needed if keep_partial else -needed


FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset(
        {"compile", "semantic_checkpoint", "semantic_stats", "num_codebooks", "keep_partial"}
    ),
    file_options=frozenset({"semantic_checkpoint", "semantic_stats"}),
    cards=CARDS,
    recipe=recipe,
)
