"""A masked batch differs from its rows, computed alone, only by rounding."""

import json

import pytest
import torch

from speechmill.codecs.dualcodec.config import DualCodecConfig, read_dualcodec_config
from speechmill.codecs.dualcodec.weights import read_dualcodec
from tests.codecs.dualcodec.goldens import WEIGHTS

FRAMES = [1, 2, 9, 31]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@torch.inference_mode()
def test_audio_of_a_masked_batch_equals_that_of_its_rows_except_for_rounding(
    dtype: torch.dtype, tolerance: float
) -> None:
    config = read_dualcodec_config(DualCodecConfig(), json.loads(WEIGHTS["config"].read_text()))
    decoder = read_dualcodec(config, WEIGHTS["checkpoint"]).acoustic_decoder.to(dtype)
    generator = torch.Generator().manual_seed(0)
    latent_BDF = torch.randn(4, config.latent_dim, 31, generator=generator).to(dtype)
    audio_B1T = decoder(latent_BDF, torch.tensor(FRAMES))
    for latent_DF, audio_1T, frames in zip(latent_BDF, audio_B1T, FRAMES, strict=True):
        alone_1T = decoder(latent_DF[None, :, :frames])[0]
        error = (audio_1T[:, : alone_1T.shape[1]] - alone_1T).abs().max()
        assert error < tolerance
