"""What is known of the released DualCodecs; no digest of their files was at hand."""

from speechmill.codecs.dualcodec.config import SEMANTIC_CHECKPOINT, SEMANTIC_STATS
from speechmill.codecs.family import Card


def _card(parameters: int, checkpoint: str) -> Card:
    files = {
        "checkpoint": checkpoint,
        "semantic_checkpoint": SEMANTIC_CHECKPOINT,
        "semantic_stats": SEMANTIC_STATS,
    }
    return Card(parameters=parameters, paper="arXiv 2505.13000", files=files)


CARDS = {
    "dualcodec-12hz": _card(
        495_212_433, "hf://amphion/dualcodec/dualcodec_12hz_16384_4096.safetensors"
    ),
    "dualcodec-25hz": _card(
        513_486_209, "hf://amphion/dualcodec/dualcodec_25hz_16384_1024.safetensors"
    ),
    "dualcodec-12hz-noise-robust": _card(
        495_664_089, "hf://amphion/dualcodec-tts/dualcodec_12hzv1_noise_robust.safetensors"
    ),
    "dualcodec-25hz-noise-robust": _card(
        513_486_209, "hf://amphion/dualcodec-tts/dualcodec_25hzv1_noise_robust.safetensors"
    ),
}
