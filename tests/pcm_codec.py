"""A codec that can be judged by hand: code 0 of a sample is its high byte, code 1 its low byte.

With both it gives back 16-bit audio to the last bit, with the first alone 8-bit audio.
"""

import torch

from speechmill.codecs import CodecInfo
from speechmill.codecs.family import CodecFamily


def info(name, *, checkpoint, config):
    return CodecInfo(
        name=name,
        revision="pcm",
        trained=True,
        sample_rate=16_000,
        output_sample_rate=16_000,
        hop_length=1,
        frame_offset=0,
        min_frames=1,
        codebook_sizes=(256, 256),
        num_semantic_codebooks=0,
    )


class PcmCodec:
    info = info("pcm", checkpoint=None, config=None)

    def encode(self, audio_BT, num_samples_B):
        pcm_BT = (audio_BT * 32768).round().long().clamp(-32768, 32767) + 32768
        return torch.stack([pcm_BT // 256, pcm_BT % 256], dim=1)

    def decode(self, codes_BKF, num_frames_B):
        low_BT = codes_BKF[:, 1] if codes_BKF.shape[1] > 1 else 128
        return ((codes_BKF[:, 0] * 256 + low_BT) - 32768).float() / 32768


def load(name, *, checkpoint, config, device, precision):
    return PcmCodec()


FAMILY = CodecFamily(variants=("pcm",), info=info, load=load)
