"""Equality of tokens, except for ties, which are counted, and of numbers up to rounding."""

from collections import Counter

import torch
from torch import Tensor

from speechmill.codecs import Codec
from speechmill.codecs.simwhisper.codec import SimWhisperCodec
from tests.codecs.margins import margins

TIE = 1e-5
SEEN: Counter[str] = Counter()  # of this session: "tokens" compared, "ties" that differed


def encode_alone(codec: Codec, clip_T: Tensor) -> Tensor:
    """Return codes_KF."""
    return codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0]


def assert_same_tokens(codec: Codec, clip_T: Tensor, row_KF: Tensor) -> int:
    """Fail unless a row of a batch holds the clip's own tokens; return how many differ by a tie.

    The row must be zero after its frames. If codebooks quantize each other's residual, only the
    first that differs is checked: the later ones quantize another residual.
    """
    alone_KF = encode_alone(codec, clip_T)
    frames = alone_KF.shape[1]
    assert frames == codec.info.num_frames(len(clip_T))
    assert not row_KF[:, frames:].any()
    differs_KF = row_KF[:, :frames] != alone_KF
    SEEN["tokens"] += alone_KF.numel()
    if not differs_KF.any():
        return 0
    if not isinstance(codec, SimWhisperCodec):
        differs_KF &= differs_KF.cumsum(0) == 1
    margins_N = margins(codec, clip_T, alone_KF)[differs_KF]
    assert (margins_N < TIE).all(), f"margins {margins_N.tolist()[:10]} of {alone_KF.numel()} codes"
    SEEN["ties"] += len(margins_N)
    return len(margins_N)


def assert_near(
    actual: Tensor, expected: Tensor, tolerance: float = 1e-4, *, name: str = "output"
) -> None:
    """Fail unless both agree to `tolerance` of the expected peak."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"{name} is off by {error:.1e} of the peak"
