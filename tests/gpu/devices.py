"""Where a test of this folder runs: on a GPU, and on a CPU too if that can run the same lines."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.codecs.speech import speech

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CUDA = torch.device("cuda")
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
FAMILIES = (
    "pure",
    "pure frames",
    "focalcodec offline_50hz",
    "focalcodec causal",
    "dualcodec",
    "simwhisper",
    "hasrd default",
)


def pcm(samples: int, seed: int) -> np.ndarray:
    """Return a clip of 16-bit samples, as most recordings are decoded."""
    return (32_767 * speech(samples, seed).numpy()).astype(np.int16)


def mismatch(codes_BKF: Tensor, expected: list[Tensor]) -> float:
    """Return the share of codes that differ from those expected of each clip."""
    pairs = zip(codes_BKF.cpu(), expected, strict=True)
    parts = [codes_KF[:, : alone.shape[1]] != alone.cpu() for codes_KF, alone in pairs]
    return torch.cat([part.flatten() for part in parts]).double().mean().item()
