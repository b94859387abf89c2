"""HASRD: a semantic codebook over self-supervised features, acoustic ones over what it leaves.

After the abstract of Hussein et al., "HASRD: Hierarchical Acoustic and Semantic Representation
Disentanglement", arXiv 2506.00843, Interspeech 2025. The paper's full text was not at hand: this is
a design that agrees with the abstract, not the authors' configuration, and no weights of theirs are
published. Every choice that the abstract leaves open is a key of `HasrdConfig`.

Option of `load_codec` beside `checkpoint` and `config`: `semantic_checkpoint`, the file of the
self-supervised model as transformers writes it, which encoding needs and decoding does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import override
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import UNPUBLISHED, UNTRAINED_SEED, Card, CodecFamily, identity
from speechmill.codecs.fetch import fetch, pinned
from speechmill.codecs.hasrd.config import SAMPLE_RATE, VARIANTS, configured

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
    compile: bool = False,
) -> CodecInfo:
    """Return the facts; the name is recorded as it was given."""
    sizes = configured(name, config)
    if semantic_checkpoint is not None and sizes.semantic_sha256 is not None:
        semantic_checkpoint = pinned(semantic_checkpoint, sizes.semantic_sha256)
    files = {"checkpoint": checkpoint, "semantic_checkpoint": semantic_checkpoint}
    return CodecInfo(
        name=name,
        **identity("hasrd", _ALGORITHM, sizes, files),
        sample_rate=SAMPLE_RATE,
        output_sample_rate=SAMPLE_RATE,
        hop_length=sizes.hop_length,
        frame_offset=sizes.hop_length - 1 if sizes.keep_partial else 0,
        min_frames=0,
        codebook_sizes=sizes.codebook_sizes,
        num_semantic_codebooks=1,
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    semantic_checkpoint: str | Path | None = None,
    compile: bool = False,
) -> Codec:
    """Return the codec, with random weights where there is no checkpoint.

    With `checkpoint` alone it only decodes.
    """
    from speechmill.codecs.hasrd.codec import HasrdCodec
    from speechmill.codecs.hasrd.untrained import random_network, random_ssl
    from speechmill.codecs.hasrd.weights import read_network, read_ssl

    sizes, ssl = configured(name, config), None
    facts = info(
        name, checkpoint=checkpoint, config=config, semantic_checkpoint=semantic_checkpoint
    )
    if semantic_checkpoint is not None:
        ssl = read_ssl(sizes, fetch(semantic_checkpoint))
    elif checkpoint is None:
        ssl = random_ssl(sizes, UNTRAINED_SEED)
    if checkpoint is None:
        network = random_network(sizes, UNTRAINED_SEED)
    else:
        network = read_network(sizes, fetch(checkpoint))
    return HasrdCodec(network, ssl, facts, device=device, precision=precision, compiled=compile)


def recipe(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    settings: dict[str, Any],
    enhance: Enhance | None,
    semantic_checkpoint: str | Path | None = None,
) -> Recipe:
    """Return how the codec is trained; of random weights throughout without any checkpoint."""
    from speechmill.codecs.hasrd.recipe import HasrdRecipe, HasrdRecipeConfig

    if checkpoint is not None and semantic_checkpoint is None:
        raise InvalidConfig(
            f"{name} is trained behind its self-supervised model; give semantic_checkpoint, the "
            "file that its centroids were fitted to"
        )
    sizes = configured(name, config)
    trained = HasrdRecipe(sizes, override(HasrdRecipeConfig(), settings))
    if semantic_checkpoint is not None:
        if sizes.semantic_sha256 is not None:
            semantic_checkpoint = pinned(semantic_checkpoint, sizes.semantic_sha256)
        trained.listen_to(fetch(semantic_checkpoint))
    if checkpoint is not None:
        trained.start_from(fetch(checkpoint))
    return trained


PARAMETERS = {"hasrd-2k-wavlm-base": 123_079_199, "hasrd-2k-hubert-base": 123_070_571}
CARDS = {
    name: Card(
        parameters=PARAMETERS.get(name, 328_147_311), paper="arXiv 2506.00843", licence=UNPUBLISHED
    )
    for name in VARIANTS
}
FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset({"compile", "semantic_checkpoint"}),
    file_options=frozenset({"semantic_checkpoint"}),
    cards=CARDS,
    recipe=recipe,
)
