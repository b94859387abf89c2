"""The null codec: frames and codes without a network, to test and time everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import UNPUBLISHED, Card, CodecFamily, revision_of

if TYPE_CHECKING:
    import torch

NAME = "null"
SAMPLE_RATE = 16_000
HOP_LENGTH = 320
NUM_CODEBOOKS = 8
CODEBOOK_SIZE = 1024
_ALGORITHM = 1  # a version: increase it when the codes of the same audio change


def info(name: str, *, checkpoint: str | None, config: dict[str, Any] | None) -> CodecInfo:
    """Return the facts; this codec has neither a configuration nor weights."""
    for argument, value in (("checkpoint", checkpoint), ("config", config)):
        if value is not None:
            raise InvalidConfig(f"{NAME} takes no {argument}, not {value!r}; leave it out")
    return CodecInfo(
        name=name,
        revision=revision_of({"family": NAME, "algorithm": _ALGORITHM}, {}),
        trained=True,
        sample_rate=SAMPLE_RATE,
        output_sample_rate=SAMPLE_RATE,
        hop_length=HOP_LENGTH,
        frame_offset=HOP_LENGTH - 1,
        min_frames=1,
        codebook_sizes=(CODEBOOK_SIZE,) * NUM_CODEBOOKS,
        num_semantic_codebooks=0,
        context=(0, 0),
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
) -> Codec:
    """Return the codec; its codes are integer arithmetic, equal in every precision."""
    from speechmill.codecs.null.codec import NullCodec

    return NullCodec(info(name, checkpoint=checkpoint, config=config), device)


CARDS = {NAME: Card(parameters=0, paper="none", licence=UNPUBLISHED)}
FAMILY = CodecFamily(variants=(NAME,), info=info, load=load, cards=CARDS)
